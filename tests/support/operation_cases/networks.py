"""Operations of neural networks: convolutions, pooling, normalization, losses and optimizers."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.support.operation_cases.case import (
    add,
    finite,
    ordinary,
    raw,
    shaped,
    spoiled,
    uneven,
)


def networks() -> None:
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
