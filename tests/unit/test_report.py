"""The page of a run shows what the run's files hold, needs no other file and no JAX."""

import base64
import dataclasses
import html
import json
import os
import re
import subprocess
import sys
import types
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.errors import expect_error
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from ddaepp_jax import config as schema
from ddaepp_jax import evaluators, report
from ddaepp_jax.reporting import bottleneck, checkpoints, comparison, headlines, plots, probes
from ddaepp_jax.reporting.page import read
from ddaepp_jax.reporting.panels import Panel
from ddaepp_jax.reporting.pictures import grid
from ddaepp_jax.reporting.sections import curves, samples

HOSTILE = """<script>alert("x")</script>&'$_^\\frac{"""
LAYERS, LEVELS = ["in_1", "mid", "out_1"], [1, 11]
VOID = {"meta", "img", "br"}


def write_run(path, *, steps=40, shift=0.0, samples=True, probe=True, metrics=True, **overrides):
    """Writes a run directory of the tiny config, and returns its path.

    Args:
      path: the run directory.
      steps: number of training steps.
      shift: is added to losses and accuracies.
      samples, probe, metrics: whether to write them.
      overrides: fields of the config by dotted name.
    """
    path.mkdir(parents=True)
    config = schema.get_config("tiny")
    config.update_from_flattened_dict({"train.steps": steps} | overrides)
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    (path / "defaults.json").write_text(json.dumps(schema.get_config().to_dict()))
    (path / "version.txt").write_text("ddaepp_jax 0.1.0, jax 0.10.0\n")
    if metrics:
        (path / "metrics.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows(steps, shift))
        )
    if samples:
        for name, shade in (("00000020", 20), ("00000040", 40), ("step40_seed0", 60)):
            write_picture(path / "samples" / f"{name}.png", shade)
    if probe:
        write_probe(path / "probe" / "step40-ema0.999-cached-100ep.json", shift)
    return path


def rows(steps, shift):
    for step in range(10, steps + 1, 10):
        loss = 1 / step + shift
        yield {
            "step": step,
            "loss": loss,
            "grad_norm": 0.5,
            "images_per_second_per_device": 1000.0 + step,
        }
        if step % 20 == 0:
            by_level = {
                f"heldout_loss/ema0.999/t{level:04d}": loss / level for level in (1, 500, 1000)
            }
            yield {"step": step, **by_level, "heldout_loss/ema0.999/mean": 2 * loss}
            yield {"step": step, "probe/ema0.999/bottleneck/t11": 50.125 + step}
            yield {"step": step, "knn/ema0.999/bottleneck/t11": 40.125 + step}
            diagnoses = {
                "alignment": 0.1,
                "uniformity": -1.5,
                "effective_rank": 9.5 + step,
                "spread": 0.25,
            }
            yield {
                "step": step,
                **{f"features/ema0.999/bottleneck/t11/{name}": v for name, v in diagnoses.items()},
            }


def write_picture(file, shade):
    file.parent.mkdir(exist_ok=True)
    Image.new("L", (8, 8), shade).save(file)


def write_probe(file, shift=0.0, **changed):
    file.parent.mkdir(exist_ok=True)

    def row(layer, level, accuracy):
        found = {
            "linear_held_out": accuracy + 1,
            "linear_test": accuracy,
            "knn_held_out": 31.0,
            "knn_test": 30.25,
        }
        return {"layer": layer, "noise_level": level, "learning_rate": 0.004, **found}

    table = [row("pixels", None, 45.5)]
    for j, level in enumerate(LEVELS):
        table += [row(layer, level, 60 + i + 10 * j + shift) for i, layer in enumerate(LAYERS)]
    found = {
        "run": "by hand",
        "protocol": "cached-100ep",
        "data": {
            "name": "digits",
            "heads trained on": "90 images",
            "chosen on": "10 images of train",
        },
        "settings": {"step": 40, "layers": LAYERS, "knn": 20},
        "levels": LEVELS,
        "best": {
            "metric": "linear_probe/out_1/t11/cached-100ep",
            "chosen_by": "linear_held_out",
            **table[-1],
        },
        "seconds": {"None": 1.5, "1": 2.5, "11": 2.0},
        "rows": table,
    }
    file.write_text(json.dumps(found | changed))
    (file.parent / "best.json").write_text(json.dumps(found["best"]))


class Page(HTMLParser):
    """The text, images and bold words of a page.

    Checks that tags are balanced and that all addresses are within the page.
    """

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.images, self.ids, self.links, self.bold = [], "", {}, [], [], []
        self.feed(text)
        self.close()
        assert not self.open
        assert sorted(self.ids) == sorted(set(self.ids)) and set(self.links) <= {
            f"#{each}" for each in self.ids
        }

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in ("script", "link", "iframe", "object", "svg"), tag
        assert not any(
            name.startswith("on") or "url(" in (value or "") for name, value in attrs.items()
        )
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        if tag == "img":
            kind, content = re.fullmatch(
                r"data:image/(png|svg\+xml);base64,(.+)", attrs["src"]
            ).groups()
            self.images[attrs["alt"]] = kind, base64.b64decode(content)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += f" {data}"
        else:
            assert "@import" not in data and "url(" not in data
        self.bold += [data] if self.open[-1:] == ["b"] else []

    def __contains__(self, text):
        return text in " ".join(self.text.split())


def test_a_run(tmp_path):
    run = write_run(tmp_path / "run", steps=60, **{"model.width": 96})
    page = Page(report.report([run]))
    for text in (
        "run digits; uvit, depth 2, width 96, num_heads 2, patch_size 2, self_condition; "
        "ddaepp_jax 0.1.0, jax 0.10.0",
        "steps 60 of 60",
        "training loss 0.0167 loss, step 60",
        "held-out loss 0.0333 heldout_loss/ema0.999/mean, step 60",
        "linear probe, % 72.00 linear_probe/out_1/t11/cached-100ep, step 40; "
        "chosen on 10 images of train",
        "kNN, % 30.25 20-NN, out_1, level 11, chosen by both heads",
        "raw pixels, % 45.50 linear; 20-NN: 30.25",
        "images/s/device 1,035 median",
        "level 11 linear, held out linear, test 20-NN, test pixels 46.5 45.5 30.2 "
        "in_1 71.0 70.0 30.2",
        "model.width 96 64",
        "step40-ema0.999-cached-100ep 6.0 s: pixels 1.5 s, level 1 2.5 s, level 11 2.0 s",
    ):
        assert text in page, text
    assert "out_1" in page.bold and "width" in page.bold and "learning_rate" not in page.bold
    assert "in training" not in page  # A probe of the finished run replaces it.


def write_scores(run, n, kind="classifier", seeds=(0, 1)):
    """Writes the scores of ``n`` samples as ``fid`` does."""
    file, fds = run / "fid" / f"step40-{n}.json", [12.25 + seed for seed in seeds]
    file.parent.mkdir(exist_ok=True)
    found = {
        "step": 40,
        "n": n,
        "extractor": {"kind": kind, "hash": "abcdef0123", "made": {"accuracy": 81.25}},
        "reference": {"name": "train", "images": {"images": 50000}},
        "rows": [
            {"seed": seed, "fd": fd, "score": 5.5, "score_std": 0.1}
            for seed, fd in zip(seeds, fds, strict=True)
        ],
        "mean": {"fd": sum(fds) / len(fds), "score": 5.5, "score_std": 0.1},
        "std": {"fd": 0.5, "score": 0.0, "score_std": 0.0} if len(seeds) > 1 else {},
        "metrics": {
            f"{kind}-fd{n}/ema0.999/ddim50/train": sum(fds) / len(fds),
            f"{kind}-score{n}/ema0.999/ddim50": 5.5,
        },
    }
    file.write_text(json.dumps(found))


def test_scores(tmp_path):
    run = write_run(tmp_path / "run")
    for n, seeds in ((100, (0,)), (2000, (0, 1))):
        write_scores(run, n, seeds=seeds)
    page = Page(report.report([run]))
    for text in (
        # The headline is the score of the most images.
        "Frechet distance 12.75 classifier-fd2000/ema0.999/ddim50/train, ± 0.50 over 2 seeds",
        "step40-2000 2,000 samples at step 40; classifier abcdef01, of 81.2 % accuracy; "
        "against 50,000 images of train",
        "score mean standard deviation seed 0 seed 1 "
        "classifier-fd2000/ema0.999/ddim50/train 12.7500 0.5000 12.2500",
        "step40-100 100 samples",
        "score seed 0 classifier-fd100/ema0.999/ddim50/train 12.2500",
    ):
        assert text in page, text
    other = write_run(tmp_path / "other")
    write_scores(other, 2000, kind="inception")
    assert "FID" in Page(report.report([other])) and "FID" in Page(report.report([run, other]))
    assert "No scores yet" in Page(report.report([write_run(tmp_path / "none")]))


def test_every_grid_and_every_curve_is_in_the_page(tmp_path):
    page = Page(report.report([write_run(tmp_path / "run")]))
    pictures = {alt: content for alt, (kind, content) in page.images.items() if kind == "png"}
    files = {
        "step 40": "00000040",
        "step 20": "00000020",
        "step40_seed0, by sample": "step40_seed0",
    }
    assert pictures == {
        f"samples, {alt}": (tmp_path / "run" / "samples" / f"{name}.png").read_bytes()
        for alt, name in files.items()
    }
    drawn = {
        alt: content.decode() for alt, (kind, content) in page.images.items() if kind == "svg+xml"
    }
    assert list(drawn) == [
        "Training loss",
        "Effective rank of features",
        "Uniformity of features",
        "Spread of features",
        "Alignment of two views",
        "Held-out loss, mean over noise levels",
        "Held-out loss by noise level",
        "Linear probe and kNN while training",
        "Throughput",
        "Gradient norm",
        "By layer and noise level",
        "By layer",
    ]
    assert "knn/ema0.999/bottleneck/t11" in drawn["Linear probe and kNN while training"]
    assert (
        "step 20" in drawn["Held-out loss by noise level"]
        and ">72.0<" in drawn["By layer and noise level"]
    )


def test_gaps_between_samples_stand_out_from_black_and_white():
    images = np.zeros((2, 64, 64, 1), np.uint8)
    images[1] = 255
    picture = np.asarray(grid(images))
    assert picture.shape == (68, 134)
    assert set(np.unique(picture[:2])) == set(np.unique(picture[:, 66:68])) == {128}
    assert set(np.unique(picture)) == {0, 128, 255}


def test_what_is_chosen_has_one_colour_and_the_frame_says_how(tmp_path):
    (record,) = read([write_run(tmp_path / "run", samples=False, metrics=False)])
    (probe,) = record.probes.values()
    for levels in ([1, 11], [11], [5, 11, 21]):
        rows = [row | {"noise_level": level} for level in levels for row in probe["rows"][-3:]]
        own = probe | {"levels": levels, "rows": probe["rows"][:1] + rows}
        lines = {name: (line.colour, line.dashes) for name, line in probes.curves(own).items()}
        assert lines.pop("linear, level 11, chosen") == (plots.CHOSEN, "-")
        assert lines.pop("kNN-20, at the chosen level") == (plots.CHOSEN, "--")
        assert list(lines) == [f"linear, level {level}" for level in levels if level != 11]
        brightness = [sum(to_rgb(colour)) for colour, _ in lines.values()]
        assert brightness == sorted(brightness, reverse=True)  # More noise is darker.
    figure = probes.figures(probe)["grid"]
    assert figure.axes[0].get_title().endswith("\nframed: chosen by accuracy on held-out images")
    (frame,) = figure.axes[0].patches
    assert to_hex(frame.get_edgecolor()) == plots.CHOSEN
    same = probe | {"best": probe["best"] | {"chosen_by": "linear_test"}}
    title = probes.figures(same)["grid"].axes[0].get_title()
    assert title.endswith("\nframed: chosen, the highest")


def test_the_loss_of_a_distilled_run_is_called_a_sum(tmp_path):
    plain = {"step": 1, "loss": 0.5, "denoising/loss": 0.5}
    distilled = {"step": 1, "loss": 2.5, "denoising/loss": 0.5, "distillation/loss": 2.0}
    records = []
    for name, row in (("plain", plain), ("distilled", distilled)):
        run = write_run(tmp_path / name, samples=False, probe=False, metrics=False)
        (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        records += read([run])
    titles = lambda runs, kind: [
        panel.title
        for panel in curves._first(runs)
        if getattr(panel, kind) and runs[-1].metrics(panel.metrics)
    ]
    summed = "Training loss, the weighted sum of the objectives"
    assert titles(records[:1], "alone") == ["Training loss"]
    assert titles(records[1:], "alone") == [summed, "Training loss by objective"]
    assert titles(records, "together") == [summed, "Training loss of denoising"]
    notes = [headlines.of_run(record)["training loss"].note for record in records]
    assert notes == ["loss, step 1", "loss, step 1, the weighted sum of the objectives"]


def test_a_search_with_and_without_a_winner():
    row = lambda mean, gap: {
        "loss": {"0": mean, "1": mean},
        "mean": mean,
        "gap": gap,
        "spread": 0.01,
        "margin": 0.05,
    }
    decision = {"best": "in_1", "tied": ["mid"], "candidates": {"in_1": row(0.5, 0.0)}}
    decision["candidates"] |= {"mid": row(0.51, 0.01), "out_1": row(0.6, 0.1)}
    losses = {seed: {"stops": [1, 2], "loss": [1.0, 0.5]} for seed in (0, 1)}
    curves_of = dict.fromkeys(decision["candidates"], losses)
    for winner, text in (
        ("in_1", "winner"),
        ("tie", "lowest, no winner"),
        (None, "lowest, no winner"),
    ):
        axes = bottleneck.figure(curves_of, decision | {"winner": winner}).axes[2]
        assert [note.get_text() for note in axes.texts] == [text]
        ends = [bar.get_segments()[0][:, 1] for bar in axes.collections]
        np.testing.assert_allclose(ends, [[0.46, 0.56], [0.55, 0.65]])  # The best has no bar.
    table = bottleneck.table(decision | {"winner": "tie"})
    assert re.search(r"mid +0.51000 +0.00000 +0.01000 +0.01000 +0.05000 +ties with it", table)
    del decision["candidates"]["mid"]["margin"]  # of an older version
    assert re.search(r"0.01000 +0.01000 +0.01000 +ties", bottleneck.table(decision))


@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e5])
def test_axes_have_no_offset(scale):
    values = [scale * (0.14 + 1e-6 * i) for i in range(5)]
    figure = plots.panel({"loss": (range(5), values)}, "step", "loss")
    plots.svg(figure)
    assert figure.axes[0].yaxis.get_offset_text().get_text() == ""


def test_of_many_grids_the_newest_and_some(tmp_path):
    run = write_run(tmp_path / "run", metrics=False, probe=False)
    for step in range(100):
        write_picture(run / "samples" / f"{step:08d}.png", step)
    page = Page(report.report([run]))
    shown = [int(alt.split()[-1]) for alt in page.images if alt.startswith("samples, step ")]
    assert (
        shown[0] == 99
        and 20 < len(shown) <= 1 + samples.STRIP
        and "One in 3 of the earlier grids." in page
    )


def test_what_is_missing_is_named_with_its_command(tmp_path):
    run = write_run(tmp_path / "a run", metrics=False, samples=False, probe=False)
    page = Page(report.report([run]))
    assert "steps 0 of 40" in page and not page.images
    for program in ("main --config=FILE", "sample", "linear_probe"):
        assert f"python -m ddaepp_jax.{program} --workdir='{run}'" in page


def test_a_run_without_a_probe_shows_the_one_in_training(tmp_path):
    page = Page(report.report([write_run(tmp_path / "run", samples=False, probe=False)]))
    headline = "linear probe in training, % 90.12 probe/ema0.999/bottleneck/t11, step 40"
    assert f"{headline}, on images held out" in page


def test_a_run_that_is_just_writing(tmp_path):
    run = write_run(tmp_path / "run", steps=100, probe=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "lo')
    content = (run / "samples" / "00000040.png").read_bytes()
    (run / "samples" / "00000060.png").write_bytes(content[:-5])
    (run / "checkpoints" / "120").mkdir(
        parents=True
    )  # Orbax has renamed the directory; its metadata are missing.
    write_probe(run / "probe" / "begun.json", best=None, levels=[])
    page = Page(report.report([run]))
    assert (
        "steps 120 of 100" in page
        and "samples, step 60" not in page.images
        and "No probe yet" in page
    )


def test_a_probe_under_way_and_the_best_of_several(tmp_path):
    run = write_run(tmp_path / "run", metrics=False, samples=False)
    write_probe(run / "probe" / "better.json", 0.75)
    (run / "probe" / "better-partial").mkdir()
    page = Page(report.report([run]))
    assert "linear probe, % 72.75" in page and "Probes better (under way) Best:" in page


def test_parameters_and_devices_as_orbax_tells_them(tmp_path):
    run = write_run(tmp_path / "run", probe=False)
    checkpoint = run / "checkpoints" / "40"
    (checkpoint / "params").mkdir(parents=True)
    leaves = {"kernel": ([8, 3, 5], ["fsdp", None, ["tensor"]], 2 * 3), "bias": ([7], [], 1)}
    key = lambda name: base64.b64encode(f"network.{name}".encode()).decode()
    sharding = {"axis_names": ["data", "fsdp", "tensor"], "shape": [1, 2, 3]}
    shapes = {
        f"('network', '{name}')": {"value_metadata": {"write_shape": s}}
        for name, (s, *_) in leaves.items()
    }
    shapes["('objectives', 'denoising')"] = {"value_metadata": {"value_type": "Dict"}}
    placed = {
        key(name): json.dumps(sharding | {"partition_spec": spec})
        for name, (_, spec, _) in leaves.items()
    }
    (checkpoint / "params" / "_METADATA").write_text(json.dumps({"tree_metadata": shapes}))
    (checkpoint / "params" / "_sharding").write_text(json.dumps(placed))
    (checkpoint / "_CHECKPOINT_METADATA").write_text(
        json.dumps({"commit_timestamp_nsecs": 1_700_000_000_000_000_000})
    )
    page = Page(report.report([run]))
    assert f"parameters {8 * 3 * 5 * 6 + 7}" in page and "devices data 1, fsdp 2, tensor 3" in page
    assert "checkpoint 40 written 2023-11-14 22:13:20 UTC" in page and "without evaluation" in page


@pytest.mark.parametrize(
    ("file", "entry", "value"),
    [
        ("_CHECKPOINT_METADATA", "commit_timestamp_nsecs", 1e300),
        ("_CHECKPOINT_METADATA", "commit_timestamp_nsecs", float("nan")),
        ("_CHECKPOINT_METADATA", "commit_timestamp_nsecs", "now"),
        ("params/_METADATA", "tree_metadata", []),
        ("meta/metadata", None, [1]),
    ],
)
def test_damaged_metadata_of_a_checkpoint(file, entry, value, tmp_path):
    leaf = {"value_metadata": {"write_shape": [2, 3]}}
    sharding = {"axis_names": ["data"], "shape": [1], "partition_spec": []}
    key = base64.b64encode(b"network.kernel").decode()
    contents = {
        "_CHECKPOINT_METADATA": {"commit_timestamp_nsecs": 10**18},
        "params/_METADATA": {"tree_metadata": {"('network', 'kernel')": leaf}},
        "params/_sharding": {key: json.dumps(sharding)},
        "meta/metadata": {"step": 40, "image_shape": [8, 8, 1]},
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    good = checkpoints.Checkpoint(6, {"data": 1}, 1e9, {"image_shape": [8, 8, 1]})
    assert checkpoints.read(tmp_path) == good
    damaged = contents[file] | {entry: value} if entry else value
    (tmp_path / file).write_text(json.dumps(damaged))
    assert checkpoints.read(tmp_path) is None
    for shape in ([0], ["1"], [1.5]):
        (tmp_path / file).write_text(json.dumps(contents[file]))
        (tmp_path / "params" / "_sharding").write_text(
            json.dumps({key: json.dumps(sharding | {"shape": shape})})
        )
        assert checkpoints.read(tmp_path) is None


def test_what_comes_from_files_is_text(tmp_path):
    name = "<img src=x onerror=alert(1)>'&$\\"
    run = write_run(tmp_path / name, **{"init_from": HOSTILE, "data.data_dir": HOSTILE})
    (run / "version.txt").write_text(HOSTILE)
    write_picture(run / "samples" / "<b>.png", 3)
    write_probe(run / "probe" / "<i>.json", protocol="<b>")
    (run / "metrics.jsonl").write_text('{"step": 1, "knn/<script>": 3.5, "probe/&": 2}\n')
    text = report.report([run])
    page = Page(text)
    assert (
        name in page
        and HOSTILE in html.unescape(text)
        and "<script" not in text
        and "<i>.json" not in text
    )
    together = report.report([run, write_run(tmp_path / "_other")])
    assert name in Page(together) and "<script" not in together


def test_several_runs_side_by_side(tmp_path):
    plain = write_run(tmp_path / "plain", shift=0.25, **{"model.self_condition": False, "seed": 1})
    other = write_run(tmp_path / "other", probe=False)
    third = write_run(tmp_path / "deep" / "other", shift=0.5, **{"train.batch_size": 32})
    page = Page(report.report([plain, other, third]))
    parent = tmp_path.name
    for text in (
        "model.self_condition False True True",
        "seed 1 0 0",
        "train.batch_size 16 16 32",
        "linear_probe/out_1/t11/cached-100ep, step 40; chosen on 10 images of train",
    ):
        assert text in page, text
    assert "model.depth" not in page and "version.txt" not in page  # They are the same.
    names = [f"{parent}/plain", f"{parent}/other", "deep/other"]
    assert all(name in page for name in names)
    assert [alt for alt, (kind, _) in page.images.items() if kind == "png"] == [
        f"samples, {name}, step 40" for name in names
    ]
    assert set(page.bold) == {
        "0.0250",
        "0.0500",
        "72.50",
    }  # The best of each column that distinguishes the runs.
    for title in ("Training loss", "Held-out loss by noise level, newest", "kNN while training"):
        kind, figure = page.images[title]
        assert kind == "svg+xml" and all(colour.encode() in figure for colour in plots.COLOURS[:3])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data.name": "cifar10"}, "data.name"),
        ({"data.split": "train[:10%]"}, "data.split"),
        ({"data.eval_split": "validation"}, "data.eval_split"),
        ({"data.size": (4, 4)}, "data.size"),
    ],
)
def test_no_run_is_the_best_across_data(changes, reason, tmp_path):
    plain = write_run(tmp_path / "plain", samples=False, probe=False, shift=0.25)
    other = write_run(tmp_path / "other", samples=False, probe=False, **changes)
    page = Page(comparison._headline_table(read([plain, other]), ["plain", "other"]))
    assert not page.bold
    assert (
        f"No run is marked as the best where these differ: {reason}. That concerns training loss; "
        "held-out loss; linear probe in training, %; kNN in training, %; images/s/device."
    ) in page


def ranked(numbers):
    """Returns whether the best of two values is bold, and what differs."""
    cells = comparison._cells(numbers)
    return any(cell.startswith("<b>") for cell in cells), comparison._differences(numbers)


def test_what_numbers_of_several_runs_must_share(tmp_path):
    def of(name, **fields):
        probe_fields = {key: fields.pop(key) for key in ("protocol", "data") if key in fields}
        run = write_run(tmp_path / name, samples=False, **fields)
        if probe_fields:
            (file,) = (run / "probe").glob("step*.json")
            write_probe(file, 1.0, **probe_fields)
        (record,) = read([run])
        return record, headlines.of_run(record)

    record, plain = of("plain")
    _, settings = of("settings", shift=1.0, **{"evals.heldout_loss.images": 9})
    pair = lambda title, other: [plain[title], other[title]]
    assert ranked(pair("training loss", settings)) == (True, [])
    assert ranked(pair("held-out loss", settings)) == (False, ["evals.heldout_loss.images"])
    _, interval = of("interval", shift=1.0, **{"evals.heldout_loss.every": 9})
    assert ranked(pair("held-out loss", interval)) == (True, [])
    _, weights = of("weights", shift=1.0, **{"objectives.distillation.weight": 0.5})
    assert ranked(pair("training loss", weights)) == (False, ["objectives.distillation"])
    _, online = of("online", protocol="online")
    assert ranked(pair("linear probe, %", online)) == (False, ["protocol"])
    _, data = of("data", data={"name": "digits", "chosen on": "30 images of train"})
    assert ranked(pair("linear probe, %", data)) == (False, ["chosen on"])
    fact = checkpoints.Checkpoint(1, {"data": 1}, 0.0, {"class_names": ["a"]})
    mine, other = (
        headlines.of_run(
            dataclasses.replace(record, checkpoints={40: fact._replace(data={"class_names": name})})
        )
        for name in (["a"], ["b"])
    )
    numbers = [mine["training loss"], other["training loss"]._replace(value=9.0)]
    assert ranked(numbers) == (False, ["class_names"])
    nan = plain["training loss"]._replace(value=float("nan"))
    assert ranked([nan, plain["training loss"]]) == (False, [])


def test_runs_of_one_config(tmp_path):
    same = [write_run(tmp_path / name, metrics=False, samples=False, probe=False) for name in "ab"]
    page = Page(report.report(same))
    assert "The configs are the same." in page and all(f"--workdir={run}" in page for run in same)


def test_the_same_files_are_the_same_page(tmp_path):
    run = write_run(tmp_path / "run", metrics=False)
    assert report.report([run]) == report.report([run])


def test_the_program(tmp_path, monkeypatch, capsys):
    run, _ = (write_run(tmp_path / name, metrics=False, probe=False) for name in ("run", "other"))
    monkeypatch.chdir(tmp_path)
    report.main([f"--workdir={run}"])
    report.main(["--compare", "run", "other"])
    report.main(["--compare", "run", "other", "--out=deep/both.html"])
    (tmp_path / "deep" / "both.html").write_text("")  # An empty file is replaced, and so is a page.
    report.main(["--compare", "run", "other", "--out=deep/both.html"])
    for file in (
        run / "report.html",
        tmp_path / "comparison.html",
        tmp_path / "deep" / "both.html",
    ):
        Page(file.read_text())
    assert capsys.readouterr().out.splitlines() == [
        f"look at {run / 'report.html'}",
        "look at comparison.html",
        "look at deep/both.html",
        "look at deep/both.html",
    ]
    assert sorted(each.name for each in run.glob("*.html*")) == ["report.html"]


WITHOUT_JAX = """
import runpy, sys

class NoJax:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] not in ("jax", "jaxlib", "flax", "optax", "orbax"), name

sys.meta_path.insert(0, NoJax())
runpy.run_module("ddaepp_jax.report", run_name="__main__")
"""


def test_neither_jax_nor_its_libraries_are_imported(tmp_path):
    run = write_run(tmp_path / "run")
    write_scores(run, 100)
    for arguments in (
        [f"--workdir={run}"],
        ["--compare", str(run), str(write_run(tmp_path / "b"))],
    ):
        result = subprocess.run(
            [sys.executable, "-c", WITHOUT_JAX, *arguments, f"--out={tmp_path / 'page.html'}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0 and not result.stderr, result.stderr
        assert "Training loss" in Page((tmp_path / "page.html").read_text()).images


def test_the_config_beside_its_versions_defaults(tmp_path):
    run = write_run(tmp_path / "run", **{"model.width": 96})
    defaults = json.loads((run / "defaults.json").read_text())
    defaults["model"]["width"] = 32  # Another version's.
    del defaults["data"]["name"]
    (run / "defaults.json").write_text(json.dumps(defaults))
    page = Page(report.report([run]))
    assert "model.width 96 32" in page and "data.name 'digits' no such field" in page
    assert "width" in page.bold and "learning_rate" not in page.bold

    (run / "defaults.json").unlink()
    page = Page(report.report([run]))
    assert "This run directory does not record the defaults of its version" in page
    assert "learning_rate" in page and "fields differ" not in page
    assert "width" not in page.bold


def test_an_evaluator_from_outside_the_package_has_its_panels(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", steps=80)
    other = write_run(tmp_path / "other", steps=80)
    for path in (run, other):
        with (path / "metrics.jsonl").open("a") as file:
            for step in (20, 40, 60, 80):
                by_level = {"toy/ema0.999/sigma2e-05": 1.5, "toy/ema0.999/sigma0.5": step}
                file.write(json.dumps({"step": step, "toy/ema0.999/mean": 2.5, **by_level}) + "\n")
    toy = types.ModuleType("elsewhere.toy")
    toy.PANELS = (
        Panel("Toy", "toy/.+/mean", "toys"),
        Panel("Toy by noise level", "toy/.+/sigma.+", "toys", by_level=True),
        Panel("Toy of one", "toy/.+/mean", "toys", together=False),
        Panel("Toy of several", "toy/.+/mean", "toys", alone=False),
        Panel("Toy that was not written", "toy/.+/median", "toys"),
    )
    monkeypatch.setattr(evaluators, "_MODULES", dict(evaluators._MODULES))
    evaluators.register(toy)
    alone = Page(report.report([run])).images
    together = Page(report.report([run, other])).images
    titles = ["Toy", "Toy by noise level"]
    assert [alt for alt in alone if "Toy" in alt] == [*titles, "Toy of one"]
    assert [alt for alt in together if "Toy" in alt] == [*titles, "Toy of several"]
    _, levels = alone["Toy by noise level"]
    assert all(f"step {step}".encode() in levels for step in (20, 60, 80))
    assert b"step 40" not in levels and b"noise level" in levels


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ([], "one of the arguments --workdir --compare", ["required"]),
        (["--workdir=run", "--compare", "run", "other"], "argument --compare", ["--workdir"]),
        (["--compare", "run"], "--compare", ["two", "--workdir"]),
        (["--compare"], "--compare", ["two", "--workdir"]),
        (["--compare", "run", "other/../run"], "--compare", ["run", "twice"]),
        (["--workdir=nowhere"], "nowhere", ["config.json", "--workdir"]),
        (["--compare", "run", "nowhere"], "nowhere", ["config.json"]),
        (["--workdir=run", "--out=/dev/null/x"], "--out", ["/dev/null/x", "another"]),
        (["--workdir=run", "--out=run"], "--out", ["run", "another"]),
    ],
)
def test_bad_arguments(arguments, field, words, tmp_path, monkeypatch):
    for name in ("run", "other"):
        write_run(tmp_path / name, metrics=False, samples=False, probe=False)
    monkeypatch.chdir(tmp_path)
    with expect_error(field, *words):
        report.main(arguments)


CONFIG = '{"data": {"name": "d"}, "model": {"name": "m"}, "train": {%s}}'
WHOLE_CONFIG = CONFIG % '"batch_size": 1, "steps": 9, "epochs": null, "images": null'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["JSON"]),
        ("{", ["JSON"]),
        ("[]", ["object"]),
        pytest.param("[" * 100_000, ["JSON"], id="deep"),
        pytest.param("\0" * 100, ["JSON"], id="NUL bytes"),
        ('{"seed": 0}', ["data: Field required"]),
        ('{"data": {"name": 3}}', ["data.name", "string"]),
        ('{"data": ["name"], "model": {}}', ["data", "object"]),
        (CONFIG % '"batch_size": "64"', ["train.batch_size", "integer"]),
        (CONFIG % '"batch_size": 0', ["train.batch_size", "greater"]),
        (
            CONFIG % '"batch_size": 1, "steps": null, "epochs": Infinity, "images": null',
            ["train.epochs", "finite"],
        ),
        (
            CONFIG % '"batch_size": 1, "steps": null, "epochs": null, "images": null',
            ["train.steps", "not set"],
        ),
    ],
)
def test_a_damaged_config(text, words, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with expect_error(f"{tmp_path / 'config.json'}: not the config", *words, "run directory"):
        read([tmp_path])


def test_what_is_no_run_directory(tmp_path):
    with expect_error(f"{tmp_path}: not a run directory (no config.json)", "--workdir"):
        read([tmp_path])
    with expect_error(f"{tmp_path / 'none'}: not a run directory"):
        read([tmp_path / "none"])
    run = write_run(tmp_path / "runs" / "a", metrics=False, samples=False, probe=False)
    with expect_error(f"{run.parent}: not a run directory", f"one of the runs in it, e.g. {run}"):
        read([run.parent])
    with expect_error(f"{run / 'config.json'}: not a run directory"):
        read([run / "config.json"])
    (run / "config.json").unlink()
    (run / "config.json").mkdir()
    with expect_error(f"{run / 'config.json'}: is not a file", "--workdir"):
        read([run])


def test_pipes_and_links_that_never_end(tmp_path):
    """A pipe in the place of a file is left out, and a link to itself is no run directory."""
    run = write_run(tmp_path / "a", samples=False, probe=False)
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    (record,) = read([run])
    assert record.left_out == (f"{run / 'metrics.jsonl'}: is not a file; remove it",)
    (run / "config.json").unlink()
    os.mkfifo(run / "config.json")
    with expect_error(f"{run / 'config.json'}: is not a file", "--workdir"):
        read([run])
    (tmp_path / "loop").symlink_to("loop")
    with expect_error("workdirs", "loop", "another path"):
        report.report([tmp_path / "loop"])
    for wrong in ([], "a", tmp_path):
        with expect_error("workdirs", "list"):
            report.report(wrong)


def panels(**changed):
    panel = {"title": "Toy", "metrics": "toy/.+", "ylabel": "toys"}
    return json.dumps([panel | changed])


def scores(**changed):
    made = {
        "step": 40,
        "n": 10,
        "extractor": {"kind": "classifier", "hash": "abcd", "made": {}},
        "reference": {"name": "train"},
        "rows": [{"seed": 0, "fd": 1.5}],
        "mean": {"fd": 1.5},
        "std": {},
        "metrics": {"fd10": 1.5},
    }
    return json.dumps(made | changed)


def test_the_scores_that_are_damaged_below_can_be_read(tmp_path):
    run = write_run(tmp_path / "run", metrics=False, samples=False, probe=False)
    (run / "fid").mkdir()
    (run / "fid" / "a.json").write_text(scores())
    (run / "panels.json").write_text(panels())
    (record,) = read([run])
    assert list(record.scores) == ["a"] and record.panels[0].title == "Toy"
    assert not record.left_out


FILE = "remove the file"


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("defaults.json", "", ["defaults", FILE]),
        ("defaults.json", "{", ["defaults", FILE]),
        ("defaults.json", "[]", ["defaults", FILE]),
        ("panels.json", "{}", ["panels", FILE]),
        ("panels.json", "[3]", ["panels", FILE]),
        ("panels.json", '[{"title": "Toy"}]', ["0.metrics", FILE]),
        ("panels.json", panels(metrics="toy/("), ["'toy/('", "regular expression", FILE]),
        ("panels.json", panels(metrics="*"), ["'*'", "regular expression", FILE]),
        ("panels.json", panels(metrics="a{99999999999}"), ["regular expression", FILE]),
        ("panels.json", panels(metrics=3), ["0.metrics", FILE]),
        ("panels.json", panels(by_level="yes"), ["0.by_level", FILE]),
        ("metrics.jsonl", '{"step": 1, "loss": 2}\n{"step": 1, "lo\n', ["line 2", "the line"]),
        ("metrics.jsonl", '{"loss": 2}\n', ["line 1", "the line"]),
        ("metrics.jsonl", '{"step": 1, "loss": "a"}\n', ["line 1", "the line"]),
        ("metrics.jsonl", "[]\n3\nnull\n", ["3 lines", "first is line 1", "these lines"]),
        ("metrics.jsonl", "\0" * 200, ["line 1", "the line"]),
        ("probe/a.json", "{", ["probe's", FILE]),
        ("probe/a.json", "[]", ["probe's", FILE]),
        ("probe/a.json", '{"best": {"layer": "mid"}}', ["probe's", FILE]),
        ("fid/a.json", "{}", ["step", FILE]),
        ("fid/a.json", "[]", ["scores", FILE]),
        ("fid/a.json", scores(step="40"), ["step", FILE]),
        ("fid/a.json", scores(rows=[]), ["do not fit", FILE]),
        ("fid/a.json", scores(metrics={}), ["do not fit", FILE]),
        ("fid/a.json", scores(mean={"fd": None}), ["mean.fd", FILE]),
        ("fid/a.json", scores(metrics={"fd10": float("nan")}), ["metrics.fd10", "finite", FILE]),
        ("fid/a.json", scores(rows=[{"seed": "<b>", "fd": 1.5}]), ["rows.0.seed", FILE]),
        ("fid/a.json", scores(reference={}), ["do not fit", FILE]),
    ],
)
def test_a_damaged_file_is_left_out(file, text, words, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(WHOLE_CONFIG)
    (run / file).parent.mkdir(exist_ok=True)
    (run / file).write_text(text)
    (record,) = read([run])
    (line,) = record.left_out
    assert line.startswith(f"{run / file}: ") and "\n" not in line and len(line) < 300
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    "change",
    [
        {"levels": [1, 11, 21]},
        {"levels": []},
        {"rows": []},
        {"protocol": None},
        {"data": {}},
        {"data": []},
        {"settings": {"step": 40, "layers": ["other"], "knn": 20}},
        {"settings": {"step": 40, "layers": LAYERS}},
        {"seconds": {"None": "x"}},
        {"best": {"layer": "mid", "noise_level": 5, "linear_test": 1}},
        {"best": "out_1"},
    ],
)
def test_a_damaged_probe_is_left_out(change, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(WHOLE_CONFIG)
    write_probe(run / "probe" / "good.json")
    write_probe(run / "probe" / "a.json", **change)
    (record,) = read([run])
    (line,) = record.left_out
    assert line.startswith(f"{run / 'probe' / 'a.json'}: not a probe's results (")
    assert line.endswith("; remove the file")
    assert list(record.probes) == ["good"]


def test_directories_in_place_of_files_are_left_out(tmp_path):
    run = write_run(tmp_path / "run", metrics=False, samples=False, probe=False)
    files = (
        "samples/a.png",
        "defaults.json",
        "panels.json",
        "version.txt",
        "metrics.jsonl",
        "probe/a.json",
        "fid/a.json",
    )
    for file in files:
        if (run / file).exists():
            (run / file).unlink()
        (run / file).mkdir(parents=True)
    (run / "samples" / "²³.png").write_bytes(b"no picture, which ends in IEND....")
    (run / "checkpoints" / "²").mkdir(parents=True)
    (record,) = read([run])
    mend = "is not a file; remove it"
    assert record.left_out == tuple(f"{run / file}: {mend}" for file in files)
    assert not record.checkpoints and not record.grids and not record.drawn


def test_what_is_left_out_is_named_on_the_page_and_the_terminal(tmp_path, capsys):
    runs = [write_run(tmp_path / name, probe=False, samples=False, metrics=False) for name in "ab"]
    (runs[0] / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\nloss 3\n{"step": 50, "lo')
    line = f"{runs[0] / 'metrics.jsonl'}: line 2 is not a row of metrics; remove the line"
    page = Page(report.report(runs))
    assert f"Left out: {line}" in page and "Training loss" in page.images
    assert capsys.readouterr().err == f"left out: {line}\n"


HOSTILE_ROWS = [
    {"step": 1, "loss": float("nan"), "heldout_loss/a/mean": float("inf")},
    {"step": 2, "loss": 1e308, "heldout_loss/a/mean": float("-inf")},
    {"step": 3, "loss": -1e308, "grad_norm": float("nan"), "images_per_second_per_device": 0},
    {"step": 2**62, "loss": 1e-308, "knn/$x_{$": 3, "knn/\0\n": 2, "knn/\ud800": 5, "knn/": 1},
    {"step": 2**62, f"probe/{'x' * 5000}": 3, "toy/a": 1, "toy/1.2.3e4": 2, "toy/...": 3},
]


def test_hostile_numbers_and_names(tmp_path):
    run = write_run(tmp_path / "run", probe=False, samples=False)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in HOSTILE_ROWS))
    (run / "panels.json").write_text(panels(by_level=True))
    page = Page(report.report([run]))
    for _, figure in page.images.values():
        ElementTree.fromstring(figure)
    assert b"no finite value" in page.images["Gradient norm"][1]
    assert b"$x_{$" in page.images["Linear probe and kNN while training"][1]


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "samples/00000040.png"])
def test_a_page_replaces_only_a_page(name, tmp_path):
    run = write_run(tmp_path / "run", probe=False)
    before = (run / name).read_bytes()
    with expect_error(f"--out: {run / name} is not a page of this program", "another"):
        report.main([f"--workdir={run}", f"--out={run / name}"])
    assert (run / name).read_bytes() == before
