"""What each known operation is tried on: `tff_dp.execution.graph.operations` is the table of them."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_BFLOAT16 = tf.bfloat16.as_numpy_dtype
HALVES = (np.float16, _BFLOAT16)
FLOATS = (np.float32, np.float64)
INTEGERS = (np.int32, np.int64, np.uint8)
NUMBERS = (*FLOATS, np.int32, np.int64)
ANY = (*FLOATS, np.int32, np.int64, np.uint8, np.bool_)


@dataclasses.dataclass(frozen=True)
class Case:
    """An operation, and what it is tried on.

    Attributes:
      op: The operation's name.
      function: Writes it, from tensors to a tensor or several.
      inputs: Its arguments, each time that it is tried.
      exact: Whether floats have to be equal to the last bit.
      relative: Whether each number is judged by its own size, rather than by the largest one's.
      least: The size by which numbers are judged at least.
      vectorized: Whether it is tried under `tf.vectorized_map` (if the table allows it).
      scale: By how much the tolerance is widened.
      rolled: Whether clients differ in where their numbers stand; otherwise in how large floats are.
    """

    op: str
    function: Callable[..., Any]
    inputs: tuple[tuple[Any, ...], ...]
    exact: bool = False
    relative: bool = False
    least: float = 0.0
    vectorized: bool = True
    scale: float = 1.0
    rolled: bool = True

    def vary(self, argument: Any, client: int) -> Any:
        """Returns an argument as a client has it."""
        if isinstance(argument, list):
            return [self.vary(part, client) for part in argument]
        argument = np.asarray(argument)
        if self.rolled:
            return np.roll(argument.ravel(), client).reshape(argument.shape)
        return (
            argument * argument.dtype.type(1 + client / 2)
            if argument.dtype.kind == "f"
            else argument
        )


def raw(op: str, *args: Any, **attributes: Any) -> Any:
    """Writes an operation with its inputs by position."""
    function = getattr(tf.raw_ops, op)
    names = inspect.signature(function).parameters
    return function(**dict(zip(names, args, strict=False)), **attributes)


def written(op: str, **attributes: Any) -> Callable[..., Any]:
    """Returns what writes an operation."""
    return lambda *args: raw(op, *args, **attributes)


# --- Arguments ---


def specials(dtype: Any) -> np.ndarray:
    """Returns numbers of a type, its extremes and what is no number among them."""
    kind = np.dtype(dtype).kind
    if kind == "b":
        return np.array([True, False, True, True, False])
    if kind in "iu":
        info = np.iinfo(dtype)
        some = [info.min, info.min + 1, -7, -3, -2, -1, 0, 1, 2, 3, 5, 100, info.max - 1, info.max]
        return np.array([n for n in some if info.min <= n <= info.max], dtype)
    info = tf.as_dtype(dtype)
    large = float(info.max) / 8
    some = [-large, -300.25, -7.5, -3.7, -2.5, -1.5, -1, -0.75, -0.5, -1e-3, -0.0]
    return np.array([-np.inf, *some, *(-n for n in reversed(some)), np.inf, np.nan], dtype)


def ordinary(dtype: Any, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Returns numbers of moderate size, of which some are equal, and some zero."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "b":
        return rng.random(shape) < 0.6
    if np.dtype(dtype).kind in "iu":
        low = 0 if np.dtype(dtype).kind == "u" else -9
        return rng.integers(low, 10, shape).astype(dtype)
    return (np.round(rng.normal(size=shape) * 8) / 4).astype(dtype)


def uneven(dtype: Any, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Returns floats whose sums and products round."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def spoiled(dtype: Any, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Returns ordinary numbers of which some floats are not finite."""
    values = ordinary(dtype, shape, seed)
    if np.dtype(dtype).kind not in "biu" and values.size:
        places = np.random.default_rng(seed + 1).permutation(values.size)
        for place, value in zip(places, (np.nan, np.inf, -np.inf, -0.0), strict=False):
            values.flat[place] = value
    return values


def each(dtypes: Sequence[Any]) -> tuple[tuple[np.ndarray], ...]:
    """Returns the special values of each type, and none at all."""
    return tuple(
        argument
        for dtype in dtypes
        for argument in ((specials(dtype),), (np.zeros([0, 2], dtype),))
    )


def pairs(dtypes: Sequence[Any]) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Returns each pair of special values of each type, a broadcast one, and none."""
    found = []
    for dtype in dtypes:
        a, b = (part.ravel() for part in np.meshgrid(specials(dtype), specials(dtype)))
        found += [(a, b), (a[:6].reshape(3, 2), b[4:6]), (np.zeros([0], dtype), a[:1])]
    return tuple(found)


def divisors(dtypes: Sequence[Any]) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Returns pairs of integers of which the second is not zero; the smallest over -1 is undefined."""
    found = []
    for a, b in pairs(dtypes):
        kept = np.broadcast_to(b, np.broadcast_shapes(a.shape, b.shape)) != 0
        if a.dtype.kind == "i":
            kept &= ~((a == np.iinfo(a.dtype).min) & (b == -1))
        if a.shape == b.shape:
            found.append((a[kept], b[kept]))
    return tuple(found)


def shaped(*shapes: Sequence[int], dtypes: Sequence[Any] = FLOATS) -> tuple[tuple[Any, ...], ...]:
    """Returns ordinary and spoiled arguments of given shapes, for each type."""
    return tuple(
        tuple(make(dtype, shape, seed) for seed, shape in enumerate(shapes))
        for dtype in dtypes
        for make in ((ordinary, spoiled) if np.dtype(dtype).kind not in "biu" else (ordinary,))
    )


def finite(*shapes: Sequence[int], dtypes: Sequence[Any] = FLOATS) -> tuple[tuple[Any, ...], ...]:
    """Returns finite arguments of given shapes, for each type."""
    return tuple(
        tuple(uneven(dtype, shape, seed) for seed, shape in enumerate(shapes)) for dtype in dtypes
    )


# --- Cases ---

CASES: list[Case] = []


def add(op: str, inputs: Sequence[Sequence[Any]], function: Any = None, **options: Any) -> None:
    attributes = options.pop("attributes", {})
    CASES.append(
        Case(op, function or written(op, **attributes), tuple(map(tuple, inputs)), **options)
    )


def _elementwise() -> None:
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


def _casts() -> None:
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


def _choices() -> None:
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
            (specials(d), np.full(23, -1, d), np.full(23, 3, d))
            for d in FLOATS
            if len(specials(d)) == 23
        ],
        exact=True,
    )


def _shapes() -> None:
    tensors = [(spoiled(d, [3, 4, 2]),) for d in (*HALVES, *ANY)] + [
        (np.zeros([3, 0, 2], np.float32),)
    ]
    for op in ("Shape", "Size", "Rank"):
        add(op, tensors)
    add("Shape", tensors, lambda x: raw("Shape", x, out_type=tf.int64))
    add("ShapeN", tensors, lambda x: raw("ShapeN", [x, x]))
    add("EnsureShape", tensors[:2], lambda x: raw("EnsureShape", x, shape=[3, 4, None]))
    full = tensors[:-1]
    add("Reshape", full, lambda x: raw("Reshape", x, [4, -1]))
    add("Reshape", tensors[-1:], lambda x: raw("Reshape", x, [0, 7]))
    add("ExpandDims", tensors, lambda x: raw("ExpandDims", x, -2))
    add("Squeeze", [(spoiled(d, [1, 3, 1]),) for d in ANY], lambda x: raw("Squeeze", x, axis=[0]))
    add("Squeeze", [(spoiled(d, [1, 3, 1]),) for d in ANY])
    for op in ("Transpose", "ConjugateTranspose"):
        add(op, tensors, lambda x, op=op: raw(op, x, [2, 0, 1]))
    add("InvertPermutation", [(np.array([2, 0, 3, 1], d),) for d in (np.int32, np.int64)])
    add("Pack", tensors, lambda x: raw("Pack", [x, x + x if x.dtype != tf.bool else x], axis=1))
    add("Unpack", full, lambda x: raw("Unpack", x, num=4, axis=1))
    add("Concat", full, lambda x: raw("Concat", 1, [x, x]))
    add("ConcatV2", tensors, lambda x: raw("ConcatV2", [x, x[:, :1]], 1))
    add(
        "ConcatOffset",
        [(np.array([2, 3], np.int32),)],
        lambda x: raw("ConcatOffset", 0, [x, x]),
        vectorized=False,
    )
    add("Split", full, lambda x: raw("Split", 1, x, num_split=2))
    add("SplitV", full, lambda x: raw("SplitV", x, [1, 3], 1, num_split=2))
    add("Slice", full, lambda x: raw("Slice", x, [1, 0, 0], [2, -1, 1]))
    add("StridedSlice", full, lambda x: x[::-1, 1:3, tf.newaxis, 0])
    add("StridedSlice", full, lambda x: x[..., -1])
    add(
        "StridedSliceGrad",
        [(spoiled(d, [2, 2]),) for d in FLOATS],
        lambda x: raw("StridedSliceGrad", [5, 2], [1, 0], [5, 2], [2, 1], x),
    )
    add(
        "TensorStridedSliceUpdate",
        [(spoiled(d, [5, 2]), spoiled(d, [2, 2], 5)) for d in FLOATS],
        lambda x, y: raw("TensorStridedSliceUpdate", x, [1, 0], [5, 2], [2, 1], y),
    )
    add("Tile", tensors, lambda x: raw("Tile", x, [1, 2, 1]))
    add("Fill", [(spoiled(d, [1])[0],) for d in ANY], lambda x: raw("Fill", [2, 3], x))
    add(
        "BroadcastTo",
        [(spoiled(d, [3, 1]),) for d in ANY],
        lambda x: raw("BroadcastTo", x, [2, 3, 2]),
    )
    for op in ("BroadcastArgs", "BroadcastGradientArgs"):
        add(
            op,
            [(np.array([2, 1, 3], np.int32), np.array([4, 1], np.int32))],
            lambda x, y, op=op: raw(op, [2, 1, 3], [4, 1]),
        )
    add("Pad", full[:-1], lambda x: raw("Pad", x, [[1, 0], [0, 2], [0, 0]]))
    add("PadV2", full, lambda x: raw("PadV2", x, [[1, 0], [0, 2], [0, 0]], x[0, 0, 0]))
    for mode in ("REFLECT", "SYMMETRIC"):
        add(
            "MirrorPad",
            [(spoiled(d, [3, 4]),) for d in NUMBERS],
            lambda x, m=mode: raw("MirrorPad", x, [[1, 2], [0, 1]], mode=m),
        )
    add(
        "MirrorPadGrad",
        [(spoiled(d, [6, 5]),) for d in FLOATS],
        lambda x: raw("MirrorPadGrad", x, [[1, 2], [0, 1]], mode="REFLECT"),
    )
    add("ReverseV2", tensors, lambda x: raw("ReverseV2", x, [0, 2]))
    add(
        "ReverseSequence",
        [(spoiled(d, [3, 4]), np.array([0, 4, 2])) for d in ANY],
        lambda x, n: raw("ReverseSequence", x, n, seq_dim=1),
    )
    add("Roll", tensors, lambda x: raw("Roll", x, [1, -1], [0, 1]))
    add("Range", [(np.int32(1),)], lambda x: raw("Range", 3, 20, 4), vectorized=False)
    add("Range", [(np.int32(1),)], lambda x: raw("Range", 0.5, 2.1, 0.4), vectorized=False)
    add("LinSpace", [(np.float32(1.5), np.float32(7.25))], lambda x, y: raw("LinSpace", x, y, 7))
    for dtype in (np.uint8, np.int32, np.int64):
        add(
            "OneHot",
            [(np.array([0, 2, 5, 3, 255 if dtype is np.uint8 else -1], dtype),)],
            lambda x: raw("OneHot", x, 4, 1.5, -2.0),
        )
        add(
            "OneHot",
            [(np.array([[0, 2], [5, 3]], dtype),)],
            lambda x: raw("OneHot", x, 4, 7, -2, axis=0),
        )
    add("MatrixDiag", [(spoiled(d, [2, 3]),) for d in NUMBERS])
    add("Diag", [(spoiled(d, [3]),) for d in NUMBERS])
    square = [(spoiled(d, [2, 3, 3]),) for d in NUMBERS]
    add("MatrixDiagPart", square)
    add("DiagPart", [(spoiled(d, [3, 3]),) for d in NUMBERS])
    add(
        "MatrixDiagV3",
        [(spoiled(d, [2, 3]),) for d in NUMBERS],
        lambda x: raw("MatrixDiagV3", x, 1, -1, -1, tf.zeros([], x.dtype)),
    )
    add(
        "MatrixDiagV2",
        [(spoiled(d, [2, 3]),) for d in NUMBERS],
        lambda x: raw("MatrixDiagV2", x, 1, -1, -1, tf.zeros([], x.dtype)),
    )
    for op in ("MatrixDiagPartV2", "MatrixDiagPartV3"):
        add(op, square, lambda x, op=op: raw(op, x, [-1, 1], tf.ones([], x.dtype)))
    add("MatrixSetDiag", [(spoiled(d, [2, 3, 3]), spoiled(d, [2, 3], 9)) for d in NUMBERS])
    for op in ("MatrixSetDiagV2", "MatrixSetDiagV3"):
        add(
            op,
            [(spoiled(d, [2, 3, 3]), spoiled(d, [2, 2], 9)) for d in NUMBERS],
            lambda x, y, op=op: raw(op, x, y, 1),
        )
    add("MatrixBandPart", square, lambda x: raw("MatrixBandPart", x, 1, 0))
    add("IdentityN", square, lambda x: raw("IdentityN", [x, x]))
    pictures = [(spoiled(d, [2, 4, 4, 4]),) for d in (np.float32, np.int32)]
    for op in ("SpaceToDepth", "DepthToSpace"):
        add(op, pictures, lambda x, op=op: raw(op, x, block_size=2))
    add("SpaceToBatchND", pictures, lambda x: raw("SpaceToBatchND", x, [2, 2], [[0, 0], [2, 0]]))
    add(
        "BatchToSpaceND",
        [(spoiled(d, [4, 2, 3, 1]),) for d in (np.float32, np.int32)],
        lambda x: raw("BatchToSpaceND", x, [2, 2], [[0, 1], [0, 0]]),
    )
    add(
        "ExtractImagePatches",
        [(ordinary(np.float32, [2, 5, 5, 2]),)],
        lambda x: raw(
            "ExtractImagePatches",
            x,
            ksizes=[1, 3, 3, 1],
            strides=[1, 2, 2, 1],
            rates=[1, 1, 1, 1],
            padding="SAME",
        ),
    )


def _indices() -> None:
    for d in (np.float32, np.int32, np.bool_):
        table = spoiled(d, [4, 3])
        for i in (np.int32, np.int64):
            some = np.array([[3, 0], [1, 3]], i)
            add("Gather", [(table, some), (table, some[:0])])
            add(
                "GatherV2",
                [(table, some), (table, some[:0])],
                lambda x, i: raw("GatherV2", x, i, 0),
            )
            add(
                "GatherV2", [(table, np.array([2, 0, 2], i))], lambda x, i: raw("GatherV2", x, i, 1)
            )
            add(
                "GatherV2",
                [(table, np.array([[2], [0], [2], [1]], i))],
                lambda x, i: raw("GatherV2", x, i, 1, batch_dims=1),
            )
            add(
                "GatherNd",
                [
                    (table, np.array([[3, 0], [1, 2]], i)),
                    (table, np.array([[3], [1]], i)),
                    (table, np.zeros([0, 2], i)),
                ],
                rolled=False,
            )
    for d in (np.float32, np.float64, np.int32):
        updates, table = ordinary(d, [3, 2]), ordinary(d, [5, 2], 4)
        places, apart = np.array([[1], [4], [1]], np.int32), np.array([[1], [4], [0]], np.int32)
        add(
            "ScatterNd",
            [(places, updates), (places[:0], updates[:0])],
            lambda i, u: raw("ScatterNd", i, u, [5, 2]),
        )
        add("TensorScatterUpdate", [(table, apart, updates), (table, apart[:0], updates[:0])])
        for kind in ("Add", "Sub", "Max", "Min"):
            add(
                f"TensorScatter{kind}", [(table, places, updates), (table, places[:0], updates[:0])]
            )
    for d in NUMBERS:
        rows = ordinary(d, [6, 2])
        some = np.array([0, 2, 2, 0, 3, 2], np.int32)
        for kind in ("Sum", "Prod", "Max", "Min"):
            add(
                f"UnsortedSegment{kind}",
                [(rows, some), (rows[:0], some[:0])],
                lambda x, i, k=kind: raw(f"UnsortedSegment{k}", x, i, 5),
            )
            add(
                f"UnsortedSegment{kind}",
                [(rows, np.array([0, -1, 2, -2, 3, 2], np.int32))],
                lambda x, i, k=kind: raw(f"UnsortedSegment{k}", x, i, 5),
            )
    for d in FLOATS:
        rows = spoiled(d, [6, 2])
        some = np.array([0, 2, 2, 0, 3, 2], np.int32)
        for kind in ("Sum", "Prod", "Max", "Min"):
            add(
                f"UnsortedSegment{kind}",
                [(rows, some)],
                lambda x, i, k=kind: raw(f"UnsortedSegment{k}", x, i, 5),
            )
    add(
        "DynamicStitch",
        [(ordinary(d, [2, 2]), ordinary(d, [3, 2], 5)) for d in ANY],
        lambda x, y: raw("DynamicStitch", [[0, 3], [2, 1, 4]], [x, y]),
    )
    add(
        "Bincount",
        [
            (np.array([0, 3, 3, 9, 1], np.int32), w)
            for w in (np.array([1, 0.5, 2, 4, 8], np.float32), np.zeros([0], np.float32))
        ],
        lambda x, w: raw("Bincount", x, 5, w),
    )
    add(
        "DenseBincount",
        [
            (np.array([0, 3, 3, 9, 1], np.int32), w)
            for w in (np.array([1, 0.5, 2, 4, 8], np.float32), np.zeros([0], np.float32))
        ],
        lambda x, w: raw("DenseBincount", x, 5, w),
    )
    for op in ("LowerBound", "UpperBound"):
        add(op, [(np.sort(ordinary(d, [2, 6])), ordinary(d, [2, 4], 3)) for d in NUMBERS])


def _reductions() -> None:
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


def _products() -> None:
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


def _networks() -> None:
    add("BiasAdd", shaped([2, 3, 4], [4]))
    add("BiasAdd", shaped([2, 3, 3, 4], [4], dtypes=[np.float32]))
    add("BiasAddV1", shaped([2, 4], [4]))
    add("BiasAddGrad", shaped([2, 3, 4]), scale=10)
    for op in ("Softmax", "LogSoftmax"):
        add(op, finite([3, 5]))
        # Of a row with an infinite number or none, the kernel for float32 may keep the zeros.
        add(op, shaped([3, 5], dtypes=[np.float64]))
        add(op, [(np.array([[1e4, -1e4, 3], [-np.inf, 0, 1]], np.float32),)])
    add("SoftmaxCrossEntropyWithLogits", finite([3, 5], [3, 5]))
    add("SoftmaxCrossEntropyWithLogits", shaped([3, 5], [3, 5]))
    for i in (np.int32, np.int64):
        add(
            "SparseSoftmaxCrossEntropyWithLogits",
            [(x, np.array([0, 4, 2], i)) for (x,) in shaped([3, 5])],
        )
        add(
            "SparseSoftmaxCrossEntropyWithLogits",
            [(np.zeros([0, 5], np.float32), np.zeros([0], i))],
        )
    picture, kernel = [2, 6, 6, 3], [3, 3, 3, 4]
    conv = {"strides": [1, 1, 1, 1], "padding": "SAME"}
    add("Conv2D", finite(picture, kernel), attributes=conv)
    add("Conv2D", finite(picture, kernel), attributes={"strides": [1, 2, 2, 1], "padding": "VALID"})
    add(
        "Conv2DBackpropInput",
        finite(kernel, [2, 6, 6, 4]),
        lambda k, g: raw("Conv2DBackpropInput", picture, k, g, **conv),
    )
    add(
        "Conv2DBackpropFilter",
        finite(picture, [2, 6, 6, 4]),
        lambda x, g: raw("Conv2DBackpropFilter", x, kernel, g, **conv),
        scale=10,
    )
    deep = [3, 3, 3, 2]
    add("DepthwiseConv2dNative", finite(picture, deep), attributes=conv)
    add(
        "DepthwiseConv2dNativeBackpropInput",
        finite(deep, [2, 6, 6, 6]),
        lambda k, g: raw("DepthwiseConv2dNativeBackpropInput", picture, k, g, **conv),
    )
    add(
        "DepthwiseConv2dNativeBackpropFilter",
        finite(picture, [2, 6, 6, 6]),
        lambda x, g: raw("DepthwiseConv2dNativeBackpropFilter", x, deep, g, **conv),
        scale=10,
    )
    space, cube = [1, 4, 4, 4, 2], [2, 2, 2, 2, 3]
    conv3 = {"strides": [1, 1, 1, 1, 1], "padding": "SAME"}
    add("Conv3D", finite(space, cube), attributes=conv3)
    add(
        "Conv3DBackpropInputV2",
        finite(cube, [1, 4, 4, 4, 3]),
        lambda k, g: raw("Conv3DBackpropInputV2", space, k, g, **conv3),
    )
    add(
        "Conv3DBackpropFilterV2",
        finite(space, [1, 4, 4, 4, 3]),
        lambda x, g: raw("Conv3DBackpropFilterV2", x, cube, g, **conv3),
        scale=10,
    )
    pool = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": "VALID"}
    add("AvgPool", finite(picture), attributes=pool)
    add("AvgPool", finite(picture), attributes=pool | {"ksize": [1, 3, 3, 1], "padding": "SAME"})
    add("AvgPoolGrad", finite([2, 3, 3, 3]), lambda g: raw("AvgPoolGrad", picture, g, **pool))
    add("MaxPool", [*finite(picture), (np.zeros(picture, np.float32),)], attributes=pool)
    add("MaxPool", [(spoiled(np.float32, picture, s),) for s in range(8)], attributes=pool)
    for make in (uneven, ordinary):
        x = make(np.float32, picture)
        y = tf.nn.max_pool2d(x, 2, 2, "VALID").numpy()
        add("MaxPoolGrad", [(x, y, uneven(np.float32, y.shape, 9))], attributes=pool)
    pool3 = {"ksize": [1, 2, 2, 2, 1], "strides": [1, 2, 2, 2, 1], "padding": "VALID"}
    add("AvgPool3D", finite(space, dtypes=[np.float32]), attributes=pool3)
    add(
        "AvgPool3DGrad",
        finite([1, 2, 2, 2, 2], dtypes=[np.float32]),
        lambda g: raw("AvgPool3DGrad", space, g, **pool3),
    )
    add("MaxPool3D", finite(space, dtypes=[np.float32]), attributes=pool3)
    x = uneven(np.float32, space)
    y = tf.nn.max_pool3d(x, 2, 2, "VALID").numpy()
    add("MaxPool3DGrad", [(x, y, uneven(np.float32, y.shape, 9))], attributes=pool3)
    vectors = finite([3], [3], dtypes=[np.float32])[0]
    for training in (True, False):
        moments = [np.abs(vectors[0]), np.abs(vectors[1])]
        add(
            "FusedBatchNormV3",
            [(uneven(np.float32, picture), *vectors, *moments)],
            lambda *a, t=training: raw("FusedBatchNormV3", *a, is_training=t)[:3],
        )
        add(
            "FusedBatchNormGradV3",
            [(uneven(np.float32, picture), uneven(np.float32, picture, 5), *vectors[:1], *moments)],
            lambda g, x, s, m, v, t=training: raw(
                "FusedBatchNormGradV3", g, x, s, m, v, tf.zeros([0]), is_training=t
            )[:3],
            scale=10,
        )
    add("LRN", finite(picture, dtypes=[np.float32]))
    add("LRNGrad", [tuple(uneven(np.float32, picture, s) for s in range(3))])
    for op in ("ResizeBilinear", "ResizeNearestNeighbor"):
        for half in (False, True):
            add(
                op,
                finite([2, 3, 4, 2], dtypes=[np.float32]),
                lambda x, op=op, h=half: raw(op, x, [6, 7], half_pixel_centers=h),
            )
    add(
        "ResizeBilinearGrad", [(uneven(np.float32, [2, 6, 7, 2]), uneven(np.float32, [2, 3, 4, 2]))]
    )
    add(
        "ResizeNearestNeighborGrad",
        [(uneven(np.float32, [2, 6, 8, 2]),)],
        lambda g: raw("ResizeNearestNeighborGrad", g, [3, 4]),
    )


def _fourier() -> None:
    numbers = (uneven(np.float32, [2, 8]) + 1j * uneven(np.float32, [2, 8], 3)).astype(np.complex64)
    for op in ("Real", "Imag", "Angle", "ComplexAbs", "Conj"):
        add(op, [(numbers,)])
    add("Complex", finite([3], [3], dtypes=[np.float32]))
    for op in ("FFT", "IFFT"):
        add(op, [(numbers,)])
    add("RFFT", [(uneven(np.float32, [2, 8]),)], lambda x: raw("RFFT", x, [8]))
    add("IRFFT", [(numbers[:, :5],)], lambda x: raw("IRFFT", x, [8]))


def _lists() -> None:
    def listed(x: Any) -> Any:
        return raw("TensorListFromTensor", x, x.shape[1:])

    rows = [(spoiled(d, [4, 3]),) for d in (np.float32, np.int32)]

    def stack(x: Any, handle: Any) -> Any:
        return raw("TensorListStack", handle, x.shape[1:], element_dtype=x.dtype, num_elements=4)

    add("TensorListFromTensor", rows, lambda x: stack(x, listed(x)))
    add("TensorListStack", rows, lambda x: stack(x, listed(x)))
    add(
        "TensorListGetItem",
        rows,
        lambda x: raw("TensorListGetItem", listed(x), 2, x.shape[1:], element_dtype=x.dtype),
    )
    add("TensorListSetItem", rows, lambda x: stack(x, raw("TensorListSetItem", listed(x), 1, x[3])))
    add(
        "TensorListReserve",
        rows,
        lambda x: stack(
            x,
            raw(
                "TensorListSetItem",
                raw("TensorListReserve", x.shape[1:], 4, element_dtype=x.dtype),
                1,
                x[0],
            ),
        ),
    )
    add("TensorListLength", rows, lambda x: raw("TensorListLength", listed(x)))
    add(
        "TensorListElementShape",
        rows,
        lambda x: raw("TensorListElementShape", listed(x), shape_type=tf.int32),
    )

    def pushed(x: Any) -> Any:
        empty = raw("EmptyTensorList", x.shape[1:], 4, element_dtype=x.dtype)
        return raw("TensorListPushBack", empty, x[1])

    def pop(x: Any) -> Any:
        return raw("TensorListPopBack", pushed(x), x.shape[1:], element_dtype=x.dtype)[1]

    for op in ("EmptyTensorList", "TensorListPushBack", "TensorListPopBack"):
        add(op, rows, pop)


def _draws() -> None:
    def drawn(op: str, *bounds: Any, **attributes: Any) -> Callable[..., Any]:
        def draw(seed: Any) -> Any:
            key, counter = raw("StatelessRandomGetKeyCounter", seed)
            return raw(op, [7, 3], key, counter, 1, *bounds, **attributes)

        return draw

    seeds = [(np.array(seed),) for seed in ([3, -7], [0, 0], [2**62, 12])]
    add("StatelessRandomGetKeyCounter", seeds)
    add("StatelessRandomGetKeyCounter", [(np.array([4, -9], np.int32),)])
    add(
        "StatelessRandomGetAlg",
        [(np.int32(1),)],
        lambda x: raw("StatelessRandomGetAlg"),
        vectorized=False,
    )
    for dtype in (tf.float32, tf.float64):
        for kind in ("RandomUniform", "RandomNormal", "TruncatedNormal"):
            add(
                f"Stateless{kind}V2",
                seeds,
                drawn(f"Stateless{kind}V2", dtype=dtype),
                relative=True,
                least=0.1,
                scale=10,
            )
            add(
                f"Stateless{kind}",
                seeds,
                lambda s, k=kind, d=dtype: raw(f"Stateless{k}", [7, 3], s, dtype=d),
            )
    for dtype in (tf.int32, tf.int64):
        add(
            "StatelessRandomUniformIntV2",
            seeds,
            lambda s, d=dtype: drawn(
                "StatelessRandomUniformIntV2", tf.constant(-3, d), tf.constant(1000, d)
            )(s),
        )
        add(
            "StatelessRandomUniformInt",
            seeds,
            lambda s, d=dtype: raw(
                "StatelessRandomUniformInt", [7, 3], s, tf.constant(-3, d), tf.constant(1000, d)
            ),
        )
    for dtype in (tf.int32, tf.int64, tf.uint64):
        add(
            "StatelessRandomUniformFullIntV2",
            seeds,
            drawn("StatelessRandomUniformFullIntV2", dtype=dtype),
        )
        add(
            "StatelessRandomUniformFullInt",
            seeds,
            lambda s, d=dtype: raw("StatelessRandomUniformFullInt", [7, 3], s, dtype=d),
        )
    add(
        "StatelessRandomPoisson",
        seeds,
        lambda s: raw("StatelessRandomPoisson", [9, 2], s, [1.5, 3.0], dtype=tf.float32),
    )


def _constants() -> None:
    add(
        "Const",
        [(spoiled(d, [3]),) for d in NUMBERS],
        lambda x: x + tf.constant([1, 2, 3], x.dtype),
    )


for _make in (
    _elementwise,
    _casts,
    _choices,
    _shapes,
    _indices,
    _reductions,
    _products,
    _networks,
    _fourier,
    _lists,
    _draws,
    _constants,
):
    _make()

BY_OPERATION = {
    op: list(cases)
    for op, cases in itertools.groupby(sorted(CASES, key=lambda case: case.op), lambda c: c.op)
}
