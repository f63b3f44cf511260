"""Messages between the processes of one program before JAX joins them, over plain TCP.

JAX aborts a process that cannot join the others, and does not say which one is missing. Here,
process 0 listens at the address at which JAX's processes meet later, so that a closed port is found
too, and every error is one line.
"""

import contextlib
import json
import os
import socket
import time
from types import TracebackType
from typing import Any, BinaryIO, NoReturn

from ddaepp_jax.base.errors import InputError, first_line

RETRY = 0.5  # seconds between two attempts to reach process 0
ATTEMPT = 10.0  # most seconds of one attempt
GREETING = 5.0  # seconds in which a connection says who it is


class Peers:
    """The processes of a program, which exchange small values; used in a ``with`` block."""

    def __init__(self, address: str, number: int, count: int, seconds: float) -> None:
        """Meets the other processes.

        Args:
          address: HOST:PORT of process 0; unused for a single process.
          number: number of this process, from 0.
          count: number of processes.
          seconds: time within which all processes have to come.

        Raises:
          InputError: they did not; the message names those that are missing, or what to mend.
        """
        self.number, self.count = number, count
        self._address, self._seconds = address, seconds
        self._files: dict[int, BinaryIO] = {}
        if count > 1:
            self._welcome() if number == 0 else self._knock()
            self.gather(None)  # Now all have come.

    def __enter__(self) -> "Peers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # What was not sent may have nobody to read it.
                file.close()

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes, by their numbers; all have to call it.

        It waits as long as the other processes live.

        Args:
          value: a JSON value.

        Raises:
          InputError: a process has ended.
        """
        if self.count == 1:
            return [value]
        if self.number:
            _send(self._files[0], value=value)
            return self._receive(0)
        values = [value] + [self._receive(number) for number in range(1, self.count)]
        for file in self._files.values():
            _send(file, value=values)
        return values

    def _receive(self, number: int) -> Any:
        try:
            message = json.loads(self._files[number].readline())
        except (OSError, ValueError):
            message = {"refused": f"process {number} has ended; its own output says why"}
        if "refused" in message:
            self._refuse(message["refused"])
        return message["value"]

    def _welcome(self) -> None:
        """Waits at the address for the others."""
        host, _, port = self._address.rpartition(":")
        deadline = time.monotonic() + self._seconds
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            listener = socket.create_server(
                ("", int(port)), family=family, backlog=self.count, dualstack_ipv6=both
            )
        except OSError as error:
            raise InputError(
                f"--coordinator: process 0 cannot listen at port {port} of {host} "
                f"({error.strerror}); end the program that uses the port, or give another"
            ) from None
        with listener:
            while len(self._files) < self.count - 1:
                listener.settimeout(max(0.001, deadline - time.monotonic()))
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    missing = sorted(set(range(1, self.count)) - set(self._files))
                    self._refuse(
                        f"of {self.count} processes, {_numbers(missing)} did not come to "
                        f"{self._address} within {self._seconds:g} s; see whether they started, "
                        f"and {_hint(port)}"
                    )
                self._greet(connection)

    def _greet(self, connection: socket.socket) -> None:
        """Learns who has come; whoever does not say so is no process of ours."""
        connection.settimeout(GREETING)
        file = connection.makefile("rwb")
        connection.close()  # The file keeps the connection.
        try:
            number, count = json.loads(file.readline())["value"]
        except (OSError, ValueError, TypeError, KeyError):
            return file.close()
        if count != self.count:
            reason = (
                f"process {number} was started with --num_processes={count}, process 0 with "
                f"{self.count}; give all of them the same"
            )
            _send(file, refused=reason)
            self._refuse(reason)
        if number in self._files or number not in range(1, count):
            reason = f"two processes have --process_id={number}; give each its own number"
            _send(file, refused=reason)
            self._refuse(reason)
        connection.settimeout(None)
        self._files[number] = file
        return None

    def _refuse(self, reason: str) -> NoReturn:
        """Ends all processes with one error."""
        for file in self._files.values():
            _send(file, refused=reason)
        raise InputError(f"--coordinator: {reason}")

    def _knock(self) -> None:
        """Goes to process 0, which may start later."""
        host, _, port = self._address.rpartition(":")
        deadline = time.monotonic() + self._seconds
        reason = "no answer"
        while (left := deadline - time.monotonic()) > 0:
            try:
                connection = socket.create_connection(
                    (host.strip("[]"), int(port)), min(left, ATTEMPT)
                )
            except OSError as error:
                reason = error.strerror or str(error)
                time.sleep(min(RETRY, max(0.0, left)))
                continue
            connection.settimeout(None)
            self._files[0] = connection.makefile("rwb")
            connection.close()
            _send(self._files[0], value=[self.number, self.count])
            return
        raise InputError(
            f"--coordinator: process {self.number} does not reach process 0 at {self._address} "
            f"within {self._seconds:g} s ({reason}); see whether process 0 started and whether "
            f"this is its address, and {_hint(port)}"
        )


def _send(file: BinaryIO, **message: Any) -> None:
    """Sends a value, or the reason why all processes end."""
    with contextlib.suppress(OSError):  # Whoever has ended is noticed when it should answer.
        file.write(json.dumps(message).encode() + b"\n")
        file.flush()


def _numbers(missing: list[int]) -> str:
    """Names processes by their numbers, at most the first ten."""
    text = ", ".join(map(str, missing[:10])) + (", .." if len(missing) > 10 else "")
    return f"process {text}" if len(missing) == 1 else f"processes {text}"


def _hint(port: str) -> str:
    """Returns what else can keep processes apart."""
    hint = f"whether a firewall closes port {port} between the hosts"
    if port == "8482":
        hint += " (set JAX_COORDINATOR_PORT=8476 on all of them, which more networks leave open)"
    return hint


def disturbing_variables() -> list[str]:
    """Returns the variables of the environment that can keep JAX from joining processes."""
    proxies = ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy")
    return sorted(
        name for name in os.environ if name.lower() in proxies or name.startswith("MEGASCALE_")
    )


def detected(seconds: float) -> tuple[str, int, int]:
    """Returns what JAX finds by itself on a pod or cluster, as ``Peers`` takes it.

    Args:
      seconds: time to wait for the name of process 0's host.

    Returns:
      HOST:PORT of process 0, the number of this process, and the number of processes.

    Raises:
      InputError: this is no pod or cluster that JAX knows.
    """
    from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize() uses

    try:
        address, count, number, _ = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, int(seconds)
        )
    except RuntimeError as error:
        raise InputError(
            f"--coordinator: 'auto' does not find the processes ({first_line(error)}); see whether "
            "process 0 started, or give its HOST:PORT"
        ) from None
    if None in (address, count, number):
        raise InputError(
            "--coordinator: 'auto' knows TPU pods, Slurm and Open MPI, and this is none of them; "
            "give the HOST:PORT of process 0"
        )
    return address, number, count
