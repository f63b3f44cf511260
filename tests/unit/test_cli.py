"""Arguments of programs: the config with its overrides, and where the compilation cache goes."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from helpers.errors import expect_error

import ddaepp_jax
from ddaepp_jax import __version__
from ddaepp_jax import config as schema
from ddaepp_jax.base.errors import InputError, NonFiniteError, SaveError, Stopped
from ddaepp_jax.cli.arguments import Parser, comma_separated, number, options, path, seconds
from ddaepp_jax.cli.start import _unraisable, launch, start_backend
from ddaepp_jax.config.overrides import parse_config


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("model.depth=6", 6),
        ("model.name=5", "5"),
        ("model.mlp_ratio=3", 3.0),
        ("optimizer.learning_rate=1e-4", 1e-4),
        ("model.skip=False", False),
        ("model.skip=false", False),
        ("data.flip=True", True),
        ("ema.decays=(0.9, 0.99)", (0.9, 0.99)),
        ("ema.decays=0.9,", (0.9,)),
        ("data.size=32,32", (32, 32)),
        ("mesh.rules=()", ()),
        ("train.steps=None", None),
        ("train.epochs=3", 3.0),
        ("train.epochs=None", None),
        ("data.data_dir=", ""),
        ("data.split=train[:90%]", "train[:90%]"),
        ("init_from=runs/a=b", "runs/a=b"),
    ],
)
def test_override(text, value):
    config = parse_config([f"--config.{text}"])
    for name in text.partition("=")[0].split("."):
        config = config[name]
    assert config == value and type(config) is type(value)


def test_the_default_is_digits_and_the_last_override_counts():
    assert parse_config([]).to_dict() == schema.get_config().to_dict()
    assert parse_config(["--config.seed=1", "--config.seed=2"]).seed == 2


def test_overrides_apply_to_the_chosen_variant_in_any_order():
    config = parse_config(["--config.model.depth=4", f"--config={schema.__file__}:tiny"])
    assert config.model.depth == 4 and config.model.width == schema.get_config("tiny").model.width


def test_the_config_is_locked():
    with pytest.raises(AttributeError):
        parse_config([]).modle = 3


def test_parser_help(capsys):
    with pytest.raises(SystemExit) as ended:
        Parser("ddaepp_jax.main", "what it does").parse_args(["--help"])
    assert ended.value.code == 0 and "what it does" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("a: b"), 2, "error: a: b\n"),
        (NonFiniteError("step 3"), 1, "error: step 3\n"),
        (SaveError("run: full"), 1, "error: run: full\n"),
        (Stopped("stopped at step 3", 143), 143, "stopped at step 3\n"),
        (FileNotFoundError(2, "No such file", "run/x"), 1, "error: run/x: No such file; "),
        (FileNotFoundError(2, "No such file"), 1, "error: the current directory: No such file; "),
        (BrokenPipeError(32, "Broken pipe"), 1, "error: nobody reads the output any more; "),
        (OSError(28, "No space left on device"), 1, "error: a file: No space left on device; "),
        (MemoryError(), 1, "error: out of memory (MemoryError); use a smaller "),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GiB\nmore"), 1, "error: out of memory (RESOURCE_"),
    ],
)
def test_launch(error, code, words, capsys, monkeypatch):
    """One line, and the exit code; where threads may be left, the process ends at once."""

    def program(argv):
        raise error

    def exit_at_once(code):
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", exit_at_once)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # restores it afterwards
    with pytest.raises(SystemExit) as ended:
        launch(program)
    line = capsys.readouterr().err
    assert ended.value.code == code and line.startswith(words) and line.count("\n") == 1


def test_launch_with_outputs_that_are_closed_or_narrow(tmp_path, monkeypatch):
    """What an output has no code for is escaped, and a closed one takes everything."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(sys, "stderr", None)
    with (tmp_path / "out").open("w", encoding="ascii") as narrow:
        monkeypatch.setattr(sys, "stdout", narrow)

        def program(argv):
            print("f\xfcr \udcff")
            print("progress", file=sys.stderr)
            sys.stderr.write("more")

        with pytest.raises(SystemExit) as ended:
            launch(program)
    sys.stderr.close()
    assert ended.value.code == 0
    assert (tmp_path / "out").read_text() == "f\\xfcr \\udcff\n"


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("other"), KeyError("x")])
def test_launch_keeps_the_traceback_of_a_bug(error, monkeypatch):
    def program(argv):
        raise error

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    with pytest.raises(type(error)):
        launch(program)


class Unread(io.StringIO):
    def flush(self):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("error", [None, SystemExit(0), InputError("a: b")])
def test_output_that_nobody_reads(error, capsys, monkeypatch):
    """It is known before the program ends, where Python would print a traceback."""

    def program(argv):
        if error:
            raise error

    def exit_at_once(code):
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", exit_at_once)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(sys, "stdout", Unread())
    with pytest.raises(SystemExit) as ended:
        launch(program)
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "error: nobody reads the output any more; what was saved before is good\n"
    )


def test_closed_streams_are_opened_on_nothing(tmp_path):
    """No file that the program opens takes the number of a closed stream."""
    (tmp_path / "program.py").write_text(
        "import os, sys\n"
        "from ddaepp_jax.cli.start import launch\n"
        "def program(argv):\n"
        "    print('lost', flush=True)\n"
        "    print('lost', file=sys.stderr, flush=True)\n"
        "    with open(argv[0], 'w') as file:\n"
        "        file.write(' '.join(os.path.realpath(f'/proc/self/fd/{n}') for n in range(3)))\n"
        "launch(program)\n"
    )
    closed = f"{sys.executable} {tmp_path}/program.py {tmp_path}/streams 0<&- 1>&- 2>&-"
    places = os.environ | {"PYTHONPATH": str(Path(ddaepp_jax.__file__).parents[1])}
    done = subprocess.run(["sh", "-c", closed], env=places, check=False)
    assert done.returncode == 0
    assert (tmp_path / "streams").read_text() == "/dev/null /dev/null /dev/null"


def test_the_rest_of_a_failed_save_or_archive_is_not_reported(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "__unraisablehook__", reported.append)
    events = [
        SimpleNamespace(exc_value=error, object=thing)
        for error, thing in (
            (OSError(27, "File too large"), zipfile.ZipFile.__del__),
            (ValueError("seek of closed file"), zipfile.ZipFile.__del__),
            (RuntimeError("Event loop is closed"), None),
            (ValueError("seek of closed file"), None),
            (KeyError("a bug"), zipfile.ZipFile.__del__),
        )
    ]
    for event in events:
        _unraisable(event)
    assert reported == events[3:]


def test_compilation_cache(monkeypatch, tmp_path):
    """On by default, in the home directory; the environment's word is left to JAX; off for several
    CPU devices.
    """
    updates = {}
    monkeypatch.setattr(jax.config, "update", updates.__setitem__)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    start_backend()
    assert not updates
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    start_backend()
    assert updates["jax_compilation_cache_dir"] == f"{tmp_path}/.cache/ddaepp_jax/xla"
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path / 'elsewhere'}")
    start_backend()
    assert updates["jax_compilation_cache_dir"] == f"{tmp_path}/elsewhere/ddaepp_jax/xla"
    updates.clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path / 'file'}")
    start_backend()
    assert not updates, "a directory that cannot be made"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody-of-this-name").expanduser())
    start_backend()
    assert not updates, "a user without a home directory"
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    start_backend()
    assert updates == {"jax_enable_compilation_cache": False}


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (number, "nan", ["'nan'", "finite"]),
        (number, "1e999", ["'1e999'", "finite"]),
        (path, "x" * 300, ["xxx", "leads nowhere"]),
        (path, "a\nb", ["'a\\nb'", "line break"]),
        (comma_separated(number), "1,inf", ["'1,inf'", "numbers", "comma"]),
        (options, "clip=True,clip=False", ["clip", "2 times"]),
        (options, "=3", ["'=3'", "comma"]),
        (path, "gs://bucket/run", ["gs://bucket/run", "local path"]),
        (path, "s3://bucket", ["s3://bucket", "local path"]),
        (path, "file:///tmp/x", ["file:///tmp/x", "local path"]),
        (path, "", ["''", "give a path"]),
        (seconds, "-1", ["'-1'", "negative"]),
        (seconds, "soon", ["'soon'", "finite number"]),
        (path, "~nobody-of-this-name/x", ["~nobody-of-this-name/x", "home"]),
    ],
)
def test_arguments_that_are_refused(kind, text, words):
    parser = Parser("ddaepp_jax.x", "")
    parser.add_argument("--value", type=kind)
    with expect_error("argument --value", *words):
        parser.parse_args([f"--value={text}"])


def test_home_directory_and_colons_in_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path("~/run") == tmp_path / "run"
    assert path("a~b/c:d") == Path("a~b/c:d")


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        Parser("ddaepp_jax.main", "").parse_args(["--version"])
    assert ended.value.code == 0 and __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("coordinator", "more", "field", "words"),
    [
        ("", dict(num_processes=2), "--num_processes", ["2", "--coordinator"]),
        ("auto", dict(num_processes=2), "--num_processes", ["2", "--coordinator"]),
        ("localhost:0", {}, "--coordinator", ["1..65535"]),
        ("localhost:99999", {}, "--coordinator", ["1..65535"]),
        (":80", {}, "--coordinator", ["':80'"]),
        ("no.such.host.invalid:80", {}, "--coordinator", ["no known host"]),
        ("localhost:80", dict(heartbeat_timeout=0), "--heartbeat_timeout", ["0", "below 1"]),
    ],
)
def test_a_coordinator_that_joins_nothing(coordinator, more, field, words):
    with expect_error(field, *words):
        start_backend(coordinator, **more)


def test_a_cluster_that_jax_does_not_know(monkeypatch):
    def initialize(**options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with expect_error("--coordinator", "'auto'", "should be defined", "HOST:PORT"):
        start_backend("auto")
