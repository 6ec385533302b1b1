"""Operations on each number by itself, conversions between types, and choices between numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tests.support.operation_cases.case import (
    ANY,
    FLOATS,
    HALVES,
    INTEGERS,
    NUMBERS,
    add,
    divisors,
    each,
    finite,
    ordinary,
    pairs,
    raw,
    specials,
    spoiled,
)


def elementwise() -> None:
    exact = ("Abs", "Neg", "Square", "Sign", "ZerosLike", "OnesLike", "Identity", "StopGradient")
    for op in (*exact, "Snapshot", "PreventGradient"):
        add(op, each((*HALVES, *NUMBERS)), exact=True)
    for op in ("Ceil", "Floor", "Round", "Sqrt"):
        add(op, each((*HALVES, *FLOATS)), exact=op != "Sqrt", relative=True)
    add("Rint", each(FLOATS), exact=True)
    for op in (
        *("Rsqrt", "Exp", "Expm1", "Log", "Log1p", "Sigmoid", "Tanh", "Erfc"),
        *("Softplus", "Softsign", "Inv", "Reciprocal"),
        *("Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Asin", "Acos"),
    ):
        add(op, each((*HALVES, *FLOATS)), relative=True)
    for op in ("Elu", "Selu"):  # the kernels lose digits where the result is small
        add(op, each((*HALVES, *FLOATS)), relative=True, least=1.0)
    # Where the square of a float64 overflows, the kernel gives NaN for 1.
    add("Erf", [*each((*HALVES, np.float32)), (np.linspace(-30, 30, 121),)], relative=True)
    moderate = [(np.linspace(-40, 40, 161).astype(d),) for d in FLOATS]
    moderate += [(np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e3, -1e3], d),) for d in FLOATS]
    for op in ("Sin", "Cos", "Tan"):
        add(op, moderate)
    for op in ("Lgamma", "Digamma", "Ndtri", "Erfinv"):
        inside = [(np.linspace(0.01, 0.99, 99).astype(d),) for d in FLOATS]
        add(op, inside)
    for op in ("IsNan", "IsInf", "IsFinite"):
        add(op, each((*HALVES, *FLOATS)))
    for op in ("Relu", "Relu6"):
        add(op, each((*HALVES, *NUMBERS)), exact=True)
    add("LeakyRelu", each((*HALVES, *FLOATS)), exact=True)
    for op in ("ReluGrad", "Relu6Grad", "LeakyReluGrad", "EluGrad", "SeluGrad"):
        add(op, pairs((*HALVES, *FLOATS))[::3], relative=True)
    for op in ("SigmoidGrad", "TanhGrad", "SqrtGrad", "RsqrtGrad", "ReciprocalGrad", "InvGrad"):
        add(op, finite([7], [7]))
        add(op, [tuple(spoiled(d, [9], s) for s in (0, 1)) for d in FLOATS], relative=True)
    for op in ("SoftplusGrad", "SoftsignGrad"):
        add(op, finite([7], [7]))
        add(op, [tuple(spoiled(d, [9], s) for s in (0, 1)) for d in FLOATS], relative=True)
    for op in ("Add", "AddV2", "Sub", "Mul", "Maximum", "Minimum", "SquaredDifference"):
        add(op, pairs((*HALVES, *NUMBERS)), exact=True)
    add("AddN", [(list(pair),) for pair in pairs(NUMBERS)[::3]], lambda x: raw("AddN", x))
    for op in ("RealDiv", "Div", "DivNoNan"):
        add(op, pairs((*HALVES, *FLOATS)), exact=True)
    add("Div", divisors((np.int32, np.int64)), exact=True)
    for op in ("MulNoNan", "Xdivy", "Xlogy", "Xlog1py", "Atan2"):
        add(op, pairs(FLOATS), relative=True)
    add("Pow", pairs(FLOATS), relative=True, scale=10)
    small = [(a.ravel(), b.ravel()) for a, b in (np.meshgrid(np.arange(-3, 4), np.arange(0, 5)),)]
    add("Pow", [(a.astype(d), b.astype(d)) for a, b in small for d in (np.int32, np.int64)])
    for op in ("FloorDiv", "FloorMod", "Mod", "TruncateDiv", "TruncateMod"):
        add(op, divisors((np.int32, np.int64)), exact=True)
    for op in ("FloorDiv", "FloorMod", "Mod"):
        add(op, pairs(FLOATS), exact=True)
    for op in ("Equal", "NotEqual"):
        add(op, pairs((*HALVES, *ANY)))
    for op in ("Less", "LessEqual", "Greater", "GreaterEqual"):
        add(op, pairs((*HALVES, *NUMBERS, np.uint8)))
    add("ApproximateEqual", pairs(FLOATS)[::3])
    for op in ("LogicalAnd", "LogicalOr"):
        add(op, pairs([np.bool_]))
    add("LogicalNot", each([np.bool_]))
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        add(op, pairs(INTEGERS))
    add("Invert", each(INTEGERS))
    add("PopulationCount", each(INTEGERS))
    for op in ("LeftShift", "RightShift"):
        add(
            op,
            [
                (specials(d)[:6], np.array(counts).astype(d)[: len(specials(d)[:6])])
                for d in INTEGERS
                for counts in ([0, 1, 5, 7, 3, 2], [-1, 8, 31, 32, 40, 64])
            ],
        )
    for op in ("Igamma", "Igammac"):
        add(op, [(np.array([0.5, 1, 2.5, 9], d), np.array([0.3, 1, 2, 11], d)) for d in FLOATS])
    for op in ("BesselI0e", "BesselI1e"):
        add(op, [(np.linspace(-9, 9, 19).astype(d),) for d in FLOATS])


def casts() -> None:
    def cast(to: Any) -> Callable[..., Any]:
        return lambda x: raw("Cast", x, DstT=to)

    inside = {np.dtype(d): np.iinfo(d) for d in INTEGERS}
    for to in (np.bool_, *HALVES, *FLOATS):
        add("Cast", each((*ANY, *HALVES)), cast(to), exact=True)
    for to in INTEGERS:
        add("Cast", each((*INTEGERS, np.bool_)), cast(to), exact=True)
        low, high = max(inside[np.dtype(to)].min, -1000), min(inside[np.dtype(to)].max, 1000)
        numbers = np.linspace(low, high, 203)
        add("Cast", [(numbers.astype(d),) for d in FLOATS], cast(to), exact=True)
    edges = np.array([2.0**31, -(2.0**31), 2.0**63, -(2.0**63), 1e10, -1e10, 1e30])
    for to in (np.int32, np.int64):
        add("Cast", [(specials(d),) for d in (*FLOATS, *HALVES)], cast(to), exact=True)
        add("Cast", [(edges.astype(d),) for d in FLOATS], cast(to), exact=True)
    add("Bitcast", [(specials(np.float32),)], lambda x: raw("Bitcast", x, type=tf.int32))
    add("Bitcast", [(specials(np.float64),)], lambda x: raw("Bitcast", x, type=tf.int64))
    add("Bitcast", [(ordinary(np.int32, [3, 2]),)], lambda x: raw("Bitcast", x, type=tf.int64))


def choices() -> None:
    for op in ("Select", "SelectV2"):
        add(op, [(ordinary(np.bool_, [5]), spoiled(d, [5]), spoiled(d, [5], 7)) for d in ANY])
        add(op, [(np.zeros([0], bool), np.zeros([0], d), np.zeros([0], d)) for d in ANY])
    add(
        "SelectV2", [(np.array([[True], [False]]), spoiled(d, [2, 3]), spoiled(d, [])) for d in ANY]
    )
    add("ClipByValue", [(specials(d), d(-1), d(2)) for d in FLOATS], exact=True)
    add("ClipByValue", [(specials(d), d(np.nan), d(2)) for d in FLOATS], exact=True)
    add(
        "ClipByValue",
        [
            (specials(d), np.full_like(specials(d), -1), np.full_like(specials(d), 3))
            for d in FLOATS
        ],
        exact=True,
    )
