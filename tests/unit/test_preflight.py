"""Each check of preflight can fail, and its line names the host and the mend."""

import json
import platform
import socket
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from helpers.processes import free_address
from helpers.run import compiled, config

from ddaepp_jax import preflight
from ddaepp_jax.base import peers
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.parallel import make_mesh
from ddaepp_jax.base.peers import Peers
from ddaepp_jax.run import checks, rehearsal
from ddaepp_jax.run.preflight import Preflight
from ddaepp_jax.run.train import make_plan

HOSTS = [{"host": "a"}, {"host": "b"}, {"host": "c"}]


def facts(name, *values):
    return [{**host, name: value} for host, value in zip(HOSTS, values, strict=True)]


def found(*changes, **common):
    """What three processes found: the common facts, with changes to the first ones."""
    changes = (*changes, *({},) * (3 - len(changes)))
    return [host | common | change for host, change in zip(HOSTS, changes, strict=True)]


GOOD_DATA = dict(error="", data="12ab", described="digits")
GOOD_DIRECTORY = dict(seen=True, error="")
GOOD_DEVICES = dict(devices=4, kind="TPU v5e")
GOOD_FIELDS = dict(error="", batch=48, each=4)
GOOD_MEMORY = dict(error="", memory=3 * 2**30, limit=4 * 2**30)


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (lambda: checks.check_processes(HOSTS, 4), ["3 hosts", "--hosts=4", "start the program"]),
        (
            lambda: checks.check_versions(facts("flax", "1", "2", "1")),
            ["flax 2 on b (process 1)", "1 on 2 others", "install"],
        ),
        (
            lambda: checks.check_config(facts("config", "x", "x", "y")),
            ["config y on c (process 2)", "--config"],
        ),
        (
            lambda: checks.check_clocks(facts("time", 0.0, 0.1, 9.0)),
            ["9.0 s", "c (process 2)", "NTP"],
        ),
        (
            lambda: checks.check_data(found({}, {"data": "34cd"}, **GOOD_DATA)),
            ["data 34cd on b (process 1)", "data.data_dir"],
        ),
        (
            lambda: checks.check_data(found({"error": "data.name: gone"}, **GOOD_DATA)),
            ["a (process 0): data.name: gone"],
        ),
        (
            lambda: checks.check_directory(found({}, {"seen": False}, **GOOD_DIRECTORY), "r"),
            ["--workdir: r on b (process 1)", "NFS"],
        ),
        (
            lambda: checks.check_directory(found({"error": "no"}, **GOOD_DIRECTORY), "r"),
            ["a (process 0): no"],
        ),
        (
            lambda: checks.check_space(2**31, 2**30, "r"),
            ["1.00 GiB free", "2.00 GiB needed", "train.keep_checkpoints"],
        ),
        (
            lambda: checks.check_devices(found({"devices": 3}, **GOOD_DEVICES), None),
            ["devices 3 on a (process 0)", "the same devices"],
        ),
        (
            lambda: checks.check_devices(found({}, {"kind": "cpu"}, **GOOD_DEVICES), None),
            ["kind cpu on b (process 1)"],
        ),
        (
            lambda: checks.check_devices(found(**GOOD_DEVICES), 16),
            ["12 devices", "--devices=16", "another program"],
        ),
        (
            lambda: checks.check_fields(found({"error": "train.epochs: no"}, **GOOD_FIELDS)),
            ["a (process 0): train.epochs: no"],
        ),
        (
            lambda: checks.check_memory(found({"error": "RESOURCE"}, **GOOD_MEMORY)),
            ["a (process 0): RESOURCE"],
        ),
    ],
)
def test_a_check_fails(check, words):
    result = check()
    assert not result.passed and str(result).startswith("FAIL") and "\n" not in result.line
    assert [word for word in words if word not in result.line] == []


def test_checks_pass():
    same = facts("flax", "1", "1", "1")
    results = [
        checks.check_processes(HOSTS, 3),
        checks.check_versions(same),
        checks.check_config(facts("config", "x", "x", "x")),
        checks.check_clocks(facts("time", 7.0, 7.1, 7.2)),
        checks.check_data(found(**GOOD_DATA)),
        checks.check_directory(found(**GOOD_DIRECTORY), "r"),
        checks.check_space(2**30, 2**31, "r"),
        checks.check_devices(found(**GOOD_DEVICES), 12),
        checks.check_fields(found(**GOOD_FIELDS)),
        checks.check_memory(found(**GOOD_MEMORY)),
        checks.check_memory(found(**GOOD_MEMORY | {"limit": 0})),
    ]
    assert [result for result in results if not result.passed] == []


def test_what_a_process_finds(tmp_path):
    """The facts are those of this machine, and survive JSON."""
    own = checks.own_facts(config())
    assert own["jax"] == jax.__version__ and own["Python"] == platform.python_version()
    assert checks._version("no-such-package") == "none" and own["host"] == socket.gethostname()
    assert own["config"] != checks.own_facts(config(seed=1))["config"]
    assert json.loads(json.dumps(own)) == own
    assert len(checks.data_facts(config())["data"]) == 16
    missing = config(data__name="folder", data__data_dir=str(tmp_path / "none"))
    assert str(tmp_path / "none") in checks.data_facts(missing)["error"]


def test_a_token_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "SEEN", 0.0)
    assert not checks.directory_facts(tmp_path, "token")["seen"]
    (tmp_path / "token").touch()
    assert checks.directory_facts(tmp_path, "token")["seen"]
    monkeypatch.setattr(checks, "try_writing", raising(PermissionError(13, "Permission denied")))
    assert "Permission denied" in checks.directory_facts(tmp_path, "token")["error"]


def raising(error):
    def fail(*_):
        raise error

    return fail


def test_the_space_is_that_of_the_checkpoints_that_are_kept(tmp_path):
    few = make_plan(config(train__keep_checkpoints=2))
    many = make_plan(config(train__keep_checkpoints=5))
    one = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(few.shapes))
    fresh = rehearsal.needed_bytes(few, tmp_path)
    assert rehearsal.needed_bytes(many, tmp_path) - fresh == 3 * one
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "4").write_bytes(b"0" * one)
    assert rehearsal.needed_bytes(few, tmp_path) == fresh - one
    (tmp_path / "checkpoints" / "5").write_bytes(b"0" * fresh)
    assert rehearsal.needed_bytes(few, tmp_path) == one


def test_an_all_reduce_that_adds_wrongly_fails(monkeypatch):
    monkeypatch.setattr(rehearsal, "REDUCED", 2**12)
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    result = rehearsal.all_reduce(mesh)
    assert result.passed and "GB/s" in result.line
    monkeypatch.setattr(jnp, "ones", jnp.zeros)
    result = rehearsal.all_reduce(mesh)
    assert not result.passed and "add up to 0..0" in result.line and "replace" in result.line


def test_a_step_that_does_not_fit_or_diverges_fails():
    settings = config(train__steps_per_dispatch=1)
    program, source, mesh = compiled(settings)
    plan = SimpleNamespace(mesh=mesh, config=settings)
    good = rehearsal.train_step(program, source, plan)
    assert good.passed and "images/s" in good.line

    def full(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: 9 GiB")

    def diverged(state, totals, data, stop):
        totals["sums"]["loss"] = jnp.float32(jnp.nan)
        return state, totals, stop

    for run, words in ((full, ["9 GiB", "train.batch_size"]), (diverged, ["nan", "float32"])):
        stub = SimpleNamespace(init=lambda: None, zeros=program.zeros, run=run)
        result = rehearsal.train_step(stub, source, plan)
        assert not result.passed and [word for word in words if word not in result.line] == []


def test_a_stage_that_is_stuck_ends_the_process(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(
        "ddaepp_jax.run.preflight.end_process", lambda line, code: (lines.append(line), ended.set())
    )
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "2")
    lines = []
    with Peers("", 0, 1, 1.0) as alone:
        Preflight(config(), None, alone, 0.05).join(lambda: ended.wait(20))
    assert "0.05 s" in lines[0] and "MEGASCALE_NUM_SLICES" in lines[0]


def test_preflight_passes_and_fails(tmp_path, capsys):
    arguments = ["--config.train.batch_size=16", f"--workdir={tmp_path}"]
    preflight.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines] == ["pass"] * 12
    assert list(tmp_path.iterdir()) == []  # no token, no checkpoint
    with pytest.raises(InputError, match="2 checks failed"):
        preflight.main([*arguments, "--devices=9", "--config.objectives.denoising.weight=0"])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--timeout=0", ["--timeout", "290"]),
        ("--timeout=300", ["--timeout", "290"]),
        ("--num_processes=2", ["--num_processes", "--coordinator"]),
        ("--coordinator=auto", ["--coordinator", "HOST:PORT"]),
    ],
)
def test_wrong_arguments(argument, words):
    with pytest.raises(InputError) as error:
        preflight.main([argument])
    assert [word for word in words if word not in str(error.value)] == []


# ---- peers ----


def meet(*processes, seconds=20.0):
    """Runs functions of ``Peers`` as threads; returns each one's value or error.

    Args:
      processes: (number, count, function of the peers).
    """
    address = free_address()
    results = [None] * len(processes)

    def run(index, number, count, use):
        try:
            with Peers(address, number, count, seconds) as together:
                results[index] = use(together)
        except InputError as error:
            results[index] = str(error)

    threads = [
        threading.Thread(target=run, args=(index, *process))
        for index, process in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_peers_gather_in_the_order_of_their_numbers():
    twice = lambda together: together.gather(together.number) + together.gather({"refused": 1})
    expected = [0, 1, 2] + [{"refused": 1}] * 3
    assert meet((2, 3, twice), (0, 3, twice), (1, 3, twice)) == [expected] * 3


def test_all_learn_who_is_missing():
    nothing = lambda together: None
    lines = meet((0, 4, nothing), (2, 4, nothing), seconds=1.0)
    assert lines[0] == lines[1]
    assert "processes 1, 3 did not come" in lines[0] and "firewall" in lines[0]


def test_without_process_0_the_address_is_doubted():
    (line,) = meet((1, 2, None), seconds=0.5)
    assert "process 1 does not reach process 0 at 127.0.0.1:" in line and "0.5 s" in line


@pytest.mark.parametrize(
    ("second", "words"),
    [((1, 3), ["--num_processes=3", "2"]), ((2, 2), ["--process_id=2", "own number"])],
)
def test_processes_that_do_not_fit_are_refused(second, words):
    nothing = lambda together: together.gather(1)
    lines = meet((0, 2, nothing), (*second, nothing))
    assert lines[0] == lines[1] and [word for word in words if word not in lines[0]] == []


def test_a_process_that_ends_is_noticed():
    gather = lambda together: together.gather(1)
    lines = meet((0, 3, gather), (1, 3, lambda together: None), (2, 3, gather))
    assert lines[1] is None
    assert "process 1 has ended" in lines[0] and lines[2] == lines[0]


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1"):
            Peers(f"127.0.0.1:{port}", 0, 2, 1.0)


def test_strangers_are_ignored():
    address = free_address()
    gathered = []

    def first():
        with Peers(address, 0, 2, 20.0) as together:
            gathered.extend(together.gather("a"))

    thread = threading.Thread(target=first)
    thread.start()
    host, port = address.split(":")
    while True:
        try:
            with socket.create_connection((host, int(port))) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            break
        except ConnectionRefusedError:
            continue
    with Peers(address, 1, 2, 20.0) as together:
        assert together.gather("b") == ["a", "b"]
    thread.join()
    assert gathered == ["a", "b"]


def test_the_port_of_tpu_pods_has_its_own_hint():
    assert "JAX_COORDINATOR_PORT=8476" in peers._hint("8482")
    assert "JAX_COORDINATOR_PORT" not in peers._hint("8476")


def test_auto_is_what_jax_detects(monkeypatch):
    slurm = dict(JOB_ID="4096", STEP_NODELIST="n[3-4]", NTASKS="2", PROCID="1", LOCALID="0")
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert peers.detected(1.0) == ("n3:61440", 1, 2)
