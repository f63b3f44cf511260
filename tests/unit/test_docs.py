"""The documentation's links, anchors and paths exist, and its files keep their size."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README_BYTES = 9216
COLUMNS = 100
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks" / "results" / "README.md",
]
# Files that the examples of docs/extending.md add.
EXAMPLES = {
    "ddaepp_jax/diffusion/samplers/stochastic_ddim.py",
    "ddaepp_jax/evaluators/weight_norm.py",
    "ddaepp_jax/evaluators/NAME.py",
    "ddaepp_jax/objectives/dispersive.py",
    "ddaepp_jax/data/stripes.py",
    "ddaepp_jax/models/convnet.py",
}
PATH = re.compile(r"(?:configs|ddaepp_jax|tests|benchmarks)/[\w./-]*\.(?:py|toml)")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def prose(page: Path) -> list[tuple[int, str]]:
    """Returns the numbered lines outside of fenced and indented code."""
    lines = []
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            lines.append((number, line))
    return lines


@cache
def anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub makes of a page's headings."""
    headings = [line.lstrip("#").strip() for _, line in prose(page) if re.match("#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_and_anchors_exist(page):
    text = "\n".join(line for _, line in prose(page))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub("`[^`\n]+`", "code", text)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@every_page
def test_paths_of_files_exist(page):
    quoted = re.findall(r"`([^`\n]+)`", page.read_text())
    paths = {path for text in quoted for path in PATH.findall(text)}
    assert [path for path in sorted(paths - EXAMPLES) if not (ROOT / path).exists()] == []


@every_page
def test_lines_are_short(page):
    long = [
        number
        for number, line in prose(page)
        if len(line) > COLUMNS and not line.startswith(("|", "!["))
    ]
    assert long == []


def test_commands_name_configs_that_exist():
    text = "\n".join(page.read_text() for page in PAGES)
    configs = set(re.findall(r"--config=(configs/\w+\.py)", text))
    assert configs
    assert [name for name in sorted(configs) if not (ROOT / name).exists()] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= README_BYTES
