"""Joins data sets and autoencoders: what is cached, and how a run's latents become pictures."""

import jax
import numpy as np
from ml_collections import ConfigDict

from ddaepp_jax import build
from ddaepp_jax.autoencoders import stored
from ddaepp_jax.base import parallel
from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.processes import together
from ddaepp_jax.data.caching import Job
from ddaepp_jax.data.encoding import Encoding
from ddaepp_jax.data.fingerprint import fingerprint
from ddaepp_jax.data.normalisation import Normalisation

DTYPES = ("float32", "bfloat16")


def make_job(config: ConfigDict, name: str, batch_size: int, dtype: str) -> Job:
    """Describes the latents of a config's data.

    Args:
      config: config whose group ``data`` names the images and the split.
      name: name or directory of the autoencoder.
      batch_size: images that are encoded at once by a process.
      dtype: dtype of the computation, one of ``DTYPES``.

    Raises:
      InputError: there are no such images or no such autoencoder, or they do not fit.
    """
    choose("--dtype", dtype, DTYPES)
    mesh = parallel.make_mesh((-1, 1, 1), jax.local_devices())
    autoencoder = stored.load(name, mesh, jax.numpy.dtype(dtype))
    data = together(lambda: build.dataset(config, config.data.split))
    latent_shape = autoencoder.latent_shape(data.image_shape)

    def encode(images: np.ndarray) -> np.ndarray:
        return autoencoder.moments(images, batch_size)

    return Job(
        data=data,
        encode=encode,
        encoding=Encoding(latent_shape, autoencoder.has_variances, Normalisation((0.0,), (1.0,))),
        normalisation=autoencoder.normalisation,
        batch_size=batch_size,
        autoencoder={"name": name, "kind": autoencoder.kind, "hash": autoencoder.hash},
        source={
            "name": config.data.name,
            "split": config.data.split,
            "data_dir": config.data.data_dir,
            "size": list(config.data.size),
            "crop": "adm",
            "image_shape": list(data.image_shape),
            "fingerprint": fingerprint(data),
            "dtype": dtype,
        },
    )
