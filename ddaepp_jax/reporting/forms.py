"""The forms of a run's files: the entries that a page reads, and their types.

Other entries are allowed. An entry with a default may be absent, but not null.
"""

import dataclasses
import re
from typing import Annotated, Any

from pydantic import AfterValidator, FiniteFloat, PositiveInt, TypeAdapter, ValidationError

from ddaepp_jax.reporting.panels import Panel


@dataclasses.dataclass(frozen=True)
class _Named:
    name: str


@dataclasses.dataclass(frozen=True)
class _Train:
    batch_size: PositiveInt
    steps: PositiveInt | None
    epochs: FiniteFloat | None
    images: PositiveInt | None


@dataclasses.dataclass(frozen=True)
class _Config:
    """The fields of ``config.json`` that every page needs."""

    data: _Named
    model: _Named
    train: _Train


@dataclasses.dataclass(frozen=True)
class _Row:
    """A layer at a noise level; the noise level of raw pixels is null."""

    layer: str
    noise_level: FiniteFloat | None
    linear_test: FiniteFloat
    linear_held_out: FiniteFloat = 0
    knn_test: FiniteFloat = 0
    knn_held_out: FiniteFloat = 0
    alignment: float = 0
    uniformity: float = 0
    effective_rank: float = 0
    spread: float = 0


@dataclasses.dataclass(frozen=True)
class _Best:
    layer: str
    noise_level: FiniteFloat
    linear_test: FiniteFloat
    metric: str
    chosen_by: str


@dataclasses.dataclass(frozen=True)
class _Settings:
    step: int
    layers: list[str]
    knn: int


@dataclasses.dataclass(frozen=True)
class _Probe:
    """What ``linear_probe`` writes; "best" is null until a noise level is finished."""

    protocol: str
    data: dict[str, Any]
    settings: _Settings
    levels: list[FiniteFloat]
    best: _Best | None
    seconds: dict[str, FiniteFloat]
    rows: list[_Row]


@dataclasses.dataclass(frozen=True)
class _Extractor:
    kind: str
    hash: str
    made: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Scores:
    """What ``fid`` writes of a run's samples."""

    step: int
    n: int
    extractor: _Extractor
    reference: dict[str, Any]
    rows: list[dict[str, FiniteFloat]]
    mean: dict[str, FiniteFloat]
    std: dict[str, FiniteFloat]
    metrics: dict[str, FiniteFloat]


def _compiles(panel: Panel) -> Panel:
    try:
        re.compile(panel.metrics)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{panel.metrics!r:.60} is not a regular expression ({error})") from None
    return panel


CONFIG = TypeAdapter(_Config)
DEFAULTS = TypeAdapter(dict[str, Any])
PANELS = TypeAdapter(list[Annotated[Panel, AfterValidator(_compiles)]])
PROBE = TypeAdapter(_Probe)
SCORES = TypeAdapter(_Scores)


def mistake(form: TypeAdapter, text: bytes) -> str:
    """Says where JSON does not have a form; "" if it has."""
    try:
        form.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else first["msg"]
    return ""
