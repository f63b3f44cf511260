"""How the tests of bad inputs run a program and look at the line it ends in."""

from pathlib import Path

import pytest

from ddaepp_jax import config as schema
from ddaepp_jax.errors import InputError

CONFIG = str(Path(schema.__file__))
TINY = f"--config={CONFIG}:tiny"


def check_refused(program, arguments, *parts):
    """Run a program's main; it has to end in one short line with all of ``parts`` in it."""
    with pytest.raises(InputError) as caught:
        program([str(argument) for argument in arguments])
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400 and "0x" not in line, line
    for part in parts:
        assert part in line, line
