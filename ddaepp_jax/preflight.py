"""Checks the hosts, the data, the run directory and the devices before an expensive run.

python -m ddaepp_jax.preflight --config=configs/uvit_cifar.py --workdir=runs/uvit_cifar
python -m ddaepp_jax.preflight --config=.. --workdir=.. --coordinator=auto --devices=16

Start it like the run itself, on every host. It prints a line for each check, trains two steps that
are not saved, and ends with exit code 0 if all checks passed, and 2 otherwise.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.cli.arguments import (
    Parser,
    add_config,
    add_processes,
    config_arguments,
    number,
    path,
    start,
)
from ddaepp_jax.cli.start import check_processes, launch

if TYPE_CHECKING:
    from ddaepp_jax.base.peers import Peers
    from ddaepp_jax.run.checks import Check

SECONDS = 120.0
MOST_SECONDS = 290.0  # JAX itself gives up, and aborts, after 300


def main(argv: Sequence[str]) -> None:
    args, changes = _parse(argv)
    from ddaepp_jax.base.peers import Peers, detected
    from ddaepp_jax.config.overrides import config_name, parse_config
    from ddaepp_jax.run.preflight import Preflight

    config = parse_config(config_arguments(args, changes))
    workdir = args.workdir or Path("runs") / config_name(args.config or "uvit_digits")
    meeting = (args.coordinator, args.process_id, args.num_processes)
    if args.coordinator == "auto":
        meeting = detected(args.timeout)
    with Peers(*meeting, args.timeout) as peers:
        preflight = Preflight(config, workdir, peers, args.timeout)
        failed = _shown(preflight.of_hosts(args.hosts), peers)
        if not failed:  # Processes that differ could wait for each other forever.
            preflight.join(lambda: start(args))
            failed = _shown(preflight.of_devices(args.devices), peers)
    if failed:
        checks = "1 check" if failed == 1 else f"{failed} checks"
        raise InputError(f"preflight: {checks} failed; each line names its mend")


def _shown(checks: "Iterator[Check]", peers: "Peers") -> int:
    """Prints the checks in process 0, and returns how many failed, the most of any process."""
    failed = 0
    for check in checks:
        failed += not check.passed
        if peers.number == 0:
            print(check, flush=True)
    return max(peers.gather(failed))


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser("ddaepp_jax.preflight", __doc__)
    add = parser.add_argument
    add_config(parser, "U-ViT on digits")
    add("--workdir", type=path, help="run directory (default: runs/<name of the config>)")
    add("--hosts", type=int, help="number of hosts to expect (any)")
    add("--devices", type=int, help="number of devices of all hosts to expect (any)")
    add(
        "--timeout",
        type=number,
        default=SECONDS,
        help="seconds after which a process that is missing, or a stage that is stuck, is an "
        f"error ({SECONDS:g})",
    )
    add_processes(parser)
    args, changes = parser.parse_known_args(argv)
    if not 0 < args.timeout <= MOST_SECONDS:
        raise InputError(
            f"--timeout: {args.timeout:g} s is not in 0..{MOST_SECONDS:g}; give another time"
        )
    check_processes(args.coordinator, args.num_processes, args.process_id)
    return args, changes


if __name__ == "__main__":
    launch(main)
