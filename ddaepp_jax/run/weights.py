"""The averaged weights of a run directory, from a checkpoint or combined from snapshots."""

import dataclasses
from numbers import Real
from pathlib import Path
from typing import Any

from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from ddaepp_jax import evaluators
from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError, shown
from ddaepp_jax.base.numbers import finite, whole
from ddaepp_jax.training import checkpoint, ema, posthoc


@dataclasses.dataclass(frozen=True)
class Weights:
    """A choice of averaged weights, which ``restore`` reads.

    Attributes:
      directory: the run directory.
      step: step of the checkpoint, or the newest step to combine snapshots of.
      decay: decay of the average; None for a power-function average.
      sigma_rel: relative width of a power-function average; None for a decay.
      combined: whether the average is combined from snapshots.
      meta: facts that a checkpoint holds beside its arrays.
    """

    directory: Path
    step: int
    decay: float | None
    sigma_rel: float | None
    combined: bool
    meta: dict[str, Any]

    @property
    def name(self) -> str:
        """The average's name in a checkpoint."""
        return str(self.decay) if self.sigma_rel is None else ema.power_name(self.sigma_rel)

    def restore(
        self, tracked: tuple[float, ...], sharding: NamedSharding
    ) -> tuple[Any, int, float]:
        """Reads the weights.

        Args:
          tracked: relative widths of the averages that the run tracks.
          sharding: where the weights are put.

        Returns:
          The network's parameters, their step, and the relative L2 error of the average's profile,
          which is 0 unless it was combined.
        """
        if self.combined:
            snapshots = self.directory / "snapshots"
            return posthoc.reconstruct(snapshots, tracked, self.step, self.sigma_rel, sharding)
        networks = checkpoint.restore_networks(
            self.directory / "checkpoints", self.step, [self.name], sharding
        )
        return networks[self.name], self.step, 0.0


def choose_weights(
    directory: Path,
    config: ConfigDict,
    step: int | str | None,
    decay: float | None,
    sigma_rel: float | None,
) -> Weights:
    """Chooses the weights that ``ddaepp_jax.load``'s arguments name.

    Raises:
      InputError: there is no such checkpoint or average.
    """
    decay, sigma_rel = _average(directory, config, decay, sigma_rel)
    checkpoints = directory / "checkpoints"
    step = chosen_step(checkpoints, step)
    saved = (checkpoints / str(step)).is_dir()
    combined = sigma_rel is not None and not (saved and sigma_rel in config.ema.sigma_rel)
    newest = checkpoint.latest_step(checkpoints)
    if not saved and not combined:
        raise InputError(f"step: no checkpoint {step} in {checkpoints}; the newest is {newest}")
    meta = checkpoint.read_meta(checkpoints, step if saved else newest)
    return Weights(directory, step, decay, sigma_rel, combined, meta)


def chosen_step(checkpoints: Path, step: int | str | None) -> int:
    """Returns the step that ``ddaepp_jax.load``'s argument names; there may be no checkpoint of it.

    Args:
      checkpoints: the directory of the checkpoints; their meta data are enough.
      step: a number, the name of an evaluation, or None for the newest.

    Raises:
      InputError: there is no checkpoint at all, or ``step`` is neither a number nor such a name.
    """
    newest = checkpoint.latest_step(checkpoints)
    if isinstance(step, str) and not step.isdecimal():
        better = choose("step", step, evaluators.better())
        return checkpoint.best_step(checkpoints, step, better)
    step = int(step) if isinstance(step, str) else step
    return newest if step is None else whole("step", step, 0, 2**63 - 1)


def _average(
    directory: Path, config: ConfigDict, decay: float | None, sigma_rel: float | None
) -> tuple[float | None, float | None]:
    """Returns the decay or else the relative width, after checking them."""
    if sigma_rel is None:
        decays = config.ema.decays
        if decay is not None and finite("decay", decay) not in decays:
            raise InputError(
                f"decay: no average {decay}; {directory / 'config.json'} has ema.decays={decays}"
            )
        return decays[0] if decay is None else decay, None
    if decay is not None:
        raise InputError(f"decay, sigma_rel: {decay} and {sigma_rel} given; give one of them")
    narrowest, widest = ema.WIDTHS
    if not (isinstance(sigma_rel, Real) and narrowest <= sigma_rel < widest):
        raise InputError(
            f"sigma_rel: {shown(sigma_rel)} is out of range; give at least {narrowest} and less "
            f"than {widest:.4f}, the width of a plain mean"
        )
    return None, float(sigma_rel)
