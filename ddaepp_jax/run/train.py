"""Training a run into its directory."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax import build, evaluators
from ddaepp_jax import config as schema
from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError, NonFiniteError
from ddaepp_jax.base.lock import locked
from ddaepp_jax.base.paths import local_path
from ddaepp_jax.base.processes import entered_by_first, from_first, in_first, is_first
from ddaepp_jax.config import saved
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.fingerprint import fingerprint
from ddaepp_jax.evaluators import Context
from ddaepp_jax.run.describe import describe, flops, gigabytes
from ddaepp_jax.run.fitting import compile_fitting
from ddaepp_jax.run.opened import weights_to_start_from
from ddaepp_jax.run.pictures import Pictures, config_of
from ddaepp_jax.sampling.settings import Sampling
from ddaepp_jax.training import checkpoint, graft, loop, rows
from ddaepp_jax.training import rollback as rollbacks
from ddaepp_jax.training.checkpoint import Checkpoints, nbytes
from ddaepp_jax.training.program import Program, abstract_state
from ddaepp_jax.training.saving import check_path
from ddaepp_jax.training.schedule import Evaluation, Schedule
from ddaepp_jax.training.snapshots import Snapshots, snapshot_content
from ddaepp_jax.training.step import Learner, TrainState
from ddaepp_jax.training.writers import Writer


@dataclasses.dataclass(frozen=True)
class Plan:
    """The objects that a config names, before anything is compiled.

    Attributes:
      total: number of steps.
      shapes: shapes and shardings of the state.
    """

    config: ConfigDict
    mesh: Mesh
    data: Dataset
    total: int
    learner: Learner
    evaluations: Mapping[str, Evaluation]
    shapes: TrainState


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | os.PathLike,
    *,
    dry_run: bool = False,
    rollback: bool = False,
    stuck_timeout: float = 0,
) -> TrainState | None:
    """Trains a run into ``workdir``, or resumes the run that is there.

    Args:
      config: the run's config.
      workdir: the run directory.
      dry_run: print a description of the run, and stop before the first step.
      rollback: skip the data up to the step that was not finite, if one was.
      stuck_timeout: seconds without a finished step after which the process ends with exit code
        75; 0: never.

    Returns:
      The final state; None after a dry run.

    Raises:
      InputError: a field or file is wrong.
      NonFiniteError: a loss or gradient is not finite; the message names the step and the leaf.
    """
    workdir = local_path(workdir, "--workdir")
    check_path(workdir)
    plan = make_plan(config, download=not dry_run)
    for line in build.unreached(config, plan.total):
        _say(f"warning: {line}")
    if dry_run:
        _initial_weights(plan, workdir)
        program = _compile(plan)
        describe(config, program, plan.data, plan.total)
        return None
    with contextlib.ExitStack() as stack:
        state = _train(plan, workdir, stack, rollback, stuck_timeout)
    _say(f"run directory {workdir}: metrics.jsonl, samples/, checkpoints/")
    _say(f"next: python -m ddaepp_jax.linear_probe --workdir={workdir}, and sample, and report")
    return state


def _train(
    plan: Plan, workdir: Path, stack: contextlib.ExitStack, rollback: bool, stuck_timeout: float
) -> TrainState:
    """Trains the run of a plan in its directory; ``stack`` closes what is opened there."""
    config = plan.config
    weights = _initial_weights(plan, workdir)
    in_first(lambda: saved.check_run(workdir, config))
    stack.enter_context(entered_by_first(locked(workdir, "wait for it, or use another --workdir")))
    if plan.data.nbytes <= config.data.device_bytes:
        plan = dataclasses.replace(plan, data=plan.data.resident())
    facts = _facts(plan)
    _check_data(workdir / "checkpoints", facts, config.data.data_dir)
    in_first(lambda: saved.write_run(workdir, config))
    in_first(lambda: rows.check_writable(workdir / rows.NAME))
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        config.train.keep_checkpoints,
        evaluators.better(),
        config.train.checksums,
    )
    stack.enter_context(contextlib.closing(checkpoints))
    source = build.source(config, plan.data, plan.mesh)
    program = _compile(plan)
    state, unlogged = _initial_state(program, checkpoints, weights)
    del weights  # The state holds them now.
    if rollback:
        state = _roll_back(state, workdir)
    if int(state.step) >= plan.total:
        mend = "" if saved.length_is_fixed(config) else "; train.steps makes it longer"
        _say(f"{workdir} has all of its {plan.total} steps{mend}")
    skipped = int(state.skipped)
    facts["skipped"] = skipped
    outputs = _outputs(plan, workdir, checkpoints, facts, int(state.step), stack)
    schedule = _schedule(plan)
    try:
        return loop.train(
            program, state, source, schedule, plan.mesh, outputs, unlogged, stuck_timeout
        )
    except NonFiniteError as error:
        if error.step is not None and is_first():
            rollbacks.record(workdir, error.step, skipped)
        raise


def _roll_back(state: TrainState, workdir: Path) -> TrainState:
    """Skips the data up to the step that was not finite, and prints how many batches."""
    step, before = int(state.step), int(state.skipped)
    after = from_first(lambda: rollbacks.skipped_after(workdir, step, before))
    if after == before:
        _say(f"rollback: no bad step is known ahead of step {step}; no data are skipped")
        return state
    _say(
        f"rollback: from step {step} on, {after - before} batches are skipped, up to that of step "
        f"{step + after - before - 1}, which was not finite; {after} in all"
    )
    return state.replace(skipped=parallel.put(np.int32(after), state.skipped.sharding))


def _initial_weights(plan: Plan, workdir: Path) -> Any | None:
    """Reads the weights of ``init_from``, unless the run has a checkpoint."""
    if checkpoint.steps_of(workdir / "checkpoints"):
        return None
    return weights_to_start_from(plan.config, plan.shapes.params["network"])


def _compile(plan: Plan) -> Program:
    """Compiles the train program, and prints what it costs."""
    _say("compiling the train step; large networks take minutes the first time")
    program, form = compile_fitting(plan.config, plan.learner, plan.data, plan.mesh)
    if plan.config.model.remat == "auto" or not plan.config.train.accumulate:
        _say(f"fits with model.remat={form.remat}, train.accumulate={form.parts}")
    _say_costs(plan, program)
    return program


def _facts(plan: Plan) -> dict[str, Any]:
    """Returns the facts that a checkpoint holds beside its arrays: the data and the network."""
    data = plan.data
    facts = {
        "image_shape": list(data.image_shape),
        "num_classes": data.num_classes,
        "class_names": list(data.class_names),
        "images": len(data),
        "fingerprint": fingerprint(data),
        "network": saved.network_fields(plan.config),
    }
    if data.encoding is not None:
        facts["latents"] = data.encoding.to_dict()
    return facts


def _check_data(directory: Path, facts: dict[str, Any], data_dir: str) -> None:
    """Refuses to resume on other data than the checkpoints were trained on.

    Facts that an older version did not save are not compared.
    """
    meta = checkpoint.newest_meta(directory) or {}
    names = ("image_shape", "num_classes", "class_names", "images", "fingerprint")
    differences = [
        f"{name}: {meta[name]} -> {facts[name]}"
        for name in names
        if name in meta and meta[name] != facts[name]
    ]
    if differences:
        place = f"the data in {data_dir}" if data_dir else "the data"
        raise InputError(
            f"data.data_dir: {place} are not those of {directory.parent} (trained on -> here: "
            f"{'; '.join(difference[:120] for difference in differences[:3])}); give the run's "
            "data, or use another --workdir"
        )


def make_plan(config: ConfigDict, download: bool = True) -> Plan:
    """Makes the objects that a config names, and checks every field.

    Args:
      download: whether a missing data set may be downloaded.

    Raises:
      InputError: a field is wrong.
    """
    schema.validate(config)
    build.check_trainable(config)
    mesh = build.mesh(config)
    data = build.dataset(config, config.data.split, download)
    _say(f"data: {data.described}")
    total = build.total_steps(config, len(data))
    learner = build.learner(config, data.image_shape, data.num_classes, total)
    sampling = Sampling.from_config(config.sampling)
    sampling.make(learner.process, data.image_shape, "sampling.")
    context = Context(
        network=learner.network,
        process=learner.process,
        data=data.clean(),
        held_out=functools.cache(lambda: _held_out(config, data)),
        mesh=mesh,
        sampling=sampling,
        seed=config.seed,
        flip=config.data.flip,
        pictures=None if data.encoding is None else _pictures(config, data, mesh, download),
    )
    evaluations = evaluators.make(config.evals, context, config.ema.decays[0])
    shapes = abstract_state(learner, mesh, data.image_shape, config.mesh.rules)
    return Plan(config, mesh, data, total, learner, evaluations, shapes)


def _pictures(config: ConfigDict, data: Dataset, mesh: Mesh, download: bool) -> evaluators.Pictures:
    """Returns the pictures of latents.

    What is missing for an evaluation is an error before the work.
    """
    pictures = Pictures(config.data.autoencoder, data.encoding.to_dict(), data.image_shape, mesh)
    encoded = functools.cache(lambda: _encoded(config, pictures))
    if config.evals.fid.every:
        encoded()
    if config.evals.fid.every or config.evals.samples.every:
        _ = pictures.autoencoder
    train = functools.cache(lambda: build.dataset(encoded(), encoded().data.split, download))
    held_out = functools.cache(lambda: _held_out(encoded(), train()))
    return evaluators.Pictures(train, held_out, pictures.decode)


def _encoded(config: ConfigDict, pictures: Pictures) -> ConfigDict:
    """Returns the config of the images that were encoded, for the evaluation that reads them."""
    if pictures.source is None:
        raise InputError(
            f"evals.fid.every: {config.evals.fid.every}, but the latents in {config.data.data_dir} "
            "do not name the images to compare with; set it to 0, and score samples by "
            "ddaepp_jax.fid --images"
        )
    return config_of(config, pictures.source)


def _held_out(config: ConfigDict, train: Dataset) -> Dataset:
    """Opens the split to evaluate on, and warns if it holds training images."""
    held_out = build.held_out(config, train)
    _say(f"evaluated on: {held_out.described}")
    if overlap := build.overlap(train, held_out):
        _say(f"warning: {overlap}")
    return held_out.clean()


def _initial_state(
    program: Program, checkpoints: Checkpoints, weights: Any | None
) -> tuple[TrainState, dict[str, Any] | None]:
    """Restores the newest good checkpoint, or initialises a state, with ``weights`` if given.

    Returns:
      The state, and the totals of steps that the metrics lack (see ``loop.train``).
    """
    restored = checkpoints.restore(program.state)
    if restored:
        state, meta, damage = restored
        for line in damage:
            _say(f"warning: {line}; set aside")
        _say(f"resumed at step {int(state.step)}")
        return state, meta.get("unlogged")
    state = program.init()
    if weights is not None:
        state, lines = graft.graft(state, weights)
        for line in lines:
            _say(line)
    return state, None


def _outputs(
    plan: Plan,
    workdir: Path,
    checkpoints: Checkpoints,
    facts: dict[str, Any],
    start: int,
    stack: contextlib.ExitStack,
) -> loop.Outputs:
    """Opens the outputs of the train loop; ``stack`` closes them."""
    config = plan.config
    writer = Writer(
        workdir, active=is_first(), start=start, config=config.to_dict(), **config.logging.to_dict()
    )
    stack.enter_context(writer)
    averages = None
    if config.ema.snapshot_every:
        averages = Snapshots(workdir / "snapshots", start, config.train.checksums)
        stack.enter_context(contextlib.closing(averages))
    return loop.Outputs(writer, checkpoints, averages, facts, str(workdir / "profile"))


def _schedule(plan: Plan) -> Schedule:
    train, profile = plan.config.train, plan.config.profile
    return Schedule(
        total=plan.total,
        dispatch=train.steps_per_dispatch,
        log_every=train.log_every,
        checkpoint_every=train.checkpoint_every,
        batch_size=train.batch_size,
        evaluations=plan.evaluations,
        snapshot_every=plan.config.ema.snapshot_every,
        profile_start=profile.start,
        profile_steps=profile.steps,
    )


def _say_costs(plan: Plan, program: Program) -> None:
    """Prints the compile time, the memory, and the size of all snapshots."""
    _say(
        f"compiled in {program.compile_seconds:.1f} s; {gigabytes(program.memory)} a device, "
        f"{flops(program)}"
    )
    every = plan.config.ema.snapshot_every
    if every:
        each = nbytes(snapshot_content(plan.shapes.ema))
        number = -(-plan.total // every)
        _say(
            f"snapshots: {number} of {gigabytes(each)}, {gigabytes(number * each)} in all "
            "(ema.snapshot_every)"
        )


def _say(line: str) -> None:
    """Prints a line, once for all processes."""
    if is_first():
        print(line, flush=True)
