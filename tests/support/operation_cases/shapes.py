"""Operations that move, copy, pick and place numbers."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.support.operation_cases.case import (
    ANY,
    FLOATS,
    HALVES,
    NUMBERS,
    add,
    ordinary,
    raw,
    spoiled,
)


def shapes() -> None:
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


def indices() -> None:
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
