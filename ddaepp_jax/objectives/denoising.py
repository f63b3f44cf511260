"""Denoising, the objective of every run, by the loss that the diffusion process defines."""

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
      null_class: the label that replaces a dropped one; None where the network takes no labels.
      label_dropout: probability of dropping a label, for classifier-free guidance.
    """

    process: Process
    null_class: int | None = None
    label_dropout: float = 0.1
    teacher_decay: ClassVar[None] = None  # This objective has no teacher.
    per_example: ClassVar[bool] = True  # The loss is a mean over examples.

    def init(self, rng: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict:
        """Returns the parameters of the heads: none."""
        del rng, shapes
        return {}

    def passes(self, rng: Array, batch: Mapping[str, Array]) -> dict[str, Pass]:
        """Requests one pass, "denoise".

        Args:
          batch: "image" (B, H, W, C) in [-1, 1], "label" (B,), and possibly "augment_label" (B, D).
        """
        level_rng, noise_rng, label_rng = jax.random.split(named(rng, "denoise"), 3)
        images = batch["image"]
        label = None
        if self.null_class is not None:
            dropped = jax.random.bernoulli(
                label_rng, jnp.float32(self.label_dropout), images.shape[:1]
            )
            label = jnp.where(dropped, self.null_class, batch["label"])
        level = self.process.sample_noise_level(level_rng, len(images))
        noise = jax.random.normal(noise_rng, images.shape, jnp.float32)
        return {"denoise": Pass(images, noise, level, label, batch.get("augment_label"))}

    def loss(
        self, params: Mapping, teacher_params: Mapping, results: Mapping[str, Result], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the mean of the process's loss over the batch, and no further metrics."""
        del params, teacher_params, rng
        out, request = results["denoise"].out, results["denoise"].request
        losses = self.process.loss_terms(out, request.x0, request.noise, request.level)
        return losses.mean(), {}
