"""A plain U-ViT on scikit-learn's 8x8 handwritten digits: the default config, as a file to copy and
change.

    python -m ddaepp_jax.main --config=configs/uvit_digits.py --workdir=runs/uvit_digits
"""

from ddaepp_jax import config


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    return config.get_config(variant)
