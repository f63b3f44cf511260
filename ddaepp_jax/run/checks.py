"""What the processes of a run compare before it starts, and what has to be equal."""

import collections
import dataclasses
import hashlib
import importlib.metadata
import platform
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import ddaepp_jax
from ddaepp_jax import build
from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.base.files import try_writing
from ddaepp_jax.config import saved
from ddaepp_jax.data.fingerprint import fingerprint
from ddaepp_jax.run.describe import gigabytes

PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint")
CLOCKS = 5.0  # seconds by which the hosts' clocks may differ
SEEN = 10.0  # seconds in which a new file is seen through storage that is shared


@dataclasses.dataclass(frozen=True)
class Check:
    """A result: what was checked, whether it passed, and a line that says what was seen.

    The line of a check that failed names the host and ends with the mend.
    """

    name: str
    passed: bool
    line: str

    def __str__(self) -> str:
        return f"{'pass' if self.passed else 'FAIL'}  {self.name:<14} {self.line}"


Facts = Sequence[dict[str, Any]]  # what each process found, with its host, by its number


def own_facts(config: ConfigDict) -> dict[str, Any]:
    """Returns what is compared between processes before JAX starts; JSON values."""
    package = Path(ddaepp_jax.__file__).parent
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return {
        "host": socket.gethostname(),
        "config": hashlib.blake2b(saved.to_json(config).encode(), digest_size=6).hexdigest(),
        "Python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "ddaepp_jax": ddaepp_jax.__version__,
        "sources": digest.hexdigest(),
        "commit": _commit(package),
    }


def _version(package: str) -> str:
    """Returns the version of an installed package; "none" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _commit(package: Path) -> str:
    """Returns the Git commit of the package's sources; "none" outside of a repository."""
    command = ["git", "-C", str(package), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def check_processes(facts: Facts, hosts: int | None) -> Check:
    """Checks the number of hosts; all processes came, or there would be no facts.

    Args:
      hosts: number of hosts that is expected; None takes any.
    """
    names = sorted({fact["host"] for fact in facts})
    seen = f"{_count(len(facts), 'process')} on {_count(len(names), 'host')}"
    shown = _listed(names)
    if hosts is not None and hosts != len(names):
        mend = "start the program on all hosts, with --coordinator, or change --hosts"
        return Check("processes", False, f"{seen} ({shown}), but --hosts={hosts}; {mend}")
    return Check("processes", True, f"{seen} ({shown})")


def check_versions(facts: Facts) -> Check:
    """Checks that packages and sources are the same in all processes."""
    names = [name for name in facts[0] if name not in ("host", "config")]
    if different := [line for name in names if (line := _difference(name, facts))]:
        mend = "install the same packages and sources on all hosts"
        return Check("versions", False, f"{'; '.join(different)}; {mend}")
    return Check("versions", True, ", ".join(f"{name} {facts[0][name]}" for name in names))


def check_config(facts: Facts) -> Check:
    """Checks that all processes got the same config."""
    if different := _difference("config", facts):
        mend = "give all processes the same --config and overrides"
        return Check("config", False, f"{different}; {mend}")
    return Check("config", True, f"hash {facts[0]['config']}")


def _difference(name: str, facts: Facts) -> str:
    """Says which processes have another value than most, or than process 0; "" if none has."""
    common, _ = collections.Counter(fact[name] for fact in facts).most_common(1)[0]
    others = [
        f"{fact[name]} on {_place(number, facts)}"
        for number, fact in enumerate(facts)
        if fact[name] != common
    ]
    if not others:
        return ""
    return f"{name} {_listed(others)}, but {common} on {_place_of(common, name, facts)}"


def _place(number: int, facts: Facts) -> str:
    return f"{facts[number]['host']} (process {number})"


def _place_of(value: Any, name: str, facts: Facts) -> str:
    places = [number for number, fact in enumerate(facts) if fact[name] == value]
    return _place(places[0], facts) if len(places) == 1 else f"{len(places)} others"


def check_clocks(facts: Facts) -> Check:
    """Checks that the clocks, read by all processes at about the same moment, agree."""
    times = np.array([fact["time"] for fact in facts])
    worst = int(np.abs(times - np.median(times)).argmax())
    spread = float(np.ptp(times))
    if spread > CLOCKS:
        mend = "set the clock by the network (NTP) there"
        line = f"differ by {spread:.1f} s, that of {_place(worst, facts)} most; {mend}"
        return Check("clocks", False, line)
    return Check("clocks", True, f"differ by at most {spread:.2f} s")


def data_facts(config: ConfigDict) -> dict[str, Any]:
    """Returns what this process reads of the training data, or its error."""
    try:
        data = build.dataset(config, config.data.split, download=False)
        return {"error": "", "data": fingerprint(data), "described": data.described}
    except (InputError, OSError) as error:
        return {"error": first_line(error), "data": "", "described": ""}


def check_data(facts: Facts) -> Check:
    """Checks that all processes read the same training data."""
    if line := _first_error("data", facts):
        return line
    if different := _difference("data", facts):
        mend = "give all hosts the same data (data.data_dir)"
        return Check("data", False, f"{different}; {mend}")
    return Check("data", True, f"{facts[0]['described']}, fingerprint {facts[0]['data']}")


def directory_facts(workdir: Path, token: str) -> dict[str, Any]:
    """Returns whether this process can write in the run directory and sees the token there."""
    deadline = time.monotonic() + SEEN
    while not (seen := (workdir / token).exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    error = ""
    try:
        if seen:  # It is the directory of process 0, and not another of the same name.
            try_writing(workdir)
    except OSError as raised:
        error = f"cannot write in {workdir} ({raised.strerror}); give this user the right to"
    return {"seen": seen, "error": error}


def check_directory(facts: Facts, workdir: Path) -> Check:
    """Checks that all processes can write in one and the same run directory."""
    if line := _first_error("run directory", facts):
        return line
    if blind := [_place(number, facts) for number, fact in enumerate(facts) if not fact["seen"]]:
        mend = "give one on storage that all hosts share, e.g. a mounted bucket or NFS"
        line = f"--workdir: {workdir} on {_listed(blind)} is not that of process 0; {mend}"
        return Check("run directory", False, line)
    return Check("run directory", True, f"{workdir} is shared and can be written")


def check_space(needed: int, free: int, workdir: Path) -> Check:
    """Checks that the checkpoints have room.

    Args:
      needed: bytes of all checkpoints and snapshots that the run keeps, less those that are there.
      free: bytes that are free.
    """
    line = f"{gigabytes(free)} free, {gigabytes(needed)} needed for checkpoints"
    if needed > free:
        mend = "free space, or lower train.keep_checkpoints or raise ema.snapshot_every"
        return Check("space", False, f"--workdir: {workdir} has {line}; {mend}")
    return Check("space", True, line)


def check_devices(facts: Facts, devices: int | None) -> Check:
    """Checks the number of devices, and that all are of one kind.

    Args:
      devices: number of devices that is expected; None takes any.
    """
    total = sum(fact["devices"] for fact in facts)
    for name in ("kind", "devices"):
        if different := _difference(name, facts):
            mend = "give all processes the same devices"
            return Check("devices", False, f"{different}; {mend}")
    line = f"{_count(total, 'device')} ({facts[0]['kind']}), {facts[0]['devices']} a process"
    if devices is not None and devices != total:
        mend = "see whether another program holds the others, or change --devices"
        return Check("devices", False, f"{line}, but --devices={devices}; {mend}")
    return Check("devices", True, line)


def check_fields(facts: Facts) -> Check:
    """Checks that the devices divide the batch, and that the config's fields fit the data."""
    if line := _first_error("batch", facts):
        return line
    return Check("batch", True, f"{facts[0]['batch']} images, {facts[0]['each']} a device")


def check_memory(facts: Facts) -> Check:
    """Checks that the compiled program fits into the smallest device's memory."""
    if line := _first_error("memory", facts):
        return line
    needed, limit = max(fact["memory"] for fact in facts), facts[0]["limit"]
    known = f"of {gigabytes(limit)} a device" if limit else "a device; its limit is not known here"
    return Check("memory", True, f"{gigabytes(needed)} {known}")


def _listed(texts: Sequence[str]) -> str:
    """Joins texts, at most the first four."""
    return ", ".join(texts[:4]) + (", .." if len(texts) > 4 else "")


def _count(number: int, name: str) -> str:
    plural = "es" if name.endswith("s") else "s"
    return f"{number} {name}{plural if number != 1 else ''}"


def _first_error(name: str, facts: Facts) -> Check | None:
    """Returns the failed check of the first process that has an error."""
    for number, fact in enumerate(facts):
        if fact["error"]:
            return Check(name, False, f"on {_place(number, facts)}: {fact['error']}")
    return None
