"""Opens a run directory: features, samples, and the saved state."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from ddaepp_jax import build
from ddaepp_jax.base import parallel
from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.dispatch import progress_bar
from ddaepp_jax.base.errors import InputError, NonFiniteError, shown
from ddaepp_jax.base.finite import check_finite
from ddaepp_jax.base.frozen import hashed
from ddaepp_jax.base.numbers import whole
from ddaepp_jax.base.paths import local_path
from ddaepp_jax.base.processes import from_first
from ddaepp_jax.config import saved
from ddaepp_jax.data.augment import to_uint8
from ddaepp_jax.diffusion.process import Process, level_of
from ddaepp_jax.probing.features import Extraction, extract, noisy, unlabelled
from ddaepp_jax.run import arguments
from ddaepp_jax.run.local_copy import is_elsewhere, local_copy
from ddaepp_jax.run.pictures import Pictures
from ddaepp_jax.run.weights import Weights, choose_weights
from ddaepp_jax.sampling.draw import make_sample_batch, sample_images, unchanged
from ddaepp_jax.sampling.settings import Sampling
from ddaepp_jax.sampling.trajectory import trajectory
from ddaepp_jax.scoring.samples import Samples
from ddaepp_jax.training import checkpoint, ema, graft
from ddaepp_jax.training.program import abstract_state
from ddaepp_jax.training.saving import check_path


def load(
    workdir: str | os.PathLike,
    step: int | str | None = None,
    decay: float | None = None,
    sigma_rel: float | None = None,
) -> "Run":
    """Opens a run directory on the devices at hand, whatever devices it was trained on.

    Of several processes, all have to call it, and the functions of the run.

    Args:
      workdir: the run directory; or a zip file of one, or an address such as gs://bucket/run, of
        which what is opened is first copied into the user's cache.
      step: step of the checkpoint, or "heldout_loss", "probe" or "fid" for the checkpoint that is
        best by that evaluation. By default it is the newest.
      decay: average of the weights, one of ``ema.decays``; the first by default.
      sigma_rel: instead of ``decay``, the relative width of a power-function average: one of
        ``ema.sigma_rel``, or another one, which is combined from the run's snapshots up to
        ``step``. For the latter there need not be a checkpoint of ``step``.

    Raises:
      InputError: the directory is no run directory, there is no such checkpoint or average, the
        average is out of the snapshots' reach, a checkpoint is damaged, or the address cannot be
        read.
    """
    if is_elsewhere(workdir):
        directory = local_copy(os.fspath(workdir), step, snapshots=sigma_rel is not None)
    else:
        directory = local_path(workdir, "workdir")
    return Run(directory, step, decay, sigma_rel)


def weights_to_start_from(config: ConfigDict, network: Any) -> Any | None:
    """Reads the weights of the run ``init_from``, and checks them against a network.

    Args:
      config: the config of the new run.
      network: shapes of the new network's parameters.

    Returns:
      The weights on the host; None if ``init_from`` is empty.

    Raises:
      InputError: there is no such run, or a shape differs.
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
      workdir: the run directory.
      config: the run's config.
      module: the network, a Flax module.
      process: the diffusion process.
      params: the network's averaged parameters, on every device.
      step: training step of the loaded weights.
      decay: decay of the average; None for a power-function average.
      sigma_rel: relative width of a power-function average; None for a decay.
      profile_error: relative L2 error of the profile of an average that was combined from
        snapshots; 0.0 for a tracked average.
      image_shape: (H, W, C) of what the network takes: images, or latents.
      pictures: encodes and decodes the pictures of a run on latents; None for other runs.
      num_classes: number of classes of the data; 0 without labels.
      class_names: names of the classes.
      mesh: the devices.
    """

    def __init__(
        self,
        workdir: Path,
        step: int | str | None = None,
        decay: float | None = None,
        sigma_rel: float | None = None,
    ) -> None:
        file = workdir / "config.json"
        # One process decides for all: meanwhile, a training may save a newer checkpoint there.
        text, weights = from_first(lambda: _choose(workdir, step, decay, sigma_rel))
        self.workdir = workdir
        self._checkpoints = workdir / "checkpoints"
        self.config = saved.from_json(text, str(file))
        self.decay = weights.decay
        self.sigma_rel = weights.sigma_rel
        self.image_shape = tuple(weights.meta["image_shape"])
        self.num_classes = weights.meta["num_classes"]
        self.class_names = tuple(weights.meta["class_names"])
        saved.check_network(file, self.config, weights.meta.get("network", {}))
        self.mesh = parallel.make_mesh((-1, 1, 1))
        self.module = build.network(self.config, self.image_shape, self.num_classes)
        self.process = build.process(self.config)
        self.params, self.step, self.profile_error = weights.restore(
            self.config.ema.sigma_rel, parallel.replicated(self.mesh)
        )
        _check_params(self.module, self.image_shape, self.params, file)
        self.pictures = None
        if self.config.data.name == build.LATENTS:
            self.pictures = Pictures(
                self.config.data.autoencoder,
                weights.meta.get("latents", {}),
                self.image_shape,
                self.mesh,
            )
        mend = "choose another --step, or train again"
        check_finite(self.params, f"{workdir}: step {self.step}", mend)
        self._compiled: dict[Any, Any] = {}

    @property
    def weights_hash(self) -> str:
        """16 hexadecimal digits of a hash of ``params``, by which results say whose they are."""
        return hashed(self.params)[:16]

    @property
    def average(self) -> str:
        """The average in metrics' names: ema0.9999, sigma_rel0.08."""
        return f"ema{self.decay:g}" if self.sigma_rel is None else ema.power_name(self.sigma_rel)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return (
            f"Run({str(self.workdir)!r}, step {self.step}, {self.average}, images of {shape}, "
            f"{count:,} parameters)"
        )

    def features(
        self,
        images: np.ndarray,
        noise_level: float,
        layers: Sequence[str] = ("bottleneck",),
        seed: int = 0,
        draws: int = 1,
        batch_size: int = 256,
    ) -> dict[str, np.ndarray]:
        """Computes pooled features of noisy images.

        Args:
          images: (N, H, W, C) uint8; for a run on latents pictures, or latents of float32 with
            channels of unit deviation.
          noise_level: noise level in the process's unit (DDPM: a time step, EDM: sigma; see
            ``process.probe_levels()``).
          layers: names of features, from ``self.layers``.
          seed: the noise of image i is a function of (seed, i).
          draws: number of noise draws over which features are averaged.
          batch_size: images in a forward pass; it changes no feature.

        Returns:
          {layer: (N, C) float32}.

        Raises:
          InputError: an argument is wrong, or a feature is not finite.
        """
        if self.pictures is not None:
            images = arguments.latents_of(self, images)
        images = arguments.checked_images(self, images)
        arguments.check_numbers(seed, draws=draws, batch_size=batch_size)
        if isinstance(layers, str) or not isinstance(layers, Collection) or not len(layers):
            raise InputError(f"layers: {shown(layers)}; give a list of names, e.g. ['bottleneck']")
        for layer in layers:
            choose("layers", layer, self.layers)
        extraction = Extraction(
            noisy(self.module, self.process, tuple(layers)),
            self.params,
            self.mesh,
            self.noise_level(noise_level),
            seed,
            int(batch_size),
        )
        ids = np.arange(len(images))
        read = unlabelled(lambda rows: images[rows])
        features, _ = extract(extraction, read, ids, draws=range(draws))
        check_finite(features, f"noise_level: {noise_level}", "give another level or step")
        return {layer: features[layer] for layer in layers}

    def noise_level(self, level: float) -> np.number:
        """Converts a noise level to the type that the process takes.

        Raises:
          InputError: the process has no such level.
        """
        try:
            level = float(level)
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"noise_level: {shown(level)} is not a number; give one") from None
        return level_of(self.process, level, "noise_level")

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The names of the network's features, in their order."""
        return build.layers(self.module, self.image_shape)

    @property
    def probed(self) -> dict[str, Any] | None:
        """The choice of ``linear_probe``: "layer", "noise_level", and accuracies.

        It is None before a probe, and where the run was trained anew to the same step since.

        Raises:
          InputError: the file of the choice is damaged.
        """
        file = self.workdir / "probe" / "best.json"
        if not file.exists():
            return None
        try:
            choice = json.loads(file.read_text())
            choose("layer", choice["layer"], self.layers)
            level_of(self.process, choice["noise_level"] + 0, "noise_level")
            choice.get("compared", 0) + 0
            str(choice["weights"] if "step" in choice else "")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{file}: is not a choice of linear_probe; remove it, and run linear_probe again"
            ) from None
        place = (choice.get("step"), choice.get("average"))
        if place == (self.step, self.average) and choice["weights"] != self.weights_hash:
            return None
        return choice

    def sampling(
        self, options: Mapping[str, Any] | None = None, guide: "Run | None" = None, **overrides: Any
    ) -> Sampling:
        """Returns the ``Sampling`` that ``sample`` uses: the config's, with changes.

        Args:
          options: options of the sampler, e.g. {"clip": False} or {"s_churn": 30.0}.
          guide: the worse run of autoguidance.
          overrides: other fields of ``Sampling``; None means the config's.

        Raises:
          InputError: an override is not a field.
        """
        if guide is not None:
            if not isinstance(guide, Run):
                raise InputError(f"guide: {shown(guide)} is not an opened run; give load(WORKDIR)")
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
        decode: bool = True,
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
          decode: whether the autoencoder of a run on latents decodes them.
          sampling: values that replace the config's ``sampling``: sampler, steps, guidance,
            guidance_interval, guidance_channels, autoguidance (the scale of ``guide``), batch_size,
            and options, those of the sampler by name. See ``ddaepp_jax.sampling.settings``.

        Returns:
          (n, H, W, C) uint8; latents that are not decoded are float32, with channels of unit
          deviation.

        Raises:
          InputError: an argument is wrong, or doesn't fit the run, or the autoencoder is missing.
          NonFiniteError: an image came out with NaN or infinite numbers.
        """
        chosen, ids, image_labels = self._drawing(n, seed, labels, first, guide, sampling)
        decoding = decode and self.pictures is not None
        if decoding:
            _ = self.pictures.autoencoder  # Before the work, if it is missing.
        key = (json.dumps(chosen.identity, default=repr), guide)
        if key not in self._compiled:
            self._compiled[key] = make_sample_batch(
                self.module,
                self.process,
                chosen,
                image_shape=self.image_shape,
                mesh=self.mesh,
                guide=None if guide is None else (guide.module, guide.process),
                finish=to_uint8 if self.pictures is None else unchanged,
            )
        pieces = []
        title = f"{chosen.sampler}-{chosen.steps}"
        with progress_bar(len(ids), "image", title, disable=not progress) as bar:
            for piece, line in sample_images(
                self._compiled[key],
                self.params,
                seed,
                ids,
                image_labels,
                chosen.batch_size,
                self.mesh,
                None if guide is None else guide.params,
            ):
                if line:
                    raise NonFiniteError(line)
                pieces.append(piece)
                bar.update(len(piece))
        samples = np.concatenate(pieces)
        return self.pictures.decode(samples, progress=progress) if decoding else samples

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images that ``sample`` returns: of the pictures for a run on latents."""
        return self.image_shape if self.pictures is None else self.pictures.image_shape

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Encodes pictures to the latents that the network takes.

        Args:
          images: (N, H, W, 3) uint8.

        Returns:
          (N, h, w, C) float32, the means with channels of unit deviation.

        Raises:
          InputError: the run is not on latents, or the pictures do not fit.
        """
        if self.pictures is None:
            raise InputError("images: this run is not on latents; its images are what it takes")
        return self.pictures.encode(images)

    @property
    def _trained(self) -> tuple[nn.Module, Process, Any]:
        """The network, its process and its parameters."""
        return self.module, self.process, self.params

    def trajectory(
        self,
        n: int = 8,
        seed: int = 0,
        labels: Sequence[int] | int | None = None,
        *,
        guide: "Run | None" = None,
        **sampling: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Computes the network's estimates of the clean image along a sampling.

        The images are those of ``sample`` with the same arguments. They are drawn at once, so give
        a small number.

        Args:
          n, seed, labels, guide, sampling: see ``sample``.

        Returns:
          The noise levels (E,) at which the sampler evaluates the network, in its order, and the
          estimates there, (E, n, H, W, C) uint8, decoded for a run on latents. A sampler of second
          order evaluates the network twice a step. The last estimate of ``ddim`` is the sample.

        Raises:
          InputError: an argument is wrong, doesn't fit the run, or leads to estimates that are not
            finite.
        """
        chosen, ids, image_labels = self._drawing(n, seed, labels, 0, guide, sampling)
        levels, estimates = trajectory(
            self._trained,
            self.image_shape,
            chosen,
            seed,
            ids,
            image_labels,
            guide and guide._trained,
        )
        check_finite(estimates, f"sampler: {chosen.sampler}", "lower the guidance, or take another")
        if self.pictures is None:
            return levels, to_uint8(np.asarray(estimates))
        flat = np.asarray(estimates).reshape(-1, *self.image_shape)
        return levels, self.pictures.decode(flat).reshape(*estimates.shape[:2], *self.sample_shape)

    def samples(self, **sampling: Any) -> Samples:
        """Returns the run's samples, as scores take them; the images are drawn when they are read.

        Args:
          sampling: sampling arguments of ``sample``.

        Raises:
          InputError: an argument is wrong, or doesn't fit the run.
        """
        chosen = self.sampling(**sampling)
        guide = sampling.get("guide")
        arguments.check_guide(self, guide, chosen.autoguidance)
        arguments.labels_of(self, None, np.arange(1), chosen.guidance)
        chosen.make(self.process, self.image_shape)
        weights = {"run": self.weights_hash}
        if guide is not None:
            weights["guide"] = guide.weights_hash
        return Samples(
            draw=lambda seed, ids: self.sample(
                n=len(ids), first=int(ids[0]), seed=seed, **sampling
            ),
            image_shape=self.sample_shape,
            num_classes=self.module.num_classes,
            sampling=chosen,
            run=self.workdir.name,
            step=self.step,
            average=self.average,
            weights=weights,
        )

    def _drawing(
        self,
        n: int,
        seed: int,
        labels: Sequence[int] | int | None,
        first: int,
        guide: "Run | None",
        sampling: Mapping[str, Any],
    ) -> tuple[Sampling, np.ndarray, np.ndarray | None]:
        """Checks the arguments of ``sample``; returns the sampling, and the images' ids and labels.

        Both are (n,) int; the labels are None if the network takes none.
        """
        chosen = self.sampling(guide=guide, **sampling)
        arguments.check_numbers(seed, n=n, batch_size=chosen.batch_size)
        n, first = int(n), whole("first", first, 0, 2**31 - 1)  # NumPy's would overflow below.
        if first + n > 2**31:
            raise InputError(f"first: {first}, with n={n}, exceeds image 2**31-1; give fewer")
        ids = np.arange(first, first + n)
        image_labels = arguments.labels_of(self, labels, ids, chosen.guidance)
        arguments.check_guide(self, guide, chosen.autoguidance)
        return chosen, ids, image_labels

    def state(self) -> Any:
        """Restores everything that was saved: the checkpoint's ``TrainState``, on every device.

        Raises:
          InputError: there is no checkpoint of this step, only snapshots.
        """
        if not (self._checkpoints / str(self.step)).is_dir():
            raise InputError(
                f"step: no checkpoint {self.step} in {self._checkpoints}; "
                "only averages were saved at this step"
            )
        learner = build.learner(self.config, self.image_shape, self.num_classes, total=1)
        target = abstract_state(learner, self.mesh, self.image_shape, ())
        return checkpoint.restore_state(self._checkpoints, self.step, target)


def _choose(
    workdir: Path, step: int | str | None, decay: float | None, sigma_rel: float | None
) -> tuple[str, Weights]:
    """Returns the text of a run's config, and the choice of its weights."""
    file = workdir / "config.json"
    check_path(workdir)
    try:
        text = file.read_text(errors="replace") if file.is_file() else None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); make it readable") from None
    if text is None:
        raise InputError(
            f"{workdir}: not a run directory (no config.json); give the --workdir of a training run"
        )
    config = saved.from_json(text, str(file))
    return text, choose_weights(workdir, config, step, decay, sigma_rel)


def _check_params(
    module: nn.Module, image_shape: tuple[int, int, int], params: Any, file: Path
) -> None:
    """Refuses weights that a network of the config would not read, or would miss."""
    x, t = np.zeros((1, *image_shape), np.float32), np.zeros(1, np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, t)["params"]
    expected, there = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (shapes, params))
    )
    wrong = sorted(name for name in expected | there if expected.get(name) != there.get(name))
    if wrong:
        raise InputError(
            f"{file}: its network does not fit the saved weights: {wrong[0]} has shape "
            f"{expected.get(wrong[0], 'none')} in the network and {there.get(wrong[0], 'none')} in "
            f"the checkpoint ({len(wrong)} differ in all); take back what was changed in the file"
        )
