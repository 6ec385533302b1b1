"""One cluster of two nodes on this machine for all tests of a process, and what they train."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import keras
import numpy as np
import pytest
import tree

import tff_dp
from benchmarks._nodes import Nodes
from tests.support.rounds import cohort_of, plan
from tff_dp import data, execution
from tff_dp._compat import ray as ray_compat
from tff_dp.cluster.pool import Pool
from tff_dp.execution.cohort import arrays, datasets, grouping
from tff_dp.execution.graph import portable
from tff_dp.execution.round import client_loop
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from

CLIENTS = 90
RAGGED = ([8] * 4 + [5] * 3 + [12, 7, 0, 3]) * 8


@pytest.fixture(scope="session")
def two_nodes(tff):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'tff_dp[ray]'")
    kept = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    with contextlib.closing(Nodes(2, gpus=1)) as cluster:
        yield cluster
    for name, value in kept.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def connection(two_nodes):
    """A connection that stays: Ray keeps the workers of a driver, which import TensorFlow once."""
    import ray

    ray_compat.join(ray, two_nodes.address)
    yield two_nodes
    ray.shutdown()


@pytest.fixture
def nodes(connection):
    yield connection
    connection.mend()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Has few clients make several blocks of several parts."""
    monkeypatch.setattr(client_loop, "_ENTRIES_OF_A_PART", 32)
    monkeypatch.setattr(client_loop, "_ENTRIES_OF_A_LONG_PART", 32)
    monkeypatch.setattr(datasets, "_AT_ONCE", 24)
    monkeypatch.setattr(client_loop, "WIDEST", 16)
    monkeypatch.setattr(grouping, "WIDEST", 16)
    monkeypatch.setattr(arrays, "_BYTES", 6000)


@pytest.fixture(scope="session")
def bound(tff):
    # From zero, the weights after a round are the mean update, to its last bit.
    layer = keras.layers.Dense(1, kernel_initializer="zeros")
    model = keras.Sequential([keras.layers.Input([5]), layer])
    return ModelSpec(model=model, loss="mse").bind(cohort_of([2]).element_spec())


@pytest.fixture(scope="session")
def processes(bound):
    mechanism = tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=0.1)
    plans = {"plain": tff_dp.NoPrivacy(), "private": plan(mechanism)}
    return {
        name: build_process(bound, algorithm=tff_dp.FedAvg(), privacy=privacy)
        for name, privacy in plans.items()
    }


def bits(value):
    """Returns the bytes of all of a result's tensors."""
    return [np.asarray(leaf).tobytes() for leaf in tree.flatten(value)]


def rounds(process, bound, cohorts, *, cluster=None, streamed=False, before=None, **options):
    """Returns the states and metrics of some rounds, and what the pool has counted."""
    with execution.fast(device="cpu", seed=3, strict=True, cluster=cluster, **options) as context:
        settings = context.settings
        if streamed:
            getattr(settings.resident, "here", settings.resident).limit = 0
        if before is not None:
            before(settings.pool)
        state = initialize_from(process, bound.initial_weights)
        outputs = []
        for cohort in cohorts:
            outputs.append(process.next(state, cohort))
            state = outputs[-1].state
        return outputs, settings.pool and settings.pool.counts


def wait_for(condition, seconds=60.0):
    """Waits until a condition holds; returns whether it does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def after_first_task(monkeypatch, act):
    """Acts once, when the first task of a round is finished and others are under way."""
    finished, acted = Pool._sums, []

    def acting(self, task, value):
        sums = finished(self, task, value)
        if not acted:
            acted.append(task)
            act(self)
        return sums

    monkeypatch.setattr(Pool, "_sums", acting)
    return acted


def kill_workers(pool):
    for name in pool.counts.workers:
        os.kill(int(name.rpartition(":")[2]), signal.SIGKILL)


def plan_and_clients():
    clients = cohort_of([8] * CLIENTS)
    plan = tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=1.0),
        population=CLIENTS,
        cohort=80,
        rounds=4,
        delta=1e-5,
    )
    return plan, clients


def model():
    made = keras.Sequential([keras.layers.Input([5]), keras.layers.Dense(1)])
    made.set_weights([np.ones([5, 1], np.float32), np.zeros([1], np.float32)])
    return made


def large(folder=None):
    """Clients of whose fields one is large; mapped from a file if there is a folder."""
    x = np.random.default_rng(0).normal(size=(CLIENTS * 8, 5)).astype(np.float32)
    wide = np.repeat(x, 200, axis=0)  # 2.9 MB
    if folder is not None:
        np.save(folder / "x.npy", wide)
        wide = np.load(folder / "x.npy", mmap_mode="r")
    y = np.asarray(wide[:, :1] * 2 + 1)
    return data.Clients(wide, y, np.arange(CLIENTS + 1) * 1600)


def on_actors(monkeypatch):
    """Has workers with a GPU run on their CPUs: the GPUs are Ray's word alone."""
    packed = portable.packed
    monkeypatch.setattr(portable, "packed", lambda function, device: packed(function, "cpu"))
