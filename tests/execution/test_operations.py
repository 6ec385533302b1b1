"""Each known operation under XLA and side by side, against TensorFlow's own kernel for CPUs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import operation_cases
from tests.support.rewriting import constants, rewritten, run, run_for_xla
from tests.support.tables import thinned
from tff_dp.execution.graph import emitter, operations, program, xla_numerics

CLIENTS = 3
# Of a float's type: what a few operations' roundoff amounts to. TensorFlow's own kernels of two versions
# differ by as much.
TOLERANCE = {
    "float16": 4e-3,
    "bfloat16": 3e-2,
    "float32": 5e-6,
    "float64": 1e-11,
    "complex64": 5e-6,
}
pytestmark = pytest.mark.filterwarnings("ignore:Using a while_loop:UserWarning")


def test_every_operation_of_the_table_has_a_case_and_every_case_is_in_the_table():
    tried = set(operation_cases.BY_OPERATION)
    assert tried == (operations.FOR_XLA | operations.FOR_VMAP) - {"Timestamp"}
    assert all(case.inputs for cases in operation_cases.BY_OPERATION.values() for case in cases)


@pytest.mark.parametrize("op", sorted(operations.KNOWN))
def test_what_is_refused_has_its_name_and_a_reason(op):
    for obstacle in (operations.xla_obstacle([op]), operations.vmap_obstacle([op])):
        assert obstacle is None or (obstacle.startswith(f"operation {op} ") and len(obstacle) > 20)


def test_an_operation_that_is_not_known_is_refused_and_the_first_by_name_is_told_of():
    for obstacle in (operations.xla_obstacle, operations.vmap_obstacle):
        assert "operation Foo is not known to give the same numbers" in obstacle(
            ["Zoo", "Foo", "Add"]
        )
        assert obstacle([]) is None
        assert obstacle(["Add", "While", "ReadVariableOp"]) is None


def test_whatever_the_emitter_writes_in_a_way_of_its_own_is_known():
    written = set(emitter.HANDLERS) | program._HANDLED | program._HARMLESS
    for op in written:
        refused = operations.xla_obstacle([op])
        assert refused is None or op in operations.KNOWN, refused


# --- The same numbers ---

# What the emitter writes for XLA in another form. All other operations are copied: whether XLA gives the
# kernel's numbers for them, and TensorFlow's vectorization for any, changes with TensorFlow alone.
REWRITTEN = frozenset(
    {*xla_numerics._WRITERS, *xla_numerics.RECTIFIERS, *xla_numerics.PRODUCTS, "All"}
)
# Those of which most models, losses, optimizers and aggregators are made.
USUAL = """AddV2 All BiasAdd BiasAddGrad Cast ConcatV2 Conv2D Cumsum Div Equal Exp GatherV2 IsFinite
    Log LogicalAnd MatMul MaxPool Mean Minimum Mul Neg OneHot Pack Prod RealDiv Relu Reshape Round Rsqrt
    Select SelectV2 Sigmoid Slice Softmax SparseSoftmaxCrossEntropyWithLogits Sqrt Square Sub Sum Tanh
    Tile StatelessRandomUniformV2 StridedSlice Transpose UnsortedSegmentSum"""
EVERYDAY = frozenset(USUAL.split())


def by_default(known: Collection[str], some: Collection[str]) -> list[Any]:
    """Returns the operations that have cases, of which only some run by default."""
    rows = sorted(set(operation_cases.BY_OPERATION) & set(known))
    return thinned(rows, by=[op for op in rows if op in some])


def test_the_operations_that_run_by_default_are_known():
    assert operations.KNOWN >= REWRITTEN | EVERYDAY


@pytest.mark.heavy
@pytest.mark.parametrize("op", by_default(operations.FOR_XLA, REWRITTEN))
def test_xla_gives_the_numbers_of_the_kernel(op):
    for case in operation_cases.BY_OPERATION[op]:
        _compare_under_xla(case)


def _compare_under_xla(case: operation_cases.Case) -> None:
    def plain(inputs: Any) -> Any:
        return [case.function(*arguments) for arguments in inputs]

    def for_xla(inputs: Any, key: Any) -> Any:
        return [rewritten(case.function, arguments, key) for arguments in inputs]

    inputs = constants(case.inputs)
    for actual, expected in zip(run_for_xla(for_xla, inputs), run(plain, inputs), strict=True):
        assert_same(actual, expected, case)


@pytest.mark.heavy
@pytest.mark.parametrize("op", by_default(operations.FOR_VMAP, EVERYDAY))
def test_clients_side_by_side_have_the_numbers_of_the_kernel(op):
    for case in operation_cases.BY_OPERATION[op]:
        if case.vectorized:
            _compare_side_by_side(case)


def _compare_side_by_side(case: operation_cases.Case) -> None:
    def alone(own: Any) -> Any:
        return case.function(*own)

    # A graph for all inputs of the case: tracing takes longer than what is traced.
    def one_by_one(inputs: Any) -> Any:
        return [[tf.nest.flatten(alone(own)) for own in clients] for clients in inputs]

    def together(inputs: Any) -> Any:
        return tf.vectorized_map(lambda owns: [tf.nest.flatten(alone(own)) for own in owns], inputs)

    inputs = [
        [[case.vary(argument, k) for argument in arguments] for k in range(CLIENTS)]
        for arguments in case.inputs
    ]
    stacked = [[_stacked(each) for each in zip(*clients, strict=True)] for clients in inputs]
    expected = iter(run(one_by_one, constants(inputs)))
    actual = run(together, constants(stacked))
    parts = len(actual) // len(inputs)
    for first in range(0, len(actual), parts):
        for k in range(CLIENTS):
            for part in actual[first : first + parts]:
                assert_same(part[k], next(expected), case)
    assert next(expected, None) is None


def _stacked(arguments: Sequence[Any]) -> Any:
    if isinstance(arguments[0], list):
        return [np.stack(parts) for parts in zip(*arguments, strict=True)]
    return np.stack(arguments)


def assert_same(actual: np.ndarray, expected: np.ndarray, case: operation_cases.Case) -> None:
    """Asserts that results are the same up to roundoff; types, shapes and what is not finite exactly."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    name = expected.dtype.name
    if name not in TOLERANCE:
        np.testing.assert_array_equal(actual, expected)
        return
    if name.startswith("complex"):
        np.testing.assert_allclose(actual, expected, atol=TOLERANCE[name] * np.abs(expected).max())
        return
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    special = ~np.isfinite(b)
    np.testing.assert_array_equal(a[special], b[special])
    a, b = a[~special], b[~special]
    sizes = np.abs(b) if case.relative else np.abs(b).max(initial=0.0)
    tolerance = 0.0 if case.exact else TOLERANCE[name] * case.scale * np.maximum(sizes, case.least)
    # Kernels may flush what is smaller than the smallest normal number.
    smallest = 2.0 ** (-14 if name == "float16" else -1022 if name == "float64" else -126)
    assert (np.abs(a - b) <= tolerance + smallest).all(), (a - b, b)
