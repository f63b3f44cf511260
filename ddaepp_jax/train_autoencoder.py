"""Trains a small autoencoder on images, so that latents need nobody else's weights.

    python -m ddaepp_jax.train_autoencoder --data=cifar10 --workdir=autoencoders/cifar10
    python -m ddaepp_jax.train_autoencoder --data=folder --data_dir=photos --size=64,64 \\
        --factor=8 --minutes=60 --flip --workdir=autoencoders/photos
    python -m ddaepp_jax.cache_latents --autoencoder=autoencoders/cifar10 --data=cifar10 \\
        --out=latents/cifar10

The loss is the mean absolute error, and --kl times the divergence of the latents from a standard
normal distribution, in the units of latent diffusion. The same command again goes on where it was
stopped; several processes share the work. The directory gets the autoencoder, with the PSNR of its
reconstructions, and reconstructions.png: images above their reconstructions.
"""

import argparse
import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.cli.arguments import Parser, add_processes, add_size, number, path, size, start
from ddaepp_jax.cli.start import launch

if TYPE_CHECKING:
    from jax import Array
    from jax.sharding import Mesh

    from ddaepp_jax.autoencoders.training import Perceptual
    from ddaepp_jax.data.datasets import Dataset

SHOWN = 16  # images of the picture


def main(argv: Sequence[str]) -> None:
    """Trains by the arguments of a command line."""
    args = _parse(argv)
    start(args)
    import numpy as np

    from ddaepp_jax.autoencoders import training
    from ddaepp_jax.base.files import replacing
    from ddaepp_jax.base.parallel import make_mesh
    from ddaepp_jax.base.processes import in_first, is_first, together
    from ddaepp_jax.reporting.pictures import grid

    names = [field.name for field in dataclasses.fields(training.Recipe)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    recipe, mesh = training.Recipe(**given), make_mesh((-1, 1, 1))
    data, held_out = together(lambda: _data(args))
    in_first(lambda: training.check(args.workdir, data, recipe, mesh))
    perceptual = _perceptual(args.extractor, data, held_out, mesh) if recipe.perceptual else None
    made = training.make(args.workdir, data, held_out, recipe, mesh, perceptual)
    if is_first():
        with replacing(args.workdir / "reconstructions.png") as stream:
            shown = made.images[:SHOWN], made.reconstructions[:SHOWN]
            grid(np.concatenate(shown), len(shown[0])).save(stream, format="png")
        print(
            f"{args.workdir} holds an autoencoder of {made.parameters} parameters; its "
            f"reconstructions of {len(made.images)} images of {held_out.name} {held_out.split} "
            f"have a PSNR of {made.psnr:.2f} dB, see reconstructions.png"
        )


def _data(args: argparse.Namespace) -> "tuple[Dataset, Dataset]":
    """Opens the images for training, and those that the autoencoder is tested on."""
    from ddaepp_jax import build
    from ddaepp_jax import config as schema

    config = schema.get_config()
    names = dict(name=args.data, split=args.split, eval_split=args.eval_split, size=size(args))
    config.data.update(names, data_dir=str(args.data_dir or ""))
    try:
        data = build.dataset(config, args.split)
        return data, build.held_out(config, data)
    except InputError as error:
        text = str(error).replace("data.name", "--data")
        text = re.sub(r"\bdata\.(data_dir|size|split|eval_split)\b", r"--\1", text)
        raise InputError(text) from None


def _perceptual(name: str, data: "Dataset", held_out: "Dataset", mesh: "Mesh") -> "Perceptual":
    """Opens the extractor of the perceptual term; a classifier is trained if there is none yet."""
    from ddaepp_jax.autoencoders.training import Perceptual
    from ddaepp_jax.scoring import by_name

    learned = by_name.ClassifierData.of_splits(data, lambda: held_out)
    extractor = by_name.extractor(name, learned, mesh)
    extractor.check(data.image_shape, "--extractor")
    channels = data.image_shape[-1]

    def features(params: Any, images: "Array") -> "Array":
        return extractor.features(params, images[..., :channels], None, None, None)["pool"]

    return Perceptual(features, extractor.params, extractor.hash)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("ddaepp_jax.train_autoencoder", __doc__)
    add = parser.add_argument
    add("--data", required=True, help="digits, a TensorFlow Datasets name, or folder")
    add("--data_dir", type=path, help="the folder, or where the data set is prepared")
    add("--split", default="train", help="split to train on (train)")
    add("--eval_split", default="test", help="split that the PSNR is measured on (test)")
    add_size(parser)
    add("--workdir", type=path, required=True, help="directory of the autoencoder")
    add("--factor", type=int, help="pixels of a latent's side, a power of two (4)")
    add("--latent_channels", type=int, help="channels of a latent (4)")
    add("--channels", type=int, help="channels of the network; lower levels have twice more (32)")
    duration = parser.add_mutually_exclusive_group()
    duration.add_argument("--steps", type=int, help="steps of the training (10,000)")
    duration.add_argument("--minutes", type=number, help="or about how long it takes")
    add("--batch_size", type=int, help="images of a step (64)")
    add("--learning_rate", type=number, help="highest learning rate of Adam (0.002)")
    add("--kl", type=number, help="weight of the divergence, see autoencoders.training (1e-4)")
    add("--perceptual", type=number, help="weight of the distance of an extractor's features (0)")
    add("--extractor", help="network of --perceptual: classifier, inception, or a directory")
    add("--flip", action="store_true", help="mirror images by a fair coin")
    add("--seed", type=int, help="seed of all random numbers (0)")
    add_processes(parser)
    args = parser.parse_args(argv)
    if bool(args.extractor) != bool(args.perceptual):
        raise InputError("--perceptual, --extractor: each needs the other; give both, or none")
    return args


if __name__ == "__main__":
    launch(main)
