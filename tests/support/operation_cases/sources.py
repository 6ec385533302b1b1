"""Lists of tensors, random draws and constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tests.support.operation_cases.case import (
    NUMBERS,
    add,
    raw,
    spoiled,
)


def lists() -> None:
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


def draws() -> None:
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


def constants() -> None:
    add(
        "Const",
        [(spoiled(d, [3]),) for d in NUMBERS],
        lambda x: x + tf.constant([1, 2, 3], x.dtype),
    )
