r"""Measures the start of the programs: --help, and the time to the first step or result.

    python benchmarks/startup.py
    python benchmarks/startup.py --only=main --repeats=3

Each command runs as a process of its own, cold (an empty cache of compiled programs) and then warm
(the same cache). ``main`` trains U-ViT-S/2 at batch 8 on a folder of small pictures for one step;
its time ends when the step's metrics are written. The other programs read a tiny run of digits, so
their whole time is nearly all start. Of ``main`` the row also has the imports by package and what
JAX says about its tracing and compiling. Rows are appended to ``--out`` as JSON lines.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from PIL import Image
from tabulate import tabulate

ROOT = Path(__file__).parents[1]
PROGRAMS = ("main", "sample", "linear_probe", "fid", "find_bottleneck", "convert", "report")
STAGES = {
    "tracing": "trace",
    "jaxpr to MLIR module conversion": "lower",
    "XLA compilation of": "compile",
}
FINISHED = re.compile(rf"Finished ({'|'.join(map(re.escape, STAGES))}) (\S+).* in ([0-9.e-]+) sec")
NO_EVALS = [
    f"--config.evals.{name}.every=0"
    for name in ("heldout_loss", "samples", "probe", "knn", "features")
]
ONE_STEP = ["--config.train.steps=1", "--config.train.log_every=1", *NO_EVALS]


def program(name: str, *arguments: str) -> list[str]:
    """Returns the command of a program."""
    return [sys.executable, "-m", f"ddaepp_jax.{name}", *arguments]


def run(command: Sequence[str], cache: Path, result: Path | None = None) -> dict[str, Any]:
    """Runs a command.

    Args:
      command: the command.
      cache: directory of JAX's compiled programs.
      result: a file; the time until it has content is measured too.

    Returns:
      "seconds", "result_seconds", and "compiled": {stage: {function: seconds}} of stages of a tenth
      of a second and longer, as JAX logs them.

    Raises:
      RuntimeError: the command failed.
    """
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_LOG_COMPILES": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    start = time.perf_counter()
    output = []
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    reader = threading.Thread(target=lambda: output.extend(process.stdout))
    reader.start()
    reached = None
    while process.poll() is None:
        if result and reached is None and result.exists() and result.stat().st_size:
            reached = time.perf_counter() - start
        time.sleep(0.02)
    seconds = time.perf_counter() - start
    reader.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {''.join(output[-20:])}")
    return {"seconds": seconds, "result_seconds": reached, "compiled": compiled(output)}


def compiled(lines: Sequence[str]) -> dict[str, dict[str, float]]:
    """Reads the times of tracing, lowering and compiling out of JAX's log."""
    stages: dict[str, dict[str, float]] = {stage: defaultdict(float) for stage in STAGES.values()}
    for line in lines:
        if match := FINISHED.search(line):
            stages[STAGES[match[1]]][match[2]] += float(match[3])
    return {
        stage: {name: round(s, 2) for name, s in times.items() if s >= 0.1}
        | {"all": round(sum(times.values()), 2)}
        for stage, times in stages.items()
    }


def imports(module: str) -> dict[str, float]:
    """Returns the seconds of importing a module, by package, of those of 0.05 s and more."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    log = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stderr
    seconds: dict[str, float] = defaultdict(float)
    for line in log.splitlines():
        if match := re.match(r"import time:\s+(\d+) \|\s+\d+ \| \s*([\w.]+)", line):
            seconds[match[2].partition(".")[0]] += int(match[1]) / 1e6
    total = sum(seconds.values())
    slow = sorted(((s, name) for name, s in seconds.items() if s >= 0.05), reverse=True)
    return {"all": round(total, 2)} | {name: round(s, 2) for s, name in slow}


def pictures(directory: Path) -> None:
    """Writes 64 small random pictures of two classes."""
    rng = np.random.default_rng(0)
    for i in range(64):
        file = directory / "train" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
    (directory / "test").symlink_to("train")


def commands(directory: Path, number: str) -> dict[str, tuple[list[str], Path | None]]:
    """Returns {program: its command, and the file that has its first result}."""
    workdir = directory / f"uvit-{number}"
    digits = f"--workdir={directory / 'digits'}"
    out = f"--out={directory / number}"
    return {
        "main": (
            program(
                "main",
                f"--config={ROOT / 'configs' / 'uvit_cifar.py'}",
                f"--workdir={workdir}",
                f"--config.data.data_dir={directory / 'pictures'}",
                "--config.data.name=folder",
                "--config.train.batch_size=8",
                *ONE_STEP,
            ),
            workdir / "metrics.jsonl",
        ),
        "sample": (program("sample", digits, "--n=4", f"{out}-sample"), None),
        "linear_probe": (program("linear_probe", digits, f"{out}-probe"), None),
        "fid": (program("fid", digits, "--extractor=classifier", "--n=64", f"{out}-fid"), None),
    }


def measure(name: str, directory: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """Yields the rows of a program: help, cold and warm."""
    unused = directory / "unused"
    helps = [run(program(name, "--help"), unused)["seconds"] for _ in range(repeats)]
    row = {"program": name, "start": "help", "seconds": float(np.median(helps))}
    yield row | ({"imports": imports("ddaepp_jax.run.train")} if name == "main" else {})
    cache = directory / f"cache-{name}"
    for number in range(repeats + 1):
        command, result = commands(directory, f"{name}-{number}").get(name, (None, None))
        if command is None:
            return
        start = "warm" if number else "cold"
        yield {"program": name, "start": start, **run(command, cache, result)}


def prepare(directory: Path) -> None:
    """Makes the pictures and the tiny run, and trains the classifier that scores it."""
    pictures(directory / "pictures")
    cache = directory / "cache-prepared"
    run(
        program(
            "main",
            f"--config={ROOT / 'configs' / 'uvit_digits.py'}:tiny",
            f"--workdir={directory / 'digits'}",
            *NO_EVALS,
        ),
        cache,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=PROGRAMS, help="default: all of them")
    parser.add_argument("--repeats", type=int, default=3, help="warm starts of each program (3)")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "startup.jsonl"
    )
    args = parser.parse_args()
    names = args.only or PROGRAMS
    cells = []
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        prepare(directory)
        if "fid" in names:
            run(commands(directory, "first")["fid"][0], directory / "cache-prepared")
        for name in names:
            rows = []
            for row in measure(name, directory, args.repeats):
                rows.append(row)
                line = json.dumps({**row, "load": os.getloadavg()[0], **machine()})
                print(line, flush=True)
                with args.out.open("a") as file:
                    file.write(line + "\n")
            cells.append([name, *(times(rows, start) for start in ("help", "cold", "warm"))])
    headers = ["program", "--help, s", "cold, s", "warm, s"]
    print(tabulate(cells, headers, tablefmt="github"))


def times(rows: Sequence[dict[str, Any]], start: str) -> float | None:
    """Returns the median seconds to the result of rows of one kind of start; None without any."""
    seconds = [row.get("result_seconds") or row["seconds"] for row in rows if row["start"] == start]
    return round(float(np.median(seconds)), 1) if seconds else None


if __name__ == "__main__":
    main()
