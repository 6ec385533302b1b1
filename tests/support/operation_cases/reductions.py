"""Sums, products and other reductions, products of matrices, and Fourier transforms."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.support.operation_cases.case import (
    FLOATS,
    NUMBERS,
    add,
    finite,
    ordinary,
    raw,
    shaped,
    specials,
    spoiled,
    uneven,
)


def reductions() -> None:
    full = [(make(d, [3, 4, 2]),) for d in NUMBERS for make in (ordinary, spoiled)]
    empty = [(np.zeros([3, 0], d),) for d in NUMBERS]
    for op in ("Sum", "Prod", "Max", "Min", "Mean"):
        add(op, full, lambda x, op=op: raw(op, x, [0, 2]), scale=10)
        add(op, full, lambda x, op=op: raw(op, x, [-1], keep_dims=True), scale=10)
        add(
            op,
            [(x,) for (x,) in empty if op != "Mean" or x.dtype.kind == "f"],
            lambda x, op=op: raw(op, x, [1]),
        )
    add("Sum", [(np.array([[2**31 - 1, 5], [-7, 9]], np.int32),)], lambda x: raw("Sum", x, [0]))
    add("EuclideanNorm", finite([3, 4]), lambda x: raw("EuclideanNorm", x, [1]))
    for op in ("All", "Any"):
        add(
            op,
            [(ordinary(bool, [3, 4]),), (np.zeros([3, 0], bool),)],
            lambda x, op=op: raw(op, x, [1]),
        )
    ties = [(ordinary(d, [5, 7]),) for d in (*NUMBERS, np.uint8)] + [
        (np.zeros([5, 7], np.float32),)
    ]
    for op in ("ArgMax", "ArgMin"):
        for out in (tf.int32, tf.int64):
            add(op, ties, lambda x, op=op, out=out: raw(op, x, 1, output_type=out))
            add(
                op,
                [(spoiled(d, [5, 7]),) for d in FLOATS] + [(specials(d),) for d in FLOATS],
                lambda x, op=op, out=out: raw(op, x, 0, output_type=out),
            )
    add("L2Loss", finite([5, 3]))
    add("L2Loss", [(spoiled(np.float32, [5]),)])
    for op in ("Cumsum", "Cumprod"):
        for options in ({}, {"exclusive": True}, {"reverse": True}):
            add(
                op,
                [(ordinary(d, [5, 3]),) for d in NUMBERS],
                lambda x, op=op, o=options: raw(op, x, 0, **o),
            )
            add(
                op,
                [(spoiled(d, [9, 3]),) for d in FLOATS],
                lambda x, op=op, o=options: raw(op, x, 0, **o),
            )
    add(
        "CumulativeLogsumexp",
        [(uneven(d, [5, 3]),) for d in FLOATS],
        lambda x: raw("CumulativeLogsumexp", x, 0),
    )
    for d in NUMBERS:
        add("TopKV2", [(ordinary(d, [4, 6]),)], lambda x: raw("TopKV2", x, 3))
    for d in FLOATS:
        add("TopKV2", [(spoiled(d, [4, 6]),), (specials(d),)], lambda x: raw("TopKV2", x, 4))
    add(
        "InTopKV2",
        [(spoiled(np.float32, [4, 6]), np.array([0, 5, 2, 2], i)) for i in (np.int32, np.int64)],
        lambda x, t: raw("InTopKV2", x, t, 3),
    )
    add(
        "InTopK",
        [(ordinary(np.float32, [4, 6]), np.array([0, 5, 2, 2], np.int32))],
        lambda x, t: raw("InTopK", x, t, k=3),
    )


def products() -> None:
    dtypes = (*FLOATS, np.int32)
    for transpose in (False, True):
        add(
            "MatMul",
            shaped([3, 4] if not transpose else [4, 3], [4, 2], dtypes=dtypes),
            lambda a, b, t=transpose: raw("MatMul", a, b, transpose_a=t),
        )
    add("MatMul", [(np.zeros([3, 0], d), np.zeros([0, 2], d)) for d in dtypes])
    add("MatMul", finite([5, 7], [7, 4]))
    for op in ("BatchMatMul", "BatchMatMulV2"):
        add(op, shaped([2, 3, 4], [2, 4, 2], dtypes=dtypes))
    add("BatchMatMulV2", shaped([2, 3, 4], [4, 2], dtypes=dtypes))
    add(
        "BatchMatMulV3",
        shaped([2, 3, 4], [2, 4, 2]),
        lambda a, b: raw("BatchMatMulV3", a, b, Tout=a.dtype),
    )
    add(
        "Einsum",
        shaped([2, 3, 4], [2, 4, 5]),
        lambda a, b: raw("Einsum", [a, b], equation="abc,acd->bd"),
    )
    add("Cross", shaped([2, 3], [2, 3]))
    for lower in (True, False):
        add(
            "MatrixTriangularSolve",
            [
                (np.eye(3, dtype=d) * 2 + uneven(d, [2, 3, 3]) / 9, uneven(d, [2, 3, 2], 5))
                for d in FLOATS
            ],
            lambda a, b, low=lower: raw("MatrixTriangularSolve", a, b, lower=low),
            rolled=False,
        )
    definite = [
        ((lambda a: a @ np.swapaxes(a, -1, -2) + np.eye(3, dtype=d))(uneven(d, [2, 3, 3])),)
        for d in FLOATS
    ]
    for op in ("Cholesky", "MatrixInverse", "MatrixDeterminant", "LogMatrixDeterminant"):
        add(op, definite, rolled=False)
    add("MatrixSolve", [(a, uneven(a.dtype, [2, 3, 2], 5)) for (a,) in definite], rolled=False)
    add("Qr", definite, rolled=False)


def fourier() -> None:
    numbers = (uneven(np.float32, [2, 8]) + 1j * uneven(np.float32, [2, 8], 3)).astype(np.complex64)
    for op in ("Real", "Imag", "Angle", "ComplexAbs", "Conj"):
        add(op, [(numbers,)])
    add("Complex", finite([3], [3], dtypes=[np.float32]))
    for op in ("FFT", "IFFT"):
        add(op, [(numbers,)])
    add("RFFT", [(uneven(np.float32, [2, 8]),)], lambda x: raw("RFFT", x, [8]))
    add("IRFFT", [(numbers[:, :5],)], lambda x: raw("IRFFT", x, [8]))
