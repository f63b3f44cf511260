"""Which mistakes the tests see: mutants of the package made by hand, each against the test files
that could see it.

    python benchmarks/mutants.py --out=mutants.jsonl
    python benchmarks/mutants.py --out=mutants.jsonl --only flip-always kid-biased

The mutants are in mutants.toml: a file, a text that is there once, what stands there instead, and
the names of test files, in whatever folder of tests/ they are. The checkout is copied, and mutants
are made in the copy alone. The quick tests run first, as ``make quick`` runs them, up to the first
failure; a mutant that they don't see meets the slow tests of the same files. A test file has to
pass without a mutant first, once. What is in the JSON lines is not done again.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")  # in any folder
NOT_COPIED_ROOT = {"runs", "build", "dist"}  # in ROOT alone: ddaepp_jax/build is code
SETS = {"quick": "not slow", "slow": "slow"}
OUTCOMES = {
    0: "survived",
    1: "killed",
    5: "survived",
}  # by pytest's exit code; 5: no test is chosen
COLUMNS = ("name", "file", "outcome", "by", "test", "seconds")


def left_out(folder: str, names: list[str]) -> set[str]:
    """What the copy of the checkout leaves out of a folder."""
    out = NOT_COPIED(folder, names)
    return out | NOT_COPIED_ROOT.intersection(names) if Path(folder) == ROOT else out


def find_test(name: str, checkout: Path) -> str:
    """The path of a test file."""
    found = sorted((checkout / "tests").glob(f"**/{name}"))
    if len(found) != 1:
        raise SystemExit(f"{name}: {len(found)} files of tests have this name, not one")
    return str(found[0].relative_to(checkout))


def run_tests(names: list[str], chosen: str, checkout: Path, timeout: float) -> tuple[str, str]:
    """Run test files up to the first failure; those on eight devices in a pytest of their own.

    Returns:
      The outcome, "" where no test could run; and the first test that failed, or else the end of
      the output.
    """
    files = [find_test(name, checkout) for name in names]
    on_eight = [file for file in files if file.startswith("tests/parallel/")]
    outcome, text = "survived", ""
    for group in ([file for file in files if file not in on_eight], on_eight):
        if group and outcome == "survived":
            outcome, text = run_pytest(group, chosen, checkout, timeout)
    return outcome, text


def run_pytest(
    files: list[str], chosen: str, checkout: Path, timeout: float, crashed: bool = False
) -> tuple[str, str]:
    """Run test files of one folder's devices, see ``run_tests``."""
    options = ["-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-m", SETS[chosen]]
    command = [sys.executable, "-m", "pytest", *options, *files]
    # A test's subprocesses too take the package from the copy.
    variables = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    how = dict(cwd=checkout, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with subprocess.Popen(command, text=True, start_new_session=True, **how) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and with it what the tests have started
            return "timeout", ""
    shutil.rmtree(
        checkout / ".hypothesis", ignore_errors=True
    )  # the examples that failed are the mutant's own
    if (
        process.returncode < 0 and not crashed
    ):  # a crash of the interpreter is no verdict: once more
        return run_pytest(files, chosen, checkout, timeout, crashed=True)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", output, re.MULTILINE)
    return OUTCOMES.get(process.returncode, ""), failed[1] if failed else output[-2000:]


def mutated(mutant: dict[str, Any], checkout: Path) -> str:
    """The text of the mutant's file as it is to be."""
    text = (checkout / mutant["file"]).read_text()
    if (count := text.count(mutant["find"])) != 1:
        raise SystemExit(
            f"{mutant['name']}: its text is in {mutant['file']} {count} times, not once"
        )
    return text.replace(mutant["find"], mutant["replace"])


def try_mutant(
    mutant: dict[str, Any], chosen: str, checkout: Path, timeout: float
) -> dict[str, Any]:
    """A row: what the quick or the slow tests make of the mutant."""
    file, start = checkout / mutant["file"], time.monotonic()
    original = file.read_text()
    file.write_text(mutated(mutant, checkout))
    try:
        outcome, text = run_tests(mutant["tests"], chosen, checkout, timeout)
    finally:
        file.write_text(original)
    if not outcome:
        raise SystemExit(f"{mutant['name']}: no test could run, so that it is no mutant: {text}")
    by, test = chosen if outcome != "survived" else "", text if outcome == "killed" else ""
    values = (mutant["name"], mutant["file"], outcome, by, test, time.monotonic() - start)
    return dict(zip(COLUMNS, values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="mutants (default: all)")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON lines, a row a mutant, each added as it comes"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        help="seconds that a call of the tests may take (600)",
    )
    args = parser.parse_args()
    listed = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["mutant"]
    mutants = {mutant["name"]: mutant for mutant in listed}
    if len(mutants) < len(listed) or set(args.only or ()) - mutants.keys():
        raise SystemExit("a name is there twice, or one of --only is not there")
    rows = (
        [json.loads(line) for line in args.out.read_text().splitlines()]
        if args.out.exists()
        else []
    )

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(*row.values(), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(shutil.copytree(ROOT, Path(folder) / "checkout", ignore=left_out))
        for mutant in listed:  # a mistake in the list shows at once
            _ = mutated(mutant, checkout), [find_test(name, checkout) for name in mutant["tests"]]
        for name in args.only or mutants:
            if any(row["name"] == name for row in rows):
                continue
            seconds = 0.0
            for chosen in SETS:
                for test in mutants[name]["tests"]:
                    unmutated = {"name": "none", "file": test, "outcome": "survived", "by": chosen}
                    if unmutated not in rows:
                        outcome, text = run_tests([test], chosen, checkout, args.timeout)
                        if outcome != "survived":
                            raise SystemExit(
                                f"{test}, {chosen}: does not pass without a mutant: {text}"
                            )
                        keep(unmutated)
                row = try_mutant(mutants[name], chosen, checkout, args.timeout)
                seconds += row["seconds"]
                if row["outcome"] != "survived":
                    break
            keep(row | {"seconds": round(seconds, 1)})
    shown = [list(row.values()) for row in rows if row["name"] in (args.only or mutants)]
    print("\n" + tabulate(shown, COLUMNS, tablefmt="github"))


if __name__ == "__main__":
    main()
