"""The checks before an expensive start, which all processes of a run make together."""

import contextlib
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ddaepp_jax import build
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.peers import Peers, disturbing_variables
from ddaepp_jax.base.stop import end_process
from ddaepp_jax.run import checks, rehearsal
from ddaepp_jax.run.checks import Check, Facts
from ddaepp_jax.run.train import Plan, make_plan


class Preflight:
    """Runs the checks of all processes together; each method gives the same checks in all."""

    def __init__(self, config: ConfigDict, workdir: Path, peers: Peers, seconds: float) -> None:
        """Describes the run.

        Args:
          config: the run's config.
          workdir: the run directory.
          peers: the processes.
          seconds: time after which a stage counts as stuck.
        """
        self._config, self._workdir = config, workdir
        self._peers, self._seconds = peers, seconds
        self._facts: Facts = []

    def of_hosts(self, hosts: int | None) -> Iterator[Check]:
        """Yields the checks that need no devices.

        Args:
          hosts: number of hosts that is expected; None takes any.
        """
        self._facts = facts = self._peers.gather(checks.own_facts(self._config))
        yield checks.check_processes(facts, hosts)
        yield checks.check_versions(facts)
        yield checks.check_config(facts)
        self._peers.gather(None)
        yield checks.check_clocks(self._gather({"time": time.time()}))
        yield checks.check_data(self._gather(checks.data_facts(self._config)))
        yield self._check_directory()

    def _gather(self, own: dict[str, Any]) -> Facts:
        """Returns what each process found beside what is known of it."""
        found = self._peers.gather(own)
        return [{**fact, **further} for fact, further in zip(self._facts, found, strict=True)]

    def _check_directory(self) -> Check:
        token = error = ""
        if self._peers.number == 0:
            token = f".preflight-{uuid.uuid4().hex[:12]}"
            try:
                self._workdir.mkdir(parents=True, exist_ok=True)
                (self._workdir / token).touch()
            except OSError as raised:
                mend = "make it writable, or use another"
                error = f"--workdir: cannot write in {self._workdir} ({raised.strerror}); {mend}"
        token, error = self._peers.gather((token, error))[0]
        if error:
            return Check("run directory", False, error)
        try:
            found = self._gather(checks.directory_facts(self._workdir, token))
        finally:
            if self._peers.number == 0:
                (self._workdir / token).unlink(missing_ok=True)
        return checks.check_directory(found, self._workdir)

    def join(self, start: Callable[[], None]) -> None:
        """Starts JAX in all processes.

        Args:
          start: joins this process to the others, and starts the devices.
        """
        names = disturbing_variables()
        mend = "see whether another program holds the devices"
        if names:
            mend = f"unset {', '.join(names)}, which can be the reason"
        with self._within("the processes reach each other, but JAX does not join them", mend):
            start()
            jax.devices()

    def of_devices(self, devices: int | None) -> Iterator[Check]:
        """Yields the checks that need the devices; it ends early where they cannot go on.

        Args:
          devices: number of devices that is expected; None takes any.
        """
        local = jax.local_devices()
        own = {"devices": len(local), "kind": local[0].device_kind}
        yield checks.check_devices(self._gather(own), devices)
        plan, own = self._plan()
        batch = checks.check_fields(self._gather(own))
        yield batch
        if plan is None or not batch.passed:
            return
        free = shutil.disk_usage(self._workdir).free
        needed = rehearsal.needed_bytes(plan, self._workdir)
        needed, free = self._peers.gather((needed, free))[0]
        yield checks.check_space(needed, free, self._workdir)
        with self._within("the all-reduce does not end", "see the network between the hosts"):
            reduced = rehearsal.all_reduce(plan.mesh)
        yield reduced
        program, own = rehearsal.compiled(plan)
        memory = checks.check_memory(self._gather(own))
        yield memory
        if program and memory.passed:
            source = build.source(self._config, plan.data, plan.mesh)
            with self._within("the train step does not end", "raise --timeout, if it is long"):
                step = rehearsal.train_step(program, source, plan)
            yield step

    def _plan(self) -> tuple[Plan | None, dict[str, Any]]:
        """Returns the run's objects, None if a field is wrong; and the facts of the batch."""
        try:
            with contextlib.redirect_stdout(None):  # The table says it.
                plan = make_plan(self._config, download=False)
        except InputError as error:
            return None, {"error": str(error), "batch": 0, "each": 0}
        size = self._config.train.batch_size
        each = size // (plan.mesh.shape["data"] * plan.mesh.shape["fsdp"])
        return plan, {"error": "", "batch": size, "each": each}

    @contextlib.contextmanager
    def _within(self, what: str, mend: str) -> Iterator[None]:
        """Ends the process if the block does not end in time: nothing else ends JAX's waiting."""
        line = f"error: --timeout: {what} within {self._seconds:g} s; {mend}"
        timer = threading.Timer(self._seconds, end_process, (line, 2))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
