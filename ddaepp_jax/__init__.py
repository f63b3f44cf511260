"""DDAE++ in JAX: a diffusion model as one learner for generation and recognition.

``ddaepp_jax.load("runs/NAME")`` opens a trained run. Importing the package does not import JAX;
``load`` and ``Run`` are imported on first use.
"""

__version__ = "0.2.0.dev0"
__all__ = ["Run", "__version__", "load"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str):
    if name in ("load", "Run"):
        from ddaepp_jax import run

        return getattr(run, name)
    raise AttributeError(f"module 'ddaepp_jax' has no attribute {name!r}")
