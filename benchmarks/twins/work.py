"""What a user does with a network, in PyTorch: training, sampling by DDIM, features, a probe."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins import dit, uvit

# The network's time input at DDPM's step t in 1..T.
TIME_INPUTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "t/T": lambda t, T: t / T,
    "999t/T": lambda t, T: 999 * t / T,
    "t-1": lambda t, T: t - 1,
}


@dataclasses.dataclass(frozen=True)
class Mode:
    """How a twin runs.

    Attributes:
      compiled: by ``torch.compile`` in place of eagerly.
      channels_last: whether images and the weights of convolutions are stored channels last.
      fused: the fused AdamW in place of the one that loops over lists of tensors.
    """

    compiled: bool = False
    channels_last: bool = False
    fused: bool = True

    def __str__(self) -> str:
        layout = ", channels last" if self.channels_last else ""
        return ("compiled" if self.compiled else "eager") + layout


class Diffusion:
    """A twin with DDPM (arXiv 2006.11239) of linear betas, which predicts epsilon.

    Attributes:
      model: the network, in evaluation; the weights are shared with the one that was given.
      device: where it runs; on a GPU in bfloat16 by autocast.
    """

    def __init__(self, model: nn.Module, process: Any, mode: Mode, device: torch.device) -> None:
        layout = torch.channels_last if mode.channels_last else torch.contiguous_format
        self.model = model.eval().to(device=device, memory_format=layout)
        self.device = device
        self._layout = layout
        self._steps = process.num_steps
        self._time = TIME_INPUTS[process.time_input]
        betas = np.linspace(process.beta_start, process.beta_end, process.num_steps)
        self._alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])  # eq. 4
        tables = np.sqrt(self._alpha_bar), np.sqrt(1 - self._alpha_bar)
        self._signal, self._sigma = (torch.tensor(x).float().to(device) for x in tables)
        self.network = _compiled(self.model) if mode.compiled else self.model

    def images(self, images: np.ndarray) -> Tensor:
        """Returns uint8 images (N, H, W, C) as (N, C, H, W) on the device."""
        tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        return tensor.to(self.device).contiguous(memory_format=self._layout)

    def autocast(self) -> torch.autocast:
        """Returns the context in which the network runs."""
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu")

    def fed_time(self, t: Tensor) -> Tensor:
        """Returns the network's time input."""
        return self._time(t.float(), self._steps)

    def perturbed(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Returns x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon (eq. 4)."""
        signal, sigma = (c[t][:, None, None, None] for c in (self._signal, self._sigma))
        return signal * x0 + sigma * noise

    def loss(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Returns the simple loss (eq. 14)."""
        with self.autocast():
            return F.mse_loss(self.network(self.perturbed(x0, noise, t), self.fed_time(t)), noise)

    @torch.inference_mode()
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Returns the prediction."""
        with self.autocast():
            return self.network(x, time)

    @torch.inference_mode()
    def ddim(self, noise: Tensor, steps: int) -> np.ndarray:
        """Samples by DDIM (arXiv 2010.02502, eq. 12 with sigma = 0), x0_hat clipped to [-1, 1].

        Returns:
          (N, H, W, C) uint8.
        """
        levels = np.append(1 + np.arange(steps)[::-1] * self._steps // steps, 0)
        signal, sigma = np.sqrt(self._alpha_bar[levels]), np.sqrt(1 - self._alpha_bar[levels])
        x = noise.contiguous(memory_format=self._layout)
        for i, level in enumerate(levels[:-1]):
            time = self.fed_time(torch.full((len(x),), int(level), device=self.device))
            epsilon = self.forward(x, time)
            x0 = ((x - float(sigma[i]) * epsilon) / float(signal[i])).clamp(-1, 1)
            epsilon = (x - float(signal[i]) * x0) / float(sigma[i])
            x = float(signal[i + 1]) * x0 + float(sigma[i + 1]) * epsilon
        images = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return images.permute(0, 2, 3, 1).cpu().numpy()

    @torch.inference_mode()
    def features(
        self, images: np.ndarray, level: int, layers: tuple[str, ...], batch_size: int
    ) -> dict[str, np.ndarray]:
        """Returns pooled features {layer: (N, C)} of uint8 images (N, H, W, C) at one level."""
        batches = []
        for start in range(0, len(images), batch_size):
            x0 = self.images(images[start : start + batch_size]).float() / 127.5 - 1
            t = torch.full((len(x0),), level, device=self.device)
            with self.autocast():
                x_t = self.perturbed(x0, torch.randn_like(x0), t)
                pooled = self.network(x_t, self.fed_time(t), layers)
            batches.append({layer: feature.cpu().numpy() for layer, feature in pooled.items()})
        return {layer: np.concatenate([batch[layer] for batch in batches]) for layer in layers}


def _compiled(model: nn.Module) -> Callable[..., Any]:
    """Compiles a network; of a transformer its blocks, which share one program."""
    blocks = [module for module in model.modules() if isinstance(module, (dit.Block, uvit.Block))]
    for block in blocks:
        block.compile()
    return model if blocks else torch.compile(model)


class Training:
    """A training loop: AdamW and one average of the weights."""

    def __init__(self, diffusion: Diffusion, images: np.ndarray, config: Any, mode: Mode) -> None:
        self._diffusion = diffusion
        self._model = diffusion.model.train()
        self._images = diffusion.images(images)
        self._batch_size = config.train.batch_size
        self._params = [p for p in self._model.parameters() if p.requires_grad]
        self._average = [p.detach().clone() for p in self._params]
        self._decay = config.ema.decays[0]
        rule = config.optimizer
        self._clip = rule.clip_norm
        self._flip = config.data.flip
        self._optimizer = torch.optim.AdamW(
            self._params,
            rule.learning_rate,
            (rule.b1, rule.b2),
            weight_decay=rule.weight_decay,
            **({"fused": True} if mode.fused else {"foreach": True}),
        )

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draws images, noise and levels."""
        device = self._images.device
        rows = torch.randint(len(self._images), (self._batch_size,), device=device)
        x0 = self._images[rows].float() / 127.5 - 1
        if self._flip:
            flipped = torch.rand(len(x0), 1, 1, 1, device=device) < 0.5
            x0 = torch.where(flipped, x0.flip(-1), x0)
        t = torch.randint(1, len(self._diffusion._signal), (len(x0),), device=device)
        return x0, torch.randn_like(x0), t

    def __call__(self, steps: int) -> float:
        """Takes steps, and returns the last loss."""
        for _ in range(steps):
            loss = self._diffusion.loss(*self.batch())
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self._clip:
                nn.utils.clip_grad_norm_(self._params, self._clip)
            self._optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(self._average, self._params, 1 - self._decay)
        return loss.item()


def probe(
    features: dict[str, np.ndarray],
    labels: np.ndarray,
    tested: dict[str, np.ndarray],
    tested_labels: np.ndarray,
    protocol: Any,
    num_classes: int,
) -> dict[str, float]:
    """Trains linear heads on stored features, and tests them.

    A head is trained for each layer and learning rate by Adam on a cosine schedule; features are
    standardised. Layers of one width are trained in one batched product.

    Args:
      features: {layer: (N, C)}, with ``labels`` (N,).
      tested: {layer: (M, C)}, with ``tested_labels`` (M,).
      protocol: epochs, batch_size and learning_rates of the heads' training.
      num_classes: number of classes.

    Returns:
      {layer: the accuracy of the best learning rate, in 0..1}.
    """
    accuracies = {}
    targets = torch.from_numpy(labels).long()
    tested_targets = torch.from_numpy(tested_labels).long()
    for width in sorted({feature.shape[1] for feature in features.values()}):
        layers = [layer for layer, feature in features.items() if feature.shape[1] == width]
        train, test = (
            torch.from_numpy(np.stack([part[layer] for layer in layers]))
            for part in (features, tested)
        )
        deviation, mean = torch.std_mean(train, dim=1, keepdim=True, correction=0)
        deviation = torch.where(deviation > 1e-6 * mean.abs(), deviation, 1)
        train, test = ((part - mean) / deviation for part in (train, test))
        heads = _heads(train, targets, protocol, num_classes)
        correct = torch.stack(
            [
                (torch.baddbmm(bias, test, kernel).argmax(-1) == tested_targets).float().mean(1)
                for kernel, bias in heads
            ]
        )
        accuracies |= dict(zip(layers, correct.amax(0).tolist(), strict=True))
    return accuracies


def _heads(
    train: Tensor, targets: Tensor, protocol: Any, num_classes: int
) -> list[tuple[Tensor, Tensor]]:
    """Returns the kernel (L, C, classes) and the bias (L, 1, classes) for each learning rate."""
    count, n, width = train.shape
    heads = [
        (
            torch.zeros(count, width, num_classes, requires_grad=True),
            torch.zeros(count, 1, num_classes, requires_grad=True),
        )
        for _ in protocol.learning_rates
    ]
    groups = [
        dict(params=head, lr=rate)
        for head, rate in zip(heads, protocol.learning_rates, strict=True)
    ]
    optimizer = torch.optim.Adam(groups, fused=True)
    steps = -(-n * protocol.epochs // protocol.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for rows in _batches(n, protocol.batch_size, steps):
        batch = train[:, rows]
        repeated = targets[rows].repeat(count)
        logits = [torch.baddbmm(bias, batch, kernel).flatten(0, 1) for kernel, bias in heads]
        loss = count * sum(F.cross_entropy(each, repeated) for each in logits)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return [tuple(part.detach() for part in head) for head in heads]


def _batches(n: int, batch_size: int, steps: int) -> Iterator[Tensor]:
    """Yields the rows of each step, from one shuffle of the images an epoch to the next."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < batch_size:
            order = torch.cat([order, torch.randperm(n)])
        rows, order = order[:batch_size], order[batch_size:]
        yield rows
