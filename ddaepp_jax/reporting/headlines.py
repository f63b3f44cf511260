"""The numbers by which a run is judged."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ddaepp_jax.probing.diagnostics import PIXELS
from ddaepp_jax.reporting import probes
from ddaepp_jax.reporting.record import RATE, Record

PROBE = "linear probe, %"
RAW_PIXELS = "raw pixels, %"

Better = Callable[[Iterable[float]], float]  # min or max

# Metrics by title, and the groups of the config on which their values depend.
LOSSES = {
    "training loss": ("loss", ("objectives", "diffusion")),
    "held-out loss": ("heldout_loss/.+/mean", ("diffusion", "evals.heldout_loss")),
    "held-out loss, condition off": (
        "heldout_loss/.+/condition_off",
        ("diffusion", "evals.heldout_loss"),
    ),
}
ACCURACIES = {
    "linear probe in training, %": ("probe/.+", ("evals.probe",)),
    "kNN in training, %": ("knn/.+", ("evals.knn",)),
}
DATA = ("name", "split", "eval_split", "size")


class Headline(NamedTuple):
    """A number by which a run is judged.

    Attributes:
      value: the number, for comparing runs.
      text: the number as the page shows it.
      note: a remark beside it.
      better: ``min`` or ``max`` if the number ranks runs.
      measured: what the number was measured on and by, by name. Runs are ranked only where it is
        equal.
    """

    value: float
    text: str
    note: str = ""
    better: Better | None = None
    measured: Mapping[str, Any] = {}


def of_run(run: Record) -> dict[str, Headline]:
    """Returns the numbers by which a run is judged, by title, as far as its files hold them."""
    numbers = {"steps": _steps(run)}
    for title, (metrics, groups) in LOSSES.items():
        numbers |= _newest(run, title, metrics, groups, min)
    if not run.probes:
        for title, (metrics, groups) in ACCURACIES.items():
            numbers |= _newest(run, title, metrics, groups, max)
    for probe in list(run.probes.values())[:1]:
        numbers |= of_probe(probe)
    for scores in list(run.scores.values())[:1]:
        inception = scores["extractor"]["kind"] == "inception"
        numbers["FID" if inception else "Frechet distance"] = of_scores(scores)
    for _, rates in run.metrics(RATE).values():
        rate = statistics.median(rates)
        text = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        numbers["images/s/device"] = Headline(rate, text, "median", max, _data(run))
    for checkpoint in filter(None, run.checkpoints.values()):
        numbers["parameters"] = Headline(checkpoint.parameters, f"{checkpoint.parameters:,}")
    return numbers


def of_probe(probe: Mapping[str, Any]) -> dict[str, Headline]:
    """Returns the test accuracies of a probe's best features, and those of raw pixels."""
    best = probe["best"]
    (pixels,) = (row for row in probe["rows"] if row["layer"] == PIXELS)
    settings = probe["settings"]
    step = settings["step"]
    images = {name: settings.get(name) for name in ("train_images", "test_images")}
    measured = probe["data"] | images | {"protocol": probe["protocol"], "knn": settings["knn"]}
    note = f"{best['metric']}, step {step:,}; chosen on {probe['data']['chosen on']}"
    numbers = {
        PROBE: Headline(best["linear_test"], f"{best['linear_test']:.2f}", note, max, measured)
    }
    pixels_note = "linear"
    if "knn_test" in best:
        k = settings["knn"]
        row = probes.best_of_both(probe)
        note = f"{k}-NN, {row['layer']}, level {row['noise_level']:g}, chosen by both heads"
        accuracy = row["knn_test"]
        numbers["kNN, %"] = Headline(accuracy, f"{accuracy:.2f}", note, max, measured)
        pixels_note = f"linear; {k}-NN: {pixels['knn_test']:.2f}"
    accuracy = pixels["linear_test"]
    numbers[RAW_PIXELS] = Headline(accuracy, f"{accuracy:.2f}", pixels_note)
    return numbers


def of_scores(scores: Mapping[str, Any]) -> Headline:
    """Returns the Frechet distance of a run's samples; its note names the features."""
    name, value = next(iter(scores["metrics"].items()))
    spread = scores["std"].get("fd")
    seeds = len(scores["rows"])
    note = f"{name}, ± {spread:.2f} over {seeds} seeds" if spread else name
    measured = {name: scores[name] for name in ("n", "extractor", "reference")}
    return Headline(value, f"{value:.2f}", note, min, measured)


def _steps(run: Record) -> Headline:
    """Returns the number of steps done, beside the length of the whole training."""
    train = run.config["train"]
    done = max([0, *run.checkpoints, *(row["step"] for row in run.rows)])
    if train["images"]:
        length = f"{-(-train['images'] // train['batch_size']):,}"
    elif train["steps"]:
        length = f"{train['steps']:,}"
    else:
        length = f"{train['epochs']:g} epochs"
    return Headline(done, f"{done:,}", f"of {length}")


def _data(run: Record) -> dict[str, Any]:
    """Returns what tells a run's data from others', from the config and the newest checkpoint."""
    data = run.config["data"]
    names = [*DATA, "data_dir"] if data["name"] in ("folder", "tar", "latents") else DATA
    facts = {f"data.{name}": data.get(name) for name in names}
    for checkpoint in filter(None, run.checkpoints.values()):
        facts |= checkpoint.data
    return facts


def _group(config: Mapping[str, Any], dotted: str) -> dict[str, Any]:
    """Returns the fields of a group of a config by dotted name, without the interval ``every``."""
    group: Any = config
    for name in dotted.split("."):
        group = group.get(name) if isinstance(group, Mapping) else None
    fields = group if isinstance(group, Mapping) else {}
    return {f"{dotted}.{name}": value for name, value in fields.items() if name != "every"}


def _newest(
    run: Record, title: str, metrics: str, groups: Sequence[str], better: Better
) -> dict[str, Headline]:
    """Returns the newest value of the matching metric; {} if the run has not written it."""
    numbers = {}
    measured = _data(run)
    for group in groups:
        measured |= _group(run.config, group)
    for name, (steps, values) in run.metrics(metrics).items():
        note = f"{name}, step {steps[-1]:,}"
        form = ".4f"
        if name == "loss" and run.is_summed():
            note += ", the weighted sum of the objectives"
        if title in ACCURACIES:
            note += ", on images held out from the training split"
            form = ".2f"
        numbers[title] = Headline(values[-1], f"{values[-1]:{form}}", note, better, measured)
    return numbers
