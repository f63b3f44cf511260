"""Which block to condition on: one short run a candidate and seed; the lowest denoising loss wins,
not the best probe.

    python -m ddaepp_jax.find_bottleneck --config=configs/uvit_cifar.py --steps=1000 --seeds=0,1,2

Runs of one seed have the same data, noise and initial values, and are the config with that seed,
`model.bottleneck` and `train.steps`; its warm-up takes a fifth of them at most, so that the short
run learns. The candidate's number is data: blocks of one width share a compiled program, one after
another. A winner is named only where its gap to the others exceeds the seeds' spread; otherwise it
is a tie. The same command again goes on where it stopped, and takes more seeds or candidates. In
the directory: short_run.json (the config), curves.jsonl, bottleneck.json, curves.png.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from ddaepp_jax import build
from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replace
from ddaepp_jax.cli.arguments import Parser, several
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.config import overrides, validation
from ddaepp_jax.config import saved as run_config
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.models.self_conditioning import OneOf
from ddaepp_jax.reporting import bottleneck as bottleneck_results
from ddaepp_jax.run.opened import weights_to_start_from
from ddaepp_jax.training import graft
from ddaepp_jax.training.program import Program, compile_program
from ddaepp_jax.training.source import Source
from ddaepp_jax.training.step import Learner, TrainState

WARMUP = 5  # a part of so many, at most, of a short run
POINTS = 100  # of a curve, where the run has so many steps
# what candidates are compared by; other objectives take their features at the bottleneck
LOSS = "denoising/loss"
NUMBER = (
    "bottleneck"  # under which a candidate's number is handed to the program, beside the images
)


def search(
    config: ConfigDict,
    workdir: Path,
    *,
    candidates: Sequence[str] = (),
    steps: int = 1000,
    seeds: Sequence[int] = (0, 1, 2),
    name: str = "",
) -> dict[str, Any]:
    """Train the candidates by a config into ``workdir``; goes on with what is there.

    Args:
      candidates: names of blocks; all that something follows where it is empty.
      steps: of a run, unless the config's own run is shorter.
      name: of the config, for the record.

    Returns:
      What ``bottleneck_results.decide`` does, with "config", "steps", "warmup_steps", "seeds", and
      "line", which sets the config to the best block.

    Raises:
      InputError: names the field, option or file that is wrong.
    """
    _check(config, steps, seeds)
    mesh, data = build.mesh(config), build.dataset(config, config.data.split)
    config = config.copy_and_resolve_references()
    config.train.update(
        steps=min(steps, build.total_steps(config, len(data))), epochs=None, images=None
    )
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, config.train.steps // WARMUP)
    network = build.network(config, data.image_shape, data.num_classes)
    widths = _widths(
        _shapes(network, data.image_shape)[0], candidates, last=config.model.name == "dit"
    )
    weights = _weights(config, network, data.image_shape, widths)
    if data.nbytes <= config.data.device_bytes:
        data = data.resident()  # read once, not once a run
    run_config.claim(workdir / "short_run.json", config, "a search", _changes)
    done = _done(workdir / "curves.jsonl")
    left = [(seed, block) for seed in seeds for block in widths if (seed, block) not in done]
    # A log file gets a line now and then, a terminal a bar.
    interval = 0.5 if sys.stderr.isatty() else 30
    total = len(left) * config.train.steps
    how = dict(
        unit="step", smoothing=0, mininterval=interval, dynamic_ncols=True
    )  # a pause to compile is no new rate
    with tqdm(total=total, disable=not left, **how) as bar:
        for seed in seeds:
            for width in dict.fromkeys(widths.values()):
                group = tuple(block for block in widths if widths[block] == width)
                missing = [block for block in group if (seed, block) in left]
                for row in _train(config, seed, group, missing, weights, data, mesh, bar):
                    done[seed, row["bottleneck"]] = row
                    with (workdir / "curves.jsonl").open("a") as file:
                        file.write(json.dumps(row) + "\n")
    curves = {block: {seed: done[seed, block] for seed in seeds} for block in widths}
    known = {
        "config": name,
        "steps": config.train.steps,
        "warmup_steps": config.optimizer.warmup_steps,
    }
    return _conclude(workdir, curves, {**known, "seeds": list(seeds)})


def _check(config: ConfigDict, steps: int, seeds: Sequence[int]) -> None:
    validation.validate(config)
    build.check_trainable(config)
    if steps < 1:
        raise InputError(f"--steps: {steps} is not positive")
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        raise InputError(
            f"--seeds: {','.join(map(str, seeds))} are not different numbers in 0..2**32-1"
        )
    if not config.objectives.denoising.weight:
        raise InputError(
            "objectives.denoising.weight: 0, and candidates are compared by its loss; set it to 1"
        )
    if not config.model.self_condition:
        raise InputError("model.self_condition: False, and so no block conditions; set it to True")
    if config.model.get("inject", "add") == "token":
        raise InputError(
            "model.inject: a token of its own is not in the blocks before it, so that candidates are different "
            "programs; search with model.inject=add"
        )


def _shapes(network: nn.Module, image_shape: tuple[int, int, int]) -> tuple[Mapping[str, Any], Any]:
    """Of a network's features and of its parameters; nothing is computed."""
    x, t = (
        jax.ShapeDtypeStruct((1, *image_shape), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
    )
    (_, features), variables = jax.eval_shape(network.init_with_output, jax.random.key(0), x, t)
    return features, variables["params"]


def _widths(features: Mapping[str, Any], names: Sequence[str], last: bool) -> dict[str, int]:
    """{candidate: channels} in the order of the network.

    Args:
      features: shapes.
      names: the candidates; all where it is empty.
      last: whether the last block can be one: something is conditioned after it.
    """
    blocks = [name for name in features if name != "bottleneck"]
    blocks = blocks if last else blocks[:-1]
    for name in names:
        build.choose("--candidates: of blocks that something follows", name, blocks)
    chosen = [name for name in blocks if not names or name in names]
    if len(chosen) < 2:
        raise InputError(
            f"--candidates: {', '.join(chosen)} alone has nothing to be compared with; give more"
        )
    return {name: features[name].shape[-1] for name in chosen}


def _weights(
    config: ConfigDict,
    network: nn.Module,
    image_shape: tuple[int, int, int],
    widths: Mapping[str, int],
) -> Any | None:
    """The weights of ``init_from``, which have to fit candidates of every width; None where it is
    empty.
    """
    weights = None
    for block in {width: block for block, width in widths.items()}.values():
        weights = weights_to_start_from(
            config, _shapes(network.clone(bottleneck=block), image_shape)[1]
        )
    return weights


def _train(
    config: ConfigDict,
    seed: int,
    group: tuple[str, ...],
    missing: Sequence[str],
    weights: Any | None,
    data: Dataset,
    mesh: Mesh,
    bar: tqdm,
) -> Iterator[dict[str, Any]]:
    """The rows of those ``missing`` from a group of one width, by one compiled program."""
    if not missing:
        return
    config = config.copy_and_resolve_references()
    config.seed, config.model.bottleneck = (
        seed,
        group[0],
    )  # whichever it is, the initial state is the same
    learner = build.learner(config, data.image_shape, data.num_classes, config.train.steps)
    source = build.source(config, data, mesh)

    def of_data(learner: Learner, data: Mapping[str, Array]) -> Learner:
        return dataclasses.replace(
            learner, network=learner.network.clone(bottleneck=OneOf(group, data[NUMBER]))
        )

    numbered = [_numbered(source, number, mesh) for number in range(len(group))]
    bar.set_description(f"seed {seed}, compiling")
    program = compile_program(
        learner, mesh, config.mesh.rules, numbered[0], build.prepare(config), of_data
    )
    for name in missing:
        bar.set_description(f"seed {seed}, {name}")
        before, start, state = bar.n, time.perf_counter(), program.init()
        if weights is not None:
            state, _ = graft.graft(state, weights)
        row = {"bottleneck": name, "seed": seed}
        row |= _curve(program, state, numbered[group.index(name)], config.train, mesh, bar.update)
        bar.update(before + config.train.steps - bar.n)  # what a run that ended early left
        yield row | {"seconds": round(time.perf_counter() - start, 2)}


def _numbered(source: Source, number: int, mesh: Mesh) -> Source:
    """A source that hands a candidate's number over too, as data."""
    placed = parallel.replicated(mesh)
    value = parallel.put(np.int32(number), placed)
    shape = jax.ShapeDtypeStruct((), jnp.int32, sharding=placed)

    def fetch(data: Mapping[str, Array], step: Array) -> Mapping[str, Array]:
        return source.fetch({name: array for name, array in data.items() if name != NUMBER}, step)

    def open(start: int, stop: int) -> Iterator[Mapping[str, Array]]:
        return ({**data, NUMBER: value} for data in source.open(start, stop))

    return dataclasses.replace(
        source, shapes={**source.shapes, NUMBER: shape}, fetch=fetch, open=open
    )


def _curve(
    program: Program,
    state: TrainState,
    source: Source,
    train: ConfigDict,
    mesh: Mesh,
    advance: Callable[[int], Any],
) -> dict[str, Any]:
    """Train to the end: "stops", steps, and "loss", the mean since the stop before; they end before
    a "bad_step".
    """
    each = -(-train.steps // POINTS)
    row = {"stops": [], "loss": [], "bad_step": None}
    batches, step, pending = source.open(0, train.steps), 0, None

    def settle(stop: int, totals: Mapping[str, Any]) -> bool:
        """Read a part's totals; whether they are finite."""
        totals = jax.device_get(totals)
        advance(int(totals["count"]))
        if totals["bad_step"] >= 0:
            row["bad_step"] = int(totals["bad_step"])
            return False
        row["stops"].append(stop)
        row["loss"].append(float(np.float64(totals["sums"][LOSS]) / totals["count"]))
        return True

    for stop in [*range(each, train.steps, each), train.steps]:
        totals = program.zeros()
        while step < stop:
            step = min(stop, step + train.steps_per_dispatch) if source.looped else step + 1
            limit = parallel.put(np.int32(step), parallel.replicated(mesh))
            state, totals, _ = program.run(state, totals, next(batches), limit)
        if pending and not settle(*pending):  # of the part before, while this one runs
            break
        pending = stop, totals
    else:
        settle(*pending)
    return row


def _changes(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Returns the differences between two searches' configs, apart from seed and bottleneck."""
    old.seed = new.seed
    old.model.bottleneck = new.model.bottleneck
    lines = run_config.changes(old, new)
    length = f"train.steps: {old.train.steps} -> {new.train.steps}"
    if old.train.steps != new.train.steps and length not in lines:
        lines.insert(0, length)
    return lines


def _done(file: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """The runs that are there, by seed and block; what a stopped program left half-written is
    cut.
    """
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if whole != lines:
        replace(file, "".join(whole).encode())
    try:
        rows = [json.loads(line) for line in whole]
        return {(row["seed"], row["bottleneck"]): row for row in rows}
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{file}: not the curves of a search; remove it or use another --workdir"
        ) from None


def _conclude(
    workdir: Path, curves: bottleneck_results.Curves, known: Mapping[str, Any]
) -> dict[str, Any]:
    """Decide, write bottleneck.json and curves.png; ``known`` is recorded beside the decision."""
    score = lambda row: bottleneck_results.score(row, known["steps"])
    found = bottleneck_results.decide(
        {b: {seed: score(row) for seed, row in rows.items()} for b, rows in curves.items()}
    )
    found = {**known, **found, "line": f'config.model.bottleneck = "{found["best"]}"'}
    bottleneck_results.figure(curves, found).savefig(workdir / "curves.png", dpi=160)
    replace(workdir / "bottleneck.json", (json.dumps(found, indent=1) + "\n").encode())
    return found


def main(argv: Sequence[str]) -> None:
    args, rest = _parse(argv)
    config = overrides.parse_config(
        [*([f"--config={args.config}"] if args.config is not None else []), *rest]
    )
    start_backend()
    name = args.config or "digits"
    workdir = Path(args.workdir or f"runs/{Path(name.split(':')[0]).stem}_bottleneck")
    found = search(
        config, workdir, candidates=args.candidates, steps=args.steps, seeds=args.seeds, name=name
    )
    print(f"\n{found['steps']} steps a run, {found['warmup_steps']} of them warm-up\n")
    print(f"{bottleneck_results.table(found)}\n\n{bottleneck_results.advice(found)}")
    print(
        f"\nlook at {workdir}/curves.png; all numbers are in {workdir}/bottleneck.json and curves.jsonl"
    )


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser("ddaepp_jax.find_bottleneck", __doc__)
    add = parser.add_argument
    add(
        "--config",
        metavar="FILE[:VARIANT]",
        help="(default: digits); --config.FIELD=VALUE overrides a field",
    )
    add(
        "--candidates",
        type=several(str),
        default=(),
        help="blocks (default: all that something follows)",
    )
    add(
        "--steps",
        type=int,
        default=1000,
        help="of a run (1000, or the config's own where it is shorter)",
    )
    add("--seeds", type=several(int), default=(0, 1, 2), help="with commas (0,1,2)")
    add("--workdir", help="where the results go (default: runs/<config's name>_bottleneck)")
    return parser.parse_known_args(argv)


if __name__ == "__main__":
    launch(main)
