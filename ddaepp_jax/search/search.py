"""Short runs of every candidate for the bottleneck, in a directory that a later call continues."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from ddaepp_jax import build
from ddaepp_jax.base import parallel
from ddaepp_jax.base.dispatch import InFlight, progress_bar
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replace, write_json
from ddaepp_jax.base.frozen import hashed
from ddaepp_jax.base.lock import locked
from ddaepp_jax.base.processes import entered_by_first, from_first, in_first, together
from ddaepp_jax.config import saved, validation
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.fingerprint import fingerprint
from ddaepp_jax.reporting.bottleneck import Curves, figure
from ddaepp_jax.run.fitting import compile_fitting
from ddaepp_jax.run.opened import weights_to_start_from
from ddaepp_jax.search.decision import decide, score
from ddaepp_jax.training import graft
from ddaepp_jax.training.program import Program
from ddaepp_jax.training.source import Source
from ddaepp_jax.training.step import TrainState

WARMUP = 5  # a short run warms up for at most 1 / WARMUP of its steps
POINTS = 100  # most points of a loss curve
# Candidates are compared by this loss: other objectives depend on the bottleneck's feature.
LOSS = "denoising/loss"


def search(
    config: ConfigDict,
    workdir: Path,
    *,
    candidates: Sequence[str] = (),
    steps: int = 1000,
    seeds: Sequence[int] = (0, 1, 2),
    name: str = "",
) -> dict[str, Any]:
    """Trains every candidate with every seed and decides; a stopped search continues.

    All devices of all processes train a run together; process 0 reads and writes the files.

    A run is the config with another seed and bottleneck, fewer steps and a warm-up of a fifth of
    them at most. Runs of one seed have the same data, noise and initial values.

    Args:
      config: the config to choose ``model.bottleneck`` for.
      workdir: directory of the results.
      candidates: names of blocks; empty takes all that condition a later layer.
      steps: number of steps of a run, unless the config's own run is shorter.
      seeds: seeds of the runs.
      name: name of the config, for the record.

    Returns:
      The result of ``decide``, with "config", "steps", "warmup_steps", "seeds", and "line", which
      sets the config to the best block.

    Raises:
      InputError: a field, option or file is wrong.
    """
    _check(config, steps, seeds)
    mesh = build.mesh(config)
    data = together(lambda: build.dataset(config, config.data.split))
    own = build.total_steps(config, len(data))
    if steps > own:
        print(f"--steps: the config's own run has {own} steps, so short runs have no more")
    config = _short_run(config, min(steps, own))
    blocks, weights = _candidates(config, data, candidates)
    if data.nbytes <= config.data.device_bytes:
        data = together(data.resident)  # Read once, not once a run.
    made_of = {"images": from_first(lambda: fingerprint(data))}
    if weights is not None:
        made_of["initial weights"] = hashed(weights)[:16]
    in_first(lambda: saved.claim(workdir / "short_run.json", config, "a search", _differences))
    with entered_by_first(locked(workdir, "wait for it or use another --workdir")):
        rows = from_first(lambda: _read(workdir / "curves.jsonl", config.train.steps, made_of))
        runs = [(seed, block) for seed in seeds for block in blocks if (seed, block) not in rows]
        # Smoothing 0 shows the mean rate: a pause to compile is not a new rate.
        total = len(runs) * config.train.steps
        with progress_bar(total, "step", smoothing=0, disable=not runs) as bar:
            for seed, block in runs:
                row = _train(config, seed, block, weights, data, mesh, bar)
                rows[seed, block] = row | made_of
                in_first(partial(_write_row, workdir, rows[seed, block]))
        curves = {block: {seed: rows[seed, block] for seed in seeds} for block in blocks}
        record = {
            "config": name,
            "steps": config.train.steps,
            "warmup_steps": config.optimizer.warmup_steps,
            "seeds": list(seeds),
        }
        return from_first(lambda: _conclude(workdir, curves, record))


def _write_row(workdir: Path, row: Mapping[str, Any]) -> None:
    """Writes the row of a run that has ended."""
    with _writing(workdir), (workdir / "curves.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


@contextlib.contextmanager
def _writing(workdir: Path) -> Iterator[None]:
    """Turns an error of writing into one that names ``--workdir``."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"--workdir: cannot write {workdir} ({error.strerror}); use another --workdir"
        ) from None


def _check(config: ConfigDict, steps: int, seeds: Sequence[int]) -> None:
    validation.validate(config)
    build.check_trainable(config)
    if steps < 1:
        raise InputError(f"--steps: {steps} is not positive")
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        text = ",".join(map(str, seeds))
        raise InputError(f"--seeds: {text} are not different numbers in 0..2**32-1")
    if not config.objectives.denoising.weight:
        raise InputError(
            "objectives.denoising.weight: it is 0, but candidates are compared by this loss; "
            "set it to 1"
        )
    if not config.model.self_condition:
        raise InputError(
            "model.self_condition: it is False, so the bottleneck conditions nothing; "
            "set it to True"
        )


def _short_run(config: ConfigDict, steps: int) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.train.update(steps=steps, epochs=None, images=None)
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, steps // WARMUP)
    return config


def _candidates(
    config: ConfigDict, data: Dataset, names: Sequence[str]
) -> tuple[list[str], Any | None]:
    """Returns the candidates in the network's order, and the weights of ``init_from`` or None.

    The shapes of the weights are checked for each width of a candidate.
    """
    network = build.network(config, data.image_shape, data.num_classes)
    x = jax.ShapeDtypeStruct((1, *data.image_shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)

    def shapes(block: str) -> tuple[Mapping[str, Any], Any]:
        """Returns the shapes of the features and of the parameters, without computing them."""
        init = network.clone(bottleneck=block).init_with_output
        (_, features), variables = jax.eval_shape(init, jax.random.key(0), x, t)
        return features, variables["params"]

    features, _ = shapes(config.model.bottleneck)
    blocks = [name for name in features if name != "bottleneck"]
    if config.model.name != "dit":  # A DiT's last block conditions its final norm.
        blocks = blocks[:-1]
    for name in names:
        if name not in blocks:
            raise InputError(
                f"--candidates: {name!r} is no block that conditions a later layer; "
                f"give some of {', '.join(blocks)}"
            )
    blocks = [name for name in blocks if not names or name in names]
    if len(blocks) < 2:
        raise InputError(
            f"--candidates: {', '.join(blocks)} alone has nothing to be compared with; give more"
        )
    weights = None
    for block in {features[block].shape[-1]: block for block in blocks}.values():
        weights = weights_to_start_from(config, shapes(block)[1])
    return blocks, weights


def _train(
    config: ConfigDict,
    seed: int,
    block: str,
    weights: Any | None,
    data: Dataset,
    mesh: Mesh,
    bar: tqdm,
) -> dict[str, Any]:
    """Trains one candidate with one seed; returns its row of curves.jsonl."""
    config = config.copy_and_resolve_references()
    config.seed = seed
    config.model.bottleneck = block
    learner = build.learner(config, data.image_shape, data.num_classes, config.train.steps)
    source = build.source(config, data, mesh)
    bar.set_description(f"seed {seed}, {block}, compiling")
    program, _ = compile_fitting(config, learner, data, mesh)
    bar.set_description(f"seed {seed}, {block}")
    before = bar.n
    start = time.perf_counter()
    state = program.init()
    if weights is not None:
        state, _ = graft.graft(state, weights)
    row = {"bottleneck": block, "seed": seed}
    row |= _curve(program, state, source, config.train, mesh, bar)
    bar.update(before + config.train.steps - bar.n)  # A run may have ended early.
    return row | {"seconds": round(time.perf_counter() - start, 2)}


def _curve(
    program: Program, state: TrainState, source: Source, train: ConfigDict, mesh: Mesh, bar: tqdm
) -> dict[str, Any]:
    """Trains to the end, or to a loss that is not finite.

    Returns:
      "stops", the steps at which parts of the run ended, "loss", the mean loss of each part, and
      "bad_step", the first step that was not finite, or None.
    """
    length = -(-train.steps // POINTS)
    dispatch = train.steps_per_dispatch if source.looped else 1
    row = {"stops": [], "loss": [], "bad_step": None}
    batches = source.open(0, train.steps)
    in_flight = InFlight(bar)
    step = 0
    unread = None
    for stop in [*range(length, train.steps, length), train.steps]:
        totals = program.zeros()
        while step < stop:
            after = min(stop, step + dispatch)
            limit = parallel.put(np.int32(after), parallel.replicated(mesh))
            state, totals, done = program.run(state, totals, next(batches), limit)
            in_flight.add(done, after - step)
            step = after
        # Read the previous part while this one runs.
        if unread and not _append(row, *unread):
            return row
        unread = stop, totals
    in_flight.finish()
    _append(row, *unread)
    return row


def _append(row: dict[str, Any], stop: int, totals: Mapping[str, Any]) -> bool:
    """Adds a part's mean loss to the row, or its bad step; returns whether it was finite."""
    totals = jax.device_get(totals)
    if totals["bad_step"] >= 0:
        row["bad_step"] = int(totals["bad_step"])
        return False
    row["stops"].append(stop)
    row["loss"].append(float(np.float64(totals["sums"][LOSS]) / totals["count"]))
    return True


def _differences(old: ConfigDict, config: ConfigDict) -> list[str]:
    """Returns the settings in which two searches differ and that forbid continuing the first.

    Seed and bottleneck differ from run to run, so ``config`` takes those that are stored. The
    number of steps may not differ, although a training may change it.
    """
    config.seed = old.seed
    config.model.bottleneck = old.model.bottleneck
    changes = saved.changes(old, config)
    steps = old.train.steps, config.train.steps
    if steps[0] != steps[1] and not any(line.startswith("train.steps:") for line in changes):
        changes = [f"train.steps: {steps[0]} -> {steps[1]}", *changes]
    return changes


def _read(
    file: Path, steps: int, made_of: Mapping[str, Any]
) -> dict[tuple[int, str], dict[str, Any]]:
    """Reads the finished rows by (seed, block), and cuts off an unfinished last line.

    Args:
      file: curves.jsonl.
      steps: number of steps of a run.
      made_of: entries that a row must have; rows of older versions lack them.
    """
    text = file.read_text(errors="replace") if file.exists() else ""
    lines = text.splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if whole != lines:
        replace(file, "".join(whole).encode())
    rows = {}
    for number, line in enumerate(whole, 1):
        try:
            row = json.loads(line)
            score(row, steps)
            rows[row["seed"], row["bottleneck"]] = row
        except (ValueError, KeyError, TypeError, IndexError, ZeroDivisionError, RecursionError):
            raise InputError(
                f"{file}: line {number} holds no curve of a search; remove the line or use another "
                "--workdir"
            ) from None
        others = [noun for noun, value in made_of.items() if row.get(noun, value) != value]
        if others:
            raise InputError(
                f"{file}: its runs had other {others[0]}; give those or use another --workdir"
            )
    return rows


def _conclude(workdir: Path, curves: Curves, record: Mapping[str, Any]) -> dict[str, Any]:
    """Decides between the blocks, writes bottleneck.json and curves.png, and returns the former.

    Args:
      workdir: directory of the two files.
      curves: rows of curves.jsonl by block and seed.
      record: entries that are added to the decision: "config", "steps", "warmup_steps", "seeds".
    """
    scores = {
        block: {seed: score(row, record["steps"]) for seed, row in rows.items()}
        for block, rows in curves.items()
    }
    decision = {**record, **decide(scores)}
    decision["line"] = f'config.model.bottleneck = "{decision["best"]}"'
    with _writing(workdir):
        figure(curves, decision).savefig(workdir / "curves.png", dpi=160)
        write_json(workdir / "bottleneck.json", decision)
    return decision
