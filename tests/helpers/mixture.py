"""A Gaussian mixture in the plane, as 1x1x2 images, with its exact denoiser, moments and modes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.8, 0.2], [-0.7, 0.5], [-0.1, -0.8]])
COVARIANCES = np.array(
    [[[0.05, 0.03], [0.03, 0.04]], [[0.02, -0.01], [-0.01, 0.03]], [[0.01, 0.0], [0.0, 0.06]]]
)
VARIANCES, AXES = np.linalg.eigh(COVARIANCES)

MEAN = WEIGHTS @ MEANS
COVARIANCE = np.einsum("k,kij->ij", WEIGHTS, COVARIANCES) + np.cov(
    MEANS.T, aweights=WEIGHTS, bias=True
)


def exact_x0(x: jax.Array, signal: jax.Array, sigma: jax.Array) -> jax.Array:
    """Computes E[x0 | signal x0 + sigma noise = x]; x (B, 1, 1, 2), signal and sigma (B,)."""
    means, weights, axes, variances = (
        jnp.asarray(a, jnp.float32) for a in (MEANS, WEIGHTS, AXES, VARIANCES)
    )
    signal, sigma = signal[:, None, None], sigma[:, None, None]
    # Variances and offsets are along each component's own axes, (B, K, 2).
    noisy = signal**2 * variances[None] + sigma**2
    off = jnp.einsum("bki,kij->bkj", x[:, 0, 0][:, None] - signal * means[None], axes)
    log_density = jnp.log(weights)[None] - (off**2 / noisy + jnp.log(noisy)).sum(-1) / 2
    moved = jnp.einsum("bkj,kij->bki", signal * variances[None] * off / noisy, axes)
    return jnp.einsum("bk,bki->bi", jax.nn.softmax(log_density), means[None] + moved)[:, None, None]


def denoiser(
    levels: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns a process's exact denoiser; ``levels`` maps (B,) noise levels to signal and sigma."""
    return lambda x, level: exact_x0(x, *levels(level))


def modes(samples: np.ndarray) -> np.ndarray:
    """Returns the most probable component (N,) of samples (N, 2)."""
    off = samples[:, None] - MEANS
    distances = np.einsum("nki,kij,nkj->nk", off, np.linalg.inv(COVARIANCES), off)
    return np.argmax(
        np.log(WEIGHTS) - distances / 2 - np.log(np.linalg.det(COVARIANCES)) / 2, axis=1
    )


def drawn(n: int, seed: int = 0) -> np.ndarray:
    """Draws samples (n, 2) of the mixture itself."""
    rng = np.random.default_rng(seed)
    component = rng.choice(len(WEIGHTS), n, p=WEIGHTS)
    return MEANS[component] + np.einsum(
        "nij,nj->ni", np.linalg.cholesky(COVARIANCES)[component], rng.normal(size=(n, 2))
    )
