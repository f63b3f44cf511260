"""What processes tell each other: values, errors, and who does what."""

import subprocess
import sys

import pytest
from helpers.processes import SECONDS, start_together

PROGRAM = '''
import contextlib
import sys

from ddaepp_jax.base.errors import InputError, Stopped
from ddaepp_jax.cli.arguments import Parser, add_processes, start
from ddaepp_jax.cli.start import launch


class Odd(Exception):
    """An error that cannot be pickled."""

    def __init__(self, one, two):
        super().__init__(one)


def failing(error):
    raise error


def values(processes, first):
    """Checks values that are the same everywhere; every process ends with a line on stderr."""
    assert processes.from_first(lambda: "of 0" if first else failing(ValueError())) == "of 0"
    assert processes.from_first(lambda: b"x" * 5000) == b"x" * 5000
    assert processes.in_first(lambda: 7) == (7 if first else None)
    assert processes.together(lambda: first) == first

    @contextlib.contextmanager
    def context():
        assert first
        yield 5

    with processes.entered_by_first(context()):
        processes.together(lambda: None)
    for number, error in enumerate((OSError(28, "full", "FILE"), Odd("odd", 2), Stopped("s", 143))):
        for of_first in (True, False):
            try:
                processes.together(lambda: failing(error) if first == of_first else 0)
            except (Exception, Stopped) as raised:
                there = (OSError, RuntimeError, Stopped)[number]
                assert type(raised) is (type(error) if first == of_first else there), raised
                assert getattr(raised, "filename", "FILE") == "FILE"
                assert getattr(raised, "exit_code", 143) == 143
            else:
                raise AssertionError("nothing was raised")
    delayed = processes.Delayed()
    with delayed:
        first or failing(InputError("later"))
    try:
        processes.together(delayed.check)
    except InputError as raised:
        print(raised, file=sys.stderr)


def main(argv):
    parser = Parser("tests", "")
    parser.add_argument("what")
    add_processes(parser)
    args = parser.parse_args(argv)
    start(args)
    from ddaepp_jax.base import processes

    first = processes.is_first()
    if args.what == "values":
        values(processes, first)
    elif args.what == "input":
        processes.from_first(lambda: failing(InputError("field: wrong; mend it")))
    elif args.what == "disk":
        processes.from_first(lambda: failing(OSError(28, "No space left on device", "FILE")))
    else:
        processes.together(lambda: 0 if first else failing(InputError("field: wrong; mend it")))


launch(main)
'''


def ended(what: str) -> list[tuple[int, str]]:
    """Returns the exit code and stderr of each of two processes."""
    command = [sys.executable, "-c", PROGRAM, what]
    both = start_together(command, 2, 1, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        errors = [process.communicate(timeout=SECONDS)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    return [(process.returncode, text) for process, text in zip(both, errors, strict=True)]


def test_values_and_errors_reach_every_process():
    assert ended("values") == [(0, "later\n")] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "code", "line"),
    [
        ("input", 2, "error: field: wrong; mend it\n"),
        ("second", 2, "error: field: wrong; mend it\n"),
        ("disk", 1, "error: FILE: No space left on device; what was saved before is good\n"),
    ],
)
def test_an_error_of_one_process_ends_all_with_its_line(what, code, line):
    assert ended(what) == [(code, line)] * 2
