"""Workers, nodes and drivers that die in a round: the same bits, one charge, and nothing left behind."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import time
from unittest import mock

import pytest

import tff_dp
from tests.cluster.conftest import (
    CLIENTS,
    RAGGED,
    after_first_task,
    bits,
    kill_workers,
    large,
    model,
    on_actors,
    plan_and_clients,
    rounds,
    wait_for,
)
from tests.support.rounds import cohort_of
from tests.support.tables import slow
from tff_dp import cli, execution
from tff_dp._compat import ray as ray_compat
from tff_dp.cluster import pool as pool_module
from tff_dp.cluster import worker
from tff_dp.cluster.pool import Pool
from tff_dp.errors import ArgumentError, ClusterError, StackError
from tff_dp.execution import Cluster
from tff_dp.execution.graph import portable
from tff_dp.process import build_process, initialize_from

ROOT = pathlib.Path(__file__).parents[2]
OPTIONS = {"strategy": "scan", "xla": False}
WITH_RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed: pip install 'tff_dp[ray]'",
)


def cohorts(count=2):
    return [cohort_of(RAGGED).cohort(range(len(RAGGED)), batch_size=4)] * count


def test_a_killed_worker_changes_no_bit(nodes, bound, processes, monkeypatch):
    here, _ = rounds(processes["private"], bound, cohorts(), **OPTIONS)
    acted = after_first_task(monkeypatch, kill_workers)
    there, counts = rounds(processes["private"], bound, cohorts(), cluster=nodes.address, **OPTIONS)
    assert acted
    assert len(counts.workers) > 1  # another process went on
    assert bits(there) == bits(here)


@pytest.mark.slow
def test_a_lost_node_changes_no_bit(nodes, bound, processes, monkeypatch):
    here, _ = rounds(processes["private"], bound, cohorts(), **OPTIONS)
    acted = after_first_task(monkeypatch, lambda pool: nodes.lose())
    there, _ = rounds(processes["private"], bound, cohorts(), cluster=nodes.address, **OPTIONS)
    assert acted
    assert bits(there) == bits(here)


@pytest.mark.slow
def test_a_cluster_that_has_lost_all_workers_says_so_before_the_time_is_over(
    nodes, bound, processes, monkeypatch
):
    """The limit is an hour: if the loss were not seen, this test would not end."""

    def lose_all(pool):
        nodes.lose()
        nodes.lose()

    acted = after_first_task(monkeypatch, lose_all)
    cluster = Cluster(address=nodes.address, time_limit=3600)
    with pytest.raises(ClusterError, match="no node of the cluster"):
        rounds(processes["private"], bound, cohorts(), cluster=cluster, **OPTIONS)
    assert acted


def dies(*arguments):
    os.kill(os.getpid(), 9)


def sleeps(*arguments):
    time.sleep(60)


@pytest.mark.parametrize(
    ("planted", "seconds", "message"),
    [
        slow(dies, 600, r"could not be finished.*max_retries=1"),
        (sleeps, 0.5, r"time_limit=0.5 seconds, in 2 attempts"),
    ],
)
def test_a_round_that_cannot_finish_is_charged_once_and_the_run_goes_on(
    nodes, monkeypatch, tmp_path, planted, seconds, message
):
    """The third of four rounds fails; then the run is resumed, and ends with the plan's four charges."""
    plan, clients = plan_and_clients()
    run = Pool.run
    calls = []

    def failing(self, parts):
        calls.append(len(calls))
        with monkeypatch.context() as inner:
            if len(calls) == 3:
                inner.setattr(worker, "run_parts", planted)
                self._runners = type(self._runners)(self)
                self.options = dataclasses.replace(self.options, time_limit=seconds)
            yield from run(self, parts)

    folder = tmp_path / "run"
    arguments = {"loss": "mse", "batch_size": 4}
    monkeypatch.setattr(Pool, "run", failing)
    cluster = Cluster(address=nodes.address, max_retries=1)
    with (
        execution.fast(device="cpu", xla=False, cluster=cluster),
        pytest.raises(ClusterError, match=message) as raised,
    ):
        tff_dp.fit(model(), clients, privacy=plan, run_dir=folder, **arguments)
    assert len(raised.value.result.history) == 2
    with tff_dp.Ledger(folder / "ledger.jsonl", plan) as book:
        assert book.charges == 3  # once, however often the parts were begun
    monkeypatch.setattr(Pool, "run", run)
    with execution.fast(device="cpu", xla=False, cluster=nodes.address):
        result = tff_dp.resume(folder, model(), clients, loss="mse")
    with tff_dp.Ledger(folder / "ledger.jsonl", plan) as book:
        charged = book.charges
    # The plan's four charges: one was for the round that failed.
    assert [record.round_number for record in result.history] == [1, 2, 3]
    assert charged == 4


def test_other_versions_on_a_worker_are_refused(nodes, bound, processes, monkeypatch):
    mine = portable.runtime("cpu")
    other = tuple((n, "0.1" if n == "tensorflow" else v) for n, v in mine.versions)
    planted = dataclasses.replace(mine, versions=other)
    monkeypatch.setattr(portable, "runtime", lambda device: planted)
    with pytest.raises(ClusterError, match=r"the driver has tensorflow 0\.1.*Install"):
        rounds(processes["plain"], bound, cohorts(1), cluster=nodes.address, **OPTIONS)


def test_a_file_that_differs_on_a_node_is_refused(nodes, bound, processes, monkeypatch, tmp_path):
    from tff_dp.cluster import sharing

    monkeypatch.setattr(sharing, "fingerprint", lambda path: "another")
    cohort = large(tmp_path).cohort(range(CLIENTS), batch_size=400)
    with pytest.raises(ClusterError, match=r"client data differ from the driver's: .*x\.npy"):
        rounds(processes["plain"], bound, [cohort], cluster=nodes.address, **OPTIONS)


def test_an_error_of_tensorflow_on_a_worker_is_one_here(nodes, bound, monkeypatch):
    """A way that fails on the workers is given up for the next one, as in this process."""

    def fails(*arguments):
        from tff_dp.cluster.messages import Failed

        return Failed(8, "out of memory while allocating", "nowhere:1")

    monkeypatch.setattr(worker, "run_parts", fails)
    # A process of its own, since what has failed is remembered.
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())
    here, _ = rounds(process, bound, cohorts(1), strategy="call")
    with pytest.warns(RuntimeWarning, match="no memory"):
        there, counts = rounds(process, bound, cohorts(1), cluster=nodes.address, **OPTIONS)
    assert counts.parts == 0
    assert bits(there) == bits(here)


def listening(pids):
    """Returns the addresses on which processes listen, as in /proc/net/tcp, for IPv4 and IPv6."""
    inodes = set()
    for pid in pids:
        for link in pathlib.Path(f"/proc/{pid}/fd").glob("*"):
            try:
                found = re.match(r"socket:\[(\d+)\]", os.readlink(link))
            except OSError:
                continue
            inodes |= {found[1]} if found else set()
    found = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].rpartition(":")[0])
    return found


def below(parent):
    """Returns the processes below a process."""
    children = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        children.setdefault(int(text.rsplit(")", 1)[1].split()[1]), []).append(
            int(stat.parent.name)
        )
    found, pending = [], [parent]
    while pending:
        own = children.get(pending.pop(), [])
        found += own
        pending += own
    return found


def command_of(pid):
    """Returns the command of a process; an empty text if it has ended."""
    folder = pathlib.Path(f"/proc/{pid}")
    try:
        if (folder / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return ""
        return (folder / "cmdline").read_text()
    except OSError:
        return ""


DRIVER = """
import sys, time
import tff_dp
from tff_dp import cli, execution
from tff_dp.execution import Cluster
from tests.cluster.conftest import model, plan_and_clients
from tff_dp.execution.round import client_loop

client_loop._ENTRIES_OF_A_LONG_PART = 8
plan, clients = plan_and_clients()
with execution.fast(device="cpu", xla=False, cluster=Cluster(address="local", local_cpus=1)) as context:
    tff_dp.fit(model(), clients, privacy=plan, loss="mse", batch_size=4)
    print("parts", context.settings.pool.counts.parts, flush=True)
    time.sleep(600)
"""


# Two agents, which neither compute nor hold data, wait a minute for the head before they end.
AGENTS = ("DashboardAgent", "RuntimeEnvAgent")


@WITH_RAY
@pytest.mark.slow
@pytest.mark.parametrize("agents", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_driver_that_is_killed_leaves_no_process_and_listens_on_loopback_alone(tmp_path, agents):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (tmp_path / "errors").open("w") as errors:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        line = driver.stdout.readline()
        while line and not line.startswith("parts"):
            line = driver.stdout.readline()
        assert int(line.split()[1]) > 4, (tmp_path / "errors").read_text()
        started = below(driver.pid)
        assert any("raylet" in command_of(pid) for pid in started)
        addresses = listening([driver.pid, *started])
        assert addresses
        loopback = {
            "0100007F",
            "00000000000000000000000001000000",
            "0000000000000000FFFF00000100007F",
        }
        assert addresses <= loopback
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()

    def left():
        return [
            command
            for command in map(command_of, started)
            if command and (agents or not any(agent in command for agent in AGENTS))
        ]

    assert wait_for(lambda: not left(), 180), left()


@pytest.mark.slow
def test_a_cluster_without_its_token_is_not_joined(nodes, tmp_path):
    program = (
        "from tff_dp.cluster import Cluster\nfrom tff_dp.cluster.session import Session\n"
        f"Session(Cluster(address={nodes.address!r})).close()"
    )

    def run(**variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return subprocess.run(
            [sys.executable, "-c", program],
            env={**environment, "HOME": str(tmp_path), **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    assert "no token for this Ray cluster was found. Set RAY_AUTH_TOKEN_PATH" in run().stderr
    wrong = run(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    assert "no Ray cluster can be reached or started" in wrong.stderr
    assert run(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=os.environ["RAY_AUTH_TOKEN"]).returncode == 0


def test_options_outside_their_bounds_are_refused():
    for options, message in [
        ({"address": "ray://somewhere:1"}, r"address='ray://somewhere:1'.*not as a client"),
        ({"address": "somewhere"}, r"address='somewhere': expected 'auto', 'local' or 'host:port'"),
        ({"cpus": 0}, r"cpus=0"),
        ({"gpus": 1.5}, r"gpus=1.5: expected a whole number, or a fraction below 1"),
        ({"max_retries": -1}, r"max_retries=-1"),
        ({"time_limit": 0}, r"time_limit=0"),
        ({"local_cpus": 0}, r"local_cpus=0"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            Cluster(**options)
    with pytest.raises(ArgumentError, match=r"cluster=3"), execution.fast(cluster=3):
        pass


def test_a_cluster_without_room_and_another_cluster_are_refused(nodes):
    with (
        pytest.raises(ClusterError, match=r"cpus=64, gpus=0.*no node of the cluster"),
        execution.fast(cluster=Cluster(address=nodes.address, cpus=64)),
    ):
        pass
    with (
        pytest.raises(ArgumentError, match=r"is connected to the Ray cluster"),
        execution.fast(cluster="127.0.0.1:1"),
    ):
        pass


def test_a_missing_ray_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(StackError, match=r"pip install 'tff_dp\[ray\]'"),
        execution.fast(cluster="auto"),
    ):
        pass


@pytest.mark.slow
def test_the_command_line_trains_and_resumes_on_a_cluster(nodes, tmp_path, monkeypatch, capsys):
    used = []
    close = Pool.close
    monkeypatch.setattr(Pool, "close", lambda pool: (used.append(pool.counts.parts), close(pool)))
    folder = tmp_path / "example"
    assert cli.main(["train", "--example", str(folder)]) == 0
    (config,) = folder.glob("*.toml")
    run = tmp_path / "run"
    few = ["--set", "train.rounds=2", "--set", f"train.run_dir={str(run)!r}"]
    assert cli.main(["train", str(config), *few, "--cluster", "nowhere"]) == 2
    assert "address='nowhere'" in capsys.readouterr().err
    assert not run.exists()
    assert cli.main(["train", str(config), *few, "--cluster", nodes.address]) == 0
    assert cli.main(["resume", str(run), "--rounds", "3", "--cluster", nodes.address]) == 0
    assert len(used) == 2
    assert min(used) > 0


ENVIRONMENT = """
import tff_dp
from tff_dp import execution
from tff_dp.cluster import pool
from tff_dp.cluster.messages import Failed
from tests.cluster.conftest import model, plan_and_clients
from tff_dp.execution.round import client_loop

client_loop._ENTRIES_OF_A_LONG_PART = 8


def reports(*arguments):
    import os
    from tff_dp.cluster import worker

    found = worker.run_parts(*arguments)
    seen = [os.environ.get(name) for name in ("TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS")]
    return Failed(None, f"it has {seen}", "a worker")


pool.worker = type(pool)("planted")
pool.worker.run_parts = reports
plan, clients = plan_and_clients()
with execution.fast(device="cpu", xla=False, cluster=ADDRESS):
    tff_dp.fit(model(), clients, privacy=plan, loss="mse", batch_size=4)
"""


@pytest.mark.slow
def test_workers_get_the_variables_that_choose_kernels(nodes):
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)
    done = subprocess.run(
        [sys.executable, "-c", ENVIRONMENT.replace("ADDRESS", repr(nodes.address))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "it has ['0', None]" in done.stderr


@pytest.mark.slow
def test_the_gpu_of_a_node_that_is_lost_for_good_is_not_waited_for(
    nodes, bound, processes, monkeypatch
):
    """The tasks of its actor go to the other one; the actor has nowhere to start again."""
    on_actors(monkeypatch)
    here, _ = rounds(processes["private"], bound, cohorts(), **OPTIONS)
    acted = after_first_task(monkeypatch, lambda pool: nodes.lose())
    cluster = Cluster(address=nodes.address, gpus=1, max_retries=1)
    there, counts = rounds(processes["private"], bound, cohorts(), cluster=cluster, **OPTIONS)
    assert acted
    assert counts.again == 0  # no task has run out of time
    assert bits(there) == bits(here)


@pytest.mark.slow
def test_tasks_of_a_round_that_was_given_up_do_not_run_on_actors(
    nodes, bound, processes, monkeypatch, tmp_path
):
    """All tasks note that they began and then sleep; the round is interrupted, its actors start again."""
    begun = tmp_path / "begun"

    class Sleeping:
        def is_up(self):
            return True

        def run_parts(self, *arguments):
            with begun.open("a") as file:
                file.write("x")
            time.sleep(60)

    finished = Pool._finished

    def interrupted(self, under_way, again):
        if len(under_way) < 2:  # until the actors are up
            yield from finished(self, under_way, again)
            return
        assert wait_for(lambda: begun.exists() and len(begun.read_text()) == 2)
        raise KeyboardInterrupt

    on_actors(monkeypatch)
    cluster = Cluster(address=nodes.address, gpus=1)
    monkeypatch.setattr(pool_module, "_Worker", Sleeping)
    with (
        execution.fast(device="cpu", strict=True, cluster=cluster, **OPTIONS) as context,
        monkeypatch.context() as inner,
    ):
        inner.setattr(Pool, "_finished", interrupted)
        state = initialize_from(processes["plain"], bound.initial_weights)
        with pytest.raises(KeyboardInterrupt):
            processes["plain"].next(state, cohorts(1)[0])
        runners = context.settings.pool._runners
        assert wait_for(lambda: runners.room() == 4)  # they have started again
        time.sleep(1)  # for a task that would be run again
    assert begun.read_text() == "xx"


@WITH_RAY
def test_a_connection_that_was_ended_is_not_replaced_by_another():
    """Ray's functions would join any cluster of this machine, or start one that listens to others."""
    program = """
import pytest, ray
from tff_dp.cluster import Cluster
from tff_dp.cluster.pool import Pool
from tff_dp.errors import ClusterError

pool = Pool(Cluster(address="local", local_cpus=1))
ray.shutdown()
for act in (lambda: pool.put(b""), lambda: list(pool.run(iter([]))), lambda: pool.address):
    with pytest.raises(ClusterError, match="connection to the Ray cluster was ended"):
        act()
pool.close()
assert not ray.is_initialized()
print("end")
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.endswith("end\n"), run.stderr


@WITH_RAY
def test_a_token_in_the_users_file_is_that_of_a_new_cluster(monkeypatch, tmp_path):
    """Ray reads a token once: with another one, this process could not join the file's clusters."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    with monkeypatch.context() as inner:
        inner.setattr(ray_compat.importlib, "import_module", lambda name: mock.MagicMock())
        ray_compat.require_tokens(fresh=True)
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert "RAY_AUTH_TOKEN" not in os.environ
        (tmp_path / ".ray" / "auth_token").unlink()
        ray_compat.require_tokens(fresh=True)
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    del os.environ["RAY_AUTH_TOKEN"]


@WITH_RAY
def test_a_cluster_that_does_not_come_up_is_tried_again():
    def module(failures):
        ray = mock.MagicMock()
        ray.init.side_effect = [Exception("timed out during startup")] * failures + [None]
        return ray

    ray = module(2)
    ray_compat.start(ray, 1)
    assert ray.init.call_count == 3
    assert ray.shutdown.call_count == 2
    with pytest.raises(RuntimeError, match="timed out during startup"):
        ray_compat.start(module(3), 1)
