"""What is measured beside PyTorch: the networks, and the work that ours and their twins do."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import twins
from floor import count_products
from ml_collections import ConfigDict
from torch import Tensor
from train_step import Step, random_images
from twins import work
from twins.work import Diffusion, Mode

from ddaepp_jax import build
from ddaepp_jax.base import parallel
from ddaepp_jax.config import default
from ddaepp_jax.config.overrides import parse_config
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.probing import heads
from ddaepp_jax.probing.features import Extraction, extract, noisy, unlabelled
from ddaepp_jax.probing.protocols import PROTOCOLS
from ddaepp_jax.probing.scaling import standard_scale
from ddaepp_jax.sampling.draw import make_draw
from ddaepp_jax.sampling.settings import Sampling

ROOT = Path(__file__).parents[1]
DDIM_STEPS = 50
COMPARED = 8  # images on which ours and the twin are compared
LEVEL = 11  # of DDPM's 1000; features are read there


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and the sizes at which it is measured.

    Attributes:
      config: config file and variant.
      time_input: the network's form of DDPM's time.
      batch_size: images of a train step and of a forward pass.
      steps: train steps of one measurement; ours takes them in one dispatch.
      drawn: images that DDIM draws.
      images: images whose features are computed.
      probed: images on which heads are trained and tested; none: no probe.
      image_shape: (H, W, C).
      model: fields of ``config.model``.
    """

    config: str
    time_input: str
    batch_size: int
    steps: int
    drawn: int
    images: int
    probed: tuple[int, ...] = ()
    image_shape: tuple[int, int, int] = (32, 32, 3)
    model: dict[str, Any] = dataclasses.field(default_factory=dict)


PLAIN_DIT = dict(rope=False, rmsnorm=False, swiglu=False)  # arXiv 2212.09748
DIT_B = dict(width=768, depth=12, num_heads=12, bottleneck="block_6", **PLAIN_DIT)
DIT_XL = dict(scan=False, width=1152, depth=28, num_heads=16, bottleneck="block_14", **PLAIN_DIT)
LIGHTNINGDIT_L = dict(
    scan=False, patch_size=1, width=1024, depth=24, num_heads=16, bottleneck="block_12"
)
CPU_CASES = {
    "uvit_s2": Case("uvit_cifar.py", "999t/T", batch_size=8, steps=1, drawn=2, images=64),
    "uvit_small": Case(
        "uvit_cifar.py:small", "999t/T", 128, steps=4, drawn=32, images=1024, probed=(2048, 512)
    ),
    "unet": Case("unet_ddpm_cifar.py", "t/T", batch_size=8, steps=1, drawn=2, images=64),
    "dit_b2": Case(
        "dit_s_cifar.py", "t-1", 8, steps=1, drawn=2, images=64, image_shape=(32, 32, 4),
        model=DIT_B,
    ),
    "dit_patch2": Case(
        "dit_s_cifar.py:small", "t-1", 128, steps=4, drawn=32, images=1024, probed=(2048, 512),
        image_shape=(16, 16, 3), model=dict(patch_size=2),
    ),
}  # fmt: skip
GPU_CASES = {
    "dit_xl": Case(
        "dit_s_cifar.py", "t-1", 48, steps=4, drawn=64, images=1024, image_shape=(32, 32, 4),
        model=DIT_XL,
    ),
    "lightningdit_l": Case(
        "dit_s_cifar.py", "t-1", 64, steps=4, drawn=64, images=1024, image_shape=(16, 16, 32),
        model=LIGHTNINGDIT_L,
    ),
    "uvit_s2_512": Case("uvit_cifar.py", "999t/T", 512, steps=4, drawn=512, images=4096),
    "uvit_s2_128": Case("uvit_cifar.py", "999t/T", 128, steps=16, drawn=128, images=4096),
}  # fmt: skip
CASES = CPU_CASES | GPU_CASES


def config_of(case: Case) -> ConfigDict:
    """Returns the config of a case: no self-conditioning, DDPM, DDIM; bfloat16 on a GPU only."""
    config = parse_config([f"--config={ROOT / 'configs' / case.config}"])
    with config.unlocked():
        config.diffusion = default.ddpm(time_input=case.time_input)
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config.model.update(self_condition=False, dtype=dtype, **case.model)
    config.train.batch_size = case.batch_size
    config.sampling.update(sampler="ddim", steps=DDIM_STEPS, batch_size=case.drawn)
    config.sampling.ddim.table = "standard"
    return config


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of work, ours and the twin's.

    Attributes:
      ours: does our work once and waits for it.
      twin: returns the same function of the twin in a mode.
      trains: whether the optimizer is part of it.
      products: FLOPs of its matrix products and convolutions (of one step, where it trains).
      weight_bytes: bytes of weights, and of what the optimizer keeps, that it has to move.
      per: number by which times are divided: the train steps that a call takes.
      counted: FLOPs of our step by our own count; None: not a step.
    """

    ours: Callable[[], Any]
    twin: Callable[[Mode], Callable[[], Any]]
    products: float
    weight_bytes: float
    trains: bool = False
    per: int = 1
    counted: float | None = None


class Pair:
    """Our network and its twin, with the same weights."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.config = config_of(case)
        self.data = random_images(case.image_shape)
        self.images, self.labels = self.data.arrays()
        self.process = build.process(self.config)
        self.network = build.network(self.config, case.image_shape, self.data.num_classes)
        self.mesh = parallel.make_mesh((-1, 1, 1))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._twin = twins.make(self.network, case.image_shape)
        params = twins.as_ours(self.network, case.image_shape, self._twin.state_dict())
        self.params = jax.device_put(params, parallel.replicated(self.mesh))
        self.weights = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        self._products: dict[Any, float] = {}

    def twin(self, mode: Mode) -> Diffusion:
        """Returns the twin in a mode, with weights of its own."""
        return Diffusion(copy.deepcopy(self._twin), self.process, mode, self.device)

    def differences(self) -> dict[str, float]:
        """Returns how much losses and pooled features differ, each relative to its size.

        Both networks compute in float32 on the same weights, noise and levels. Neither drops out.
        """
        shape = (min(self.case.batch_size, COMPARED), *self.case.image_shape)
        rng = np.random.default_rng(0)
        x0 = self.images[: shape[0]].astype(np.float32) / 127.5 - 1
        noise = rng.standard_normal(shape, np.float32)
        t = rng.integers(1, self.process.num_steps + 1, shape[:1]).astype(np.int32)
        network = self.network.clone(dtype=np.dtype("float32"), attention="xla")
        if isinstance(network, DiT):
            network = network.clone(scan=True)  # compiles faster

        def run(params: Any, x0: Any, noise: Any, t: Any) -> tuple[jax.Array, jax.Array]:
            x, time = self.process.inputs(self.process.perturb(x0, noise, t), t)
            out, features = network.apply({"params": params}, x, time, capture=("bottleneck",))
            return self.process.loss_terms(out, x0, noise, t).mean(), features["bottleneck"]

        with jax.default_matmul_precision("highest"):
            loss, feature = jax.device_get(jax.jit(run)(self.params, x0, noise, t))
        torch.backends.cudnn.allow_tf32 = False
        twin = self.twin(Mode())
        x0, noise = (self.channels_first(x) for x in (x0, noise))
        times = torch.from_numpy(t).long().to(self.device)
        with torch.inference_mode():
            x_t, fed = twin.perturbed(x0, noise, times), twin.fed_time(times)
            twin_loss = (twin.model(x_t, fed) - noise).square().mean().item()
            (twin_feature,) = twin.model(x_t, fed, (network.bottleneck,)).values()
        torch.backends.cudnn.allow_tf32 = True
        twin_feature = twin_feature.cpu().numpy()
        return {
            "loss_difference": float(abs(loss / twin_loss - 1)),
            "feature_difference": float(
                np.abs(feature - twin_feature).max() / np.abs(twin_feature).max()
            ),
        }

    def channels_first(self, x: np.ndarray) -> Tensor:
        """Returns an array (B, H, W, C) as a tensor (B, C, H, W) on the twin's device."""
        return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(self.device)

    def products(self, layers: tuple[str, ...] | None = None) -> float:
        """Returns the FLOPs of one image's products, in a forward pass or up to ``layers``."""
        if layers not in self._products:
            twin = self.twin(Mode())
            x = torch.zeros(1, *self.case.image_shape[::-1], device=self.device)
            t = torch.zeros(1, device=self.device)
            with torch.no_grad():
                self._products[layers] = count_products(lambda: twin.model(x, t, layers))
        return self._products[layers]


def train(pair: Pair) -> Task:
    """The train step: images, noise, loss, gradient, optimizer and one average of the weights."""
    steps, batch = pair.case.steps, pair.case.batch_size
    ours = Step(pair.config, pair.data, pair.params)

    def twin(mode: Mode) -> Callable[[], Any]:
        training = work.Training(pair.twin(mode), pair.images, pair.config, mode)
        return lambda: training(steps)

    return Task(
        lambda: ours(steps),
        twin,
        # Gradients of weights and of inputs take a forward pass's products each, but for the
        # first layer's.
        products=3 * batch * pair.products(),
        # Weights, both moments and the average are read and written; the gradient is written and
        # read; the forward and the backward pass read the weights.
        weight_bytes=4 * pair.weights * (2 * 4 + 2 + 2),
        trains=True,
        per=steps,
        counted=ours.program.flops,
    )


def forward(pair: Pair) -> Task:
    """The forward pass of a batch."""
    batch = pair.case.batch_size
    x = np.random.default_rng(0).standard_normal((batch, *pair.case.image_shape), np.float32)
    t = np.full(batch, 500, np.int32)
    apply = jax.jit(
        lambda params, x, t: pair.network.apply(
            {"params": params}, *pair.process.inputs(x, t), capture=()
        )[0]
    )
    placed = parallel.place(pair.mesh, x, t)

    def twin(mode: Mode) -> Callable[[], Any]:
        diffusion = pair.twin(mode)
        image = pair.channels_first(x)
        time = diffusion.fed_time(torch.from_numpy(t).to(pair.device))
        return lambda: diffusion.forward(image, time)

    return Task(
        lambda: jax.block_until_ready(apply(pair.params, *placed)),
        twin,
        batch * pair.products(),
        4 * pair.weights,
    )


def ddim(pair: Pair) -> Task:
    """Images by DDIM, from the noise to bytes on the host."""
    count = pair.case.drawn
    shape = pair.case.image_shape
    sampling = Sampling.from_config(pair.config.sampling)
    draw = make_draw(pair.network, pair.process, sampling, image_shape=shape, mesh=pair.mesh)
    ids = np.arange(count)
    noise = np.asarray(image_noise(image_keys(0, "sample", ids), shape))

    def twin(mode: Mode) -> Callable[[], Any]:
        diffusion = pair.twin(mode)
        start = pair.channels_first(noise)
        return lambda: diffusion.ddim(start, DDIM_STEPS)

    return Task(
        lambda: np.concatenate(list(draw(pair.params, 0, ids))),
        twin,
        DDIM_STEPS * count * pair.products(),
        DDIM_STEPS * 4 * pair.weights,
    )


def extraction(pair: Pair, layers: tuple[str, ...], level: int) -> Extraction:
    """Returns how our features are computed at a level, in batches as large as the program's."""
    return Extraction(
        noisy(pair.network, pair.process, layers),
        pair.params,
        pair.mesh,
        pair.process.as_level(level),
        batch_size=min(pair.case.images, 256),
    )


def features(pair: Pair) -> Task:
    """Pooled features of the bottleneck's block, from bytes to arrays on the host."""
    count = pair.case.images
    layers = (pair.network.bottleneck,)
    images, ids = pair.images[:count], np.arange(count)
    ours = extraction(pair, layers, LEVEL)

    def twin(mode: Mode) -> Callable[[], Any]:
        diffusion = pair.twin(mode)
        return lambda: diffusion.features(images, LEVEL, layers, ours.batch_size)

    return Task(
        lambda: extract(ours, unlabelled(lambda rows: images[rows]), ids)[0],
        twin,
        count * pair.products(layers),
        # The weights up to the layer, taken to be as many as its products are.
        4 * pair.weights * pair.products(layers) / pair.products() * (count // ours.batch_size),
    )


def probe(pair: Pair) -> Task:
    """A grid of linear probes: all layers at the process's levels, on stored features."""
    trained, tested = pair.case.probed
    protocol = PROTOCOLS["cached"]
    classes = pair.data.num_classes
    layers = tuple(build.layers(pair.network, pair.case.image_shape))[:-1]  # without "bottleneck"
    levels = pair.process.probe_levels()
    ids = np.arange(trained + tested)
    images, labels = pair.images[ids], pair.labels[ids]
    size = min(pair.case.images, 256)

    def split(stored: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], ...]:
        parts = slice(None, trained), slice(trained, None)
        return tuple({layer: feature[part] for layer, feature in stored.items()} for part in parts)

    def ours() -> list[dict[str, float]]:
        accuracies = []
        for level in levels:
            own = extraction(pair, layers, level)
            train, test = split(extract(own, unlabelled(lambda rows: images[rows]), ids)[0])
            scales = standard_scale(train)
            fitted = heads.fit(train, labels[:trained], scales, protocol, num_classes=classes)
            rates = heads.accuracies(fitted, test, labels[trained:], scales)
            accuracies.append({layer: float(each.max()) for layer, each in rates.items()})
        return accuracies

    def twin(mode: Mode) -> Callable[[], Any]:
        diffusion = pair.twin(mode)

        def call() -> list[dict[str, float]]:
            accuracies = []
            for level in levels:
                train, test = split(diffusion.features(images, level, layers, size))
                parts = train, labels[:trained], test, labels[trained:]
                accuracies.append(work.probe(*parts, protocol, classes))
            return accuracies

        return call

    steps = heads.total_steps(trained, protocol.epochs, protocol.batch_size)
    read = unlabelled(lambda rows: images[rows])
    shapes, _ = extract(extraction(pair, layers, LEVEL), read, ids[:1])
    width = sum(feature.shape[1] for feature in shapes.values())
    # A head's step has two products, its logits and its gradient.
    head_products = steps * 4 * protocol.batch_size * width * classes * len(protocol.learning_rates)
    passes = len(ids) * pair.products(layers)
    return Task(ours, twin, len(levels) * (passes + head_products), 0.0)


TASKS = {"train": train, "forward": forward, "ddim": ddim, "features": features, "probe": probe}
