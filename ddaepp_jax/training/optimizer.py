"""The optimizer: gradient clipping, learning-rate schedule, update rule and weight decay."""

from typing import Any

import jax
import optax

from ddaepp_jax.base.choice import choose

NAMES = ("adamw", "adam", "sgd")
SCHEDULES = ("constant", "cosine")
DECAY_MASKS = ("all", "matrices")


def learning_rate(
    peak: float, schedule: str, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """Makes a learning-rate schedule with a linear warm-up from 0.

    Args:
      schedule: "constant", or "cosine" to 0 at ``total_steps``.

    Raises:
      InputError: optimizer.schedule is unknown.
    """
    if choose("optimizer.schedule", schedule, SCHEDULES) == "cosine":
        decay = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup_steps))
    else:
        decay = optax.constant_schedule(peak)
    if warmup_steps == 0:
        return decay
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def _is_matrix(params: optax.Params) -> optax.Params:
    """Returns True for kernels; biases, norms and embeddings are usually exempt from decay."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: path[-1].key == "kernel" and leaf.ndim > 1, params
    )


def make_optimizer(
    *,
    name: str,
    learning_rate: optax.Schedule,
    b1: float,
    b2: float,
    weight_decay: float,
    decay_mask: str,
    clip_norm: float,
) -> optax.GradientTransformation:
    """Makes the optimizer.

    Args:
      name: one of ``NAMES``.
      b1, b2: moment decays of Adam and AdamW.
      weight_decay: decay rate of AdamW.
      decay_mask: "all" decays every parameter, as U-ViT's released training does; "matrices" decays
        kernels only.
      clip_norm: largest norm of the gradient (0: no clipping).

    Raises:
      InputError: optimizer.name or optimizer.decay_mask is unknown.
    """
    choose("optimizer.name", name, NAMES)
    choose("optimizer.decay_mask", decay_mask, DECAY_MASKS)
    if name == "adamw":
        mask = _is_matrix if decay_mask == "matrices" else None
        rule = optax.adamw(learning_rate, b1, b2, weight_decay=weight_decay, mask=mask)
    elif name == "adam":
        rule = optax.adam(learning_rate, b1, b2)
    else:
        rule = optax.sgd(learning_rate)
    return float32(optax.chain(optax.clip_by_global_norm(clip_norm), rule) if clip_norm else rule)


def float32(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns an update rule whose numbers are float32, also under JAX_ENABLE_X64.

    There, optax computes the learning rate and Adam's bias correction in float64, which changes
    their last bits.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.enable_x64(False):
            return rule.update(updates, state, params)

    def init(params: Any) -> Any:
        with jax.enable_x64(False):
            return rule.init(params)

    return optax.GradientTransformation(init, update)
