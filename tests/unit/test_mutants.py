"""The mutants in benchmarks/mutants.toml apply to the code as it is."""

import ast
import sys
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = tomllib.loads((ROOT / "benchmarks" / "mutants.toml").read_text())["mutant"]
TESTS = Counter(path.name for path in (ROOT / "tests").glob("**/test_*.py"))


@pytest.fixture
def mutants(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import mutants

    yield mutants
    sys.modules.pop("mutants")


@cache
def meaning(text: str) -> str:
    """The code without its layout and comments."""
    return ast.dump(ast.parse(text))


def problems(mutant: dict) -> list[str]:
    file = ROOT / mutant["file"]
    if not file.is_file():
        return [f"there is no {mutant['file']}"]
    text = file.read_text()
    if (count := text.count(mutant["find"])) != 1:
        return [f"its text is in {mutant['file']} {count} times, not once"]
    found = [
        f"{TESTS[name]} files of tests are called {name}, not one"
        for name in mutant["tests"]
        if TESTS[name] != 1
    ]
    if not mutant["tests"]:
        found.append("it names no tests")
    try:
        if meaning(text.replace(mutant["find"], mutant["replace"])) == meaning(text):
            found.append("it changes nothing but the layout")
    except SyntaxError as error:
        found.append(f"the mutated file does not parse: {error}")
    return found


def test_every_mutant_is_a_change_of_code_that_exists():
    assert {m["name"]: found for m in MUTANTS if (found := problems(m))} == {}


def test_names_and_changes_are_different():
    for fields in (("name",), ("file", "find", "replace")):
        counts = Counter(tuple(mutant[field] for field in fields) for mutant in MUTANTS)
        assert [values for values, count in counts.items() if count > 1] == []


def test_the_copy_of_the_checkout_has_all_packages(mutants):
    """Only the checkout's own folder build is left out; the package of that name is code."""
    names = ["build", "runs", "__pycache__", ".venv", "x.egg-info", "module.py"]
    in_root = mutants.left_out(str(ROOT), names)
    assert in_root == set(names) - {"module.py"}
    assert mutants.left_out(str(ROOT / "ddaepp_jax"), names) == in_root - {"build", "runs"}
