"""The contract of execution strategies: stock TFF's weights, metrics and state, after several rounds.

Each row of the table is a learning process and its clients (`contract_cases`); each column is a way in
which `execution.fast` runs it, and a way in which data are given. Stock TFF runs a row once for all of
its columns. The columns of a row are thinned where they cost much and show little: XLA takes seconds for
each shape of a batch, and so does vectorizing.

- Every row runs by "call", and by "scan" without XLA.
- "vmap" without XLA, "scan" with XLA and what the rule chooses run for each pair of an algorithm and an
  aggregator, and each model, once: not for a row that shares both with others (`columns_of`).
- "vmap" with XLA, and data sets with static shapes, run for `DEAR`: an algorithm for each kind of server
  state, a model for each kind of layer that XLA treats in its own way, each kind of data.

Of the complete table (marked `full`), `QUICK` runs by default: each algorithm and kind of model at least
once; with `SLOW`, which is marked so, each aggregator, kind of data, strategy and feed.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tree

from tests.support import contract_cases, contract_models
from tests.support.contract_cases import Row
from tests.support.helpers import without_secure_sums
from tests.support.strategies import STRATEGIES
from tests.support.tables import covered, slow
from tff_dp import execution
from tff_dp.execution.cohort import batches

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:Batch Normalization contains:UserWarning"),  # TFF's own
]

FEEDS = ("arrays", "datasets")
Column = tuple[str, str]  # a strategy and a feed
CHEAP: list[Column] = [
    ("call", "arrays"),
    ("call", "datasets"),
    ("scan", "arrays"),
    ("scan", "datasets"),
]
USUAL: list[Column] = [*CHEAP, ("vmap", "arrays"), ("scan-xla", "arrays"), ("auto", "arrays")]
ALL: list[Column] = list(itertools.product(STRATEGIES, FEEDS))

_PRIVATE = ("dp fixed", "dp adaptive", "dp tree", "dp tree adaptive")
_DENSE = "keras3 dense"
_VARIABLES = "variables dense"
DEAR = [
    Row("weighted FedAvg"),
    Row("unweighted FedAvg", aggregator="dp adaptive"),
    Row("weighted FedAvg", aggregator="secure"),
    Row("weighted FedAvg", data="sizes"),
    Row("weighted FedAvg", data="passes"),
    Row("weighted FedAvg", data="hundred"),
    Row("FedSGD"),
    Row("MIME-lite", _VARIABLES),
    Row("weighted FedAvg", "keras3 convolution"),
    Row("weighted FedAvg", "keras3 lstm"),
    Row("weighted FedAvg", "keras3 embedding"),
    Row("unweighted FedAvg", "keras3 large", "dp fixed"),
]
ROWS = [
    *DEAR,
    *(Row("weighted FedAvg", model) for model in contract_models.MODELS),
    *(Row("weighted FedAvg", aggregator=name) for name in (*_PRIVATE, "robust", "secure")),
    *(Row("unweighted FedAvg", aggregator=name) for name in contract_cases.AGGREGATORS),
    Row("weighted FedAvg", "keras3 wide", "compression"),
    Row("weighted FedAvg", "variables wide", "compression"),
    Row("unweighted FedAvg", "keras3 large", "dp adaptive"),
    *(Row("FedSGD", "tf-keras dense", name) for name in ("dp fixed", "dp tree", "robust")),
    *(Row("FedSGD", f"{kind} dense") for kind in ("tf-keras", "variables")),
    *(Row("FedSGD", f"variables {layers}") for layers in ("lstm", "batch normalization")),
    *(Row("FedProx", _DENSE, name) for name in ("mean", "dp adaptive", "secure")),
    Row("FedProx", "variables gru"),
    *(Row("scheduled FedAvg", _DENSE, name) for name in ("mean", "dp fixed", "robust")),
    Row("scheduled FedAvg", "variables embedding"),
    *(Row("MIME-lite", _VARIABLES, name) for name in ("dp fixed", "robust", "secure")),
    *(Row("MIME-lite", f"variables {layers}") for layers in ("convolution", "dropout")),
    *(Row(f"tff_dp.{name}") for name in ("FedAvg", "FedSGD", "FedProx")),
    *(Row("tff_dp.FedOpt", "tf-keras dense", name) for name in ("mean", "dp fixed", "dp adaptive")),
    *(
        Row("tff_dp.FedAvg", aggregator=name)
        for name in contract_cases.MECHANISMS
        if name not in _PRIVATE
    ),
    *(
        Row("evaluation", f"{kind} dense", data="sizes")
        for kind in ("keras3", "tf-keras", "variables")
    ),
    Row("evaluation", "variables batch normalization"),
    Row("k-means", "", data="sizes"),
    *(Row("FedSGD", _VARIABLES, data=name) for name in ("sizes", "passes", "hundred")),
    *(
        Row("unweighted FedAvg", _DENSE, "dp adaptive", data)
        for data in ("sizes", "passes", "hundred")
    ),
    Row("weighted FedAvg", "variables lstm", data="passes"),
    Row("weighted FedAvg", "keras3 gru", data="passes"),
]
TWINS = [  # of a row with weights, but for which nothing differs
    Row("unweighted FedAvg", aggregator=name)
    for name in ("dp fixed", "dp tree", "dp tree adaptive", "robust", "secure")
]
QUICK: dict[Row, list[Column]] = {
    Row("weighted FedAvg"): [
        ("call", "arrays"),
        ("scan", "arrays"),
        ("vmap", "arrays"),
        ("scan-xla", "arrays"),
        ("auto", "datasets"),
    ],
    Row("weighted FedAvg", data="passes"): [("scan", "arrays")],
    Row("unweighted FedAvg", aggregator="dp adaptive"): [("auto", "arrays")],
    Row("unweighted FedAvg", aggregator="dp tree"): [("scan", "datasets")],
    Row("FedSGD"): [("scan", "arrays")],
    Row("FedProx", _DENSE, "mean"): [("scan", "datasets")],
    Row("scheduled FedAvg", _DENSE, "robust"): [("scan", "arrays")],
    Row("MIME-lite", _VARIABLES): [("scan", "datasets")],
    Row("tff_dp.FedAvg"): [("scan", "arrays")],
    **{
        Row("tff_dp.FedAvg", aggregator=name): [("scan", "arrays")]
        for name in ("dp layers", "dp laplace", "dp banded", "dp local")
    },
    Row("tff_dp.FedAvg", aggregator="dp own tree"): [("scan", "arrays")],
    Row("tff_dp.FedAvg", aggregator="dp local laplace"): [("scan", "arrays")],
    Row("tff_dp.FedSGD"): [("scan", "datasets")],
    Row("tff_dp.FedProx"): [("scan", "arrays")],
    Row("tff_dp.FedOpt", "tf-keras dense", "dp fixed"): [("scan", "arrays")],
    Row("evaluation", "variables batch normalization"): [("scan", "arrays")],
    Row("k-means", "", data="sizes"): [("call", "datasets")],
    Row("weighted FedAvg", "keras3 embedding"): [("scan", "arrays")],
}
SLOW: dict[Row, list[Column]] = {
    Row("weighted FedAvg"): [
        ("call", "datasets"),
        ("scan", "datasets"),
        ("auto", "arrays"),
        ("vmap", "datasets"),
        ("vmap-xla", "arrays"),
    ],
    Row("weighted FedAvg", data="hundred"): [("scan", "arrays")],
    Row("FedProx", _DENSE, "secure"): [("scan", "datasets")],
    Row("unweighted FedAvg", aggregator="dp tree adaptive"): [("scan", "arrays")],
    Row("unweighted FedAvg", aggregator="ddp secure"): [("scan", "arrays")],
    Row("weighted FedAvg", "keras3 wide", "compression"): [("scan", "datasets")],
    Row("FedSGD", "variables lstm"): [("scan", "arrays")],
    Row("weighted FedAvg", data="sizes"): [("scan-xla", "datasets")],
    Row("weighted FedAvg", data="passes"): [*CHEAP, ("scan-xla", "arrays")],
    Row("unweighted FedAvg", aggregator="dp adaptive"): [("vmap", "arrays")],
    Row("unweighted FedAvg", "keras3 large", "dp fixed"): [("scan-xla", "arrays")],
    Row("FedSGD", "tf-keras dense", "dp fixed"): [("vmap", "arrays")],
    **{
        Row("weighted FedAvg", f"keras3 {layers}"): [("scan", feed)]
        for layers, feed in zip(
            ("convolution", "gru", "dropout", "layer normalization", "group normalization"),
            itertools.cycle(FEEDS),
            strict=False,
        )
    },
}


def columns_of(row: Row) -> list[Column]:
    if (
        row.algorithm == "k-means"
    ):  # clients hold points, not batches: no arrays, no graph of a cohort
        return [("call", "datasets"), ("auto", "datasets")]
    if row in DEAR:
        return ALL
    is_plain = row.model.endswith("dense") and row.data in ("ragged", "sizes")
    # Another row has the same model, or the same aggregator, through every strategy.
    has_twin = row.algorithm != "weighted FedAvg" and not is_plain
    return CHEAP if has_twin or row in TWINS else USUAL


def marks_of(row: Row, column: Column) -> Any:
    if column in QUICK.get(row, []):
        return ()
    return pytest.mark.slow if column in SLOW.get(row, []) else pytest.mark.full


TABLE = [
    pytest.param(
        row,
        strategy,
        feed,
        id=f"{row}-{strategy}-{feed}",
        marks=marks_of(row, (strategy, feed)),
    )
    for row in dict.fromkeys(ROWS)
    for strategy, feed in columns_of(row)
]


def test_what_runs_by_default_covers_the_table():
    quick = [entry.values for entry in TABLE if not entry.marks]
    later = [entry.values for entry in TABLE if [mark.name for mark in entry.marks] == ["slow"]]
    assert len(quick) == sum(map(len, QUICK.values()))
    assert len(later) == len(pairs(SLOW) - pairs(QUICK))
    assert {row.algorithm for row, _, _ in quick} == {e.values[0].algorithm for e in TABLE}
    assert {row.model.split(" ")[0] for row, _, _ in quick} >= {"keras3", "tf-keras", "variables"}
    for part in ("aggregator", "data"):
        every = {getattr(entry.values[0], part) for entry in TABLE}
        assert {getattr(row, part) for row, _, _ in quick + later} == every
    assert {strategy for _, strategy, _ in quick + later} == set(STRATEGIES)
    assert {feed for _, _, feed in quick} == set(FEEDS)


def pairs(table: dict[Row, list[Column]]) -> set[tuple[Row, Column]]:
    return {(row, column) for row, columns in table.items() for column in columns}


@dataclasses.dataclass(frozen=True)
class Reference:
    """What stock TFF gives.

    Attributes:
      case: The row's process and data.
      states: Before the first round, and after each.
      outputs: Of the rounds.
      rounding: How far weights may lie apart after each round, where both sides round at random.
      initial_weights: Those with which the process itself begins.
    """

    case: contract_cases.Case
    states: list[Any]
    outputs: list[Any]
    rounding: list[float]
    initial_weights: Any


@pytest.fixture(scope="module")
def references(stock_context, tff):
    """A function from a row to its reference. The last one is kept: the table goes row by row.

    So is that of federated averaging, in which tests after the table plant defects.
    """
    kept: dict[Row, Reference] = {}

    def reference(row: Row) -> Reference:
        if row not in kept:
            for other in kept.keys() - {Row("weighted FedAvg")}:
                del kept[other]
            with tff.framework.get_context_stack().install(stock_context):
                kept[row] = _stock_rounds(tff, row)
        return kept[row]

    return reference


def _stock_rounds(tff: Any, row: Row) -> Reference:
    case = contract_cases.make_case(row)
    process, take_round = case.process, case.process.next
    if row.aggregator in contract_cases.SECURE:
        take_round = without_secure_sums(tff, take_round)
    initial = process.initialize()
    states, outputs, rounding = [contract_cases.seeded(process, initial)], [], []
    for data in case.feeds["datasets"]:
        state = states[-1]
        if row.aggregator in contract_cases.ROUNDED:

            def change(client: Any, state: Any = state) -> list[np.ndarray]:
                return _changes(process, state, take_round(state, [client]).state)

            rounding.append(contract_cases.rounding(row, map(change, data)) if data else 0.0)
        outputs.append(take_round(state, data))
        states.append(outputs[-1].state)
    return Reference(case, states, outputs, rounding, process.get_model_weights(initial))


def _changes(process: Any, before: Any, after: Any) -> list[np.ndarray]:
    weights = (process.get_model_weights(state).trainable for state in (after, before))
    return [a - b for a, b in zip(*weights, strict=True)]


@pytest.mark.parametrize(("row", "strategy", "feed"), TABLE)
def test_rounds_equal_those_of_stock_tff(references, row, strategy, feed):
    reference = references(row)
    process = reference.case.process
    with execution.fast(**STRATEGIES[strategy], device="cpu", strict=True, seed=1):
        initial = process.initialize()
        assert_alike(initial, reference.states[0])
        if not row.model.startswith("variables"):  # those draw their first weights
            assert_equal_values(process.get_model_weights(initial), reference.initial_weights)
        assert_rounds_equal(reference, process, reference.case.feeds[feed])
        assert_runs_as_named(process, row, strategy)


def assert_runs_as_named(process: Any, row: Row, strategy: str) -> None:
    """Asserts that a strategy has not made way for another one where the table does not know of it."""
    settings = STRATEGIES[strategy]
    if strategy == "auto" or gives_way(row, strategy):
        return
    xla = "with" if settings.get("xla") else "without"
    assert f"strategy {settings['strategy']}, {xla} XLA" in execution.explain(process.next)


def gives_way(row: Row, strategy: str) -> bool:
    """Returns whether a row may run by another strategy, or without XLA, than was asked."""
    kind, _, layers = row.model.partition(" ")
    if row.algorithm == "k-means" or strategy == "call":
        return True
    if row.algorithm in ("FedProx", "evaluation") and strategy.startswith("vmap"):
        return True  # an iterator whose batches have two shapes: it cannot be vectorized
    if layers in ("lstm", "gru") and strategy.startswith("vmap"):
        return True  # loops in loops, which vectorizing does not take
    if kind == "variables" and layers in ("lstm", "gru"):
        return True  # tf-keras asks for a variable's shape
    return row.aggregator == "ddp secure" and strategy.endswith("xla")  # reads the clock


def assert_rounds_equal(reference: Reference, process: Any, rounds: list[Any]) -> None:
    state = reference.states[0]
    for number, (data, expected) in enumerate(zip(rounds, reference.outputs, strict=True)):
        if reference.rounding:  # what both sides draw differs: each round starts anew
            state = reference.states[number]
        output = process.next(state, data)
        state = output.state
        rounding = reference.rounding[number] if reference.rounding else 0.0
        assert_equal_values(output, expected, rounding=rounding)


@pytest.mark.parametrize(
    ("aggregator", "strategy"),
    covered(
        ["mean", "dp tree", "secure"],
        ["scan", "scan-xla"],
        by=[("mean", "scan"), ("dp tree", "scan-xla")],
        slow=[("mean", "scan-xla"), ("secure", "scan")],
    ),
)
def test_rounds_in_one_call_equal_those_of_stock_tff(references, aggregator, strategy):
    row = Row("weighted FedAvg", aggregator=aggregator, data="equal")
    reference = references(row)
    with execution.fast(**STRATEGIES[strategy], device="cpu", strict=True):
        state, metrics = execution.iterate(
            reference.case.process.next, reference.states[0], reference.case.feeds["arrays"]
        )
    assert_equal_values(state, reference.states[-1])
    assert_equal_values(metrics, [output.metrics for output in reference.outputs])


@pytest.mark.parametrize(
    ("strategy", "batches_of"), [("scan", "Listed"), ("vmap", "Regular"), ("call", "Iterated")]
)
def test_a_step_that_is_left_out_is_found(references, monkeypatch, strategy, batches_of):
    """The comparison fails where the second batch of each client is dropped, which is its last."""
    row = Row("weighted FedAvg")
    reference = references(row)
    fresh = contract_cases.make_case(row)  # the other one's graphs are traced already
    kind = getattr(batches, batches_of)
    reduce = kind.reduce

    def without_second(self: Any, step: Any, state: Any, shapes: Any) -> Any:
        def skipping(number: Any, state: Any, batch: Any) -> Any:
            kept = zip(step(number, state, batch), state, strict=True)
            return [tf.where(tf.equal(number, 1), before, after) for after, before in kept]

        return reduce(self, skipping, state, shapes)

    monkeypatch.setattr(kind, "reduce", without_second)
    with (
        execution.fast(**STRATEGIES[strategy], device="cpu", strict=True),
        pytest.raises(AssertionError, match="Not equal to tolerance"),
    ):
        assert_rounds_equal(reference, fresh.process, fresh.feeds["arrays"])


@pytest.mark.parametrize("strategy", ["call", slow("auto")])
def test_personalization_equals_that_of_stock_tff(stock, strategy):
    """It has no state and two sequences a client, and samples clients: a form of its own."""
    evaluate, weights, clients = contract_cases.personalization()
    expected = evaluate(weights, clients)
    with execution.fast(**STRATEGIES[strategy], device="cpu", strict=True):
        actual = evaluate(weights, clients)
    # TFF samples clients by random numbers, and promises no order: each has examples of its own number.
    assert_equal_values(_by_client(actual), _by_client(expected))


def _by_client(metrics: Any) -> Any:
    order = np.argsort(metrics["baseline_metrics"]["num_examples"])
    return tree.map_structure(lambda values: np.asarray(values)[order], metrics)


def assert_equal_values(actual: Any, expected: Any, *, rounding: float = 0.0) -> None:
    """Asserts that two structures are alike, and equal but for the precision of float32.

    Args:
      actual: The one.
      expected: The other.
      rounding: How far weights, and what the server's optimizer keeps of them, may lie apart.
    """
    assert_alike(actual, expected)
    for (path, a), b in zip(tree.flatten_with_path(actual), tree.flatten(expected), strict=True):
        if np.asarray(b).dtype.kind != "f":
            np.testing.assert_array_equal(a, b, err_msg=str(path))
            continue
        is_rounded = {"global_model_weights", "finalizer"} & set(path)
        atol = 1e-6 + (rounding if is_rounded else 0.0)
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=atol, err_msg=str(path))


def assert_alike(actual: Any, expected: Any) -> None:
    """Asserts that two structures are of the same containers, data types and shapes."""
    tree.assert_same_structure(actual, expected)
    for (path, a), b in zip(tree.flatten_with_path(actual), tree.flatten(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
