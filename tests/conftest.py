"""What every test shares: devices, the compilation cache, the bound on a quick test's time, and
trained runs.

Tests run on one CPU device; those of ``tests/parallel`` run on eight simulated ones, in a pytest of
their own. Rank promotion is an error, and so are warnings (pyproject.toml). Programs are compiled
as users compile them.

JAX keeps compiled programs in one cache for all checkouts, keyed by its version, the flags and the
program, so that a second run of the tests compiles next to nothing. ``JAX_COMPILATION_CACHE_DIR``
names another place. Programs of eight devices are not kept (see ``ddaepp_jax.start_backend``).
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddaepp_jax" / "tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_MAX_SIZE", str(2 * 2**30)
)  # bytes; JAX drops what was used longest ago
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax  # noqa: E402  (JAX reads the environment when it is imported)
import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402
from helpers.extractor import untrained_classifier  # noqa: E402
from helpers.run import CONDITIONAL, PLAIN, config  # noqa: E402

import ddaepp_jax  # noqa: E402
from ddaepp_jax.run.train import train_and_evaluate  # noqa: E402

PARALLEL = Path(__file__).parent / "parallel"
DEVICES = 8  # of the tests in PARALLEL
QUICK_SECONDS = 60


def pytest_configure(config: pytest.Config) -> None:
    """Set the number of devices by what is to be tested, before JAX starts its backend."""
    asked = [Path(argument.split("::")[0]).resolve() for argument in config.args]
    parallel = all(path.is_relative_to(PARALLEL) for path in asked)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES if parallel else 1)
    jax.config.update("jax_enable_compilation_cache", not parallel)
    jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests on eight devices where other tests run too."""
    if jax.config.jax_num_cpu_devices != DEVICES:
        skip = pytest.mark.skip(
            reason=f"needs {DEVICES} devices: run pytest tests/parallel by itself"
        )
        for item in items:
            if item.path.is_relative_to(PARALLEL):
                item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that is not marked as slow and takes longer than a suite that is run before each
    commit can bear.

    It has to be over the bound by the clock and in processor time, as other work on the machine
    stretches the former. The bound is twice what the longest quick test was seen
    to take on a slow machine, where eight devices compile everything anew.
    """
    start = os.times()
    result = yield
    end = os.times()
    seconds = min(end.elapsed - start.elapsed, sum(end[:4]) - sum(start[:4]))
    if seconds > QUICK_SECONDS and not item.get_closest_marker("slow"):
        pytest.fail(
            f"took {seconds:.0f} s, more than {QUICK_SECONDS}: make it smaller or mark it as slow"
        )
    return result


@pytest.fixture(scope="session")
def make_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[Path], object]], Path]:
    """Returns ``make(name, build) -> directory``: the first worker that asks builds it, the others
    wait for it.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def make(name: str, build: Callable[[Path], object]) -> Path:
        directory, building = root / "once" / name, root / "building" / name
        directory.parent.mkdir(exist_ok=True)
        with FileLock(directory.with_suffix(".lock")):
            if not directory.exists():
                shutil.rmtree(building, ignore_errors=True)
                build(building)
                building.rename(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def plain(make_once) -> Path:
    """A run directory: 6 steps of the tiny config, saved at 3 and 6, evaluated at 4 and 6. Copy it
    to change it.
    """
    return make_once("plain", lambda directory: train_and_evaluate(config(**PLAIN), directory))


@pytest.fixture
def damaged(plain, tmp_path) -> Path:
    """A copy of the plain run, for a test that damages it."""
    return Path(shutil.copytree(plain, tmp_path / "copy"))


@pytest.fixture(scope="session")
def conditional(make_once) -> Path:
    """A run directory of a class-conditional network with two averages and snapshots of three
    more.
    """
    return make_once(
        "conditional", lambda directory: train_and_evaluate(config(**CONDITIONAL), directory)
    )


@pytest.fixture(scope="session")
def run(conditional) -> ddaepp_jax.Run:
    """The conditional run, opened. Its compiled programs are kept from test to test, so leave it as
    it is.
    """
    return ddaepp_jax.load(conditional)


@pytest.fixture(scope="session")
def extractor(make_once) -> Path:
    """The directory of a classifier of digits that was never trained."""
    return make_once("classifier", untrained_classifier)
