"""Where a compiled program spends its time on a CPU, by class of operation, from JAX's profile."""

import gzip
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

# Opcodes of HLO by class. An operation belongs to the first class of which it has an opcode, in
# itself or in the computation that it fuses.
CLASSES = {
    "matrix products": {"dot"},
    "convolutions": {"convolution"},
    "random bits": {"xor", "rng-bit-generator", "shift-right-logical"},
    "reductions": {"reduce", "reduce-window"},
    "gathers and scatters": {"gather", "scatter"},
    "elementwise, transcendental": {
        "exponential", "exponential-minus-one", "tanh", "erf", "log", "log-plus-one", "logistic",
        "cosine", "sine", "power",
    },
    "elementwise": {"add", "subtract", "multiply", "divide", "maximum", "select", "rsqrt", "sqrt"},
    "copies and layouts": {
        "copy", "transpose", "concatenate", "slice", "dynamic-slice", "dynamic-update-slice", "pad",
        "broadcast", "convert", "reshape", "bitcast", "reverse",
    },
}  # fmt: skip
CONTAINERS = {"while", "conditional", "call"}  # Their operations have events of their own.
OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (?:\([^)]*\)|\S+) ([\w-]+)\(")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
CALLED = re.compile(r"calls=%?([\w.-]+)")
SOURCE = re.compile(r'op_name="([^"]*)"')
RUNS = 3  # A pause of the machine falls into one of them, and medians leave it out.


def opcodes(text: str) -> dict[str, set[str]]:
    """Returns the opcodes of each operation of a compiled program's text.

    They are the operation's own and those of the computation that it fuses.
    """
    inside: dict[str, set[str]] = defaultdict(set)
    operations: dict[str, tuple[str, str]] = {}
    computation = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            computation = match[1]
        elif match := OPERATION.match(line):
            called = CALLED.search(line)
            operations[match[1]] = (match[2], called[1] if called else "")
            inside[computation].add(match[2])
    return {name: {own} | inside.get(called, set()) for name, (own, called) in operations.items()}


def class_of(codes: set[str]) -> str:
    """Returns the class of an operation with these opcodes; "" for a container of others."""
    if codes & CONTAINERS:
        return ""
    return next((name for name, members in CLASSES.items() if codes & members), "other")


def sources(text: str) -> dict[str, str]:
    """Returns where each operation of a compiled program's text comes from in the traced code."""
    found = {}
    for line in text.splitlines():
        if (match := OPERATION.match(line)) and (source := SOURCE.search(line)):
            found[match[1]] = source[1]
    return found


def op_times(compiled: jax.stages.Compiled, call: Callable[[], Any]) -> list[dict[str, Any]]:
    """Profiles ``call``, which runs the compiled program once, a few times.

    Returns:
      Rows "class", "operation", "source", "seconds" and "calls" of one run, the slowest operation
      first. Operations that run at the same time on several threads share it equally.
    """
    text = compiled.as_text()
    codes, origins = opcodes(text), sources(text)
    module = re.match(r"HloModule ([\w.-]+)", text)[1]
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory, profiler_options=options):
            for _ in range(RUNS):
                jax.block_until_ready(call())
        (file,) = Path(directory).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    timed = {name for name, own in codes.items() if class_of(own)}
    spans = [
        (event["args"]["hlo_op"], event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6)
        for event in events
        if event.get("ph") == "X"
        and event.get("args", {}).get("hlo_module") == module
        and event["args"].get("hlo_op") in timed
    ]
    durations: dict[str, list[float]] = defaultdict(list)
    for name, seconds in shared(spans):
        durations[name].append(seconds)
    rows = [
        {
            "class": class_of(codes[name]),
            "operation": name,
            "source": origins.get(name, ""),
            "seconds": float(np.median(seconds)) * len(seconds) / RUNS,
            "calls": len(seconds) // RUNS,
        }
        for name, seconds in durations.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def shared(spans: list[tuple[str, float, float]]) -> list[tuple[str, float]]:
    """Divides time among spans (name, start, end), in seconds.

    Returns:
      (name, seconds) of each span, in their order. Where n spans overlap, each has 1/n of the time.
    """
    borders = sorted(
        [(start, 1, i) for i, (_, start, _) in enumerate(spans)]
        + [(end, 0, i) for i, (_, _, end) in enumerate(spans)]
    )
    seconds = [0.0] * len(spans)
    running: set[int] = set()
    last = 0.0
    for now, starts, i in borders:
        for j in running:
            seconds[j] += (now - last) / len(running)
        last = now
        (running.add if starts else running.discard)(i)
    return [(name, each) for (name, _, _), each in zip(spans, seconds, strict=True)]


def by_class(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Sums rows of ``op_times`` to (class, seconds, share), the largest first."""
    seconds: dict[str, float] = defaultdict(float)
    for row in rows:
        seconds[row["class"]] += row["seconds"]
    total = sum(seconds.values())
    return sorted(((k, s, s / total) for k, s in seconds.items()), key=lambda row: -row[1])
