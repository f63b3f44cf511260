"""What is wrong with a config file itself; with the config.json of a run directory."""

import pytest
from helpers.errors import TINY, check_refused

from ddaepp_jax import linear_probe, main, sample

CHANGED = "from ddaepp_jax import config\ndef get_config():\n    c = config.get_config()\n    {}\n    return c"
FILES = {
    "good.py": "from ddaepp_jax.config import get_config",
    "no_get_config.py": "x = 1",
    "no_variants.py": "from ddaepp_jax import config\ndef get_config():\n    return config.get_config()",
    "returns_none.py": "def get_config():\n    pass",
    "extra_group.py": CHANGED.format("c.modle = config.uvit()"),
    "extra_field.py": CHANGED.format("c.model.dpeth = 8"),
    "lacks.py": CHANGED.format("del c.train.log_every"),
    "text.txt": "hello",
    "bug.py": "def get_config():\n    return undefined_name",
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ("missing.py", ["--config: no file 'missing.py'; give a config file"]),
        ("", ["--config: no file ''"]),
        (".", ["--config: . is not a Python file"]),
        ("text.txt", ["--config: text.txt is not a Python file"]),
        ("no_get_config.py", ["--config: no_get_config.py has no function get_config"]),
        ("no_variants.py:tiny", ["--config: no_variants.py has no variants; leave :tiny out"]),
        ("good.py:huge", ["--config: this config has no variant 'huge'; it has tiny"]),
        ("returns_none.py", ["--config: get_config of returns_none.py returns a NoneType; let it return a ConfigDict"]),
        ("extra_group.py", ["modle: no such field; the fields of a config are", "model"]),
        ("extra_field.py", ["model.dpeth: no such field; the fields of model are", "depth"]),
        ("lacks.py", ["train.log_every: missing"]),
    ],
)
def test_bad_config_file(config, parts, files):
    check_refused(main.main, ["--workdir=run", f"--config={config}"], *parts)
    assert not (files / "run").exists()


def test_a_bug_in_a_config_file_keeps_its_traceback(files):
    with pytest.raises(NameError, match="undefined_name"):
        main.main(["--workdir=run", "--config=bug.py"])


FOREIGN = ["", "{", "[]", "3", "{}", '{"seed": 0}', '{"seed": "a"}', "\xff\0"]


@pytest.mark.parametrize("text", FOREIGN)
@pytest.mark.parametrize("program", [main.main, sample.main, linear_probe.main])
def test_foreign_config_json(program, text, tmp_path):
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    arguments = [TINY] if program is main.main else []
    check_refused(
        program, [*arguments, f"--workdir={tmp_path}"], f"{tmp_path / 'config.json'}: not the config of a run"
    )
