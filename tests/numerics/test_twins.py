"""The PyTorch networks of benchmarks/peers.py give our losses, gradients and features."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT

torch = pytest.importorskip("torch", reason="the twins are in PyTorch, which is not installed")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

DIT = dict(patch_size=2, width=32, depth=2, num_heads=2, bottleneck="block_1")
UNET = dict(channels=32, mults=(1, 2), attend=(False, True), blocks=1, bottleneck="out_2")
CASES = {
    "uvit": (UViT(patch_size=2, width=32, depth=2, num_heads=2), "999t/T", "mid"),
    "unet": (UNet(**UNET, dropout=0.0), "t/T", "out_2"),
    "dit": (DiT(**DIT), "t-1", "block_1"),
    "lightningdit": (DiT(**DIT, rope=True, rmsnorm=True, swiglu=True), "t-1", "block_1"),
}


@pytest.fixture
def twins(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import twins
    import twins.work

    yield twins
    for name in [name for name in sys.modules if name.partition(".")[0] == "twins"]:
        del sys.modules[name]


@pytest.mark.parametrize("case", CASES)
def test_loss_gradients_and_features_are_equal(case, twins):
    network, time_input, layer = CASES[case]
    shape = (8, 8, 3)
    process = DDPM(time_input=time_input)
    twin = twins.make(network, shape)
    params = twins.as_ours(network, shape, twin.state_dict())
    diffusion = twins.work.Diffusion(twin, process, twins.work.Mode(), torch.device("cpu"))
    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 4, *shape), np.float32)
    t = np.array([1, 20, 500, 1000], np.int32)

    @jax.jit
    def ours(params):
        def loss(params):
            x, time = process.inputs(process.perturb(x0, noise, t), t)
            out, features = network.apply({"params": params}, x, time, capture=(layer,))
            feature = features[layer].mean(tuple(range(1, features[layer].ndim - 1)))
            return process.loss_terms(out, x0, noise, t).mean(), feature

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, feature), gradient = ours(jax.tree.map(jnp.asarray, params))
    x0, noise, t = (torch.from_numpy(np.ascontiguousarray(x)) for x in (x0, noise, t))
    x0, noise = (x.permute(0, 3, 1, 2) for x in (x0, noise))
    twin_loss = diffusion.loss(x0, noise, t.long())
    twin_loss.backward()
    assert float(loss) == pytest.approx(twin_loss.item(), rel=1e-6)
    gradients = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in twin.named_parameters()
    }
    twin_gradient = twins.as_ours(network, shape, gradients)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(twin_gradient))
    for ours, theirs in zip(*map(jax.tree.leaves, (gradient, twin_gradient)), strict=True):
        assert np.abs(np.asarray(ours) - theirs).max() < 2e-5 * largest
    with torch.inference_mode():
        x_t = diffusion.perturbed(x0, noise, t.long())
        theirs = twin(x_t, diffusion.fed_time(t), (layer,))[layer].numpy()
    assert np.abs(np.asarray(feature) - theirs).max() < 1e-5 * np.abs(theirs).max()
