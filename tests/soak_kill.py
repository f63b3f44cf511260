"""Kills a training at random moments and resumes it, many times.

    PYTHONPATH=tests:benchmarks python tests/soak_kill.py --kills=50 --out=soak_kill.jsonl
    PYTHONPATH=tests:benchmarks python tests/soak_kill.py --kills=10 --processes=2

At the end, the run must equal one that was never killed, bit for bit: its parameters, its averages,
the optimizer and the losses in metrics.jsonl. Each kill is printed as a row of JSON, and so is a
summary.
"""

import argparse
import contextlib
import json
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from helpers.processes import start_together
from helpers.run import NO_EVALS, ROOT, command, environment, rows
from machine import machine

from ddaepp_jax import load
from ddaepp_jax.base.ending import RESTART
from ddaepp_jax.training.checkpoint import steps_of

EVERY = 10  # steps from one save to the next
STEPS = 20  # of the run for each kill
SECONDS = 1800  # after which a program hangs
HEARTBEAT = 30  # seconds; fewer would be too few on a busy machine
FIELDS = NO_EVALS | dict(
    train__checkpoint_every=EVERY,
    train__log_every=5,
    train__steps_per_dispatch=5,
    optimizer__schedule="constant",
    ema__decays=(0.99,),
    ema__sigma_rel=(0.05, 0.1),
    evals__heldout_loss__every=4 * EVERY,
)


@contextlib.contextmanager
def started(workdir: Path, steps: int, processes: int) -> Iterator[list[subprocess.Popen]]:
    """Starts a training of one or two processes; what is left of it at the end is killed."""
    line = command("main", FIELDS | dict(train__steps=steps), f"--workdir={workdir}")
    with (workdir.parent / f"{workdir.name}.log").open("w") as log:
        streams = {"stdout": log, "stderr": subprocess.STDOUT}
        if processes == 1:
            started = [subprocess.Popen(line, env=environment(), **streams)]
        else:
            line.append(f"--heartbeat_timeout={HEARTBEAT}")
            started = start_together(line, processes, 1, **streams)
        try:
            yield started
        finally:
            for process in started:
                process.kill()
                process.wait()


def printed(workdir: Path) -> str:
    """Returns what the last start of a run printed."""
    return (workdir.parent / f"{workdir.name}.log").read_text(errors="replace")


def train(workdir: Path, steps: int, processes: int) -> None:
    """Trains to the end."""
    with started(workdir, steps, processes) as running:
        codes = [process.wait(SECONDS) for process in running]
    assert codes == [0] * processes, printed(workdir)


def last_row(workdir: Path) -> int:
    """Returns the step of the last whole row of the metrics; 0 if there is none."""
    try:
        lines = (workdir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    whole = [line for line in lines[-2:] if line.endswith(b"\n")]
    return json.loads(whole[-1])["step"] if whole else 0


def kill(workdir: Path, steps: int, processes: int, rng: random.Random) -> dict[str, Any]:
    """Starts a run, and kills one of its processes at a random moment.

    Of one process, a quarter of the moments lies in its first ten seconds: in imports, in the
    restore or in the compilation. The others lie in training: after 1 to 2 * ``STEPS`` new steps,
    and up to a tenth of a second more, so that they meet saves and evaluations too.

    Returns:
      The row of this kill.
    """
    saved = max(steps_of(workdir / "checkpoints"), default=0)
    in_start = processes == 1 and rng.random() < 0.25
    target = saved + rng.randint(1, 2 * STEPS)
    victim = rng.randrange(processes)
    with started(workdir, steps, processes) as running:
        start = time.monotonic()
        if in_start:
            time.sleep(rng.uniform(0, 10))
        else:
            while last_row(workdir) < min(target, steps) or f"resumed at step {saved}" not in (
                printed(workdir) if saved else f"resumed at step {saved}"
            ):
                codes = [process.poll() for process in running]
                assert codes == [None] * processes, printed(workdir)
                assert time.monotonic() - start < SECONDS, printed(workdir)
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.1))
        running[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        codes = [process.wait(SECONDS) for process in running]
        others = [code for number, code in enumerate(codes) if number != victim]
        assert all(code == RESTART for code in others), (codes, printed(workdir))
    assert others == [] or "start all processes again" in printed(workdir), printed(workdir)
    now = max(steps_of(workdir / "checkpoints"), default=0)
    row = {
        "in_start": in_start,
        "victim": victim,
        "seconds": round(killed - start, 2),
        "step": last_row(workdir),
        "saved": now,
        "cut_off": any("tmp" in entry.name for entry in (workdir / "checkpoints").glob("*")),
        "others_end_after": round(time.monotonic() - killed, 2),
    }
    # One save may be under way while the next steps run.
    assert now >= saved and row["step"] - now <= 2 * EVERY, row
    return row


def losses(workdir: Path) -> list[tuple[int, float]]:
    """Returns the loss column of the metrics; every row of it must be there once."""
    column = [(row["step"], row["loss"]) for row in rows(workdir) if "loss" in row]
    steps = [step for step, _ in column]
    assert steps == sorted(set(steps)), "a row is there twice"
    return column


def soak(directory: Path, kills: int, processes: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Trains an undisturbed run and a killed one, and compares them.

    Args:
      directory: where both run directories are made.
      kills: number of kills.
      processes: number of processes of a run, 1 or 2.
      seed: determines the moments of the kills.

    Yields:
      A row for each kill, and a summary.

    Raises:
      AssertionError: the runs differ, or a save was lost.
    """
    rng = random.Random(seed)
    steps = STEPS * kills
    whole, killed = directory / "whole", directory / "killed"
    start = time.monotonic()
    train(whole, steps, processes)
    events = []
    for number in range(kills):
        event = {"kill": number + 1, **kill(killed, steps, processes, rng)}
        events.append(event)
        yield event
    train(killed, steps, processes)
    one, other = (load(run).state() for run in (whole, killed))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))
    assert losses(killed) == losses(whole)
    yield {
        "kills": kills,
        "processes": processes,
        "in_start": sum(event["in_start"] for event in events),
        "saves_cut_off": sum(event["cut_off"] for event in events),
        "most_steps_repeated": max(event["step"] - event["saved"] for event in events),
        "slowest_end_of_others": max(event["others_end_after"] for event in events),
        "steps": steps,
        "equal": True,
        **machine(),
        "commit": commit(),
        "minutes": round((time.monotonic() - start) / 60, 1),
    }


def commit() -> str:
    """Returns the last commit of the package, with a mark if it is changed."""
    git = lambda *arguments: subprocess.run(
        ["git", *arguments, "--", "ddaepp_jax"], cwd=ROOT, capture_output=True, text=True
    )
    changed = git("diff", "--quiet", "HEAD").returncode == 1
    return git("log", "-1", "--format=%h").stdout.strip() + ("-dirty" if changed else "")


def main() -> None:
    """Runs the kills that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file to which the rows are added")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for row in soak(Path(directory), args.kills, args.processes, args.seed):
            print(json.dumps(row), flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
