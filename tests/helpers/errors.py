"""How tests look at the error that a user's mistake ends in: its field and a keyword, never its
wording.
"""

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
    """The block ends in an ``InputError``: one short line that begins with what is wrong and says
    more.

    Args:
      field: the field, argument or file that is wrong; the line begins with it.
      keywords: words of the line, such as the value that was given, a choice there is, or the mend.
    """
    with pytest.raises(InputError) as caught:
        yield
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400 and "0x" not in line, line
    assert line.startswith(field), line
    assert len(line) > len(field) + 10, f"says nothing beside {field}: {line}"
    for keyword in keywords:
        assert keyword in line, f"{keyword!r} is not in: {line}"
