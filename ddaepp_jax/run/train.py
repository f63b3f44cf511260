"""Training a run into its directory."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax import build, evaluators
from ddaepp_jax import config as schema
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.config import saved
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.evaluators import Context
from ddaepp_jax.run.describe import describe, flops, gigabytes
from ddaepp_jax.run.opened import weights_to_start_from
from ddaepp_jax.sampling.settings import Sampling
from ddaepp_jax.training import graft, loop, rows, snapshots
from ddaepp_jax.training.checkpoint import Checkpoints
from ddaepp_jax.training.program import Program, abstract_state, compile_program
from ddaepp_jax.training.schedule import Evaluation, Schedule
from ddaepp_jax.training.snapshots import Snapshots
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
    config: ConfigDict, workdir: str | os.PathLike, *, dry_run: bool = False
) -> TrainState | None:
    """Trains a run into ``workdir``, or resumes the run that is there.

    Args:
      config: the run's config.
      workdir: the run directory.
      dry_run: print a description of the run, and stop before the first step.

    Returns:
      The final state; None after a dry run.

    Raises:
      InputError: a field or file is wrong.
      NonFiniteError: a loss or gradient is not finite; the message names the step and the leaf.
    """
    plan = make_plan(config)
    workdir = Path(workdir)
    weights = None
    if not any(entry.name.isdigit() for entry in workdir.glob("checkpoints/*")):
        weights = weights_to_start_from(config, plan.shapes.params["network"])
    if not dry_run:
        if jax.process_index() == 0:
            saved.claim_run(workdir, config)
            rows.check_writable(workdir / rows.NAME)
        multihost_utils.sync_global_devices("the run directory is claimed")
    source = build.source(config, plan.data, plan.mesh)
    program = compile_program(
        plan.learner, plan.mesh, config.mesh.rules, source, build.prepare(config)
    )
    _say_costs(plan, program)
    if dry_run:
        describe(config, program, plan.data, plan.total)
        return None
    keep = config.train.keep_checkpoints
    checkpoints = Checkpoints(workdir / "checkpoints", keep, evaluators.better())
    state = _initial_state(program, checkpoints, weights)
    del weights  # The state holds them now.
    if int(state.step) >= plan.total:
        mend = "" if saved.length_is_fixed(config) else "; train.steps makes it longer"
        _say(f"{workdir} has all of its {plan.total} steps{mend}")
    with contextlib.ExitStack() as stack:
        outputs = _outputs(plan, workdir, checkpoints, int(state.step), stack)
        state = loop.train(program, state, source, _schedule(plan), plan.mesh, outputs)
    _say(f"run directory {workdir}: metrics.jsonl, samples/, checkpoints/")
    _say(f"next: python -m ddaepp_jax.linear_probe --workdir={workdir}, and sample, and report")
    return state


def make_plan(config: ConfigDict) -> Plan:
    """Makes the objects that a config names, and checks every field.

    Raises:
      InputError: a field is wrong.
    """
    schema.validate(config)
    build.check_trainable(config)
    mesh = build.mesh(config)
    data = build.dataset(config, config.data.split)
    total = build.total_steps(config, len(data))
    learner = build.learner(config, data.image_shape, data.num_classes, total)
    sampling = Sampling.from_config(config.sampling)
    sampling.make(learner.process, data.image_shape, "sampling.")
    context = Context(
        network=learner.network,
        process=learner.process,
        data=data,
        held_out=functools.cache(lambda: _held_out(config)),
        mesh=mesh,
        sampling=sampling,
        seed=config.seed,
        flip=config.data.flip,
    )
    evaluations = evaluators.make(config.evals, context, config.ema.decays[0])
    shapes = abstract_state(learner, mesh, data.image_shape, config.mesh.rules)
    return Plan(config, mesh, data, total, learner, evaluations, shapes)


def _held_out(config: ConfigDict) -> Dataset:
    """Opens the split that is never trained on."""
    try:
        return build.dataset(config, config.data.eval_split)
    except InputError as error:
        raise InputError(str(error).replace("data.split:", "data.eval_split:")) from error


def _initial_state(program: Program, checkpoints: Checkpoints, weights: Any | None) -> TrainState:
    """Restores the newest good checkpoint, or initialises a state, with ``weights`` if given."""
    restored = checkpoints.restore(program.state)
    if restored:
        state, damage = restored
        for line in damage:
            _say(f"warning: {line}; set aside")
        _say(f"resumed at step {int(state.step)}")
        return state
    state = program.init()
    if weights is None:
        return state
    state, lines = graft.graft(state, weights)
    for line in lines:
        _say(line)
    return state


def _outputs(
    plan: Plan, workdir: Path, checkpoints: Checkpoints, start: int, stack: contextlib.ExitStack
) -> loop.Outputs:
    """Opens the outputs of the train loop; ``stack`` closes them."""
    config, data = plan.config, plan.data
    writer = Writer(
        workdir,
        active=jax.process_index() == 0,
        start=start,
        config=config.to_dict(),
        **config.logging.to_dict(),
    )
    stack.enter_context(writer)  # It is left last, so that it sees an error of the last save.
    stack.enter_context(contextlib.closing(checkpoints))
    averages = None
    if config.ema.snapshot_every:
        averages = stack.enter_context(contextlib.closing(Snapshots(workdir / "snapshots", start)))
    meta = {
        "image_shape": data.image_shape,
        "num_classes": data.num_classes,
        "class_names": data.class_names,
    }
    return loop.Outputs(writer, checkpoints, averages, meta, str(workdir / "profile"))


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
        each = snapshots.nbytes(plan.shapes.ema)
        number = -(-plan.total // every)
        _say(
            f"snapshots: {number} of {gigabytes(each)}, {gigabytes(number * each)} in all "
            "(ema.snapshot_every)"
        )


def _say(line: str) -> None:
    """Prints a line, once for all processes."""
    if jax.process_index() == 0:
        print(line, flush=True)
