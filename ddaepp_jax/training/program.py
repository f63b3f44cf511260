"""The train program, compiled once for a run; a dispatch runs any number of steps."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding

from ddaepp_jax.base import parallel
from ddaepp_jax.training import sharding
from ddaepp_jax.training.flops import step_flops
from ddaepp_jax.training.source import Source
from ddaepp_jax.training.step import Learner, TrainState, init_state, train_step

# Maps uint8 images (B, H, W, C), the batch's number and the indices (B,) of the images in the data
# set to entries of a batch, among them "image" in float32. An image's augmentation depends on
# (number, index) alone.
Prepare = Callable[[Array, Array, Array], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Program:
    """A learner compiled for a mesh.

    Attributes:
      run: ``(state, totals, data, stop) -> (state, totals, done)`` trains until ``state.step`` is
        ``stop``, or one step if the source is not looped. ``data`` comes from the source; state and
        totals are donated; ``done`` is the new step, to wait for.
      init: ``() -> state`` of step 0, sharded from the start.
      state: shapes of the state with their shardings, a target for restoring.
      zeros: ``() -> totals`` of no steps.
      leaf_names: names of the leaves that ``totals["bad_leaves"]`` flags.
      compile_seconds: time that compilation took.
      flops: floating-point operations of one step's products on one device (``step_flops``).
      bytes_accessed: bytes that one step accesses on one device, by XLA's count, which takes the
        body of a scan once.
      memory: bytes in use on one device.
    """

    run: Callable[[TrainState, dict, Any, Array], tuple[TrainState, dict, Array]]
    init: Callable[[], TrainState]
    state: TrainState
    zeros: Callable[[], dict]
    leaf_names: list[str]
    compile_seconds: float
    flops: float
    bytes_accessed: float
    memory: int


def add_totals(totals: dict, metrics: dict[str, Array], step: Array) -> dict:
    """Adds a step's metrics to the totals, and records the first step that is not finite.

    It is the first step with a loss or gradient that is not finite; the leaves are recorded too.
    """
    finite = metrics.pop("finite")
    bad = ~(jnp.isfinite(metrics["loss"]) & finite.all())
    first = bad & (totals["bad_step"] < 0)
    return {
        "sums": jax.tree.map(jnp.add, totals["sums"], metrics),
        "count": totals["count"] + 1,
        "bad_step": jnp.where(first, step, totals["bad_step"]),
        "bad_leaves": jnp.where(first, ~finite, totals["bad_leaves"]),
    }


def abstract_state(
    learner: Learner, mesh: Mesh, image_shape: tuple[int, int, int], rules: Any
) -> TrainState:
    """Returns shapes, dtypes and shardings of the state; nothing is computed."""
    return _placed(jax.eval_shape(lambda: init_state(learner, image_shape)), mesh, rules)


def _placed(shapes: TrainState, mesh: Mesh, rules: Any) -> TrainState:
    """Adds their shardings to the shapes of a state."""
    return jax.tree.map(
        lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
        shapes,
        sharding.infer(shapes, mesh, rules),
    )


def compile_program(
    learner: Learner,
    mesh: Mesh,
    rules: Sequence[tuple[str, Sequence[str]]],
    source: Source,
    prepare: Prepare,
) -> Program:
    """Compiles the train program.

    Args:
      learner: the parts of a step.
      mesh: the devices.
      rules: rules that shard the state, see ``ddaepp_jax.training.sharding.infer``.
      source: where the batches come from.
      prepare: augmentation inside the step.
    """
    # They are jitted, so that they are traced once: for shapes here, and in the programs below.
    first = jax.jit(lambda: init_state(learner, source.image_shape), inline=True)
    make_batch = jax.jit(_batch(source, prepare), inline=True)
    step = jax.jit(_step(learner, mesh, make_batch), inline=True)
    state = _placed(jax.eval_shape(first), mesh, rules)
    placements = jax.tree.map(lambda leaf: leaf.sharding, state)
    everywhere = parallel.replicated(mesh)
    names = [name for name in jax.eval_shape(step, state, source.shapes)[1] if name != "finite"]
    leaf_names = sharding.path_names(state.params)

    def zeros() -> dict:
        return {
            "sums": {name: jnp.zeros((), jnp.float32) for name in names},
            "count": jnp.zeros((), jnp.int32),
            "bad_step": jnp.full((), -1, jnp.int32),
            "bad_leaves": jnp.zeros((len(leaf_names),), bool),
        }

    def train(
        state: TrainState, totals: dict, data: Any, stop: Array
    ) -> tuple[TrainState, dict, Array]:
        def body(carry: tuple[TrainState, dict]) -> tuple[TrainState, dict]:
            state, totals = carry
            new, metrics = step(state, data)
            return new, add_totals(totals, metrics, state.step)

        if source.looped:
            state, totals = jax.lax.while_loop(
                lambda carry: carry[0].step < stop, body, (state, totals)
            )
        else:
            state, totals = body((state, totals))
        return state, totals, state.step

    jitted = jax.jit(
        train, donate_argnums=(0, 1), out_shardings=(placements, everywhere, everywhere)
    )
    totals, stop = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        (jax.eval_shape(zeros), jax.ShapeDtypeStruct((), jnp.int32)),
    )
    start = time.perf_counter()
    options = sharding.compiler_options(mesh)
    compiled = jitted.lower(state, totals, source.shapes, stop).compile(options)
    seconds = time.perf_counter() - start
    cost = compiled.cost_analysis() or {}
    batch = jax.eval_shape(make_batch, source.shapes, state.step)
    return Program(
        run=compiled,
        init=jax.jit(first, out_shardings=placements),
        state=state,
        zeros=jax.jit(zeros, out_shardings=everywhere),
        leaf_names=leaf_names,
        compile_seconds=seconds,
        flops=step_flops(learner, state, batch) / mesh.size,
        bytes_accessed=cost.get("bytes accessed", 0.0),
        memory=_memory(compiled),
    )


def _step(
    learner: Learner, mesh: Mesh, make_batch: Callable[[Any, Array], dict[str, Array]]
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]:
    """Returns one step as a function of the state and the source's data."""

    def step(state: TrainState, data: Any) -> tuple[TrainState, dict[str, Array]]:
        batch = make_batch(data, state.number)
        batch = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, parallel.BATCH))
        with sharding.split_activations(mesh):
            return train_step(learner, state, batch)

    return step


def _batch(source: Source, prepare: Prepare) -> Callable[[Any, Array], dict[str, Array]]:
    """Returns the batch as a function of the source's data and the batch's number."""

    def batch(data: Any, number: Array) -> dict[str, Array]:
        fetched = dict(source.fetch(data, number))
        return fetched | prepare(fetched["image"], number, fetched["index"])

    return batch


def _memory(compiled: jax.stages.Compiled) -> int:
    """Returns the bytes that a program has in use on one device; 0 if XLA does not tell."""
    memory = compiled.memory_analysis()
    if not memory:
        return 0
    return (
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
