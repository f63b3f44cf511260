"""The compiled train program: as many steps a dispatch as it is told, one compilation a run."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding

from ddaepp_jax.base import parallel
from ddaepp_jax.training import sharding
from ddaepp_jax.training.source import Source
from ddaepp_jax.training.step import Learner, TrainState, init_state, train_step

# (images uint8, step, index) -> entries of a batch, "image" in float32: each image augmented by
# (step, index) alone.
Prepare = Callable[[Array, Array, Array], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Program:
    """What XLA made of a learner on a mesh.

    Attributes:
      run: ``(state, totals, data, stop) -> (state, totals, done)``: steps until ``state.step`` is
        ``stop``, or one where the source is not looped; ``data`` is the source's, state and totals
        are donated, ``done`` is the new step, to wait for.
      init: ``() -> state``, born sharded.
      state: shapes of the state with their shardings, a target for restoring.
      zeros: ``() -> totals`` of no steps.
      leaf_names: of the leaves that ``totals["bad_leaves"]`` flags.
      compile_seconds; flops of one step on one device; bytes_accessed of the same, where XLA counts
      a scan's body once;
        memory: bytes on one device.
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
    """Sums of metrics over steps; the first step whose loss or gradient is not finite, and its
    leaves, are kept.
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
    """Shapes, dtypes and shardings of the state; nothing is computed."""
    shapes = jax.eval_shape(lambda: init_state(learner, image_shape))
    placed = sharding.infer(shapes, mesh, rules)
    return jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, placed
    )


def compile_program(
    learner: Learner,
    mesh: Mesh,
    rules: Sequence[tuple[str, Sequence[str]]],
    source: Source,
    prepare: Prepare,
    of_data: Callable[[Learner, Any], Learner] = lambda learner, data: learner,
) -> Program:
    """Compile the train program.

    Args:
      rules: shard the state, see ``ddaepp_jax.training.sharding.infer``.
      of_data: what of the learner is data: the learner of a step, by what the source hands over.
        Its state is the learner's own.
    """
    image_shape = source.shapes["image"].shape[1:]
    state = abstract_state(learner, mesh, image_shape, rules)
    everywhere = parallel.replicated(mesh)

    def one(
        state: TrainState, data: Any, learner: Learner = learner
    ) -> tuple[TrainState, dict[str, Array]]:
        batch = dict(source.fetch(data, state.step))
        batch |= prepare(batch["image"], state.step, batch["index"])
        batch = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, parallel.BATCH))
        return train_step(of_data(learner, data), state, batch)

    metric_names = [
        name for name in jax.eval_shape(one, state, source.shapes)[1] if name != "finite"
    ]
    leaf_names = sharding.path_names(state.params)

    def zeros() -> dict:
        return {
            "sums": {name: jnp.zeros(()) for name in metric_names},
            "count": jnp.zeros((), jnp.int32),
            "bad_step": jnp.full((), -1, jnp.int32),
            "bad_leaves": jnp.zeros((len(leaf_names),), bool),
        }

    def train(
        state: TrainState, totals: dict, data: Any, stop: Array
    ) -> tuple[TrainState, dict, Array]:
        def body(carry: tuple[TrainState, dict]) -> tuple[TrainState, dict]:
            state, totals = carry
            new, metrics = one(state, data)
            return new, add_totals(totals, metrics, state.step)

        if source.looped:
            state, totals = jax.lax.while_loop(
                lambda carry: carry[0].step < stop, body, (state, totals)
            )
        else:
            state, totals = body((state, totals))
        return state, totals, state.step

    placements = jax.tree.map(lambda s: s.sharding, state)
    jitted = jax.jit(
        train, donate_argnums=(0, 1), out_shardings=(placements, everywhere, everywhere)
    )
    start = time.perf_counter()
    totals = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=everywhere), jax.eval_shape(zeros)
    )
    stop = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    compiled = jitted.lower(state, totals, source.shapes, stop).compile()
    seconds = time.perf_counter() - start
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    flops = cost.get("flops", 0.0)
    if getattr(
        learner.network, "scan", False
    ):  # XLA counts a scan's body once: count the blocks in a loop
        looped = dataclasses.replace(learner, network=learner.network.clone(scan=False))
        lowered = jax.jit(functools.partial(one, learner=looped)).lower(state, source.shapes)
        flops = (lowered.cost_analysis() or {}).get("flops", 0.0) / mesh.size
    held = (
        memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
        if memory
        else 0
    )
    return Program(
        run=compiled,
        init=jax.jit(lambda: init_state(learner, image_shape), out_shardings=placements),
        state=state,
        zeros=jax.jit(zeros, out_shardings=everywhere),
        leaf_names=leaf_names,
        compile_seconds=seconds,
        flops=flops,
        bytes_accessed=cost.get("bytes accessed", 0.0),
        memory=held - (memory.alias_size_in_bytes if memory else 0),
    )
