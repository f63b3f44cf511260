"""How much a run's features know: linear heads and nearest neighbours at every layer and noise
level.

    python -m ddaepp_jax.linear_probe --workdir=runs/digits
    python -m ddaepp_jax.linear_probe --workdir=runs/uvit_cifar --protocol=online --layers=out_1 --levels=0.001,0.011

A noise level costs one forward pass an image, whatever the number of layers. Protocols: `cached`
takes each image's features once and trains the heads on those; `online` draws noise, crops and
mirror images anew at every epoch (DDAE's); `imagenet` is the recipe of l-DAE. Beside accuracy
stands what features are like: how far two views of an image agree and, by uniformity, effective
  rank and spread, how much of their space the images fill. The best (layer, level,
learning rate) is chosen on images held out from the training split and stored with the run; with
--held_out=0 it is chosen on the test split, as papers do. The same command again resumes.
"""

import argparse
import csv
import dataclasses
import io
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax import build
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replace
from ddaepp_jax.base.results import partial_directory
from ddaepp_jax.cli.arguments import Parser, add_run, open_run, several
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.data.augment import crop_pad
from ddaepp_jax.probing import features as feature
from ddaepp_jax.probing import heads as probes
from ddaepp_jax.probing import online
from ddaepp_jax.probing.diagnostics import PIXELS, diagnose
from ddaepp_jax.probing.heads import Scales
from ddaepp_jax.probing.protocols import PROTOCOLS, Protocol
from ddaepp_jax.probing.splits import Splits
from ddaepp_jax.probing.stored import store
from ddaepp_jax.reporting import probes as probe_results
from ddaepp_jax.run import Run

DIAGNOSED = 2048  # images, at most, that features are diagnosed by
SCALE_BY = 16384  # images that features are standardised by, where no more are read anyway


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is probed, and how; a probe is resumed where all of it is the same.

    Attributes:
      name: the protocol's.
      layers: names of the network's features.
      levels: noise levels in the process's unit.
      held_out: the part of the training split that chooses; 0: the test split does.
      knn: neighbours; 0: none are asked.
      flip: whether mirror images are drawn; pad: pixels around an image that crops are drawn from
        (``online``).
      seed: of noise, crops and order.
    """

    name: str
    protocol: Protocol
    layers: tuple[str, ...]
    levels: tuple[float, ...]
    held_out: float
    knn: int
    flip: bool
    pad: int
    seed: int

    @property
    def tag(self) -> str:
        """The protocol as metrics' names carry it: cached-15ep, crop-flip-15ep."""
        drawn = (
            "-".join([*(["crop"] if self.pad else []), *(["flip"] if self.flip else [])]) or "fresh"
        )
        return f"{drawn if self.protocol.fresh else 'cached'}-{self.protocol.epochs}ep"


def settings(
    run: Run,
    protocol: str | None = None,
    *,
    layers: Sequence[str] = (),
    levels: Sequence[float] = (),
    held_out: float | None = None,
    knn: int | None = None,
    seed: int = 0,
    **changed: Any,
) -> Settings:
    """Settings of a run: the config's ``probe`` where nothing else is given; ``changed`` are a
    protocol's fields.

    Raises:
      InputError: names what is wrong.
    """
    defaults = run.config.probe
    name = defaults.protocol if protocol is None else protocol
    made = build.choose("protocol", name, PROTOCOLS)
    if name == defaults.protocol and changed.get("epochs") is None:
        changed["epochs"] = defaults.epochs
    made = dataclasses.replace(
        made, **{field: value for field, value in changed.items() if value is not None}
    )
    for layer in layers:
        build.choose("layers", layer, run.layers)
    held_out = defaults.held_out if held_out is None else held_out
    knn = defaults.knn if knn is None else knn
    rates = made.learning_rates
    for field, value, ok, wanted in (
        ("epochs", made.epochs, made.epochs > 0, "positive"),
        ("batch_size", made.batch_size, made.batch_size > 0, "positive"),
        (
            "learning_rates",
            rates,
            bool(rates) and all(0 < rate < float("inf") for rate in rates),
            "positive numbers",
        ),
        ("l2", made.l2, 0 <= made.l2 < float("inf"), "0 or positive"),
        ("held_out", held_out, 0 <= held_out < 1, "in [0, 1)"),
        ("knn", knn, knn >= 0, "0 (none) or positive"),
        ("seed", seed, 0 <= seed < 2**32, "in 0..2**32-1"),
    ):
        if not ok:
            raise InputError(f"{field}: {value} is not {wanted}")
    if made.fresh and made.batch_size % run.mesh.size:
        raise InputError(
            f"batch_size: {made.batch_size} is not a multiple of {run.mesh.size}, the number of devices"
        )
    return Settings(
        name=name,
        protocol=made,
        layers=tuple(layers) or _blocks(run),
        levels=tuple(
            _plain(run.noise_level(level)) for level in levels or run.process.probe_levels()
        ),
        held_out=held_out,
        knn=knn,
        flip=made.fresh and run.config.data.flip,
        pad=made.fresh * crop_pad(run.image_shape),
        seed=seed,
    )


def _plain(level: np.number) -> int | float:
    """The Python number that is written as the level is: 11, 0.05995 and not
    0.05995000153779984.
    """
    return json.loads(str(level))


def _blocks(run: Run) -> tuple[str, ...]:
    """All features but the bottleneck, where that is a block's mean again."""
    mean = run.config.model.get("pool", "mean") == "mean"
    return tuple(layer for layer in run.layers if not (mean and layer == "bottleneck"))


def probe(run: Run, chosen: Settings, out: Path) -> dict[str, Any]:
    """Probe a run; ``out``.json and .csv are written after every noise level, and resumed from
    there.

    Levels that are there already stay beside those asked for.

    Returns:
      What the JSON holds: "settings"; "levels"; "rows", one a layer and level, accuracies in
        percent and what
      ``diagnostics.diagnose`` says of the features; "best"; "seconds" by level.

    Raises:
      InputError: the data have no labels, or ``out`` holds a probe with other settings.
    """
    fields = dataclasses.asdict(chosen)
    del fields["levels"]
    average = (
        {"decay": run.decay}
        if run.sigma_rel is None
        else {"decay": None, "sigma_rel": run.sigma_rel}
    )
    identity = {"step": run.step} | average | fields.pop("protocol") | fields
    identity = json.loads(json.dumps(identity))  # tuples as JSON reads them
    rows, seconds = _resumed(out, identity)
    images = _images(run, chosen)
    partial = partial_directory(out, identity)
    noisy = feature.noisy(run.module, run.process, chosen.layers)
    for level in (None, *chosen.levels):  # None: pixels, which need no network
        if str(level) not in seconds:
            start = time.perf_counter()
            features = noisy if level is not None else feature.pixels
            rows += _probe_level(run, chosen, images, features, level, partial / f"level-{level}")
            shutil.rmtree(partial / f"level-{level}")
            seconds[str(level)] = round(time.perf_counter() - start, 2)
        found = {
            "run": run.workdir.name,
            "protocol": chosen.tag,
            "data": images.described
            | {"diagnosed on": f"two views each of {len(_diagnosed(images))} that choose"},
            "settings": identity,
            "levels": sorted({row["noise_level"] for row in rows} - {None}),
            "best": _best(rows, chosen, run.process.unit),
            "seconds": seconds,
            "rows": rows,
        }
        _write(out, found)
    shutil.rmtree(partial)
    return found


def _images(run: Run, chosen: Settings) -> Splits:
    data = run.config.data
    train, test = (build.dataset(run.config, split) for split in (data.split, data.eval_split))
    if not train.num_classes:
        raise InputError(f"data.name: {train.name} has no labels; a probe needs them")
    if train.image_shape != run.image_shape:
        raise InputError(
            f"data.data_dir: images of {train.image_shape}; the run has {run.image_shape}"
        )
    if train.nbytes + test.nbytes <= data.device_bytes:
        train, test = train.resident(), test.resident()
    return Splits(train, test, chosen.held_out, chosen.seed)


def _resumed(out: Path, identity: dict[str, Any]) -> tuple[list[dict], dict[str, float]]:
    """Rows and seconds of the levels that are done."""
    file = out.with_name(f"{out.name}.json")
    if not file.exists():
        return [], {}
    try:
        found = json.loads(file.read_text())
        there, rows, seconds = found["settings"], found["rows"], found["seconds"]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{file}: not a probe's results; remove it or give another --out"
        ) from None
    other = [f"{k}: {there.get(k)} -> {v}" for k, v in identity.items() if there.get(k) != v]
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise InputError(
            f"{file}: a probe with other settings ({'; '.join(other[:3])}{more}); remove it or give another --out"
        )
    if any("spread" not in row for row in rows):
        raise InputError(
            f"{file}: an older version's probe, without spread and rank; remove it or give another --out"
        )
    return rows, seconds


def _probe_level(
    run: Run,
    chosen: Settings,
    images: Splits,
    features: feature.Features,
    level: float | None,
    directory: Path,
) -> list[dict]:
    """A row a layer: features of all images at this level, linear heads on them, kNN. ``level``
    None: pixels.
    """
    title = PIXELS if level is None else f"level {level:g}"
    extraction = feature.Extraction(
        features, run.params, run.mesh, 0 if level is None else run.noise_level(level), chosen.seed
    )
    protocol = chosen.protocol
    stored_of = dict(images.parts)
    if (
        protocol.fresh and not chosen.knn
    ):  # then nothing but a scale asks for features of the training images
        stored_of["fit"] = stored_of["fit"][: SCALE_BY if protocol.standardise else 0]
    ids = np.concatenate(list(stored_of.values()))
    stored, labels = store(
        directory, extraction, images.read, ids, run.image_shape, f"features, {title}"
    )
    sizes = {layer: array.shape[1] for layer, array in stored.items()}
    augmented = dataclasses.replace(
        extraction, pad=crop_pad(run.image_shape), flip=run.config.data.flip
    )
    ends = np.cumsum([len(part) for part in stored_of.values()])
    parts = {
        name: slice(end - len(part), end)
        for (name, part), end in zip(stored_of.items(), ends, strict=True)
    }
    by, diagnoses = images.chosen_by, _diagnoses(images, augmented)

    def fit(layers: Mapping[str, np.ndarray], scales: Scales) -> probes.Heads:
        if not protocol.fresh:
            return probes.fit(
                layers,
                labels[parts["fit"]],
                scales,
                protocol,
                num_classes=images.num_classes,
                seed=chosen.seed,
            )
        return online.fit(
            augmented,
            images.read,
            images.parts["fit"],
            probes.init(sizes, images.num_classes, len(protocol.learning_rates)),
            scales,
            protocol,
            directory / "heads.msgpack",
            f"heads, {title}",
        )

    rows = []
    for group in (
        [list(sizes)] if protocol.fresh else _groups(sizes, len(ids), run.config.data.device_bytes)
    ):
        trained_on = {layer: stored[layer][parts["fit"]] for layer in group}
        scales = probes.standard_scale(trained_on) if protocol.standardise else {}
        heads = fit(trained_on, scales)
        linear = {
            name: probes.accuracies(
                heads, {layer: stored[layer][part] for layer in group}, labels[part], scales
            )
            for name, part in parts.items()
            if name in {by, "test"}
        }
        for layer in group:
            rate = int(np.argmax(linear[by][layer]))
            row = {
                "layer": layer,
                "noise_level": level,
                "learning_rate": protocol.learning_rates[rate],
            }
            row |= {
                f"linear_{name}": 100 * float(found[layer][rate]) for name, found in linear.items()
            }
            known = parts["fit"]
            for name in linear if chosen.knn else ():
                asked, bank = parts[name], stored[layer][known]
                accuracy = probes.knn_accuracy(
                    bank, labels[known], stored[layer][asked], labels[asked], chosen.knn
                )
                row[f"knn_{name}"] = 100 * accuracy
            rows.append(row | diagnoses[layer])
    return rows


def _diagnosed(images: Splits) -> np.ndarray:
    """Numbers of the images that features are diagnosed by, evenly out of those that choose."""
    choose = images.parts[images.chosen_by]
    return choose[:: -(-len(choose) // DIAGNOSED)]


def _diagnoses(images: Splits, augmented: feature.Extraction) -> dict[str, dict[str, float]]:
    """What each layer's features are like, by two views that differ as the training steps of
    ``online`` do.
    """
    ids = _diagnosed(images)
    both = feature.views(augmented, lambda rows: images.read(ids[rows])[0], ids)
    return {layer: diagnose(*pair) for layer, pair in both.items()}


def _groups(sizes: Mapping[str, int], n: int, device_bytes: int) -> list[list[str]]:
    """Layers whose features of ``n`` images are on the device together; one at least."""
    groups, held = [[]], 0
    for layer, size in sizes.items():
        needed = 4 * n * size
        if groups[-1] and held + needed > device_bytes:
            groups.append([])
            held = 0
        groups[-1].append(layer)
        held += needed
    return groups


def _best(rows: Sequence[Mapping[str, Any]], chosen: Settings, unit: str) -> dict[str, Any] | None:
    """The row that the linear heads choose, with its metric's name; None where there are rows of
    pixels alone.
    """
    by = "linear_held_out" if chosen.held_out else "linear_test"
    inner = [row for row in rows if row["layer"] != PIXELS]
    if not inner:
        return None
    best = max(inner, key=lambda row: row[by])
    where = f"{best['layer']}/{unit}{best['noise_level']:g}"
    return {"metric": f"linear_probe/{where}/{chosen.tag}", "chosen_by": by, **best}


def _write(out: Path, found: Mapping[str, Any]) -> None:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(found["rows"][0]))
    writer.writeheader()
    writer.writerows(found["rows"])
    replace(out.with_name(f"{out.name}.csv"), table.getvalue().encode())
    replace(out.with_name(f"{out.name}.json"), (json.dumps(found, indent=1) + "\n").encode())


def main(argv: Sequence[str]) -> None:
    args = _parse(argv)
    start_backend()
    run = open_run(args)
    if args.data_dir is not None:
        run.config.data.data_dir = args.data_dir
    chosen = settings(
        run,
        args.protocol,
        layers=args.layers or (),
        levels=args.levels or (),
        held_out=args.held_out,
        knn=args.knn,
        seed=args.seed,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rates=args.learning_rates,
        standardise=args.standardise,
        l2=args.l2,
    )
    out = Path(args.out or run.workdir / "probe" / f"step{run.step}-{run.average}-{chosen.tag}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        found = probe(run, chosen, out)
        for name, figure in probe_results.figures(found).items():
            figure.savefig(f"{out}-{name}.png", dpi=160)
        (run.workdir / "probe").mkdir(exist_ok=True)
        replace(
            run.workdir / "probe" / "best.json",
            (json.dumps(found["best"] | {"of": str(out)}) + "\n").encode(),
        )
    except OSError as error:
        raise InputError(f"--out: cannot write {out} ({error.strerror}); give another") from None
    print(
        f"\n{probe_results.table(found)}\n\n* chosen by linear heads on {found['data']['chosen on']}"
    )
    print(f"look at {out}-grid.png and {out}-layers.png; all numbers are in {out}.json and .csv")
    print("\nThe layer and noise level that all heads together choose, on the same images:\n")
    print(probe_results.summary(found))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("ddaepp_jax.linear_probe", __doc__)
    add = parser.add_argument
    add_run(parser)
    add("--protocol", help=f"{', '.join(PROTOCOLS)} (default: the config's probe.protocol)")
    add("--layers", type=several(str), help="names with commas (default: all)")
    add(
        "--levels",
        type=several(float),
        help="noise levels with commas, in the process's unit (default: the process's)",
    )
    add(
        "--held_out",
        type=float,
        help="part of the training split that chooses; 0: the test split (the config's)",
    )
    add("--knn", type=int, help="nearest neighbours; 0: none (the config's)")
    add("--epochs", type=int, help="of the heads (default: the protocol's)")
    add("--batch_size", type=int, help="of the heads (default: the protocol's)")
    add(
        "--learning_rates",
        type=several(float),
        help="with commas; the best counts (default: the protocol's)",
    )
    add(
        "--standardise",
        type=_bool,
        help="scale features to mean 0, variance 1 (default: the protocol's)",
    )
    add("--l2", type=float, help="weight of |W|^2 / 2 (default: the protocol's)")
    add("--seed", type=int, default=0, help="of noise, crops and order (0)")
    add("--data_dir", help="of the data, where they are not where they were in training")
    add(
        "--out", help="path without suffix (default: WORKDIR/probe/step<STEP>-<AVERAGE>-<PROTOCOL>)"
    )
    return parser.parse_args(argv)


def _bool(text: str) -> bool:
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text == "True"


if __name__ == "__main__":
    launch(main)
