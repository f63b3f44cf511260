"""The one objective that every run has: predict what was added to a noisy image."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from ddaepp_jax.base.streams import named
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.objectives.passes import Pass, Result


@dataclasses.dataclass(frozen=True)
class Denoising:
    """The process's own loss at its own noise levels.

    Attributes:
      process: see ``ddaepp_jax.diffusion``.
      null_class: what a dropped label becomes; None where the network takes no labels.
      label_dropout: probability of dropping a label, for classifier-free guidance.
    """

    process: Process
    null_class: int | None = None
    label_dropout: float = 0.1
    teacher_decay: ClassVar[None] = None  # it has no teacher

    def init(self, rng: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict:
        """Parameters of this objective's heads: none."""
        del rng, shapes
        return {}

    def passes(self, rng: Array, batch: Mapping[str, Array]) -> dict[str, Pass]:
        """One pass, "denoise", over ``batch["image"]`` (B, H, W, C) in [-1, 1], with its labels."""
        level_rng, noise_rng, label_rng = jax.random.split(named(rng, "denoise"), 3)
        images, label = batch["image"], None
        if self.null_class is not None:
            dropped = jax.random.bernoulli(label_rng, self.label_dropout, images.shape[:1])
            label = jnp.where(dropped, self.null_class, batch["label"])
        level = self.process.sample_noise_level(level_rng, len(images))
        noise = jax.random.normal(noise_rng, images.shape)
        return {"denoise": Pass(images, noise, level, label, batch.get("augment_label"))}

    def loss(
        self, params: Mapping, teacher_params: Mapping, results: Mapping[str, Result], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Mean of the process's loss over the batch; no further metrics."""
        del params, teacher_params, rng
        result = results["denoise"]
        given = result.given
        return self.process.loss_terms(result.out, given.view, given.noise, given.level).mean(), {}
