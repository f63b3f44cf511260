"""Run: a run directory opened, for features, samples, and everything that was saved."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddaepp_jax import build, evaluators
from ddaepp_jax.base import parallel
from ddaepp_jax.base.dispatch import progress_bar
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.config import saved as run_config
from ddaepp_jax.probing.features import Extraction, extract, noisy
from ddaepp_jax.sampling.draw import make_sample_batch, sample_images
from ddaepp_jax.sampling.settings import Sampling
from ddaepp_jax.training import checkpoint, ema, graft, posthoc
from ddaepp_jax.training.program import abstract_state


def load(
    workdir: str | os.PathLike,
    step: int | str | None = None,
    decay: float | None = None,
    sigma_rel: float | None = None,
) -> "Run":
    """Open a run directory on the devices that are here, whatever it was trained on.

    Args:
      step: of the checkpoint, or "heldout_loss", "probe" or "fid": the best by that evaluation; the
        newest by default.
      decay: of the averaged weights, one of ``ema.decays``; the first by default.
      sigma_rel: instead of it, the relative width of a power-function average: one of
        ``ema.sigma_rel``, or another, which is made from the run's snapshots, as of the last one at
        or before ``step``; no checkpoint need be there.

    Raises:
      InputError: not a run directory, no such checkpoint or average, one out of the snapshots'
        reach, or a damaged checkpoint.
    """
    return Run(Path(workdir), step, decay, sigma_rel)


def weights_to_start_from(config: ConfigDict, network: Any) -> Any | None:
    """The weights of ``init_from`` on the host, checked against a network's shapes; None where it
    is empty.
    """
    if not config.init_from:
        return None
    try:
        weights = jax.tree.map(np.asarray, load(config.init_from).params)
    except InputError as error:
        raise InputError(f"init_from: {error}") from error
    graft.check(network, weights)
    return weights


class Run:
    """A trained run. Images are uint8 NHWC; noise levels are in the process's own unit.

    Attributes:
      config: what it was trained by.
      module: the network, a Flax module.
      process: the diffusion process.
      params: the network's averaged parameters, on every device.
      step: that the weights are of: the checkpoint's, or the last snapshot's.
      decay, sigma_rel: of the average, one of them None.
      profile_error: relative L2 error of an average's profile that snapshots were combined to; 0.0
        of a tracked one.
      image_shape, num_classes, class_names: of the data.
    """

    def __init__(
        self,
        workdir: Path,
        step: int | str | None = None,
        decay: float | None = None,
        sigma_rel: float | None = None,
    ) -> None:
        file = workdir / "config.json"
        if not file.is_file():
            raise InputError(
                f"{workdir}: not a run directory (no config.json); give the --workdir of a training run"
            )
        self.workdir = workdir
        self.config = run_config.from_json(file.read_text(errors="replace"), str(file))
        self._checkpoints = workdir / "checkpoints"
        newest = checkpoint.latest_step(self._checkpoints)
        if isinstance(step, str) and not step.isdigit():
            step = checkpoint.best_step(
                self._checkpoints, step, build.choose("step", step, evaluators.better())
            )
        self.step = newest if step is None else int(step)
        self.decay, self.sigma_rel = self._chosen(decay, sigma_rel)
        saved = (self._checkpoints / str(self.step)).is_dir()
        combined = sigma_rel is not None and not (saved and sigma_rel in self.config.ema.sigma_rel)
        if not (saved or combined):
            raise InputError(
                f"step: no checkpoint {step} in {self._checkpoints}; the newest is {newest}"
            )
        meta = checkpoint.read_meta(self._checkpoints, self.step if saved else newest)
        self.image_shape, self.num_classes = tuple(meta["image_shape"]), meta["num_classes"]
        self.class_names = tuple(meta["class_names"])
        self.mesh = parallel.make_mesh((-1, 1, 1))
        self.module = build.network(self.config, self.image_shape, self.num_classes)
        self.process = build.process(self.config)
        everywhere, self.profile_error = parallel.replicated(self.mesh), 0.0
        if combined:
            tracked = self.config.ema.sigma_rel
            self.params, self.step, self.profile_error = posthoc.reconstruct(
                workdir / "snapshots", tracked, self.step, self.sigma_rel, everywhere
            )
        else:
            name = str(self.decay) if sigma_rel is None else ema.power_name(self.sigma_rel)
            self.params = checkpoint.restore_networks(
                self._checkpoints, self.step, [name], everywhere
            )[name]
        self._compiled: dict[Any, Any] = {}

    def _chosen(
        self, decay: float | None, sigma_rel: float | None
    ) -> tuple[float | None, float | None]:
        """The decay or else the width of the average that was asked for."""
        if sigma_rel is None:
            decays = self.config.ema.decays
            if decay is not None and decay not in decays:
                raise InputError(
                    f"decay: no average {decay}; {self.workdir / 'config.json'} has ema.decays={decays}"
                )
            return decays[0] if decay is None else decay, None
        if decay is not None:
            raise InputError(f"decay, sigma_rel: {decay} and {sigma_rel} given; give one of them")
        narrowest, widest = ema.WIDTHS
        if not narrowest <= sigma_rel < widest:
            raise InputError(
                f"sigma_rel: {sigma_rel} is not from {narrowest} to below {widest:.4f}, a plain mean's"
            )
        return None, float(sigma_rel)

    @property
    def average(self) -> str:
        """The average as metrics' names carry it: ema0.9999, sigma_rel0.08."""
        return f"ema{self.decay:g}" if self.sigma_rel is None else ema.power_name(self.sigma_rel)

    def features(
        self,
        images: np.ndarray,
        noise_level: float,
        layers: Sequence[str] = ("bottleneck",),
        seed: int = 0,
        draws: int = 1,
        batch_size: int = 256,
    ) -> dict[str, np.ndarray]:
        """Pooled features of noisy images.

        Args:
          images: (N, H, W, C) uint8; of a run on latents, float32 latents, each channel in units of
            its deviation.
          noise_level: in the process's unit (DDPM: a time step, EDM: sigma; see
            ``process.probe_levels()``).
          layers: names out of ``self.layers``.
          seed: image i's noise is a function of (seed, i).
          draws: of noise, whose features are averaged.

        Returns:
          {layer: (N, C) float32}.
        """
        images = np.asarray(images)
        wanted = "float32" if self.config.data.name == build.LATENTS else "uint8"
        if images.dtype != wanted or images.shape[1:] != self.image_shape:
            shape = ", ".join(map(str, self.image_shape))
            raise InputError(
                f"images: {images.dtype} {images.shape}; give {wanted} of shape (N, {shape})"
            )
        _check(seed, draws=draws, batch_size=batch_size, **{"number of images": len(images)})
        for layer in layers:
            build.choose("layers", layer, self.layers)
        extraction = Extraction(
            noisy(self.module, self.process, tuple(layers)),
            self.params,
            self.mesh,
            self.noise_level(noise_level),
            seed,
            batch_size,
        )
        return extract(extraction, lambda rows: images[rows], np.arange(len(images)), range(draws))

    def noise_level(self, level: float) -> np.number:
        """A noise level in the type that the process takes; refused where it has no such level."""
        try:
            return self.process.as_level(level)
        except ValueError as error:
            raise InputError(f"noise_level: {error}") from None

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the network's features, in their order."""
        return build.layers(self.module, self.image_shape)

    @property
    def probed(self) -> dict[str, Any] | None:
        """What ``linear_probe`` chose last: "layer", "noise_level", accuracies; None before a
        probe.
        """
        file = self.workdir / "probe" / "best.json"
        return json.loads(file.read_text()) if file.exists() else None

    def sampling(
        self, options: Mapping[str, Any] | None = None, guide: "Run | None" = None, **overrides: Any
    ) -> Sampling:
        """Returns how ``sample`` draws images: the config's ``sampling`` with changes.

        Args:
          options: options of the sampler, e.g. {"clip": False} or {"s_churn": 30.0}.
          guide: the worse run of autoguidance.
          overrides: other fields of ``Sampling``; None means the config's.

        Raises:
          InputError: an override that is no field.
        """
        if guide is not None:
            overrides["guide"] = guide.workdir.name
        return Sampling.from_config(self.config.sampling, options, **overrides)

    def sample(
        self,
        n: int = 64,
        seed: int = 0,
        labels: Sequence[int] | int | None = None,
        *,
        first: int = 0,
        guide: "Run | None" = None,
        progress: bool = False,
        **sampling: Any,
    ) -> np.ndarray:
        """Samples images. The start noise of image i is a function of (seed, i).

        Neither the batch size nor the devices change an image.

        Args:
          n: number of images.
          seed: seed of the start noise, in 0..2**32-1.
          labels: a class, or one for each image; for class-conditional runs only, which by default
            take their classes in turn.
          first: number of the first image, so that parts of one set can be sampled apart.
          guide: a worse run of the same process and labels, for autoguidance.
          progress: show a progress bar.
          sampling: what differs from the config's ``sampling``: sampler, steps, guidance,
            guidance_interval, guidance_channels, autoguidance (the scale of ``guide``), batch_size,
            and options, those of the sampler by name. See ``ddaepp_jax.sampling.settings``.

        Returns:
          (n, H, W, C) uint8; of a run on latents float32, where each channel has unit deviation.

        Raises:
          InputError: an argument is wrong, or doesn't fit the run.
        """
        chosen = self.sampling(guide=guide, **sampling)
        _check(seed, n=n, batch_size=chosen.batch_size)
        if not 0 <= first < 2**31 - n:
            raise InputError(f"first: {first} is not in 0..2**31-1-n")
        ids = np.arange(first, first + n)
        image_labels = self._labels(labels, ids, chosen.guidance)
        self._check_guide(guide, chosen.autoguidance)
        key = (json.dumps(chosen.identity), guide)
        if key not in self._compiled:
            self._compiled[key] = make_sample_batch(
                self.module,
                self.process,
                chosen,
                image_shape=self.image_shape,
                mesh=self.mesh,
                guide=None if guide is None else (guide.module, guide.process),
                finish=build.finish(self.config),
            )
        pieces = []
        title = f"{chosen.sampler}-{chosen.steps}"
        with progress_bar(n, "image", title, disable=not progress) as bar:
            for piece in sample_images(
                self._compiled[key],
                self.params,
                seed,
                ids,
                image_labels,
                chosen.batch_size,
                self.mesh,
                None if guide is None else guide.params,
            ):
                pieces.append(piece)
                bar.update(len(piece))
        return np.concatenate(pieces)

    def _labels(
        self, labels: Sequence[int] | int | None, ids: np.ndarray, guidance: float
    ) -> np.ndarray | None:
        if not self.config.model.class_conditional:
            if labels is not None or guidance != 1:
                what = "labels" if labels is not None else "guidance"
                raise InputError(
                    f"{what}: this run was trained without labels (model.class_conditional=False); leave it out"
                )
            return None
        given = ids % self.num_classes if labels is None else np.asarray(labels)
        if given.dtype.kind not in "iu" or given.shape not in ((), ids.shape):
            raise InputError(
                f"labels: {given.dtype} {given.shape}; give a class, or {len(ids)} of them, one an image"
            )
        given = np.broadcast_to(given, ids.shape)
        if (given < 0).any() or (given >= self.num_classes).any():
            wrong = given[(given < 0) | (given >= self.num_classes)][0]
            raise InputError(f"labels: {wrong} is not in 0..{self.num_classes - 1}")
        return given

    def _check_guide(self, guide: "Run | None", autoguidance: float) -> None:
        """Refuse a guide that estimates something else than this run, and either of the two
        alone.
        """
        if guide is None:
            if autoguidance != 1:
                raise InputError(
                    f"autoguidance: {autoguidance} without a guide; give guide, a worse run"
                )
            return
        if autoguidance == 1:
            raise InputError(
                "guide: given, but autoguidance is 1, which is none; give a scale, e.g. 2"
            )
        process = dataclasses.replace(
            guide.process, time_input=self.process.time_input
        )  # that is the network's own
        for what, theirs, ours in (
            ("the shape of its images", guide.image_shape, self.image_shape),
            ("its process", process, self.process),
            ("the number of its labels", guide._classes, self._classes),
        ):
            if theirs != ours:
                raise InputError(f"guide: {guide.workdir} differs in {what}: {theirs}, not {ours}")

    @property
    def _classes(self) -> int:
        """How many classes the network knows."""
        return self.num_classes if self.config.model.class_conditional else 0

    def state(self) -> Any:
        """Everything that was saved: the ``TrainState`` of the checkpoint, on every device."""
        if not (self._checkpoints / str(self.step)).is_dir():
            raise InputError(
                f"step: no checkpoint {self.step} in {self._checkpoints}; averages alone were saved there"
            )
        learner = build.learner(self.config, self.image_shape, self.num_classes, total=1)
        target = abstract_state(learner, self.mesh, self.image_shape, ())
        return checkpoint.restore_state(self._checkpoints, self.step, target)


def _check(seed: int, **counts: int) -> None:
    """Refuse counts that are not positive, and a seed that does not fit 32 bits."""
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name}: {count} is not positive")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: {seed} is not in 0..2**32-1")
