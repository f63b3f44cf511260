"""Scikit-learn's handwritten digits, 8x8: the default run, as a file to copy and change.

python -m ddaepp_jax.main --config=configs/uvit_digits.py --workdir=runs/digits
"""

from ddaepp_jax import config as schema


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    return schema.get_config(variant)
