"""Results in JSON files that a later run of the same program continues."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import write_json

SHOWN = 3  # differences that an error lists


def refuse_other(file: Path, noun: str, differences: Sequence[str], mend: str) -> NoReturn:
    """Raises an InputError because a file holds results that were computed with other settings.

    Args:
      file: the file.
      noun: names the results in the message, e.g. "a probe".
      differences: lines "field: old -> new"; the message shows the first ``SHOWN``.
      mend: what the user can do.
    """
    more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    shown = "; ".join(difference[:120] for difference in differences[:SHOWN])
    raise InputError(
        f"{file}: holds {noun} with other settings (stored -> given: {shown}{more}); {mend}"
    )


class Results:
    """A JSON file of results, which a later call continues if its stored settings are the same."""

    def __init__(
        self,
        file: Path,
        identity: Mapping[str, Any],
        noun: str,
        under: str = "",
        modern: Callable[[dict], dict] = lambda identity: identity,
    ) -> None:
        """Describes the file; nothing is read.

        Args:
          file: the JSON file.
          identity: settings that must be equal for the file to be continued.
          noun: names the results in errors, e.g. "a probe".
          under: the key of the identity in the file; with "", its fields stand at the top.
          modern: converts an identity that an older version wrote to today's form.
        """
        self.file = file
        self.identity = json.loads(json.dumps(identity))  # Tuples become lists, as in the file.
        self._noun = noun
        self._under = under
        self._modern = modern

    def read(self, *required: str) -> dict[str, Any] | None:
        """Reads what was written before; returns None if there is no file.

        Args:
          required: keys that the content must have.

        Raises:
          InputError: the file is damaged, or its identity is another.
        """
        if not self.file.exists():
            return None
        mend = "remove it or give another --out"
        try:
            if not self.file.is_file():  # A pipe would never end.
                raise OSError
            content = json.loads(self.file.read_text())
            written = self._modern(dict(content[self._under] if self._under else content))
            if not self.identity.keys() & written.keys():
                raise KeyError
            if missing := [key for key in required if key not in content]:
                raise KeyError(missing[0])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{self.file}: is not {self._noun} of this program; give another --out, or remove "
                "it if it is of no use"
            ) from None
        differences = [
            f"{name}: {written.get(name)} -> {value}"
            for name, value in self.identity.items()
            if written.get(name) != value
        ]
        if differences:
            refuse_other(self.file, self._noun, differences, mend)
        return content

    def write(self, content: Mapping[str, Any]) -> None:
        """Writes the whole content atomically; the identity is added."""
        identity = {self._under: self.identity} if self._under else self.identity
        write_json(self.file, {**identity, **content})
