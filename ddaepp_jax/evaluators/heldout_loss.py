"""The training loss on held-out images, by noise level.

If the network conditions itself, ``condition_off`` is the mean with that condition switched off.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from ddaepp_jax.base.ranges import OrOff
from ddaepp_jax.reporting.panels import Panel

if TYPE_CHECKING:
    from ddaepp_jax.evaluators import Context
    from ddaepp_jax.training.schedule import Evaluation


@dataclasses.dataclass(frozen=True)
class Settings:
    """The config's group ``evals.heldout_loss``.

    Attributes:
      every: steps between evaluations; 0 turns it off.
      images: number of held-out images.
      levels: number of noise levels.
    """

    every: OrOff = 2500
    images: PositiveInt = 256
    levels: PositiveInt = 10


BY_LEVEL = r"heldout_loss/.+/(t|sigma)[0-9.e-]+"
BETTER = min
PANELS = (
    Panel("Held-out loss, mean over noise levels", "heldout_loss/.+/mean", "loss", log=True),
    Panel(
        "Held-out loss by noise level", BY_LEVEL, "loss", log=True, by_level=True, together=False
    ),
    Panel(
        "Held-out loss by noise level, newest",
        BY_LEVEL,
        "loss",
        log=True,
        by_level=True,
        alone=False,
    ),
)


def make(settings: Settings, context: "Context") -> "Evaluation":
    """Returns the evaluation; its main value is the mean over noise levels."""
    import numpy as np
    from tqdm import tqdm

    from ddaepp_jax.base.processes import is_first
    from ddaepp_jax.training.heldout_loss import make_heldout_loss
    from ddaepp_jax.training.schedule import Evaluation

    network = context.network
    data = context.held_out()
    batch = data.batch(np.arange(min(settings.images, len(data))))
    losses = make_heldout_loss(
        network,
        context.process,
        batch["image"],
        batch["label"] if network.num_classes else None,
        levels=context.process.loss_levels(settings.levels).tolist(),
        seed=context.seed,
        batch_size=context.sampling.batch_size,
        mesh=context.mesh,
    )

    def measure(params: Any) -> dict[str, float]:
        values = losses(params)
        if network.self_condition:
            off = switched_off(params)
            values["condition_off"] = losses(off)["mean"]
            if is_first():
                tqdm.write(
                    f"held-out loss {values['mean']:.4f}, with the network's condition on itself "
                    f"switched off {values['condition_off']:.4f}"
                )
        return values

    return Evaluation(settings.every, measure, "mean")


def switched_off(params: Any) -> Any:
    """Returns a network's parameters with those of ``SelfConditioning`` at zero."""
    import jax

    name = "self_conditioning"  # the same in every backbone
    return {**params, name: jax.tree.map(lambda leaf: 0 * leaf, params[name])}
