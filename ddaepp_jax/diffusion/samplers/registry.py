"""The samplers by name, and the contract that each of them keeps.

A sampler is a function ``(process, denoiser, x, keys, steps, **options) -> images``:

  process: the diffusion process; it gives the grid of noise levels.
  denoiser: ``(x_t (B, H, W, C), level (B,)) -> x0_hat``.
  x: (B, H, W, C) start noise, standard normal.
  keys: (B,) random keys, one an image. The noise of image i at a step is a function of its key and
    the step's number alone.
  steps: number of steps of the grid.
  options: keyword arguments with defaults. They are the sampler's options, in a config, on the
    command line and in the names of metrics. ``clip`` clips x0_hat to the data's range [-1, 1] at
    every evaluation; every sampler has it. A sampler raises ``ValueError("option: reason")`` for a
    value that it refuses.

It returns (B, H, W, C) float32 images in [-1, 1].
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ddaepp_jax.base.choice import choose, did_you_mean
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.numbers import finite, whole
from ddaepp_jax.diffusion.process import Denoiser, Process

# (denoiser, start noise, keys) -> images
Draw = Callable[[Denoiser, Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A registered sampler.

    Attributes:
      function: see the module's docstring.
      process: the class of processes that it samples.
    """

    function: Callable[..., Array]
    process: type

    @property
    def options(self) -> dict[str, Any]:
        """The options with their defaults, which are the function's keyword defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


SAMPLERS: dict[str, Sampler] = {}


def register(process: type) -> Callable[[Callable[..., Array]], Callable[..., Array]]:
    """Decorates a sampler of a class of processes; its name is the function's."""

    def decorate(function: Callable[..., Array]) -> Callable[..., Array]:
        SAMPLERS[function.__name__] = Sampler(function, process)
        return function

    return decorate


def names(process: Process) -> tuple[str, ...]:
    """Returns the names of the samplers of a process."""
    return tuple(name for name, s in SAMPLERS.items() if isinstance(process, s.process))


def make(
    process: Process, name: str, steps: int, options: Mapping[str, Any], group: str = ""
) -> Draw:
    """Returns ``(denoiser, x, keys) -> images`` of a sampler, after checking all of its arguments.

    Args:
      process: the diffusion process.
      name: the sampler's name.
      steps: number of steps.
      options: the sampler's options; defaults stand for those that are left out.
      group: the config group that errors name before a field: "sampling." or "".

    Raises:
      InputError: the process has no such sampler, or the sampler refuses an argument.
    """
    if isinstance(name, str) and name not in SAMPLERS:
        raise InputError(
            f"{group}sampler: no {name!r} is registered; give one of {', '.join(names(process))}, "
            f"or import the module that registers it{did_you_mean(name, names(process))}"
        )
    sampler = SAMPLERS[choose(f"{group}sampler", name, names(process))]
    for option, value in options.items():
        _check_option(option, value, type(choose("options", option, sampler.options)))
    steps = whole(f"{group}steps", steps, -(2**31), 2**31 - 1)
    try:
        process.grid(steps)
    except ValueError as error:
        raise InputError(f"{group}steps: {error}") from None
    draw = functools.partial(_draw, sampler.function, process, steps, dict(options))
    # Tracing on shapes runs the sampler's own checks, before anything is compiled.
    x = jax.ShapeDtypeStruct((1, 1, 1, 1), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    try:
        jax.eval_shape(functools.partial(draw, lambda x_t, level: x_t), x, keys)
    except ValueError as error:
        raise InputError(f"sampling.{name}.{error}") from None
    return draw


def levels(draw: Draw) -> np.ndarray:
    """Returns the noise levels at which a sampler estimates the clean image, by running it."""
    estimated = []

    def denoiser(x: Array, level: Array) -> Array:
        jax.debug.callback(lambda own: estimated.append(float(own)), level[0])
        return x

    keys = jax.random.split(jax.random.key(0), 1)
    jax.jit(functools.partial(draw, denoiser))(jnp.zeros((1, 1, 1, 1), jnp.float32), keys)
    jax.effects_barrier()
    return np.array(estimated, np.float32)


def _check_option(option: str, value: Any, expected: type) -> None:
    """Refuses a value of another type than the option's default; floats have to be finite."""
    if expected is float:
        finite(f"options: {option}", value)
    elif type(value) is not expected:
        raise InputError(f"options: {option}={value!r} is not a {expected.__name__}")


def _draw(
    function: Callable[..., Array],
    process: Process,
    steps: int,
    options: Mapping[str, Any],
    denoiser: Denoiser,
    x: Array,
    keys: Array,
) -> Array:
    return function(process, denoiser, x, keys, steps, **options)
