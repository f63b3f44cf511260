"""A plain U-ViT on scikit-learn's handwritten digits, 8x8: the run without ``--config``, as a file
to copy and change.

python -m ddaepp_jax.main --config=configs/uvit_digits.py --workdir=runs/uvit_digits
"""

from ddaepp_jax import config as schema


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    return schema.get_config(variant)
