"""The writer of metrics and pictures."""

import json
import os
import re
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.errors import expect_error
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from ddaepp_jax.base import files
from ddaepp_jax.training import rows as metrics
from ddaepp_jax.training.writers import Writer


def writer(path, **fields):
    return Writer(
        path,
        **dict(active=True, start=0, tensorboard=False, wandb=False, config={"seed": 0}) | fields,
    )


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_rows_past_the_restored_step_are_cut(tmp_path):
    first = writer(tmp_path)
    for step in (1, 2, 3):
        first.scalars(step, {"loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # The process died while it wrote this row.
    writer(tmp_path, start=2).scalars(3, {"loss": 0.5})
    assert rows(tmp_path) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 0.5},
    ]


ROW = b'{"step": 1, "loss": 0.5}\n'
DAMAGED = {
    "not JSON": b"loss 0.5\n",
    "blank": b"\n",
    "no step": b'{"loss": 2.0}\n',
    "no object": b'[{"step": 1}]\n',
    "a number": b"3\n",
    "null": b"null\n",
    "step as text": b'{"step": "1", "loss": 2.0}\n',
    "step as a fraction": b'{"step": 1.5, "loss": 2.0}\n',
    "step as a truth value": b'{"step": true, "loss": 2.0}\n',
    "negative step": b'{"step": -1, "loss": 2.0}\n',
    "a step beyond integers": b'{"step": 9223372036854775808, "loss": 2.0}\n',
    "value as text": b'{"step": 1, "loss": "2.0"}\n',
    "value of nothing": b'{"step": 1, "loss": null}\n',
    "a number beyond floats": b'{"step": 1, "loss": 1' + b"0" * 400 + b"}\n",
    "digits without end": b'{"step": 1, "loss": ' + b"9" * 9999 + b"}\n",
    "NUL bytes": b"\0" * 300 + b"\n",
    "NUL bytes before a row": b"\0" * 300 + ROW,
    "UTF-16": ROW.decode().strip().encode("utf-16") + b"\n",
    "not UTF-8": b'{"step": 1, "\xff\xfe": 2.0}\n',
    "two rows in a line": ROW.strip() + ROW,
    "deep": b"[" * 100_000 + b"\n",
    "cut off in the middle of the file": b'{"step": 1, "lo\n',
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED.keys())
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_line_is_moved_beside(line, place, tmp_path, capsys):
    after = b'{"step": 2, "loss": NaN}\r\n'  # NaN and the line ends of other systems are no damage.
    content = [ROW, after]
    content.insert(place, line)
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(content))
    writer(tmp_path, start=2).scalars(3, {"loss": 0.25})
    kept = b"".join(piece for piece in content if piece is not line)
    assert (tmp_path / "metrics.jsonl").read_bytes() == kept + b'{"step": 3, "loss": 0.25}\n'
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == line
    number = line.count(b"\n")
    noun = "line was no row" if number == 1 else "lines were no rows"
    assert capsys.readouterr().out == (
        f"warning: {tmp_path / 'metrics.jsonl'}: {number} {noun} of metrics; moved to "
        "metrics.jsonl.damaged\n"
    )


def test_a_line_without_end_is_read_in_pieces(tmp_path, capsys):
    long = b"\0" * (2 * metrics.LONGEST + 5)
    (tmp_path / "metrics.jsonl").write_bytes(ROW + long)
    for _ in range(2):  # The second start finds no damage.
        writer(tmp_path, start=1)
    assert rows(tmp_path) == [{"step": 1, "loss": 0.5}]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == long
    assert "3 lines were no rows" in capsys.readouterr().out


def test_a_file_without_rows_to_drop_is_left_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(metrics, "replacing", None)
    (tmp_path / "metrics.jsonl").write_bytes(ROW * 3)
    writer(tmp_path, start=1)
    writer(tmp_path, start=5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == ROW * 3
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert not capsys.readouterr().out


def test_a_whole_last_row_without_its_line_end_stays(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(ROW.strip())
    writer(tmp_path, start=1).scalars(2, {"loss": 0.25})
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_a_stop_while_rows_are_cut_loses_nothing(tmp_path, monkeypatch):
    content = ROW + b'{"step": 9}\n'
    (tmp_path / "metrics.jsonl").write_bytes(content)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        writer(tmp_path, start=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_link_to_the_file_stays_a_link(tmp_path):
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_bytes(ROW + b'{"step": 9}\n')
    (tmp_path / "metrics.jsonl").symlink_to(elsewhere)
    writer(tmp_path, start=1)
    assert elsewhere.read_bytes() == ROW and (tmp_path / "metrics.jsonl").is_symlink()


def test_files_that_cannot_be_written(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with expect_error(f"{tmp_path / 'metrics.jsonl'}: is not a file", "remove"):
        writer(tmp_path)
    (tmp_path / "metrics.jsonl").rmdir()
    (tmp_path / "tensorboard").write_text("")
    with expect_error(
        f"{tmp_path / 'tensorboard'}: cannot be written", "logging.tensorboard=False"
    ):
        writer(tmp_path, tensorboard=True)
    (tmp_path / "tensorboard").unlink()
    (tmp_path / "samples").write_text("")
    with expect_error(f"{tmp_path / 'samples' / '00000005.png'}: cannot be written", "resumes"):
        writer(tmp_path).picture(5, "samples", Image.new("L", (2, 2)))


def test_a_full_disk_is_said_at_once(tmp_path):
    """The device /dev/full is a disk that is full."""
    full = writer(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with expect_error(f"{tmp_path / 'metrics.jsonl'}: cannot be written (No space", "resumes"):
        full.scalars(1, {"loss": 1.0})
    (tmp_path / "metrics.jsonl").unlink()
    events = writer(tmp_path, tensorboard=True)
    descriptor = events._events._file._py_recordio_writer._writer.fileno()
    real = os.dup(descriptor)
    with open("/dev/full", "wb") as device:
        os.dup2(device.fileno(), descriptor)
    with expect_error(f"{tmp_path / 'tensorboard'}: cannot be written (No space"):
        for step in range(20):
            noise = np.random.default_rng(step).integers(0, 256, (64, 64, 3), np.uint8)
            events.picture(step, "samples", Image.fromarray(noise))
    os.dup2(real, descriptor)
    os.close(real)
    with events:
        pass


def test_only_the_first_process_writes(tmp_path):
    with writer(tmp_path, active=False, tensorboard=True) as inactive:
        inactive.scalars(1, {"loss": 1.0})
        inactive.picture(1, "samples", Image.new("L", (2, 2)))
    assert not list(tmp_path.iterdir())


def events_of(file):
    """Yields the events of a file; each stands between its length and two checksums."""
    content = file.read_bytes()
    while content:
        (length,) = struct.unpack("Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_tensorboard_and_pictures(tmp_path):
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    with writer(tmp_path, tensorboard=True, start=4) as with_events:
        with_events.scalars(5, {"loss": 0.25})
        with_events.picture(5, "samples", picture)
    assert np.array_equal(Image.open(tmp_path / "samples" / "00000005.png"), picture)
    (file,) = (tmp_path / "tensorboard").iterdir()
    version, resumed, scalar, image = events_of(file)
    assert version.file_version == "brain.Event:2"
    # TensorBoard hides what earlier files hold from step 5 on.
    assert (resumed.step, resumed.session_log.status) == (5, SessionLog.START)
    (value,) = scalar.summary.value
    assert (scalar.step, value.tag, value.simple_value) == (5, "loss", 0.25)
    (value,) = image.summary.value
    assert (image.step, value.tag, value.image.height) == (5, "samples", 4)


def test_a_run_that_starts_anew_hides_the_events_of_its_first_start(tmp_path):
    with writer(tmp_path, tensorboard=True):
        pass
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert [event.step for event in events_of(file) if event.HasField("session_log")] == [1]


class Wandb(SimpleNamespace):
    """A stand-in of wandb: it refuses the ids that wandb refuses, and ignores earlier steps."""

    def __init__(self):
        super().__init__(runs={}, states={}, arguments={})

    def init(self, **arguments):
        if re.search(r"[:;,#?/']", arguments["id"]) or not arguments["id"]:
            raise ValueError("Run ID cannot contain the characters: :;,#?/'\nsecond line")
        self.arguments = arguments
        rows = self.runs.setdefault(arguments["id"], {})

        def log(values, step):
            if step >= max(rows, default=0):
                rows[step] = rows.get(step, {}) | values

        def finish(exit_code):
            self.states[arguments["id"]] = "failed" if exit_code else "finished"

        return SimpleNamespace(log=log, finish=finish)


@pytest.fixture
def wandb(monkeypatch):
    stand_in = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    return stand_in


def test_wandb_gets_the_rows(tmp_path, wandb):
    with writer(tmp_path, wandb=True) as with_wandb:
        with_wandb.scalars(3, {"loss": 2.0})
        with_wandb.scalars(3, {"held_out": 1.0})
    assert list(wandb.runs.values()) == [{3: {"loss": 2.0, "held_out": 1.0}}]
    assert wandb.arguments["config"] == {"seed": 0}
    assert wandb.arguments["resume"] == "allow"
    assert wandb.arguments["name"] == tmp_path.name
    assert list(wandb.states.values()) == ["finished"]


@pytest.mark.parametrize("name", ["lr.1", "a#b,c", "100%?:;", "ö 'ä'", "x" * 200, "-"])
def test_a_wandb_run_belongs_to_its_directory_alone(name, tmp_path, monkeypatch, wandb):
    for parent in ("a", "b", "a"):
        workdir = tmp_path / parent / name
        workdir.mkdir(parents=True, exist_ok=True)
        with writer(workdir, wandb=True):
            pass
        own = (workdir / "wandb_id.txt").read_text().strip()
        assert re.fullmatch("[0-9a-f]{16}", own) and wandb.arguments["id"] == own
        assert wandb.arguments["name"] == name[:128]
    assert len(wandb.runs) == 2
    monkeypatch.chdir(workdir)
    with writer(workdir.relative_to(workdir), wandb=True):
        assert (wandb.arguments["id"], wandb.arguments["name"]) == (own, name[:128])


@pytest.mark.parametrize("content", ["", "\n", "a b", "a#b", "x" * 129, "é", "a\nb"])
def test_a_damaged_wandb_id(content, tmp_path, wandb):
    (tmp_path / "wandb_id.txt").write_text(content)
    with expect_error(f"{tmp_path / 'wandb_id.txt'}: is not the id of a run", "remove it"):
        writer(tmp_path, wandb=True)
    (tmp_path / "wandb_id.txt").unlink()
    (tmp_path / "wandb_id.txt").mkdir()
    with expect_error(f"{tmp_path / 'wandb_id.txt'}: cannot be read", "remove it"):
        writer(tmp_path, wandb=True)


@pytest.mark.parametrize("error", [InterruptedError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_run_that_ends_in_an_error_is_failed_at_wandb(error, tmp_path, wandb):
    with pytest.raises(error), writer(tmp_path, wandb=True, tensorboard=True):
        raise error
    assert list(wandb.states.values()) == ["failed"]


def test_wandb_without_a_network(tmp_path, monkeypatch, wandb, capsys):
    def broken(*_, **__):
        raise ConnectionError("no route\nto the host")

    with writer(tmp_path, wandb=True) as with_wandb:
        with_wandb._wandb._run.log = broken
        with_wandb._wandb._run.finish = broken
        for step in (1000, 2000):
            with_wandb.scalars(step, {"loss": 1.0})
    assert [row["step"] for row in rows(tmp_path)] == [1000, 2000]
    assert capsys.readouterr().out.splitlines() == [
        "warning: Weights & Biases: no route; the rows from step 1,000 on are missing there, and "
        "metrics.jsonl has all",
        "warning: Weights & Biases: no route; its last rows may be missing there, and "
        "metrics.jsonl has all",
    ]
    monkeypatch.setattr(wandb, "init", broken)
    with expect_error("logging.wandb: the run cannot start (no route)", "wandb login", "offline"):
        writer(tmp_path, wandb=True)


def test_error_where_wandb_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with expect_error("logging.wandb", "pip install"):
        writer(tmp_path, wandb=True)
