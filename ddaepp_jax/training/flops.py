"""The floating-point operations of a step: those of the network's products, on any device."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from ddaepp_jax.training.step import Learner, TrainState, teacher_passes, total_loss


def step_flops(learner: Learner, state: TrainState, batch: Mapping[str, Any]) -> float:
    """Counts the FLOPs of one step's matrix products and convolutions.

    A gradient takes twice the products of the forward pass: by the weights and by the inputs. A
    teacher has none. What a program computes again to save memory, or pads for a kernel, does not
    count, so the number is the same on a CPU, a GPU and a TPU, scanned or not.

    Args:
      state, batch: shapes of the state and of the batch, see ``train_step``.
    """
    network = learner.network
    plain = {"attention": "xla", "swiglu_multiple": 1}
    plain = {field: value for field, value in plain.items() if hasattr(network, field)}
    learner = dataclasses.replace(learner, network=network.clone(**plain))
    loss = lambda state, batch: total_loss(learner, state.params, state, batch)
    teachers = lambda state, batch: teacher_passes(learner, state, batch)
    forward, untrained = (
        products(jax.make_jaxpr(function)(state, batch).jaxpr) for function in (loss, teachers)
    )
    return 3 * forward - 2 * untrained


def products(jaxpr: Jaxpr) -> float:
    """Counts the FLOPs of the matrix products and convolutions of a traced computation.

    The body of a scan counts as often as it runs. Of branches the last one counts, which is the
    default of ``jax.lax.platform_dependent``.
    """
    return sum(_products(equation) for equation in jaxpr.eqns)


def _products(equation: JaxprEqn) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * float(np.prod([left[d] for d in contracted]))
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * (kernel.size / features)
    if name == "cond":
        return products(params["branches"][-1].jaxpr)
    inside = sum(products(inner) for inner in _inner(params))
    if name == "scan":
        return params["length"] * inside
    if name == "shard_map":  # It is traced with the shapes of one device.
        return params["mesh"].size * inside
    return inside


def _inner(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """Yields the computations among an operation's parameters."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each
