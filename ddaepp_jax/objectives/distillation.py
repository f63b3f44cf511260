"""Contrastive self-distillation of DDAE++ (arXiv 2505.10999), after MoCo v3 (arXiv 2104.02057).

Each image gives two views, each with noise of its own. The student's pooled feature of one view,
sent through a projector and a predictor, has to identify the teacher's feature of the other view,
sent through the projector alone, among those of the whole batch. The teacher is an average of the
student's weights that serves this objective only.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array

from ddaepp_jax.base.streams import named
from ddaepp_jax.models.heads import Head
from ddaepp_jax.objectives.denoising import Denoising
from ddaepp_jax.objectives.passes import Pass, Result

NAME = "distillation"  # Name of the objective in a config, and of its teacher in the state.
FEATURE = "bottleneck"
# (decay, total steps) -> the teacher's decay by the number of the update. "cosine" is MoCo v3's: it
# ends at 1.
TEACHER_SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda decay, total: optax.constant_schedule(decay),
    "cosine": lambda decay, total: (
        lambda n: 1 - (1 - decay) * (1 + jnp.cos(jnp.pi * jnp.float32(n + 1) / total)) / 2
    ),
}


def normalised(x: Array) -> Array:
    """Returns ``x`` (B, D) with rows of length 1; a row of zeros stays zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-24))


def contrastive_loss(queries: Array, keys: Array, temperature: float) -> tuple[Array, Array]:
    """Computes 2 tau times the cross-entropy of finding a query's own key (MoCo v3, algorithm 1).

    Args:
      queries, keys: (B, D) with rows of length 1. B is the global batch: on a mesh each device has
        its own queries and all keys.
      temperature: tau.

    Returns:
      The mean loss, and the fraction of queries whose nearest key is their own.
    """
    logits = jnp.matmul(queries, keys.T, precision="highest") / temperature
    # The diagonal of the logits, computed without communication between devices.
    own = (queries * keys).sum(axis=1) / temperature
    loss = 2 * temperature * (jax.nn.logsumexp(logits, axis=1) - own).mean()
    return loss, (jnp.argmax(logits, axis=1) == jnp.arange(len(queries))).mean(dtype=jnp.float32)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The distillation of the bottleneck feature, whether or not it conditions the network.

    Passes that only this objective requests stop after the bottleneck's block.

    Attributes:
      denoising: the denoising objective, whose pass the student shares if ``shared``.
      shared: the student's first pass is the denoising pass, with its image, label and noise level.
        The student's pass over view 2, which ``symmetric`` adds, then also draws its levels as
        training does, but has no label.
      student_level, teacher_level: fixed noise levels of the passes, in the process's unit.
      symmetric: each view serves the student once and the teacher once; the two losses are summed.
      projector, predictor: heads; the teacher has its own projector.
      temperature: tau of ``contrastive_loss``.
      teacher_decay: decay of the teacher by the number of the update.
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
    per_example: ClassVar[bool] = False  # Negatives and batch norms join all images of a batch.

    def init(self, rng: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict:
        """Returns the initial parameters of the heads.

        Args:
          rng: key of the initial values.
          shapes: shape of each feature by name, without the batch axis.
        """
        first, second = jax.random.split(rng)
        z, params = self.projector.init_with_output(
            first, jnp.zeros((2, *shapes[FEATURE]), jnp.float32)
        )
        heads = {"projector": params, "predictor": self.predictor.init(second, z)}
        return {name: variables.get("params", {}) for name, variables in heads.items()}

    def passes(self, rng: Array, batch: Mapping[str, Any]) -> dict[str, Pass]:
        """Requests the passes of student and teacher.

        Every pass but the denoising pass gets the null class, as the passes of a probe do.

        Args:
          batch: "views", two pairs (image, augment_label), and what ``denoising`` reads.
        """
        views = batch["views"]
        if self.shared:
            views = ((batch["image"], batch.get("augment_label")), views[1])
        requests = {}
        for suffix, (student, teacher) in self._directions().items():
            for role, view, weights in (("student", student, ""), ("teacher", teacher, NAME)):
                name = f"{NAME}/{role}{suffix}"
                requests[name] = self._pass(rng, name, views[view], weights)
        if self.shared:
            del requests[f"{NAME}/student"]
            denoise = self.denoising.passes(rng, batch)["denoise"]
            requests["denoise"] = dataclasses.replace(denoise, capture=(FEATURE,), denoises=False)
        return requests

    def _directions(self) -> dict[str, tuple[int, int]]:
        """Returns the views of (student, teacher) by the suffix of the passes' names."""
        return {"": (0, 1)} | ({"_back": (1, 0)} if self.symmetric else {})

    def _pass(self, rng: Array, name: str, view: tuple[Array, Array | None], teacher: str) -> Pass:
        x0, augment_label = view
        level_rng, noise_rng = jax.random.split(named(rng, name))
        if self.shared and not teacher:
            level = self.denoising.process.sample_noise_level(level_rng, len(x0))
        else:
            level = jnp.full(len(x0), self.teacher_level if teacher else self.student_level)
        null_class = self.denoising.null_class
        return Pass(
            x0=x0,
            noise=jax.random.normal(noise_rng, x0.shape, jnp.float32),
            level=level,
            label=None if null_class is None else jnp.full(len(x0), null_class, jnp.int32),
            augment_label=augment_label,
            capture=(FEATURE,),
            denoises=False,
            teacher=teacher,
        )

    def loss(
        self, params: Mapping, teacher_params: Mapping, results: Mapping[str, Result], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Computes the loss.

        Returns:
          The loss, and metrics: "accuracy", the fraction of queries whose nearest key is their own,
          and "spread", the mean over dimensions of the standard deviation of the student's
          normalised projections, times the square root of the number of dimensions. The spread is 1
          if the projections cover the whole sphere, and 0 if they have collapsed.
        """
        del rng
        loss, metrics = jnp.zeros((), jnp.float32), []
        for name in self._directions():
            student = "denoise" if self.shared and not name else f"{NAME}/student{name}"
            z = _apply(self.projector, params["projector"], results[student].features[FEATURE])
            queries = normalised(_apply(self.predictor, params["predictor"], z))
            feature = results[f"{NAME}/teacher{name}"].features[FEATURE]
            keys = normalised(_apply(self.projector, teacher_params["projector"], feature))
            value, accuracy = contrastive_loss(queries, keys, self.temperature)
            loss += value
            spread = jnp.std(normalised(z), axis=0).mean() * z.shape[-1] ** 0.5
            metrics.append({"accuracy": accuracy, "spread": spread})
        return loss, jax.tree.map(lambda *values: sum(values) / len(values), *metrics)


def _apply(head: Head, params: Mapping, x: Array) -> Array:
    return head.apply({"params": params}, x)
