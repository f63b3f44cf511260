"""Score images: a run's samples, or images from elsewhere, against a reference.

    python -m ddaepp_jax.fid --workdir=runs/uvit_cifar                                   # FID of 50,000 samples
    python -m ddaepp_jax.fid --workdir=runs/uvit_cifar --n=5000 --seeds=0,1,2 --extractor=classifier
    python -m ddaepp_jax.fid --images=samples.npz --reference=cifar10:train --data_dir=DIR
    python -m ddaepp_jax.fid --images=samples/ --reference=VIRTUAL_imagenet256_labeled.npz --resizing=tensorflow1

FID, sFID, Inception Score, KID, precision and recall (k = 3), in one pass. Images and references
are .npz files, folders, or splits of data sets, NAME:SPLIT. Inception's weights come by `python -m ddaepp_jax.convert
--kind=inception-fid`. Without them --extractor=classifier scores by the features of a classifier of
the data, which is trained once: a Frechet distance that means something, and no FID. The same
  command again resumes; more --seeds join
those that are there.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tabulate import tabulate

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replace
from ddaepp_jax.base.results import partial_directory
from ddaepp_jax.cli.arguments import Parser, add_run, add_sampling, open_run, sampling, several
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.config import validation
from ddaepp_jax.data import datasets
from ddaepp_jax.run import Run
from ddaepp_jax.sampling.settings import modern_identity
from ddaepp_jax.scoring import by_name, image_sets, references
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.image_sets import ImageSet
from ddaepp_jax.scoring.references import Reference
from ddaepp_jax.scoring.scores import named, scored, scores

N = 50_000  # samples; the literature's number
BATCH = 64  # images that are read, not sampled
# Arguments that say nothing of images which are there, and their defaults.
OF_A_RUN = dict.fromkeys(
    ("step", "decay", "sigma_rel", "guidance", "guidance_interval", "guidance_channels", "guide")
)
OF_A_RUN |= {
    "sampler": None,
    "steps": None,
    "options": (),
    "autoguidance": 1.0,
    "seeds": (0,),
    "npz": False,
}


def score_run(
    run: Run,
    extractor: Extractor,
    reference: Reference,
    out: Path,
    *,
    n: int,
    seeds: Sequence[int],
    how: Mapping[str, Any],
    npz: bool = False,
) -> dict[str, Any]:
    """Sample a run and score the samples; ``out``.json is written after every seed, and resumed
    within one.

    Args:
      how: arguments of ``Run.sample``.
      npz: also write ``out``-seed<SEED>.npz, as ADM's evaluator takes it.

    Returns:
      What the JSON holds: "rows", one a seed; "mean" and "std" over them; "metrics", the means by
        their whole names.

    Raises:
      InputError: ``out`` holds scores of something else; or as ``Run.sample`` and
        ``image_sets.collect``.
    """
    sampling = run.sampling(**how)
    batch_size = sampling.batch_size
    identity = {
        "step": run.step,
        "protocol": f"{run.average}/{sampling.tag}",
        "sampling": sampling.identity,
        "n": n,
        "extractor": {**extractor.described, "made": extractor.made},
        "reference": {"name": reference.name, **reference.made},
    }
    identity = json.loads(json.dumps(identity))  # tuples as JSON reads them
    rows = {row["seed"]: row for row in _resumed(out, identity)}
    for seed in seeds:
        made = out.with_name(f"{out.name}-seed{seed}")
        if seed in rows and (not npz or Path(f"{made}.npz").exists()):
            continue
        partial = partial_directory(made, identity | {"npz": npz})
        kept = _memory(partial / "images.npy", (n, *run.image_shape)) if npz else None
        images = sampled(run, n, seed, how, kept)
        features = image_sets.collect(images, extractor, partial, batch_size, run.mesh)
        rows[seed] = {"seed": seed, **scores(features, reference)}
        if kept is not None:
            labels = (
                {"arr_1": np.arange(n) % run.num_classes}
                if run.config.model.class_conditional
                else {}
            )
            np.savez(f"{made}.npz", arr_0=kept, **labels)
        _write(out, {"run": run.workdir.name, **_summary(identity, [*rows.values()], extractor)})
        shutil.rmtree(partial)
    return {"run": run.workdir.name, **_summary(identity, [*rows.values()], extractor)}


def _write(out: Path, found: Mapping[str, Any]) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace(out.with_name(f"{out.name}.json"), (json.dumps(found, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(
            f"--out: cannot write {out}.json ({error.strerror}); give another"
        ) from None


def sampled(
    run: Run, n: int, seed: int, how: Mapping[str, Any], kept: np.ndarray | None = None
) -> ImageSet:
    """A run's first ``n`` samples of a seed, made when they are read; what is read is also put into
    ``kept``.
    """

    def read(numbers: np.ndarray) -> np.ndarray:
        first, last = int(numbers[0]), int(numbers[-1])
        images = run.sample(n=last - first + 1, first=first, seed=seed, **how)
        if kept is not None:
            kept[first : last + 1] = images
        return images[numbers - first]

    return ImageSet(f"samples of seed {seed}", {}, run.image_shape, n, read)


def _memory(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.format.open_memmap(file, "r+" if file.exists() else "w+", np.uint8, shape)


def _resumed(out: Path, identity: Mapping[str, Any]) -> list[dict[str, float]]:
    """The rows of the seeds that are done."""
    file = out.with_name(f"{out.name}.json")
    if not file.exists():
        return []
    try:
        found = json.loads(file.read_text())
        there, rows = {name: found.get(name) for name in identity}, found["rows"]
        there["sampling"] = modern_identity(there["sampling"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{file}: not scores of this program; remove it or give another --out"
        ) from None
    other = [
        f"{name}: {there[name]} -> {value}"
        for name, value in identity.items()
        if there[name] != value
    ]
    if other:
        raise InputError(
            f"{file}: scores of something else ({other[0][:160]}); remove it or give another --out"
        )
    return rows


def _summary(
    identity: Mapping[str, Any], rows: Sequence[Mapping[str, float]], extractor: Extractor
) -> dict[str, Any]:
    names = [name for name in rows[0] if name != "seed"]
    values = {name: [row[name] for row in rows] for name in names}
    mean = {name: float(np.mean(value)) for name, value in values.items()}
    spread = (
        {name: float(np.std(value, ddof=1)) for name, value in values.items()}
        if len(rows) > 1
        else {}
    )
    name = identity["reference"]["name"]
    whole = named(mean, identity["n"], extractor.kind, identity["protocol"], name, extractor.suffix)
    return {**identity, "rows": list(rows), "mean": mean, "std": spread, "metrics": whole}


def score_images(
    images: ImageSet, extractor: Extractor, reference: Reference, batch_size: int, mesh: Mesh
) -> dict:
    """Scores of images that are there; the same keys as ``score_run``, of one row without a
    seed.
    """
    partial = extractor.directory / "partial" / f"{images.slug}{extractor.suffix}"
    row = scores(image_sets.collect(images, extractor, partial, batch_size, mesh), reference)
    shutil.rmtree(partial)
    identity = {
        "images": {"name": images.name, **images.made},
        "protocol": images.name,
        "n": len(images),
        "extractor": {**extractor.described, "made": extractor.made},
        "reference": {"name": reference.name, **reference.made},
    }
    return _summary(identity, [row], extractor)


def image_set(text: str, field: str, config: ConfigDict, own: bool) -> ImageSet:
    """Images by what the user calls them: an .npz file, a folder, NAME:SPLIT of a data set, or a
    split.

    Args:
      own: whether the config has data of its own, whose splits need no name.

    Raises:
      InputError: there is nothing of that name.
    """
    path, size = Path(text), tuple(config.data.size) if any(config.data.size) else None
    if path.suffix == ".npz":
        return image_sets.of_npz(path)
    if path.is_dir():
        return image_sets.of_dataset(datasets.folder(path, "train", size), path.resolve().name)
    name, colon, split = text.rpartition(":")
    if not colon and not own:
        raise InputError(
            f"{field}: {text!r} is no .npz file, no folder, and not NAME:SPLIT of a data set"
        )
    return image_sets.of_dataset(
        build.dataset(of_data(config, name), split), f"{name}-{split}" if colon else split
    )


def of_data(config: ConfigDict, name: str) -> ConfigDict:
    """The config with other data; "": with its own."""
    config = config.copy_and_resolve_references()
    config.data.name = name or config.data.name
    return config


def main(argv: Sequence[str]) -> None:
    args = _parse(argv)
    if bool(args.workdir) == bool(args.images):
        raise InputError(
            "--workdir, --images: give one of them, the run or the images that are scored"
        )
    if not args.workdir and not args.reference:
        raise InputError(
            "--reference: missing; give what the images are compared with, e.g. cifar10:train"
        )
    if args.images and (
        unread := [f"--{name}" for name, value in OF_A_RUN.items() if getattr(args, name) != value]
    ):
        raise InputError(
            f"{', '.join(unread)}: of a run, and --images are scored as they are; leave it out"
        )
    if not args.workdir and ":" not in args.reference and args.extractor == "classifier":
        raise InputError(
            "--extractor: a classifier of which data? Say it by --reference=NAME:SPLIT, or give its directory"
        )
    if any(seed not in range(2**32) for seed in args.seeds) or len(set(args.seeds)) != len(
        args.seeds
    ):
        raise InputError(f"--seeds: {args.seeds} are not different numbers in 0..2**32-1")
    start_backend()
    run = open_run(args) if args.workdir else None
    config = _config(args, run)
    mesh, batch_size = run.mesh if run else parallel.make_mesh((-1, 1, 1)), args.batch_size or BATCH
    images = None if run else _subset(image_set(args.images, "--images", config, own=False), args.n)
    extractor = by_name.extractor(
        args.extractor, _data_set(config), lambda: _splits(config), mesh, args.resizing
    )
    shape, field = (run.image_shape, "--workdir") if run else (images.image_shape, "--images")
    extractor.check(shape, field)
    wanted = args.reference or config.data.split
    file = Path(wanted)
    if file.suffix == ".npz" and references.is_statistics(file):
        reference = references.read(file, extractor, batch_size, mesh)
    else:
        reference = references.of(
            image_set(wanted, "--reference", config, bool(run)), extractor, batch_size, mesh
        )
    if run:
        found = _of_run(args, run, extractor, reference)
    else:
        found = score_images(images, extractor, reference, batch_size, mesh)
        if args.out:
            _write(Path(args.out), found)
    print(table(found))


def _data_set(config: ConfigDict) -> by_name.DataSet:
    """What a classifier would be of: the config's data."""
    shape, names = build.described(config)
    data = config.data
    identity = str(Path(data.data_dir).resolve()) if data.name == "folder" else data.name
    return by_name.DataSet(identity, data.split, shape, names)


def _splits(config: ConfigDict) -> tuple:
    data = config.data
    return build.dataset(config, data.split), build.dataset(config, data.eval_split)


def _config(args: argparse.Namespace, run: Run | None) -> ConfigDict:
    """The config that data are read by: the run's, or the default with the data that the reference
    names.
    """
    config = run.config if run else schema.get_config()
    if run and config.data.name == build.LATENTS:
        raise InputError(
            "--workdir: a run on latents; without their autoencoder there are no images to score"
        )
    if not run and ":" in args.reference:
        config.data.name = args.reference.rpartition(":")[0]
    if args.data_dir is not None:
        config.data.data_dir = args.data_dir
    if args.size is not None:
        config.data.size = args.size
        validation.validate(config)
    return config


def _subset(images: ImageSet, n: int | None) -> ImageSet:
    if n is not None and not 0 < n <= len(images):
        raise InputError(
            f"--n: {n} of the {len(images)} images of {images.name}; leave it out to take all"
        )
    return images if n is None else image_sets.subset(images, n)


def _of_run(
    args: argparse.Namespace, run: Run, extractor: Extractor, reference: Reference
) -> dict[str, Any]:
    how, n = sampling(args), N if args.n is None else args.n
    if n < image_sets.FEWEST:
        raise InputError(
            f"--n: {n} images are too few to be scored; give {image_sets.FEWEST} or more"
        )
    tag = f"{run.sampling(**how).tag}-{n}-{extractor.kind}{extractor.suffix}-{reference.name}"
    out = Path(args.out or run.workdir / "fid" / f"step{run.step}-{run.average}-{tag}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        found = score_run(
            run, extractor, reference, out, n=n, seeds=args.seeds, how=how, npz=args.npz
        )
    except OSError as error:
        raise InputError(f"--out: cannot write {out} ({error.strerror}); give another") from None
    print(f"all numbers are in {out}.json")
    return found


def table(found: Mapping[str, Any]) -> str:
    """Scores by their whole names, with their spread."""
    lines = []
    for (whole, value), name in zip(found["metrics"].items(), scored(found["mean"]), strict=True):
        spread = found["std"].get(name)
        within = found["mean"].get(f"{name}_std")
        note = f"± {spread:.4g} over {len(found['rows'])} seeds" if spread is not None else ""
        lines.append(
            [
                whole,
                f"{value:.4f}",
                note or (f"± {within:.4g} within the set" if within is not None else ""),
            ]
        )
    return tabulate(lines, tablefmt="plain", disable_numparse=True)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("ddaepp_jax.fid", __doc__)
    add = parser.add_argument
    add_run(parser, required=False)
    add(
        "--images",
        help="instead of a run: an .npz file (arr_0 or images, uint8 NHWC), a folder, or NAME:SPLIT",
    )
    add(
        "--reference",
        help="an .npz file of statistics (ours, ADM's, EDM's) or of images, a folder, NAME:SPLIT, or a split of the "
        "run's data (default: the run's training split)",
    )
    add(
        "--extractor",
        default="inception",
        help="inception, classifier, or an extractor's directory (inception)",
    )
    add(
        "--resizing",
        help="of Inception's images: pytorch, or tensorflow1 as ADM and EDM have it (pytorch)",
    )
    add(
        "--n",
        type=int,
        help=f"how many samples a seed ({N}); of --images: so many drawn ones (all)",
    )
    add(
        "--seeds",
        type=several(int),
        default=(0,),
        help="of the samples' start noise, with commas (0)",
    )
    add("--npz", action="store_true", help="also write the samples, as ADM's evaluator takes them")
    add(
        "--data_dir",
        help="of the data, where they are not where they were in training; of NAME:SPLIT",
    )
    add(
        "--size",
        type=several(int),
        help="HEIGHT,WIDTH to crop data to (default: the run's; as stored)",
    )
    add_sampling(parser)
    add(
        "--out",
        help="of the JSON, without suffix (default: WORKDIR/fid/<what is scored>; with --images: none)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    launch(main)
