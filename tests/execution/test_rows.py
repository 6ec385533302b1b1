"""No client counts twice: rows of clients side by side, and rounds fused whose cohorts differ."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tree

from tests.support.rounds import assert_close, cohort_of
from tests.support.tables import slow
from tff_dp import execution
from tff_dp.execution import devices
from tff_dp.execution.cohort import grouping, tables
from tff_dp.execution.round import block_work, client_loop
from tff_dp.process import initialize_from

pytestmark = pytest.mark.heavy

STRATEGIES = [("scan", True), ("scan", False), ("vmap", True), ("vmap", False), ("call", None)]


@pytest.fixture(scope="module")
def total(tff):
    """Sums of clients' numbers, as whole numbers and as the sum of their squares."""

    @tff.tensorflow.computation(np.int32)
    def square(value):
        return tf.cast(value, tf.int64) ** 2

    @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
    def total(numbers):
        return tff.federated_sum(numbers), tff.federated_sum(tff.federated_map(square, numbers))

    return total


@pytest.mark.parametrize(("strategy", "xla"), STRATEGIES)
@pytest.mark.parametrize("clients", [1, slow(63), 64, 65, slow(200)])
def test_each_client_of_tensors_counts_once(total, strategy, xla, clients):
    numbers = [3 * number + 1 for number in range(clients)]
    with execution.fast(strategy, xla=xla, strict=True):
        found = total(numbers)
    assert tuple(map(int, found)) == (sum(numbers), sum(number**2 for number in numbers))


@pytest.mark.parametrize("clients", [128, 191, 200])
def test_each_client_of_tensors_counts_once_on_several_places(total, monkeypatch, clients):
    several = devices.Places(False, ("/CPU:0", "/CPU:0", "/CPU:0"), 1 << 28, None)
    monkeypatch.setattr(devices, "choose", lambda device, workers: several)
    monkeypatch.setattr(client_loop, "_ENTRIES_OF_A_PART", 32)
    monkeypatch.setattr(client_loop, "_ENTRIES_OF_A_LONG_PART", 32)
    used = []
    shape_of = block_work.shape_of
    monkeypatch.setattr(
        block_work, "shape_of", lambda *a, **k: (used.append(shape_of(*a, **k)), used[-1])[1]
    )
    numbers = [3 * number + 1 for number in range(clients)]
    with execution.fast("vmap", strict=True):
        found = total(numbers)
    assert any(shape.parts > 1 for shape in used)
    assert tuple(map(int, found)) == (sum(numbers), sum(number**2 for number in numbers))


def test_a_row_that_is_not_full_is_refused():

    def shape_of(count):
        block = tables.Block(
            [], tables.ClientTable(tables.Form("tensors"), count, np.arange(count))
        )
        return client_loop.shape_of(block, side_by_side=True, xla=False, carry_bytes=8)

    for count in (65, 127, 200):
        with pytest.raises(ValueError, match=f"{count} clients do not fill rows of 64"):
            shape_of(count)
    for count in range(1, 300):
        cut = [len(some) for some in grouping.parts(np.arange(count), grouping.WIDEST)]
        assert sum(cut) == count
        for some in cut:
            assert some % shape_of(some).side_by_side == 0


@pytest.mark.parametrize("looks_up", [False, True])
@pytest.mark.parametrize("kind", ["regular", "listed", "tensors"])
def test_a_graph_reads_a_table_back(kind, looks_up):
    columns = {"positions": np.array([3, 5, 8])}
    if kind == "regular":
        columns |= {"starts": np.array([0, 10, 40]), "full": np.array([2, 7, 0])}
    if kind == "listed":
        columns |= {"first": np.array([0, 1, 1, 3]), "starts": np.array([0, 4, 6])}
        columns |= {"counts": np.array([4, 2, 1])}
    if looks_up:
        columns["rows"] = np.arange(9, dtype=np.int32)[::-1]
    form = tables.Form(kind, looks_up)
    given = tables.ClientTable(form, 3, **columns).arrays()
    assert len(given) == form.width
    for array, spec in zip(given, form.specs(), strict=True):
        assert spec.is_compatible_with(tf.constant(array))
    found = tables.ClientTable.read(form, [tf.constant(array) for array in given])
    assert found.form == form
    assert int(found.count) == 3
    for name in ("positions", "starts", "full", "first", "counts", "rows"):
        if name in columns:
            own = getattr(found, name).numpy()
            np.testing.assert_array_equal(own[: len(columns[name])], columns[name])
            assert not own[len(columns[name]) :].any()  # padding
        else:
            assert getattr(found, name) is None


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "xla"), [("scan", False), ("scan", True), ("vmap", False)])
@pytest.mark.parametrize("shuffled_first", [False, True])
def test_rounds_of_which_some_are_shuffled_are_the_rounds_one_by_one(
    linear,
    strategy,
    xla,
    shuffled_first,
):
    bound, process, _ = linear
    clients = cohort_of([8, 8, 8, 8])
    rng = np.random.default_rng(5)
    plain = clients.cohort([0, 3], batch_size=4)
    shuffled = clients.cohort([1, 2], batch_size=4, shuffle=True, rng=rng)
    rounds = [plain, shuffled, plain, shuffled]
    if shuffled_first:
        rounds.reverse()

    def start():
        return initialize_from(process, bound.initial_weights)

    with execution.fast(strategy, xla=xla, seed=2, strict=True):
        state, metrics = start(), []
        for each in rounds:
            output = process.next(state, each)
            state = output.state
            metrics.append(output.metrics)
    with execution.fast(strategy, xla=xla, seed=2, strict=True):
        fused, measured = execution.iterate(process.next, start(), rounds)
    tree.assert_same_structure(measured, metrics)
    assert_close(fused, state)
    assert_close(measured, metrics)
