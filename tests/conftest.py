"""Tests run on 8 simulated CPU devices, with rank promotion and warnings as errors (pyproject.toml).

Many tests compile the same tiny programs: a compilation cache of this checkout's own, one a worker, compiles each once.
"""

import os
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".pytest_cache" / f"xla-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax  # noqa: E402  (it reads the environment when it is imported)

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
