"""Contrastive self-distillation of DDAE++ (arXiv 2505.10999), after MoCo v3 (arXiv 2104.02057).

Two views of an image, each with noise of its own: the student's pooled feature of one, through a
projector and a predictor, is to find the teacher's of the other, through the projector alone, among
those of the whole batch. The teacher is an average of the student's weights, kept for this alone.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from ddaepp_jax.base.streams import named
from ddaepp_jax.models.heads import Head
from ddaepp_jax.objectives.denoising import Denoising
from ddaepp_jax.objectives.passes import Pass, Result

NAME = "distillation"  # in a config, and of the teacher in the state
FEATURE = "bottleneck"
# The teacher's decay by the number of the update, from (decay, steps in all); the cosine is MoCo
# v3's, to 1 at the end.
TEACHER_SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda decay, total: optax.constant_schedule(decay),
    "cosine": lambda decay, total: (
        lambda n: 1 - (1 - decay) * (1 + jnp.cos(jnp.pi * (n + 1) / total)) / 2
    ),
}


def normalised(x: Array) -> Array:
    """``x`` (B, D) with rows of length 1; a row of zeros stays."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-24))


def contrastive_loss(queries: Array, keys: Array, temperature: float) -> tuple[Array, Array]:
    """2 tau times the cross-entropy of each query's own key among all (MoCo v3, algorithm 1).

    Args:
      queries, keys: (B, D) with rows of length 1. B is the global batch: on a mesh every device has
        its own queries and all keys.

    Returns:
      The mean over queries, and the part of them, in 0..1, whose own key is the nearest.
    """
    logits = jnp.matmul(queries, keys.T, precision="highest") / temperature
    own = (queries * keys).sum(axis=1) / temperature  # the diagonal, without a word between devices
    loss = 2 * temperature * (jax.nn.logsumexp(logits, axis=1) - own).mean()
    return loss, (jnp.argmax(logits, axis=1) == jnp.arange(len(queries))).mean()


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The bottleneck's feature, whether or not it conditions; auxiliary passes stop at its block.

    Attributes:
      denoising: the objective whose pass the student shares where ``shared``.
      shared: the student's first pass is the denoiser's own, of the image as it sees it, with its
        label and at its noise level; the pass of view 2, where ``symmetric`` asks for it, is drawn
        at such levels too, without a label.
      student_level, teacher_level: fixed noise levels of both passes, in the process's unit.
      symmetric: both views go both ways, and the two losses are summed.
      projector, predictor: heads; the teacher has a projector of its own.
      temperature: of the logits.
      teacher_decay: of the teacher, by the number of the update.
    """

    denoising: Denoising
    shared: bool
    student_level: Any
    teacher_level: Any
    symmetric: bool
    projector: Head
    predictor: Head
    temperature: float
    teacher_decay: optax.Schedule

    def init(self, rng: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict:
        """Parameters of the heads."""
        first, second = jax.random.split(rng)
        z, params = self.projector.init_with_output(first, jnp.zeros((2, *shapes[FEATURE])))
        heads = {"projector": params, "predictor": self.predictor.init(second, z)}
        return {name: variables.get("params", {}) for name, variables in heads.items()}

    def passes(self, rng: Array, batch: Mapping[str, Any]) -> dict[str, Pass]:
        """The student's passes and the teacher's over ``batch["views"]``, two pairs of image and
        augment_label.

        Labels are dropped, as they are where features are read; the denoiser's own pass alone has
        them.
        """
        views = batch["views"]
        if self.shared:
            views = ((batch["image"], batch.get("augment_label")), views[1])
        made = {}
        for name, (student, teacher) in self._directions().items():
            made[f"{NAME}/student{name}"] = self._pass(rng, views[student], f"student{name}", "")
            made[f"{NAME}/teacher{name}"] = self._pass(rng, views[teacher], f"teacher{name}", NAME)
        if self.shared:
            del made[f"{NAME}/student"]
            denoise = self.denoising.passes(rng, batch)["denoise"]
            made["denoise"] = dataclasses.replace(denoise, capture=(FEATURE,), denoises=False)
        return made

    def _directions(self) -> dict[str, tuple[int, int]]:
        """By a suffix of the passes' names, the views of student and teacher."""
        return {"": (0, 1)} | ({"_back": (1, 0)} if self.symmetric else {})

    def _pass(self, rng: Array, view: tuple[Array, Array | None], name: str, teacher: str) -> Pass:
        image, augment_label = view
        level_rng, noise_rng = jax.random.split(named(rng, f"{NAME}/{name}"))
        if self.shared and not teacher:
            level = self.denoising.process.sample_noise_level(level_rng, len(image))
        else:
            level = jnp.full(len(image), self.teacher_level if teacher else self.student_level)
        null = self.denoising.null_class
        return Pass(
            view=image,
            noise=jax.random.normal(noise_rng, image.shape),
            level=level,
            label=None if null is None else jnp.full(len(image), null),
            augment_label=augment_label,
            capture=(FEATURE,),
            denoises=False,
            teacher=teacher,
        )

    def loss(
        self, params: Mapping, teacher_params: Mapping, results: Mapping[str, Result], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The loss, and how training goes.

        Returns:
          The loss; "accuracy" of the queries in 0..1; "spread" of the student's normalised
          projections: the mean over dimensions of their standard deviation, times the root of their
            number. It is 1 on the whole sphere and 0
          where features have collapsed.
        """
        del rng
        loss, metrics = jnp.zeros(()), []
        for name in self._directions():
            student = "denoise" if self.shared and not name else f"{NAME}/student{name}"
            z = self._head(self.projector, params["projector"], results[student])
            queries = normalised(self.predictor.apply({"params": params["predictor"]}, z))
            keys = normalised(
                self._head(
                    self.projector, teacher_params["projector"], results[f"{NAME}/teacher{name}"]
                )
            )
            value, accuracy = contrastive_loss(queries, keys, self.temperature)
            loss += value
            spread = jnp.std(normalised(z), axis=0).mean() * z.shape[-1] ** 0.5
            metrics.append({"accuracy": accuracy, "spread": spread})
        return loss, jax.tree.map(lambda *values: sum(values) / len(values), *metrics)

    def _head(self, head: Head, params: Mapping, result: Result) -> Array:
        return head.apply({"params": params}, result.features[FEATURE])
