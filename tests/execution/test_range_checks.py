"""Indices, labels and divisors that TensorFlow's kernels refuse are refused where nothing else looks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.operation_cases import raw, written
from tests.support.rewriting import constants, rewritten, run, run_for_xla
from tff_dp.execution.graph import range_checks

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


def integers(*values: Any, dtype: Any = np.int32) -> np.ndarray:
    return np.array(values, dtype)


def _scatter(op: str) -> Any:
    return lambda indices: raw(op, tf.constant(TABLE), indices, tf.ones([2, 3]))


def _segments(op: str) -> Any:
    return lambda ids: raw(op, tf.ones([2, 3]), ids, 3)


def _element(op: str) -> Any:
    def write(index: Any) -> Any:
        handle = raw("TensorListFromTensor", tf.constant(TABLE), [3])
        if op == "TensorListGetItem":
            return raw(op, handle, index, [3], element_dtype=tf.float32)
        changed = raw(op, handle, index, tf.zeros([3]))
        return raw("TensorListStack", changed, [3], element_dtype=tf.float32, num_elements=4)

    return write


def _quotient(op: str) -> Any:
    return lambda divisor: raw(op, tf.ones_like(divisor) * 7, divisor)


# By operation: what writes it, arguments that its kernel takes, and some that it refuses.
CASES: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "Gather": (
        lambda i: raw("Gather", tf.constant(TABLE), i),
        [integers(0, 3), np.zeros([0], np.int32)],
        [integers(4, 0), integers(0, -1)],
    ),
    "GatherV2": (
        lambda i: raw("GatherV2", tf.constant(TABLE), i, 1),
        [integers(0, 2), np.zeros([0], np.int32)],
        [integers(3, 0), integers(0, -1)],
    ),
    "GatherNd": (
        lambda i: raw("GatherNd", tf.constant(TABLE), i),
        [integers([3, 2], [0, 0]), np.zeros([0, 2], np.int32)],
        [integers([3, 3]), integers([4, 0]), integers([0, 0], [-1, 0])],
    ),
    "ScatterNd": (
        lambda i: raw("ScatterNd", i, tf.ones([2, 3]), [4, 3]),
        [integers([3], [0])],
        [integers([4], [0]), integers([0], [-1])],
    ),
    **{
        f"TensorScatter{kind}": (
            _scatter(f"TensorScatter{kind}"),
            [integers([3], [0])],
            [integers([4], [0]), integers([0], [-1])],
        )
        for kind in ("Add", "Max", "Min", "Sub", "Update")
    },
    "SparseSoftmaxCrossEntropyWithLogits": (
        lambda labels: raw("SparseSoftmaxCrossEntropyWithLogits", tf.constant(TABLE), labels),
        [integers(0, 1, 2, 2)],
        [integers(0, 1, 2, 3), integers(-1, 0, 1, 2)],
    ),
    **{
        f"UnsortedSegment{kind}": (
            _segments(f"UnsortedSegment{kind}"),
            [integers(2, 0), integers(-1, 2)],  # negative ones are dropped
            [integers(3, 0), integers(0, 100)],
        )
        for kind in ("Max", "Min", "Prod", "Sum")
    },
    **{
        op: (
            lambda values, op=op: raw(op, values, 3, tf.zeros([0])),
            [integers(0, 2), integers(3, 9), np.zeros([0], np.int32)],  # large ones are dropped
            [integers(0, -1)],
        )
        for op in ("Bincount", "DenseBincount")
    },
    **{
        op: (_quotient(op), [integers(1, -2)], [integers(1, 0), integers(0, 0)])
        for op in ("Div", "FloorDiv", "FloorMod", "Mod", "TruncateDiv", "TruncateMod")
    },
    "Pow": (
        lambda exponent: raw("Pow", tf.fill([2], 2), exponent),
        [integers(0, 3)],
        [integers(1, -1)],
    ),
    "ReverseSequence": (
        lambda lengths: raw("ReverseSequence", tf.constant(TABLE), lengths, seq_dim=1),
        [integers(0, 1, 2, 3)],
        [integers(0, 1, 2, 4), integers(0, 1, 2, -1)],
    ),
    "InvertPermutation": (
        written("InvertPermutation"),
        [integers(2, 0, 1), np.zeros([0], np.int32)],
        [integers(0, 0, 1), integers(0, 3, 1), integers(0, -1, 1)],
    ),
    "Slice": (
        lambda begin: raw("Slice", tf.constant(TABLE), begin, [2, 3]),
        [integers(2, 0), integers(0, 0)],
        [integers(3, 0), integers(-1, 0), integers(0, 1)],
    ),
    "StridedSlice": (
        lambda place: tf.constant(TABLE)[place[0], ..., place[1]],
        [integers(3, 2), integers(-4, -3)],
        [integers(4, 0), integers(0, 3), integers(-5, 0)],
    ),
    **{
        op: (_element(op), [integers(3)[0], integers(0)[0]], [integers(4)[0], integers(-1)[0]])
        for op in ("TensorListGetItem", "TensorListSetItem")
    },
}


def test_every_check_has_a_case():
    assert set(CASES) == set(range_checks.OPERATIONS)


@pytest.mark.parametrize("op", sorted(CASES))
def test_a_check_holds_for_what_the_kernel_takes_and_for_nothing_else(op):
    write, good, bad = CASES[op]

    def checked(argument: Any, key: Any) -> Any:
        checks: list[range_checks.Check] = []
        results = rewritten(write, [argument], key, checks)
        assert checks
        assert all(op in check.message for check in checks)
        return [tf.reduce_all([check.holds for check in checks]), *results]

    def alone(argument: Any) -> Any:
        return checked(argument, tf.constant([1, 2], tf.uint64))[0]  # the operation is left out

    for argument in good:
        holds, *actual = run_for_xla(checked, constants(argument))
        assert holds
        for a, b in zip(actual, run(write, constants(argument)), strict=True):
            np.testing.assert_allclose(a, b)
    for argument in bad:
        with pytest.raises(tf.errors.OpError):
            run(write, constants(argument))
        (holds,) = run(alone, constants(argument))
        assert not holds


@pytest.mark.parametrize("op", ["GatherV2", "GatherNd", "FloorDiv", "Pow"])
def test_a_constant_that_passes_costs_no_check(op):
    write, good, _ = CASES[op]
    checks: list[range_checks.Check] = []
    with tf.Graph().as_default():
        key = tf.constant([1, 2], tf.uint64)
        rewritten(lambda: write(tf.constant(good[0])), [], key, checks)
    assert not checks


def test_messages_name_the_operation_and_the_bound():
    with tf.Graph().as_default() as graph:
        indices = tf.compat.v1.placeholder(tf.int32, [2])
        raw("GatherV2", tf.constant(TABLE), indices, 0)
        (node,) = [o for o in graph.get_operations() if o.type == "GatherV2"]
        check = range_checks.check(node.node_def, list(node.inputs), range_checks.Limits())
    assert check.message == "GatherV2 (GatherV2): indices are not all in [0, 4)"
