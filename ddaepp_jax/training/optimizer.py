"""The optimizer of a config: clipping, learning-rate schedule, update rule, decay mask."""

import jax
import optax

from ddaepp_jax.base.errors import InputError

NAMES = ("adamw", "adam", "sgd")
SCHEDULES = ("constant", "cosine")
DECAY_MASKS = ("all", "matrices")


def learning_rate(
    peak: float, schedule: str, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """Linear warm-up from 0, then constant, or a cosine to 0 at ``total_steps``."""
    if schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup_steps))
    else:
        decay = optax.constant_schedule(peak)
    if warmup_steps == 0:
        return decay
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup_steps), decay], [warmup_steps]
    )


def _matrices(params: optax.Params) -> optax.Params:
    """True where weight decay belongs by the usual exemption: kernels, not biases, norms or
    embeddings.
    """
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
    """``name`` is one of NAMES; ``decay_mask`` one of DECAY_MASKS: U-ViT's released training decays
    everything.
    """
    if decay_mask not in DECAY_MASKS:
        raise InputError(
            f"optimizer.decay_mask: no mask {decay_mask!r}; there are {', '.join(DECAY_MASKS)}"
        )
    if name == "adamw":
        mask = _matrices if decay_mask == "matrices" else None
        rule = optax.adamw(learning_rate, b1, b2, weight_decay=weight_decay, mask=mask)
    elif name == "adam":
        rule = optax.adam(learning_rate, b1, b2)
    elif name == "sgd":
        rule = optax.sgd(learning_rate)
    else:
        raise InputError(f"optimizer.name: no optimizer {name!r}; there are {', '.join(NAMES)}")
    return optax.chain(optax.clip_by_global_norm(clip_norm), rule) if clip_norm else rule
