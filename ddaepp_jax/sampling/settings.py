"""How images are sampled, as one value; importing this module does not import JAX."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ddaepp_jax.base.errors import InputError, shown
from ddaepp_jax.base.numbers import finite, whole

if TYPE_CHECKING:
    from ddaepp_jax.diffusion.guidance import Guidance
    from ddaepp_jax.diffusion.process import Process
    from ddaepp_jax.diffusion.samplers.registry import Draw


def _argument(default: Any, help: str) -> Any:
    """Returns a field that is also an argument of programs, which overrides the config's value."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How images are sampled.

    Command-line arguments, the tag in metrics' names and the identity in results are derived from
    these fields. A field that is not listed here is described by its help text.

    Attributes:
      options: every option of the sampler by its name.
      overridden: names of the options that are not the config's; the tag names them.
      guide: name of the run directory that guides in autoguidance; "" for none.
      autoguidance: scale of autoguidance; 1 is none.
    """

    sampler: str = _argument("ddpm", "a sampler of the run's process, e.g. ddim, heun or euler")
    steps: int = _argument(
        100, "steps of the sampler; heun and heun_flow evaluate the network twice a step"
    )
    guidance: float = _argument(1.0, "scale of classifier-free guidance; 1 is none")
    guidance_interval: tuple[float, ...] = _argument(
        (), "LOW,HIGH: guide only at these noise levels, both included"
    )
    guidance_channels: int = _argument(0, "guide only the first N channels; 0 guides all")
    autoguidance: float = 1.0
    guide: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    overridden: tuple[str, ...] = ()
    batch_size: int = _argument(64, "images sampled at once; it changes no image")

    @classmethod
    def from_config(
        cls, group: Mapping[str, Any], options: Mapping[str, Any] | None = None, **overrides: Any
    ) -> "Sampling":
        """Reads ``config.sampling``.

        Args:
          group: the config's group; the options of each sampler are in a subgroup with its name.
          options: options of the sampler instead of the config's, by name.
          overrides: values of other fields instead of the config's; None means the config's.

        Raises:
          InputError: an override is not a field, a scale of guidance is no number, or the options
            are no dictionary.
        """
        if not isinstance(options, Mapping | None):
            raise InputError(
                f"options: {shown(options)}; give a dictionary, e.g. {{'clip': False}}"
            )
        options = {name: _plain(value) for name, value in (options or {}).items()}
        overrides = {name: _plain(x) for name, x in overrides.items() if x is not None}
        fields = {field.name for field in dataclasses.fields(cls)} - {"options", "overridden"}
        for name in overrides:
            if name not in fields:
                raise InputError(f"{name}: no such field; give one of {', '.join(sorted(fields))}")
        for name in {"guidance", "autoguidance"} & overrides.keys():
            finite(name, overrides[name])
        values = {name: group[name] for name in fields if name in group} | overrides
        interval = values["guidance_interval"]
        if not isinstance(interval, Iterable):
            raise InputError(f"guidance_interval: {interval!r} is wrong; give two levels, or ()")
        values["guidance_interval"] = tuple(map(_plain, interval))
        own = {"clip": group["clip"], **group.get(str(values["sampler"]), {})}
        return cls(**values, options={**own, **options}, overridden=tuple(sorted(options)))

    def make(
        self, process: "Process", image_shape: tuple[int, int, int], group: str = ""
    ) -> tuple["Draw", "Guidance"]:
        """Returns the sampler and its guidance, after checking every field.

        Args:
          process: the diffusion process.
          image_shape: (H, W, C).
          group: the config group that errors name before a field: "sampling." or "".

        Raises:
          InputError: a field is wrong.
        """
        from ddaepp_jax.diffusion import samplers
        from ddaepp_jax.diffusion.guidance import Guidance

        draw = samplers.make(process, self.sampler, self.steps, self.options, group)
        scale = finite(f"{group}guidance", self.guidance)
        autoguidance = finite(f"{group}autoguidance", self.autoguidance)
        channels = whole(f"{group}guidance_channels", self.guidance_channels, -(2**31), 2**31)
        whole(f"{group}batch_size", self.batch_size, 1, 2**31 - 1)
        try:
            guidance = Guidance(scale, self.guidance_interval, channels, autoguidance)
        except ValueError as error:
            raise InputError(f"{group}guidance_{error}") from None
        if scale != 1 and guidance.interval:
            self._check_interval(process, draw, group)
        if channels > image_shape[-1]:
            raise InputError(
                f"{group}guidance_channels: {channels}, but images have {image_shape[-1]} "
                "channels; 0 guides all"
            )
        return draw, guidance

    def _check_interval(self, process: "Process", draw: "Draw", group: str) -> None:
        """Refuses an interval in another unit, and one without a level of the sampler."""
        from ddaepp_jax.diffusion import samplers
        from ddaepp_jax.diffusion.process import level_of

        low, high = self.guidance_interval
        for end in filter(None, (low, high)):  # 0 is an end, though EDM has no such level.
            level_of(process, end, f"{group}guidance_interval")
        levels = samplers.levels(draw)
        if not ((levels.dtype.type(low) <= levels) & (levels <= levels.dtype.type(high))).any():
            raise InputError(
                f"{group}guidance_interval: ({low:g}, {high:g}) holds no level of the sampler; "
                f"{self.sampler} with {self.steps} steps has levels in "
                f"{levels.min():g}..{levels.max():g} ({process.unit})"
            )

    @property
    def tag(self) -> str:
        """The name of the sampling in metrics: ddim100, heun18-s_churn30, ddim100-cfg1.5."""
        tag = [f"{self.sampler}{self.steps}"]
        if self.guidance != 1:
            tag.append(f"cfg{self.guidance:g}")
            if self.guidance_interval:
                tag.append("in" + "_".join(f"{level:g}" for level in self.guidance_interval))
            if self.guidance_channels:
                tag.append(f"ch{self.guidance_channels}")
        if self.guide:
            tag.append(f"auto{self.autoguidance:g}_{self.guide}")
        return "-".join([*tag, *(f"{name}{self.options[name]}" for name in self.overridden)])

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that determine the images, as the JSON of results stores them."""
        fields = dataclasses.asdict(self)
        del fields["overridden"], fields["batch_size"]
        return {**fields, "guidance_interval": list(self.guidance_interval)}


def _plain(value: Any) -> Any:
    """Returns Python's number for a number of NumPy or JAX, which JSON does not take."""
    return value.item() if getattr(value, "shape", None) == () else value


# Their grid was even in time before they had the option "grid".
EVEN_BEFORE = ("ddim", "ddpm", "dpmpp_2m")


def modern_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Converts an identity that an earlier version wrote to today's fields.

    Release 0.1.0 stored the whole group ``config.sampling``; other samplers' options are dropped.
    """
    sampler = identity["sampler"]
    options = identity.get("options", {})
    if "clip" in identity:
        names = ("sampler", "steps", "guidance", "guidance_interval", "guidance_channels")
        options = {"clip": identity["clip"], **identity.get(sampler, {}), **options}
        identity = {
            **{name: identity[name] for name in names},
            "autoguidance": identity.get("autoguidance", 1.0),
            "guide": identity.get("guide", ""),
        }
    if sampler in EVEN_BEFORE and "clip" in options:  # ``from_config`` gives all options.
        options = {"grid": "time", **options}
    return {**identity, "options": options}
