"""What is wrong with a config file itself, and with the config.json of a run directory."""

import pytest
from helpers.errors import TINY, expect_error

from ddaepp_jax import linear_probe, main, sample
from ddaepp_jax.config import saved as run_config
from ddaepp_jax.config.overrides import config_name, parse_config

IMPORT = "from ddaepp_jax import config\n"
CHANGED = IMPORT + "def get_config():\n    run = config.get_config()\n    {}\n    return run"
FILES = {
    "good.py": "from ddaepp_jax.config import get_config",
    "no_get_config.py": "x = 1",
    "no_variants.py": IMPORT + "def get_config():\n    return config.get_config()",
    "returns_none.py": "def get_config():\n    pass",
    "extra_group.py": CHANGED.format("run.modle = config.uvit()"),
    "extra_field.py": CHANGED.format("run.model.dpeth = 8"),
    "lacks.py": CHANGED.format("del run.train.log_every"),
    "text.txt": "hello",
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("config", "field", "words"),
    [
        ("missing.py", "--config", ["no file", "'missing.py'"]),
        ("", "--config", ["no file", "''"]),
        (".", "--config", ["Python"]),
        ("text.txt", "--config", ["text.txt", "Python"]),
        ("no_get_config.py", "--config", ["no_get_config.py", "no function"]),
        ("no_variants.py:tiny", "--config", ["no_variants.py", ":tiny"]),
        ("good.py:huge", "--config", ["'huge'", "tiny"]),
        ("returns_none.py", "--config", ["returns_none.py", "NoneType", "ConfigDict"]),
        ("extra_group.py", "modle", ["model"]),
        ("extra_field.py", "model.dpeth", ["depth"]),
        ("lacks.py", "train.log_every", ["missing"]),
    ],
)
def test_bad_config_file(config, field, words, files):
    with expect_error(field, *words):
        main.main(["--workdir=run", f"--config={config}"])
    assert not (files / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config():\n    return undefined_name", ["line 2", "NameError", "undefined_name"]),
        ("x = (\n", ["line 1", "SyntaxError"]),
        ("\nimport no_such_module", ["line 2", "ModuleNotFoundError", "no_such_module"]),
        ("def get_config():\n    import sys\n    sys.exit(3)", ["line 3", "SystemExit", "3"]),
        ("def get_config(v):\n    return {}[v]", ["TypeError"]),
        ("def get_config(v=''):\n    return {}[v]", ["line 2", "KeyError"]),
        ("raise Exception", ["line 1", "Exception"]),
    ],
)
def test_an_error_in_a_config_file_names_its_line(text, words, files):
    (files / "bug.py").write_text(text)
    with expect_error("--config", "bug.py", "mend the file", *words):
        main.main(["--workdir=run", "--config=bug.py"])


def test_colons_in_the_path_of_a_config_file(files):
    for folder, name in (("a:b", "config.py"), ("a", "b:c.py")):
        (files / folder).mkdir()
        (files / folder / name).write_text(FILES["good.py"])
        for variant in ("", ":tiny"):
            assert parse_config([f"--config={folder}/{name}{variant}"]).model.width in (32, 64)
    assert config_name("a:b/config.py:tiny") == "config" and config_name("a/b:c.py") == "b:c"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"seed": 0}', '{"seed": "a"}', "\ufffd\0"]
)
def test_foreign_config_json(text):
    with expect_error("runs/x/config.json", "run directory"):
        run_config.from_json(text, "runs/x/config.json")


@pytest.mark.parametrize("program", [main, sample, linear_probe])
def test_a_program_at_a_foreign_config_json(program, tmp_path):
    """It reports the file, of which the bytes are no text either."""
    (tmp_path / "config.json").write_bytes(b"\xff\0")
    arguments = [TINY] if program is main else []
    mend = "another --workdir" if program is main else "run directory"
    with expect_error(f"{tmp_path / 'config.json'}", mend):
        program.main([*arguments, f"--workdir={tmp_path}"])
