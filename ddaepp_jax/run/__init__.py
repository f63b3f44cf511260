"""Training a run into its directory, and opening the directory."""

from ddaepp_jax.run.opened import Run, load

__all__ = ["Run", "load"]
