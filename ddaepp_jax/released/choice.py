"""The choice of a network among the tensors of a file, which may hold several."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ddaepp_jax.base.errors import InputError

# Modules that wrap others, as torch.compile, FSDP, checkpointing and DataParallel do; they put
# their names between those of the network.
_WRAPPER = r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\."
# Parts of names that mark averages: ema, model_ema, netEMA, averaged, shadow_params, swa_model.
_AVERAGE = re.compile(r"(?<![A-Za-z])ema|EMA|Ema|[Aa]veraged|[Ss]hadow|(?<![A-Za-z])swa_")


@dataclasses.dataclass(frozen=True)
class Network:
    """The weights of a network that a file holds.

    Attributes:
      tensors: its tensors, without the prefix and without the names of wrappers.
      prefix: the text before their names in the file.
      averaged: whether they are averages.
      unread: prefixes of averages in the file that were not taken.
    """

    tensors: dict[str, Any]
    prefix: str
    averaged: bool
    unread: tuple[str, ...]

    def __str__(self) -> str:
        """Says which weights these are."""
        kind = "averaged weights" if self.averaged else "raw weights" if self.unread else "weights"
        return f"{kind} {self.prefix!r}" if self.prefix else kind


def choose_network(
    tensors: Mapping[str, Any], marks: Sequence[str], prefix: str | None = None
) -> Network:
    """Chooses a network of a file.

    Args:
      tensors: tensors of the file.
      marks: names of tensors by which the network is recognised.
      prefix: prefix of the network's names in the file; ``find_prefix`` finds it by default.

    Raises:
      InputError: as for ``find_prefix``; or no network of this kind has the prefix, or two of its
        names are equal without wrappers.
    """
    given = prefix is not None
    if prefix is None:
        prefix = find_prefix(tensors, marks)
    names: dict[str, str] = {}
    for name in tensors:
        if name.startswith(prefix):
            plain = re.sub(rf"(?<![^.]){_WRAPPER}", "", name.removeprefix(prefix))
            if plain in names:
                raise InputError(
                    f"tensors {names[plain]} and {name} are both {plain} without their wrappers; "
                    "remove one, or choose by --prefix"
                )
            names[plain] = name
    if missing := [mark for mark in marks if mark not in names]:
        raise InputError(
            f"no tensor {prefix}{missing[0]}; give another --prefix, or no --prefix, which finds it"
        )
    own = {plain: tensors[name] for plain, name in names.items()}
    averaged = _is_average(prefix)
    unread = () if given or averaged else _averages(tensors.keys() - names.values())
    return Network(own, prefix, averaged, unread)


def find_prefix(names: Collection[str], marks: Sequence[str]) -> str:
    """Finds the prefix of a network's names in a file.

    A prefix comes from wrappers ("module.") and from the file's dictionaries ("EMA.ema_model.").
    Averaged weights are preferred if a file holds several networks.

    Args:
      names: names of the file's tensors.
      marks: names of tensors by which the network is recognised.

    Raises:
      InputError: there is no network of this kind, or there are several and not exactly one is
        recognised as averaged.
    """
    marked: dict[str, set[str]] = {}
    for mark in marks:
        between = rf"\.(?:{_WRAPPER})*"
        pattern = re.compile(rf"((?:.*\.)?){between.join(map(re.escape, mark.split('.')))}")
        for name in names:
            if match := pattern.fullmatch(name):
                marked.setdefault(match[1], set()).add(mark)
    prefixes = sorted(prefix for prefix, present in marked.items() if len(present) == len(marks))
    if not prefixes:
        nearest = max(marked.values(), key=len, default=set())
        missing = [mark for mark in marks if mark not in nearest]
        shown = ", ".join([*sorted(names)[:3], ".."]) if names else "none"
        raise InputError(
            f"the file has no tensors {' and '.join(missing)} (it has {shown}); "
            "give the --kind of its network"
        )
    if len(prefixes) == 1:
        return prefixes[0]
    averaged = [prefix for prefix in prefixes if _is_average(prefix)]
    if len(averaged) != 1:
        raise InputError(
            f"several networks: their names begin with {', '.join(map(repr, prefixes))}; "
            "choose one by --prefix"
        )
    return averaged[0]


def _is_average(prefix: str) -> bool:
    return bool(_AVERAGE.search(prefix)) and "online" not in prefix


def _averages(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the prefixes of names that mark averages, each to the part that marks them."""
    prefixes: dict[str, int] = {}
    for name in names:
        *parts, _ = name.split(".")
        for i, part in enumerate(parts):
            if _AVERAGE.search(part):
                prefix = ".".join([*parts[: i + 1], ""])
                prefixes[prefix] = prefixes.get(prefix, 0) + 1
                break
    # A few tensors are an average's counters, or buffers that are only called so.
    return tuple(sorted(prefix for prefix, count in prefixes.items() if count > 3))
