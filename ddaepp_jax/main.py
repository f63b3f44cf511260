"""Train what a config describes, into a run directory. The same command again resumes it.

python -m ddaepp_jax.main                                               # handwritten digits, on anything
python -m ddaepp_jax.main --config=configs/uvit_cifar.py --workdir=runs/uvit_cifar
python -m ddaepp_jax.main --config=configs/uvit_cifar.py:tiny --config.model.depth=8 --dry_run
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from ddaepp_jax import __version__, build, evaluators
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.cli.arguments import Parser
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.config import saved as run_config
from ddaepp_jax.config import validation
from ddaepp_jax.config.overrides import parse_config
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.evaluators import Context
from ddaepp_jax.run import weights_to_start_from
from ddaepp_jax.sampling.settings import Sampling
from ddaepp_jax.training import graft, loop, snapshots
from ddaepp_jax.training.checkpoint import Checkpoints
from ddaepp_jax.training.program import Program, abstract_state, compile_program
from ddaepp_jax.training.schedule import Evaluation, Schedule
from ddaepp_jax.training.snapshots import Snapshots
from ddaepp_jax.training.step import TrainState
from ddaepp_jax.training.writers import Writer


def train_and_evaluate(
    config: ConfigDict, workdir: str | os.PathLike, *, dry_run: bool = False
) -> TrainState | None:
    """Run a config into ``workdir``; resumes what is there.

    Returns:
      The final state; None after a dry run, which prints what would be done and stops.

    Raises:
      InputError: names the field or file that is wrong. NonFiniteError: names the step and leaf.
    """
    validation.validate(config)
    build.check_trainable(config)
    mesh = build.mesh(config)
    data = build.dataset(config, config.data.split)
    total = build.total_steps(config, len(data))
    learner = build.learner(config, data.image_shape, data.num_classes, total)
    sampling = Sampling.from_config(config.sampling)
    sampling.make(learner.process, data.image_shape, "sampling.")
    context = Context(
        learner.network,
        learner.process,
        data,
        cache(lambda: _held_out(config)),
        mesh,
        sampling,
        config.seed,
        config.data.flip,
    )
    evaluations = evaluators.make(config.evals, context, config.ema.decays[0])
    workdir = Path(workdir)
    shapes = abstract_state(learner, mesh, data.image_shape, config.mesh.rules)
    weights = _weights_to_start_from(config, workdir, shapes.params["network"])
    if not dry_run:
        if jax.process_index() == 0:
            run_config.claim(workdir / "config.json", config, "a run")
            versions = f"ddaepp_jax {__version__}, jax {jax.__version__}\n"
            (workdir / "version.txt").write_text(versions)
        multihost_utils.sync_global_devices("the run directory is claimed")
    source = build.source(config, data, mesh)
    program = compile_program(learner, mesh, config.mesh.rules, source, build.prepare(config))
    _say(
        f"compiled in {program.compile_seconds:.1f} s; {_bytes(program.memory)} a device, {_flops(program)}"
    )
    if config.ema.snapshot_every:
        each, number = snapshots.nbytes(shapes.ema), -(-total // config.ema.snapshot_every)
        _say(
            f"snapshots: {number} of {_bytes(each)}, {_bytes(number * each)} in all (ema.snapshot_every)"
        )
    if dry_run:
        _describe(config, program, data, total)
        return None

    checkpoints = Checkpoints(
        workdir / "checkpoints", config.train.keep_checkpoints, evaluators.better()
    )
    state = _initial_state(program, checkpoints, weights)
    del weights
    start = int(state.step)
    if start >= total:
        _say(f"{workdir} has all of its {total} steps; train.steps makes it longer")
    writer = Writer(
        workdir,
        active=jax.process_index() == 0,
        start=start,
        config=config.to_dict(),
        **config.logging.to_dict(),
    )
    meta = {
        "image_shape": data.image_shape,
        "num_classes": data.num_classes,
        "class_names": data.class_names,
    }
    kept = Snapshots(workdir / "snapshots", start) if config.ema.snapshot_every else None
    with contextlib.ExitStack() as stack:
        for opened in filter(None, (checkpoints, writer, kept)):
            stack.enter_context(contextlib.closing(opened))
        outputs = loop.Outputs(writer, checkpoints, kept, meta, str(workdir / "profile"))
        schedule = _schedule(config, total, evaluations)
        state = loop.train(program, state, source, schedule, mesh, outputs)
    _say(f"run directory {workdir}: metrics.jsonl, samples/, checkpoints/")
    _say(f"next: python -m ddaepp_jax.linear_probe --workdir={workdir}, and sample, and report")
    return state


def _schedule(config: ConfigDict, total: int, evaluations: Mapping[str, Evaluation]) -> Schedule:
    train, profile = config.train, config.profile
    return Schedule(
        total=total,
        dispatch=train.steps_per_dispatch,
        log_every=train.log_every,
        checkpoint_every=train.checkpoint_every,
        batch_size=train.batch_size,
        evaluations=evaluations,
        snapshot_every=config.ema.snapshot_every,
        profile_start=profile.start,
        profile_steps=profile.steps,
    )


def _held_out(config: ConfigDict) -> Dataset:
    """The data of the held-out loss, where it is measured."""
    try:
        return build.dataset(config, config.data.eval_split)
    except InputError as error:
        raise InputError(str(error).replace("data.split:", "data.eval_split:")) from error


def _weights_to_start_from(config: ConfigDict, workdir: Path, network: Any) -> Any | None:
    """The weights of ``init_from``; None where none are needed."""
    if any(entry.name.isdigit() for entry in workdir.glob("checkpoints/*")):
        return None
    return weights_to_start_from(config, network)


def _initial_state(program: Program, checkpoints: Checkpoints, weights: Any | None) -> TrainState:
    """The newest good checkpoint's state, else a fresh one, from ``weights`` where they are
    given.
    """
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


def _describe(config: ConfigDict, program: Program, data: Dataset, total: int) -> None:
    """What a dry run prints."""
    from clu import parameter_overview

    print(run_config.to_json(config), end="")
    specs = {
        name: leaf.sharding.spec
        for name, leaf in zip(
            program.leaf_names, jax.tree.leaves(program.state.params), strict=True
        )
    }
    print(parameter_overview.get_parameter_overview(program.state.params, include_stats=False))
    print("sharding (others are replicated):")
    print("\n".join(f"  {name}: {spec}" for name, spec in specs.items() if any(spec)) or "  none")
    print(
        f"data: {data.name} {data.split}, {len(data)} images of {data.image_shape}, {_bytes(data.nbytes)} as uint8"
    )
    print(f"steps: {total}, {total * config.train.batch_size / len(data):.1f} epochs")
    print(f"memory: {_bytes(program.memory)} a device, by the compiler; {_flops(program)}")


def _bytes(n: int) -> str:
    return f"{n / 2**30:.2f} GiB" if n >= 2**29 else f"{n / 2**20:.1f} MiB"


def _flops(program: Program) -> str:
    return f"{program.flops / 1e9:.2f} GFLOP a step and device"


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, flush=True)


def main(argv: Sequence[str]) -> None:
    parser = Parser("ddaepp_jax.main", __doc__)
    parser.add_argument(
        "--config",
        metavar="FILE[:VARIANT]",
        help="config file (default: U-ViT on digits); --config.FIELD=VALUE overrides a field",
    )
    parser.add_argument("--workdir", help="run directory (default: runs/<config's name>)")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print config, parameters, sharding and memory, and stop",
    )
    parser.add_argument(
        "--coordinator",
        default="",
        metavar="HOST:PORT",
        help="join several processes; 'auto' on a pod or a cluster",
    )
    parser.add_argument("--num_processes", type=int, default=1, help="with --coordinator=HOST:PORT")
    parser.add_argument("--process_id", type=int, default=0, help="with --coordinator=HOST:PORT")
    args, rest = parser.parse_known_args(argv)
    config = parse_config(
        [*([f"--config={args.config}"] if args.config is not None else []), *rest]
    )
    start_backend(args.coordinator, args.num_processes, args.process_id)
    name = Path((args.config or "uvit_digits").split(":")[0]).stem
    train_and_evaluate(config, args.workdir or Path("runs") / name, dry_run=args.dry_run)


if __name__ == "__main__":
    launch(main)
