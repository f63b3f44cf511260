"""Guidance: a denoiser made of two."""

from ddaepp_jax.diffusion.samplers import Denoiser


def classifier_free(conditional: Denoiser, unconditional: Denoiser, scale: float) -> Denoiser:
    """Classifier-free guidance (arXiv 2207.12598): unconditional + scale * (conditional - unconditional).

    x0_hat is affine in epsilon with the same coefficients for both denoisers, so guiding x0_hat is guiding epsilon.
    ``scale`` 1 is no guidance, bit for bit; the papers that count from 0 write w = scale - 1.
    """
    if scale == 1:
        return conditional

    def denoiser(x_t, level):
        base = unconditional(x_t, level)
        return base + scale * (conditional(x_t, level) - base)

    return denoiser
