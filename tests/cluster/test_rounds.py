"""Rounds on a cluster have the bits of rounds in this process, and client data travel by reference."""

from __future__ import annotations

import collections
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.cluster.conftest import (
    CLIENTS,
    RAGGED,
    after_first_task,
    bits,
    kill_workers,
    large,
    on_actors,
    rounds,
)
from tests.support.rounds import cohort_of
from tests.support.tables import slow
from tff_dp import data, execution
from tff_dp.cluster import messages, sharing, worker
from tff_dp.cluster.pool import Pool
from tff_dp.errors import ClusterError, ComputationError
from tff_dp.execution import Cluster
from tff_dp.execution.graph import portable

EQUAL = [8] * CLIENTS
CASES = {
    "equal": (EQUAL, "plain", {}),
    "ragged": (RAGGED, "plain", {}),
    "private": (RAGGED, "private", {}),
    "streamed": (RAGGED, "private", {"streamed": True}),
    "data sets": (RAGGED, "plain", {}),
}


@pytest.mark.parametrize(
    ("case", "strategy", "xla"),
    [
        ("private", "scan", True),
        ("equal", "scan", False),
        ("streamed", "scan", False),
        slow("streamed", "scan", True),
        ("data sets", "scan", False),
        slow("equal", "vmap", True),
        slow("ragged", "vmap", False),
        slow("equal", "scan", True),
        slow("private", "auto", None),
        ("ragged", "call", None),
    ],
)
def test_a_cluster_gives_the_bits_of_this_process(nodes, bound, processes, case, strategy, xla):
    sizes, privacy, options = CASES[case]
    order = np.random.default_rng(1).permutation(len(sizes)).tolist()
    cohort = cohort_of(sizes).cohort(order, batch_size=4)
    cohorts = [list(cohort) if case == "data sets" else cohort] * 2
    options = {"strategy": strategy, "xla": xla, **options}
    here, _ = rounds(processes[privacy], bound, cohorts, **options)
    there, counts = rounds(processes[privacy], bound, cohorts, cluster=nodes.address, **options)
    assert bits(there) == bits(here)
    if strategy == "call":
        assert counts.parts == 0  # clients that run by a call each stay in this process
    else:
        assert counts.parts >= 8


def test_another_order_of_joins_is_caught(nodes, bound, processes, monkeypatch):
    """The comparison of bits sees a backend that takes one part for another."""
    cohorts = [cohort_of(EQUAL).cohort(range(CLIENTS), batch_size=4)]
    options = {"strategy": "scan", "xla": False}
    here, _ = rounds(processes["plain"], bound, cohorts, **options)
    run = Pool.run

    def exchanged(self, tasks):
        for task, sums in run(self, tasks):
            assert task.count == 1  # in the first round, in which no time is known
            yield dataclasses.replace(task, first={0: 2, 2: 0}.get(task.first, task.first)), sums

    monkeypatch.setattr(Pool, "run", exchanged)
    there, _ = rounds(processes["plain"], bound, cohorts, cluster=nodes.address, **options)
    assert bits(there) != bits(here)


def test_the_first_client_that_fails_is_named(tff, nodes):
    @tff.tensorflow.computation(tff.SequenceType(tff.TensorType(np.float32, [None])))
    def work(batches):
        def add(sum_, batch):
            check = tf.debugging.assert_positive(batch, "must be positive")
            with tf.control_dependencies([check]):
                return sum_ + tf.reduce_sum(batch)

        return batches.reduce(0.0, add)

    @tff.federated_computation(tff.FederatedType(work.type_signature.parameter, tff.CLIENTS))
    def summed(clients):
        return tff.federated_sum(tff.federated_map(work, clients))

    values = [np.full([4], -1 if i in (11, 70) else 1, np.float32) for i in range(CLIENTS)]
    clients = [tf.data.Dataset.from_tensor_slices(value).batch(4) for value in values]
    with (
        execution.fast("scan", "cpu", xla=False, strict=True, cluster=nodes.address) as context,
        pytest.raises(ComputationError, match=r"client 11 \(of 90.*must be positive"),
    ):
        summed(clients)
    assert context.settings.pool.counts.parts > 1


@pytest.mark.parametrize("streamed", [False, True])
def test_files_are_read_by_the_workers(nodes, bound, processes, tmp_path, monkeypatch, streamed):
    monkeypatch.undo()
    cohorts = [large().cohort(range(CLIENTS), batch_size=400)] * 2
    mapped = [large(tmp_path).cohort(range(CLIENTS), batch_size=400)] * 2
    options = {"strategy": "scan", "xla": False, "streamed": streamed}
    here, _ = rounds(processes["plain"], bound, cohorts, **options)
    options["cluster"] = nodes.address
    put, counts = rounds(processes["plain"], bound, cohorts, **options)
    read, less = rounds(processes["plain"], bound, mapped, **options)
    assert bits(here) == bits(put) == bits(read)
    size = 1600 * CLIENTS * 5 * 4
    assert counts.sent_bytes > size
    assert less.sent_bytes < counts.sent_bytes - 0.99 * size


def test_data_are_put_once_and_rounds_move_weights_and_tables_alone(nodes, bound, processes):
    cohort = large().cohort(range(CLIENTS), batch_size=400)
    seen = []
    options = {"strategy": "scan", "xla": False, "cluster": nodes.address}
    for count in (1, 4):
        _, counts = rounds(processes["plain"], bound, [cohort] * count, **options)
        seen.append(counts.sent_bytes)
    size = 1600 * CLIENTS * 6 * 4
    first, all_four = seen
    assert first > size
    assert all_four - first < 0.02 * size


def test_shards_hold_the_rows_that_blocks_need(nodes, bound, processes, monkeypatch):
    monkeypatch.setattr(sharing, "_SHARD_BYTES", 1000)
    order = np.random.default_rng(1).permutation(len(RAGGED))[:60].tolist()
    cohorts = [cohort_of(RAGGED).cohort(order, batch_size=4)] * 2
    for streamed in (True, False):
        options = {"strategy": "scan", "xla": False, "streamed": streamed}
        here, _ = rounds(processes["private"], bound, cohorts, **options)
        options["cluster"] = nodes.address
        there, _ = rounds(processes["private"], bound, cohorts, **options)
        assert bits(here) == bits(there)


def test_what_needs_this_process_cannot_be_packed():
    """The programs that reach a graph have neither; if one did, its clients would run here."""
    spec = tf.TensorSpec([], tf.float32)
    variable = tf.Variable(1.0)

    def calls_python(x):
        return tf.numpy_function(lambda v: v, [x], tf.float32)

    def nested(x):
        return tf.function(calls_python)(x)

    for function, message in [
        (calls_python, r"calls Python code of this process \(PyFunc\)"),
        (nested, r"calls Python code of this process \(PyFunc\)"),
        (lambda x: x + variable, "resource of this process"),
    ]:
        traced = tf.function(function).get_concrete_function(spec)
        with pytest.raises(portable.NotPortableError, match=message):
            portable.packed(traced, "cpu")


def test_clients_that_cannot_travel_run_here(nodes, bound, processes, monkeypatch):
    def refuses(function, device):
        raise portable.NotPortableError("it calls Python code of this process (PyFunc)")

    cohorts = [cohort_of(RAGGED).cohort(range(len(RAGGED)), batch_size=4)]
    options = {"strategy": "scan", "xla": False}
    here, _ = rounds(processes["plain"], bound, cohorts, **options)
    monkeypatch.setattr(portable, "packed", refuses)
    with pytest.warns(RuntimeWarning, match=r"run in this process.*calls Python"):
        there, counts = rounds(processes["plain"], bound, cohorts, cluster=nodes.address, **options)
    assert counts.parts == 0
    assert bits(there) == bits(here)


def test_explain_names_the_cluster(nodes, processes):
    with execution.fast(device="cpu", cluster=Cluster(address=nodes.address, cpus=0.5)):
        told = execution.explain(processes["private"].next)
    assert f"run on Ray at {nodes.address}, up to 4 parts at a time" in told


def test_workers_import_neither_tff_nor_keras():
    program = (
        "import sys; from tff_dp.cluster import worker; import tensorflow; from tff_dp import _copies\n"
        "from tff_dp._compat import tensorflow\n"
        "found = {'tensorflow_federated', 'ray', 'tff_dp.execution', 'tff_dp.model'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_actors_give_the_bits_of_this_process(nodes, bound, processes, monkeypatch):
    """One actor a GPU, one of which dies in a round."""
    cohorts = [cohort_of(RAGGED).cohort(range(len(RAGGED)), batch_size=4)] * 2
    options = {"strategy": "scan", "xla": False}
    here, _ = rounds(processes["private"], bound, cohorts, **options)
    on_actors(monkeypatch)
    acted = after_first_task(monkeypatch, kill_workers)
    cluster = Cluster(address=nodes.address, gpus=1)
    there, counts = rounds(processes["private"], bound, cohorts, cluster=cluster, **options)
    assert acted
    assert counts.parts >= 8
    assert bits(there) == bits(here)


@pytest.mark.slow
def test_fractions_of_a_gpu_are_as_many_workers(nodes, bound, processes, monkeypatch):
    cohorts = [cohort_of(RAGGED).cohort(range(len(RAGGED)), batch_size=4)]
    options = {"strategy": "scan", "xla": False}
    here, _ = rounds(processes["plain"], bound, cohorts, **options)
    on_actors(monkeypatch)
    cluster = Cluster(address=nodes.address, gpus=0.5, cpus=0.5)
    pools = []
    there, counts = rounds(
        processes["plain"], bound, cohorts, cluster=cluster, before=pools.append, **options
    )
    assert len(pools[0]._runners._actors) == 4
    assert counts.parts == 4
    assert bits(there) == bits(here)


def test_a_worker_that_sees_no_gpu_says_so(nodes, bound, processes):
    cohorts = [cohort_of(RAGGED).cohort(range(len(RAGGED)), batch_size=4)]
    cluster = Cluster(address=nodes.address, gpus=1)
    with pytest.raises(
        ClusterError, match=r"sees no GPU, which Ray says is there. Run tff-dp doctor"
    ):
        rounds(processes["plain"], bound, cohorts, cluster=cluster, strategy="scan", xla=False)


def test_a_file_that_was_written_anew_is_not_read_by_the_workers(
    nodes, bound, processes, tmp_path, monkeypatch
):
    """Almost all of the new content is the old one, and the driver still has the old file mapped."""
    monkeypatch.undo()
    clients = large(tmp_path)
    cohorts = [clients.cohort(range(CLIENTS), batch_size=400)]
    options = {"strategy": "scan", "xla": False}
    here, _ = rounds(processes["plain"], bound, cohorts, **options)
    new = np.load(tmp_path / "x.npy")
    new[1001] += 100
    np.save(tmp_path / "new.npy", new)
    (tmp_path / "new.npy").replace(tmp_path / "x.npy")
    there, _ = rounds(processes["plain"], bound, cohorts, cluster=nodes.address, **options)
    assert bits(there) == bits(here)


@pytest.mark.parametrize("streamed", [False, True])
def test_numbers_in_the_other_order_of_bytes(nodes, tff, streamed):
    order = np.dtype(np.float32).newbyteorder("S")
    x = np.random.default_rng(0).normal(size=(CLIENTS * 8, 4)).astype(order)
    clients = data.Clients(x, np.zeros([len(x), 1], np.float32), np.arange(CLIENTS + 1) * 8)
    cohort = clients.cohort(range(CLIENTS), batch_size=4)

    @tff.tensorflow.computation(
        tff.SequenceType(tff.types.tensorflow_to_type(cohort[0].element_spec))
    )
    def work(batches):
        return batches.reduce(0.0, lambda sum_, batch: sum_ + tf.reduce_sum(batch[0] ** 2))

    @tff.federated_computation(tff.FederatedType(work.type_signature.parameter, tff.CLIENTS))
    def summed(clients):
        return tff.federated_sum(tff.federated_map(work, clients))

    found = []
    for cluster in (None, nodes.address):
        options = {"xla": False, "strict": True, "cluster": cluster}
        with execution.fast("scan", "cpu", **options) as context:
            if streamed:
                settings = context.settings
                getattr(settings.resident, "here", settings.resident).limit = 0
            found.append(summed(cohort))
    assert found[0] == found[1] == pytest.approx(np.square(x.astype(np.float64)).sum(), rel=1e-5)


def test_captured_texts_are_in_the_key_of_a_graph():
    spec = tf.TensorSpec([], tf.string)

    def key(text):
        kept = tf.constant([text.encode()])
        traced = tf.function(lambda x: x + kept).get_concrete_function(spec)
        return portable.packed(traced, "cpu").key

    assert key("a") == key("a")
    assert key("a") != key("b")


def test_an_error_on_a_worker_is_told(nodes, bound, processes, monkeypatch):
    packed = portable.packed

    def broken(function, device):
        message = packed(function, device)
        return dataclasses.replace(message, outputs=("nothing:0",), key="broken")

    monkeypatch.setattr(portable, "packed", broken)
    cohorts = [cohort_of(RAGGED).cohort(range(len(RAGGED)), batch_size=4)]
    with pytest.raises(ClusterError, match=r"The worker .* cannot run clients: .*nothing:0"):
        rounds(
            processes["plain"], bound, cohorts, cluster=nodes.address, strategy="scan", xla=False
        )


def test_workers_drop_arrays_that_the_driver_has_no_more(monkeypatch):
    """What they keep of an array stays in the object store."""
    shared = sharing.Shared(lambda array: None)
    first, second = np.zeros([4, 2], np.float32), np.zeros([4, 2], np.float32)
    keys = [shared.whole(array, []).key for array in (first, second)]
    del first
    assert shared.keys() == (keys[1],)
    place = messages.Mapped("x.npy", 0, (4, 2), "<f4", "")
    kept = collections.OrderedDict.fromkeys([*keys, place])
    monkeypatch.setitem(worker._kept, "field", kept)
    worker._given(messages.Common("round", np.zeros([2], np.uint64), (), shared.keys()))
    assert list(kept) == [keys[1], place]
