"""Which form of a step fits into a device's memory, by programs whose sizes are given."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ddaepp_jax.training import memory
from ddaepp_jax.training.memory import GIB, DoesNotFitError, Form

REFUSED = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries (20.50G) exceeds available HBM (15.75G). HLO module: jit_train."
)
OLDER = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G."
)
FORMS = [Form("none", 1, 64), Form("block", 1, 64), Form("block", 2, 64)]


def size(form):
    """A state of 100 bytes, and activations of each image, fewer where they are computed again."""
    each = 20 if form.remat == "none" else 7
    return 100 + each * form.batch_size // form.parts


def compiler(seen, refuses_above=None):
    def compile(form):
        seen.append(form)
        if refuses_above and size(form) > refuses_above:
            sizes = f"Used {size(form)} of {refuses_above} hbm"
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {sizes}")
        return SimpleNamespace(memory=size(form), form=form)

    return compile


@pytest.mark.parametrize(
    ("capacity", "chosen"), [(None, 0), (1380, 0), (1379, 1), (548, 1), (547, 2), (324, 2)]
)
def test_the_first_form_that_fits(capacity, chosen):
    seen = []
    program, form = memory.fit(compiler(seen), FORMS, capacity, 4)
    assert form is program.form is FORMS[chosen] and seen == FORMS[: chosen + 1]


@pytest.mark.parametrize("refuses", [False, True], ids=["counted", "refused"])
@pytest.mark.parametrize("capacity", [323, 200, 160, 128, 127, 99])
def test_the_largest_batch_that_would_fit(capacity, refuses):
    """It is a multiple of 4 devices times 2 parts, and was compiled; a TPU's compiler refuses."""
    seen = []
    known = None if refuses else capacity
    with pytest.raises(DoesNotFitError) as caught:
        memory.fit(compiler(seen, capacity if refuses else None), FORMS, known, 4)
    error = caught.value
    fitting = [n for n in range(8, 64, 8) if size(Form("block", 2, n)) <= capacity]
    assert error.largest == max(fitting, default=0)
    assert (error.form, error.needed, error.capacity) == (FORMS[2], 324, capacity)
    assert not error.largest or Form("block", 2, error.largest) in seen
    assert len(seen) <= len(FORMS) + memory.TRIALS


def test_the_line_leads_through_the_two_smallest_batches():
    """The program of 64 images is smaller than its line, as a compiler saves memory by itself."""
    assert memory.on_line({64: 324, 16: 212, 8: 156}, 268) == 24


@pytest.mark.parametrize("message", [REFUSED, OLDER])
def test_sizes_in_a_compilers_error(message):
    assert memory.refused_sizes(message) == (int(20.5 * GIB), int(15.75 * GIB))


def test_other_errors_are_raised():
    def compile(form):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: used 3 of 4 things")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID"):
        memory.fit(compile, FORMS, None, 4)


@pytest.mark.parametrize(
    ("kind", "stats", "expected"),
    [
        ("NVIDIA H100", {"bytes_limit": 60 * GIB}, 60 * GIB),
        ("TPU v5 lite", {"bytes_limit": 15 * GIB}, 15 * GIB),
        ("TPU v5 lite", None, 63 * GIB // 4),
        ("TPU v5", jax.errors.JaxRuntimeError("only addressable devices"), int(95.73 * GIB)),
        ("cpu", None, None),
    ],
)
def test_the_memory_of_a_device(kind, stats, expected):
    def memory_stats():
        if isinstance(stats, Exception):
            raise stats
        return stats

    device = SimpleNamespace(device_kind=kind, process_index=0, memory_stats=memory_stats)
    assert memory.capacity(SimpleNamespace(devices=np.array([device]))) == expected
