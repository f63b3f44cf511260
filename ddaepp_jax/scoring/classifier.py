"""A classifier of a data set, whose features score images if Inception's weights are missing."""

import dataclasses
import sys
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

from ddaepp_jax.base import parallel
from ddaepp_jax.base.dispatch import InFlight, progress_bar
from ddaepp_jax.base.errors import InputError, Stopped, first_line
from ddaepp_jax.base.files import replace
from ddaepp_jax.base.lock import locked
from ddaepp_jax.base.processes import (
    Delayed,
    entered_by_first,
    from_first,
    in_first,
    is_first,
    together,
)
from ddaepp_jax.base.stop import Stop
from ddaepp_jax.data.augment import horizontal_flip, random_crop, to_float
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.order import batch_indices
from ddaepp_jax.scoring import extractors
from ddaepp_jax.scoring.wide_resnet import WideResNet
from ddaepp_jax.training.optimizer import float32

RESIDENT_BYTES = 2**30  # Data sets up to this size are read once and kept in memory.
SMALL = 16  # The first convolution of images with a side below this has stride 1.
# A training sees all images EPOCHS times, within these numbers of images. The 1,500 digits are seen
# 15,000 times in all, after which the accuracy on test images is 96.6 %; after 5,000 it is 85.5 %,
# and after 30,000 again 96.6 %. CIFAR-10's 50,000 are seen 500,000 times.
EPOCHS = 10
FEWEST_SEEN = 10_000
MOST_SEEN = 500_000

Step = Callable[..., tuple[Any, Array]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is trained: SGD with Nesterov momentum, a linear warm-up, then a cosine.

    Attributes:
      depth, width, stride: arguments of ``WideResNet``.
      images: number of images that are seen, counting repetitions; see ``images_for``.
      batch_size: images of a step.
      learning_rate: the highest learning rate, at the end of the warm-up.
      momentum: momentum of SGD.
      weight_decay: L2 penalty, on kernels only.
      label_smoothing: part of a target that is spread over all classes.
      warmup: part of the training that is warm-up.
    """

    # By CPU time, gradients on CIFAR-10 take two idle cores 20 minutes (413 images/s); at stride 1,
    # 3 hours (47/s). The peak rate 0.1 is the paper's. After 20,000 images at depth 10 the accuracy
    # on held-out training images was 38 % with it, and 31 % with 0.3; longer trainings were not
    # compared.
    depth: int = 16
    width: int = 2
    stride: int = 2
    images: int = MOST_SEEN
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    warmup: float = 0.1

    @property
    def steps(self) -> int:
        """Number of steps, rounded up."""
        return -(-self.images // self.batch_size)

    def module(self, num_classes: int) -> WideResNet:
        """Returns the network, without parameters."""
        return WideResNet(num_classes, self.depth, self.width, self.stride)

    def optimizer(self) -> optax.GradientTransformation:
        """Returns the update rule with its schedule."""
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, max(1, round(self.warmup * self.steps)), self.steps
        )
        is_kernel = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
        decay = optax.add_decayed_weights(self.weight_decay, is_kernel)
        return float32(optax.chain(decay, optax.sgd(rate, self.momentum, nesterov=True)))


@lru_cache(maxsize=4)
def make_step(module: WideResNet, recipe: Recipe, *, flip: bool, pad: int, mesh: Mesh) -> Step:
    """Returns ``(state, images, labels, ids, seed, number) -> (state, loss)``, compiled once.

    ``state`` is the parameters and the optimizer's state. ``images`` (B, H, W, C) uint8 are cropped
    and mirrored as functions of (seed, number of the step, image's id). Rows from
    ``recipe.batch_size`` on are padding.

    Args:
      module: the network.
      recipe: how it is trained.
      flip: mirror images by a fair coin.
      pad: pixels around an image, out of which it is cropped.
      mesh: the devices.
    """
    optimizer = recipe.optimizer()
    size = recipe.batch_size

    def step(
        state: Any, images: Array, labels: Array, ids: Array, seed: Array, number: Array
    ) -> tuple[Any, Array]:
        images = random_crop(images, seed, number, ids, pad) if pad else images
        images = to_float(horizontal_flip(images, seed, number, ids) if flip else images)
        one_hot = jax.nn.one_hot(labels, module.num_classes, dtype=jnp.float32)
        targets = optax.smooth_labels(one_hot, recipe.label_smoothing)

        def mean_loss(params: Any) -> Array:
            logits = module.apply({"params": params}, images)["logits"]
            losses = optax.softmax_cross_entropy(logits, targets)
            return jnp.where(jnp.arange(len(ids)) < size, losses, 0).sum() / size

        params, inner = state
        loss, gradient = jax.value_and_grad(mean_loss)(params)
        updates, inner = optimizer.update(gradient, inner, params)
        return (optax.apply_updates(params, updates), inner), loss

    return jax.jit(step, donate_argnums=0, out_shardings=parallel.replicated(mesh))


def train(
    data: Dataset, recipe: Recipe, *, flip: bool, seed: int, mesh: Mesh, saved: Path
) -> tuple[WideResNet, Any]:
    """Trains a classifier; up to rounding it is the same on any number of devices.

    The training is saved now and then, and continued if it was stopped. A signal ends it after the
    next step. All devices of all processes share the work, and process 0 alone has the file.

    Args:
      data: the training split.
      recipe: how the classifier is trained.
      flip: mirror images by a fair coin. Images are always cropped, out of a border of an eighth of
        the longer side.
      seed: seed of the initial weights, the order of images and their augmentation.
      mesh: the devices.
      saved: file of the unfinished training; a file of another training is ignored.

    Returns:
      The network and its parameters.

    Raises:
      InputError: the data have no labels, or a single class.
      Stopped: a signal ended the training.
    """
    if data.num_classes < 2:
        raise InputError(
            f"data.name: {data.name} has labels of {data.num_classes} classes, and a classifier "
            "needs two; use another set"
        )
    module = recipe.module(data.num_classes)
    init = jax.jit(module.init)
    params = init(jax.random.key(seed), jnp.zeros((1, *data.image_shape), jnp.float32))["params"]
    state = jax.device_get((params, recipe.optimizer().init(params)))
    identity = repr((data, recipe, flip, seed))
    first, state = from_first(lambda: _restored(saved, identity, state))
    state, seed_word = parallel.put((state, np.uint32(seed)), parallel.replicated(mesh))
    pad = max(data.image_shape[:2]) // 8
    step = make_step(module, recipe, flip=flip, pad=pad, mesh=mesh)
    read = (together(data.resident) if data.nbytes <= RESIDENT_BYTES else data).gather
    (padded, _), *_ = parallel.batches(recipe.batch_size, recipe.batch_size, mesh)

    writing = Delayed()

    def save() -> None:
        content = {
            "identity": identity,
            "number": done,
            "state": serialization.to_state_dict(state),
        }
        if is_first():
            replace(saved, serialization.msgpack_serialize(jax.device_get(content)))

    def check() -> None:
        writing.check()
        stop.check()

    def read_batch(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        check()
        return read(ids)

    done = first
    title = f"classifier of {data.name}"
    with Stop() as stop, progress_bar(recipe.steps, "step", title, first) as bar:
        in_flight = InFlight(bar, save)
        try:
            for number in range(first, recipe.steps):
                ids = batch_indices(seed, number, recipe.batch_size, len(data))[padded]
                batch = (*parallel.read_rows(mesh, ids, read_batch), *parallel.place(mesh, ids))
                state, loss = step(state, *batch, seed_word, jnp.int32(number))
                done = number + 1
                with writing:
                    for finished in in_flight.add(loss):
                        bar.set_postfix(loss=f"{float(finished):.3f}", refresh=False)
            in_flight.finish()
            together(check)
        except Stopped:
            save()
            raise
    return module, state[0]


def _restored(saved: Path, identity: str, state: Any) -> tuple[int, Any]:
    """Returns the number of steps done and the state of a saved training, or 0 and ``state``."""
    if not saved.exists():
        return 0, state
    try:
        content = serialization.msgpack_restore(saved.read_bytes())
        if content["identity"] != identity:
            return 0, state
        restored = serialization.from_state_dict(state, content["state"])
        if jax.tree.map(np.shape, restored) != jax.tree.map(np.shape, state):
            raise ValueError("its arrays have other shapes")
        return int(content["number"]), restored
    except Exception as error:  # A damaged file can raise anything.
        print(f"{saved}: damaged ({first_line(error)}); the training starts anew", file=sys.stderr)
        return 0, state


@lru_cache(maxsize=4)
def _make_correct(module: WideResNet, mesh: Mesh) -> Callable[[Any, Array, Array], Array]:
    def correct(params: Any, images: Array, labels: Array) -> Array:
        logits = module.apply({"params": params}, to_float(images))["logits"]
        return logits.argmax(axis=-1) == labels

    return jax.jit(correct, out_shardings=parallel.replicated(mesh))


def accuracy(
    module: WideResNet, params: Any, data: Dataset, *, batch_size: int, mesh: Mesh
) -> float:
    """Returns the accuracy on all images of ``data``, in percent."""
    correct = _make_correct(module, mesh)
    params = parallel.put(params, parallel.replicated(mesh))
    total = 0
    for rows, count in parallel.batches(len(data), batch_size, mesh):
        batch = parallel.read_rows(mesh, rows, data.gather)
        total += int(np.asarray(correct(params, *batch))[:count].sum())
    return 100 * total / len(data)


def images_for(count: int) -> int:
    """Returns how many images a training on ``count`` images sees, counting repetitions."""
    return min(max(EPOCHS * count, FEWEST_SEEN), MOST_SEEN)


def make(
    directory: Path, train_data: Dataset, test_data: Dataset, mesh: Mesh, images: int | None = None
) -> None:
    """Trains a classifier and writes it to a directory as an extractor.

    Coloured images are mirrored in training; grey ones are not, as digits have no mirror images.

    Args:
      directory: directory to write; it may be new, or hold a stopped training.
      train_data: the training split.
      test_data: the split on which its accuracy is measured.
      mesh: the devices.
      images: number of images that the training sees; None for ``images_for``.

    Raises:
      InputError: the data have no labels, or the directory can't be written or another process
        writes it.
    """
    recipe = dataclasses.replace(Recipe(), images=images or images_for(len(train_data)))
    flip = train_data.image_shape[-1] == 3
    if min(train_data.image_shape[:2]) < SMALL:
        recipe = dataclasses.replace(recipe, stride=1)
    saved = directory / "training.msgpack"
    print(
        f"training a classifier of {train_data.name} {train_data.split}, once, in {recipe.steps} "
        f"steps of {recipe.batch_size} images (--classifier_images changes their number)",
        flush=True,
    )
    try:
        in_first(lambda: directory.mkdir(parents=True, exist_ok=True))
        with entered_by_first(locked(directory, "wait until it ends")):
            module, params = train(train_data, recipe, flip=flip, seed=0, mesh=mesh, saved=saved)
            percent = accuracy(module, params, test_data, batch_size=256, mesh=mesh)
            provenance = {
                "data": train_data.name,
                "trained_on": train_data.split,
                "tested_on": test_data.split,
                "accuracy": percent,
                "flip": flip,
                "recipe": dataclasses.asdict(recipe),
            }

            def finish() -> None:
                extractors.save(directory, module, params, provenance, train_data.image_shape)
                saved.unlink(missing_ok=True)

            in_first(finish)
    except OSError as error:
        raise InputError(
            f"--extractor: cannot write {directory} ({error.strerror}); give another directory"
        ) from None
    print(
        f"the classifier in {directory} is right on {percent:.1f} % of "
        f"{test_data.name} {test_data.split}"
    )
