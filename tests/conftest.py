"""Tests run on 8 simulated CPU devices, with rank promotion and warnings as errors (pyproject.toml)."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
