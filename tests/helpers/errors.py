"""Checks of errors that users see: their field and keywords, never their wording."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ddaepp_jax import config as schema
from ddaepp_jax.base.errors import InputError

CONFIG = str(Path(schema.__file__))
TINY = f"--config={CONFIG}:tiny"


@contextmanager
def expect_error(field: str, *keywords: str) -> Iterator[None]:
    """Checks that the block raises an ``InputError`` with one short line.

    Args:
      field: field, argument or file that is wrong, with which the line begins.
      keywords: words in the line, such as the wrong value, a possible choice, or the mend.
    """
    with pytest.raises(InputError) as caught:
        yield
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400 and "0x" not in line, line
    assert line.startswith(field), line
    assert len(line) > len(field) + 10, f"says nothing beside {field}: {line}"
    for keyword in keywords:
        assert keyword in line, f"{keyword!r} is not in: {line}"
