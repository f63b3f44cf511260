"""Checks which mistakes the tests see, by changing a copy of the package by one mistake at a time.

    python benchmarks/mutants.py --out=mutants.jsonl
    python benchmarks/mutants.py --out=mutants.jsonl --only flip-always kid-biased

The mutants are written by hand in mutants.toml. Each has a file, a text that occurs in it once, the
text that replaces it, and the names of the test files that could see the mistake, in any folder of
tests/. The checkout is copied, and only the copy is changed. The quick tests run first, with the
markers of ``make quick``, up to the first failure; if they pass, the slow tests of the same files
run. Each test file must first pass once without a mutant. Rows that ``--out`` already has are not
measured again.
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
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")  # In any folder.
NOT_COPIED_ROOT = {"runs", "build", "dist"}  # In ROOT alone, because ddaepp_jax/build is code.
SETS = {"quick": "not slow", "slow": "slow"}
OUTCOMES = {0: "survived", 1: "killed", 5: "survived"}  # By pytest's exit code; 5: no test ran.
COLUMNS = ("name", "file", "outcome", "by", "test", "seconds")


def left_out(folder: str, names: list[str]) -> set[str]:
    """Returns the names in a folder that the copy of the checkout leaves out."""
    excluded = NOT_COPIED(folder, names)
    if Path(folder) == ROOT:
        excluded |= NOT_COPIED_ROOT.intersection(names)
    return excluded


def find_test(name: str, checkout: Path) -> str:
    """Returns the path of a test file, relative to the checkout."""
    paths = sorted((checkout / "tests").glob(f"**/{name}"))
    if len(paths) != 1:
        raise SystemExit(f"{name}: {len(paths)} test files have this name; exactly one must")
    return str(paths[0].relative_to(checkout))


def run_tests(names: list[str], chosen: str, checkout: Path, timeout: float) -> tuple[str, str]:
    """Runs test files up to the first failure; tests on eight devices run in their own pytest.

    Args:
      names: names of the test files.
      chosen: a key of ``SETS``, "quick" or "slow".
      checkout: directory of the copy.
      timeout: seconds that a call of pytest may take.

    Returns:
      The outcome, "" if no test could run; and the first test that failed, or else the end of the
      output.
    """
    files = [find_test(name, checkout) for name in names]
    on_eight = [file for file in files if file.startswith("tests/parallel/")]
    outcome = "survived"
    text = ""
    for group in ([file for file in files if file not in on_eight], on_eight):
        if group and outcome == "survived":
            outcome, text = run_pytest(group, chosen, checkout, timeout)
    return outcome, text


def run_pytest(
    files: list[str], chosen: str, checkout: Path, timeout: float, crashed: bool = False
) -> tuple[str, str]:
    """Runs test files that need the same number of devices; see ``run_tests``."""
    options = ["-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-m", SETS[chosen]]
    command = [sys.executable, "-m", "pytest", *options, *files]
    # A test's subprocesses also import the package from the copy.
    variables = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command,
        text=True,
        start_new_session=True,
        cwd=checkout,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # The tests' processes too.
            return "timeout", ""
    # Hypothesis stores failed examples; they belong to this mutant alone.
    shutil.rmtree(checkout / ".hypothesis", ignore_errors=True)
    if process.returncode < 0 and not crashed:
        # A crash of the interpreter is no verdict, so try once more.
        return run_pytest(files, chosen, checkout, timeout, crashed=True)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", output, re.MULTILINE)
    return OUTCOMES.get(process.returncode, ""), failed[1] if failed else output[-2000:]


def mutated(mutant: dict[str, Any], checkout: Path) -> str:
    """Returns the text of the mutant's file with the mistake."""
    text = (checkout / mutant["file"]).read_text()
    if (count := text.count(mutant["find"])) != 1:
        raise SystemExit(
            f"{mutant['name']}: its text occurs {count} times in {mutant['file']}, not once"
        )
    return text.replace(mutant["find"], mutant["replace"])


def try_mutant(
    mutant: dict[str, Any], chosen: str, checkout: Path, timeout: float
) -> dict[str, Any]:
    """Runs the quick or the slow tests on a mutant, and returns its row."""
    start = time.monotonic()
    file = checkout / mutant["file"]
    original = file.read_text()
    file.write_text(mutated(mutant, checkout))
    try:
        outcome, text = run_tests(mutant["tests"], chosen, checkout, timeout)
    finally:
        file.write_text(original)
    if not outcome:
        raise SystemExit(
            f"{mutant['name']}: no test could run, so this is not a valid mutant: {text}"
        )
    by = chosen if outcome != "survived" else ""
    test = text if outcome == "killed" else ""
    values = (mutant["name"], mutant["file"], outcome, by, test, time.monotonic() - start)
    return dict(zip(COLUMNS, values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="mutants (default: all)")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON lines; each row is appended when it is done"
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
        raise SystemExit("mutants.toml has a name twice, or lacks a name of --only")
    rows = []
    if args.out.exists():
        rows = [json.loads(line) for line in args.out.read_text().splitlines()]

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(*row.values(), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(shutil.copytree(ROOT, Path(folder) / "checkout", ignore=left_out))
        for mutant in listed:  # Check the whole list before the first test runs.
            mutated(mutant, checkout)
            for name in mutant["tests"]:
                find_test(name, checkout)
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
