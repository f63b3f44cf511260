"""Notes that the processes of a program leave for each other, without using their devices.

The notes lie in the memory of process 0, in the service by which JAX joins processes. A program of
one process has no board.
"""

from typing import Any

_client: Any = None
_process = 0
_processes = 1


def join() -> None:
    """Opens the board; call it once, after ``jax.distributed.initialize``."""
    import jax
    from jax._src import distributed  # JAX has no public name for it; Orbax uses this one too.

    global _client, _process, _processes
    _client = distributed.global_state.client
    _process, _processes = jax.process_index(), jax.process_count()


def joined() -> bool:
    """Whether this process is one of several."""
    return _processes > 1


def process() -> int:
    """Returns the number of this process."""
    return _process


def others() -> list[int]:
    """Returns the numbers of the other processes."""
    return [number for number in range(_processes) if number != _process]


def write(name: str, text: str) -> None:
    """Leaves a note, in the place of one that has this name."""
    _client.key_value_set(name, text, allow_overwrite=True)


def read(folder: str) -> dict[str, str]:
    """Returns the notes that are named ``<folder>/<name>`` now, by the rest of their names."""
    return {name.rpartition("/")[2]: text for name, text in _client.key_value_dir_get(folder)}


def wait_for(name: str) -> str:
    """Waits for a note, a week at most, and returns it."""
    return _client.blocking_key_value_get(name, 7 * 24 * 3600 * 1000)


def remove(name: str) -> None:
    """Removes a note, if it is there."""
    _client.key_value_delete(name)
