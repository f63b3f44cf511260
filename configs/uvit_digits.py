"""A self-conditioned U-ViT on scikit-learn's 8x8 digits: the default config, as a file to copy.

python -m ddaepp_jax.main --config=configs/uvit_digits.py --workdir=runs/uvit_digits
"""

from ddaepp_jax import config


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    return config.get_config(variant)
