"""``config.evals.fid.extractor`` becomes the network that images are scored by."""

import re
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.build.data import dataset, described
from ddaepp_jax.scoring import classifier, extractors
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.inception import RESIZING


def extractor(name: str, config: ConfigDict, mesh: Mesh, resizing: str | None = None) -> Extractor:
    """The network that images are scored by.

    Args:
      name: "inception"; "classifier", of the config's data, which is trained where it isn't there
        yet; or a directory that holds an extractor.
      resizing: of Inception's images; "pytorch" by default.
    """
    directory = extractor_directory(name, config)
    if resizing is not None:
        choose("resizing", resizing, tuple(RESIZING))
    if name == "classifier" and not extractors.there(directory):
        known, asked = (
            dataset(config, split) for split in (config.data.split, config.data.eval_split)
        )
        classifier.make(directory, known, asked, mesh)
    return extractors.load(directory, mesh, resizing)


def extractor_home(name: str) -> Path:
    """Where extractors are that were not given a directory."""
    return Path.home() / ".cache" / "ddaepp_jax" / "extractors" / name


def extractor_directory(name: str, config: ConfigDict) -> Path:
    """Where an extractor is, or will be once it is trained.

    Raises:
      InputError: it is not there, and won't be without the user.
    """
    data = config.data
    if name == "classifier":
        shape, names = described(config)
        if not names:
            raise InputError(
                f"extractor: {data.name} has no labels for a classifier to learn; give another extractor"
            )
        which = str(Path(data.data_dir).resolve()) if data.name == "folder" else data.name
        size = "x".join(map(str, shape))
        return extractor_home(
            re.sub(r"[^A-Za-z0-9.]+", "_", f"classifier {which} {data.split} {size}").strip("_")
        )
    directory = extractor_home(name) if name == "inception" else Path(name)
    if not extractors.there(directory):
        mend = "python -m ddaepp_jax.convert --kind=inception-fid fetches them; or take extractor=classifier"
        raise InputError(
            f"extractor: Inception's weights are not in {directory}; {mend}"
            if name == "inception"
            else f"extractor: no {name!r}; there is inception, classifier, or the directory of one"
        )
    return directory
