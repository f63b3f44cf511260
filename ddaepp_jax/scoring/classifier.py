"""A data set's own classifier: its features measure generated images where there are no weights of
Inception.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from jax import Array
from jax.sharding import Mesh
from tqdm import tqdm

from ddaepp_jax.base import parallel
from ddaepp_jax.base.dispatch import SAVE_SECONDS
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replace
from ddaepp_jax.data.augment import horizontal_flip, random_crop, to_float
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.order import batch_indices
from ddaepp_jax.scoring import extractors
from ddaepp_jax.scoring.wide_resnet import WideResNet

IN_FLIGHT = 2  # steps that the host may be ahead
RESIDENT_BYTES = 2**30  # of images that are read once and kept
SMALL = 16  # pixels a side, below which the first convolution keeps them all

Step = Callable[..., tuple[Any, Array]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is trained: SGD with Nesterov momentum, a linear warm-up, then a cosine to
    zero.

    Attributes:
      depth, width, stride: of ``WideResNet``.
      images: how many are seen, those seen again counted again.
      learning_rate: the highest, at the end of the warm-up.
      weight_decay: L2, on kernels alone.
    """

    # By CPU time, gradients on CIFAR-10 take two idle cores 20 minutes (413 images/s); at stride 1,
    # 3 hours (47/s). The peak rate is the paper's: after 20,000 images, at depth 10, it was right
    # on 38 % of training images held out, and 0.3 on 31 %; longer trainings were not compared.
    depth: int = 16
    width: int = 2
    stride: int = 2
    images: int = 500_000
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    warmup: float = 0.1  # part of the training

    @property
    def steps(self) -> int:
        """Number of batches, rounded up."""
        return -(-self.images // self.batch_size)

    def module(self, num_classes: int) -> WideResNet:
        """The network, without parameters."""
        return WideResNet(num_classes, self.depth, self.width, self.stride)

    def optimizer(self) -> optax.GradientTransformation:
        """The update rule with its schedule."""
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, max(1, round(self.warmup * self.steps)), self.steps
        )
        return optax.chain(
            optax.add_decayed_weights(
                self.weight_decay, lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
            ),
            optax.sgd(rate, self.momentum, nesterov=True),
        )


@lru_cache(maxsize=4)
def make_step(module: WideResNet, recipe: Recipe, *, flip: bool, pad: int, mesh: Mesh) -> Step:
    """Compile-once function: one step on one batch; the same for the same arguments.

    Images are cropped out of ``pad`` pixels around and mirrored by a fair coin where ``flip``, as
    functions of (seed, number of the step, image). Rows from ``recipe.batch_size`` on are padding.
    """
    optimizer, size = recipe.optimizer(), recipe.batch_size

    def step(
        state: Any, images: Array, labels: Array, ids: Array, seed: Array, number: Array
    ) -> tuple[Any, Array]:
        images = random_crop(images, seed, number, ids, pad) if pad else images
        images = to_float(horizontal_flip(images, seed, number, ids) if flip else images)
        targets = optax.smooth_labels(
            jax.nn.one_hot(labels, module.num_classes), recipe.label_smoothing
        )

        def mean_loss(params: Any) -> Array:
            losses = optax.softmax_cross_entropy(
                module.apply({"params": params}, images)["logits"], targets
            )
            return jnp.where(jnp.arange(len(ids)) < size, losses, 0).sum() / size

        params, inner = state
        loss, gradient = jax.value_and_grad(mean_loss)(params)
        updates, inner = optimizer.update(gradient, inner, params)
        return (optax.apply_updates(params, updates), inner), loss

    return jax.jit(step, donate_argnums=0, out_shardings=parallel.replicated(mesh))


def train(
    train: Dataset,
    recipe: Recipe,
    *,
    flip: bool,
    seed: int,
    mesh: Mesh,
    saved: Path,
    title: str = "training a classifier",
) -> tuple[WideResNet, Any]:
    """A classifier of ``train`` with its parameters, the same on any number of devices but for
    rounding.

    Now and then the training is saved in ``saved``, and continued from there if it is the same one.

    Args:
      flip: whether mirror images are drawn too; crops always are, out of an eighth of the longer
        side around.
      title: of the progress bar.

    Raises:
      InputError: the data has no labels.
    """
    if not train.num_classes:
        raise InputError(
            f"data.name: {train.name} has no labels to train a classifier on; use a set that has them"
        )
    module, first, size = recipe.module(train.num_classes), 0, recipe.batch_size
    params = jax.jit(module.init)(jax.random.key(seed), jnp.zeros((1, *train.image_shape)))[
        "params"
    ]
    state = jax.device_get((params, recipe.optimizer().init(params)))
    identity = repr((train, recipe, flip, seed))
    if saved.exists():
        found = serialization.msgpack_restore(saved.read_bytes())
        if found["identity"] == identity:
            first, state = found["number"], serialization.from_state_dict(state, found["state"])
    state, word = jax.device_put((state, np.uint32(seed)), parallel.replicated(mesh))
    pad = max(train.image_shape[:2]) // 8
    take = make_step(module, recipe, flip=flip, pad=pad, mesh=mesh)
    read = (train.resident() if train.nbytes <= RESIDENT_BYTES else train).gather
    (padding, _), *_ = parallel.batches(size, size, mesh)
    in_flight: deque[Array] = deque()
    written = time.monotonic()
    with tqdm(
        range(first, recipe.steps),
        title,
        recipe.steps,
        initial=first,
        unit="step",
        dynamic_ncols=True,
    ) as bar:
        for number in bar:
            ids = batch_indices(seed, number, size, len(train))[padding]
            state, loss = take(
                state, *parallel.place(mesh, *read(ids), ids), word, jnp.int32(number)
            )
            in_flight.append(loss)
            if len(in_flight) > IN_FLIGHT:
                bar.set_postfix(loss=f"{float(in_flight.popleft()):.3f}", refresh=False)
            if time.monotonic() - written > SAVE_SECONDS:
                content = {
                    "identity": identity,
                    "number": number + 1,
                    "state": serialization.to_state_dict(state),
                }
                replace(saved, serialization.msgpack_serialize(jax.device_get(content)))
                written = time.monotonic()
    return module, state[0]


@lru_cache(maxsize=4)
def _make_right(module: WideResNet, mesh: Mesh) -> Callable[[Any, Array, Array], Array]:
    def right(params: Any, images: Array, labels: Array) -> Array:
        return (
            module.apply({"params": params}, to_float(images))["logits"].argmax(axis=-1) == labels
        )

    return jax.jit(right, out_shardings=parallel.replicated(mesh))


def accuracy(
    module: WideResNet, params: Any, data: Dataset, *, batch_size: int, mesh: Mesh
) -> float:
    """Percent of the images of ``data`` that are classified rightly."""
    right, params, total = (
        _make_right(module, mesh),
        jax.device_put(params, parallel.replicated(mesh)),
        0,
    )
    for rows, count in parallel.batches(len(data), batch_size, mesh):
        total += int(
            np.asarray(right(params, *parallel.place(mesh, *data.gather(rows))))[:count].sum()
        )
    return 100 * total / len(data)


def make(directory: Path, known: Dataset, asked: Dataset, mesh: Mesh) -> None:
    """Train a classifier on ``known``, once, and write it to ``directory`` with its accuracy on
    ``asked``.

    Mirror images are drawn of coloured images only: digits are not to be mirrored.

    Raises:
      InputError: the data have no labels, or the directory cannot be written.
    """
    recipe, flip = Recipe(), known.image_shape[-1] == 3
    if min(known.image_shape[:2]) < SMALL:
        recipe = dataclasses.replace(recipe, stride=1)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        title = f"training a classifier of {known.name}, once"
        saved = directory / "training.msgpack"
        module, params = train(
            known, recipe, flip=flip, seed=0, mesh=mesh, saved=saved, title=title
        )
        right = accuracy(module, params, asked, batch_size=256, mesh=mesh)
        splits = {"data": known.name, "trained_on": known.split, "tested_on": asked.split}
        made = {**splits, "accuracy": right, "flip": flip, "recipe": dataclasses.asdict(recipe)}
        extractors.save(directory, module, params, made, known.image_shape)
        saved.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"--extractor: cannot write {directory} ({error.strerror}); give another"
        ) from None
    print(f"the classifier in {directory} knows {right:.1f} % of {asked.name} {asked.split}")
