"""Operations whose results XLA would change, written in a form for which it does not.

- On CPUs, XLA's minimum and maximum ignore NaN, and its gradients of rectifiers ignore infinite
  gradients where the rectifier is flat.
- XLA contracts a product and a sum into one operation that rounds once, and combines products with
  constants. If a value is on the boundary of a step function (a floor, a rounding, or a conversion
  to integers) by construction, that difference in roundoff changes the result by a whole step.
  Products and quotients that reach a step function are therefore separated from the operations
  after them, by an exclusive or with bits that are always zero although no compiler can prove it.
- XLA derives other keys from the seeds of `tf.random.stateless_*`, and other floats from their
  bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution.graph import bodies, random_sources

RECTIFIERS = frozenset({"Relu", "Relu6"})
_PHILOX, _AUTOMATIC = 1, 3
_SCRAMBLER = 0x02461E293EC8F720  # the key with which TensorFlow's kernels derive keys from seeds
_LEAST_UNIFORM = (
    1e-7  # TensorFlow's kernels raise smaller uniform numbers to this before a logarithm
)
_SELU, _SELU_ALPHA = 1.0507009873554805, 1.7580993408473768
_INTEGERS = {2: tf.int16, 4: tf.int32, 8: tf.int64}


def rectified(node: Any, inputs: list[Any], *, for_xla: bool) -> list[tf.Tensor]:
    """Writes a rectifier that propagates NaN, with and without XLA.

    TensorFlow 2.21 fuses a rectifier with the product and the bias before it, and the fused kernel
    returns 0 for NaN, so that a client with invalid data would go undetected. It does not fuse a
    maximum. XLA's maximum propagates NaN only in its first argument, but a select always does.

    Args:
      node: The `NodeDef` of a `Relu` or `Relu6`.
      inputs: The values of its inputs: one tensor of floats.
      for_xla: Whether XLA compiles the graph.

    Returns:
      The rectified tensor, as the only output.
    """
    (feature,) = inputs
    zero, six = tf.zeros([], feature.dtype), tf.constant(6, feature.dtype)
    if for_xla:
        positive = tf.where(feature <= zero, zero, feature)
        return [positive if node.op == "Relu" else tf.where(feature > six, six, positive)]
    positive = tf.maximum(feature, zero)
    return [positive if node.op == "Relu" else tf.minimum(positive, six)]


def keep_nan(graph_def: Any) -> None:
    """Replaces the rectifiers of a graph that is to be imported, so that they propagate NaN.

    See `rectified` for the reason.

    Args:
      graph_def: The `GraphDef`, which is changed.
    """
    for body in (graph_def, *graph_def.library.function):
        nodes = body.node if body is graph_def else body.node_def
        renamed = {}
        for node in [node for node in nodes if node.op in RECTIFIERS]:
            dtype = tf.as_dtype(node.attr["T"].type)
            if not dtype.is_floating:
                continue
            bounds = [0] if node.op == "Relu" else [0, 6]
            old = "activations"
            node.op, new = ("Maximum", "z") if node.op == "Relu" else ("ClipByValue", "output")
            renamed[f"{node.name}:{old}:0"] = f"{node.name}:{new}:0"
            data = [name for name in node.input if not name.startswith("^")]
            rest = [name for name in node.input if name.startswith("^")]
            del node.input[:]
            for bound in bounds:
                constant = nodes.add(
                    name=f"{node.name}/bound_{bound}", op="Const", device=node.device
                )
                constant.attr["dtype"].type = dtype.as_datatype_enum
                constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(bound, dtype, []))
                output = ":output:0" if body is not graph_def else ""
                data.append(constant.name + output)
            node.input.extend([*data, *rest])
        if body is not graph_def:
            for node in nodes:
                for i, name in enumerate(node.input):
                    node.input[i] = renamed.get(name, name)
            # A list: writing into a map of a protocol buffer while it is read skips entries.
            for result, name in list(body.ret.items()):
                body.ret[result] = renamed.get(name, name)


def write(node: Any, inputs: list[Any], key: tf.Tensor, steps: bool) -> list[tf.Tensor] | None:
    """Writes an operation for XLA, if XLA needs another form of it.

    Args:
      node: The `NodeDef`.
      inputs: The values of its inputs.
      key: A key of the call, uint64 [2]. Only its not being a constant matters, as for `apart`.
      steps: Whether the result reaches a step function, according to `before_steps`.

    Returns:
      The values of the outputs; None if the operation may be copied as it is.

    Raises:
      NotImplementedError: The operation has no form for XLA with these inputs.
    """
    writer = _WRITERS.get(node.op)
    if writer is not None:
        return writer(node, inputs, key)
    if steps and node.op in PRODUCTS and inputs[0].dtype.is_floating:
        return [apart(_raw(node, inputs), key)]
    return None


def before_steps(body: bodies.Body) -> frozenset[str]:
    """Finds the products and quotients of a body whose results reach a step function.

    A step function is a floor, a rounding, or a conversion of floats to integers; conversions in
    the noise of a plan do not count. The search ends at reductions, whose order of summation is not
    specified in any case, and does not follow calls of functions.

    Args:
      body: The body.

    Returns:
      The names of their nodes.
    """
    found: set[str] = set()
    pending = [name for name, node in body.nodes.items() if _is_step(node)]
    seen = set(pending)
    while pending:
        for source, _ in body.inputs[pending.pop()]:
            node = body.nodes.get(source)
            if node is None or source in seen:
                continue
            seen.add(source)
            if node.op in PRODUCTS:
                found.add(source)
            if node.op in _PASSED:
                pending.append(source)
    return frozenset(found)


def _is_step(node: Any) -> bool:
    if node.op != "Cast":
        return node.op in _STEPS
    source, to = (tf.as_dtype(node.attr[name].type) for name in ("SrcT", "DstT"))
    return source.is_floating and to.is_integer and not random_sources.is_noise((node.name,))


def apart(value: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Returns a tensor that compilers cannot combine with the operations that compute it.

    Args:
      value: A tensor of floats of 2, 4 or 8 bytes.
      key: Any uint64 [2] that is not a constant.

    Returns:
      The same values, after an exclusive or of their bits with zeros.
    """
    # k^2 + k is even for every integer k, also modulo 2^64, so that its lowest bit is always zero.
    integers = _INTEGERS[value.dtype.size]
    first = key[0]
    zero = tf.cast(
        tf.bitwise.bitwise_and(first * first + first, tf.constant(1, tf.uint64)), integers
    )
    return tf.bitcast(tf.bitwise.bitwise_xor(tf.bitcast(value, integers), zero), value.dtype)


def _raw(node: Any, inputs: list[Any]) -> Any:
    """Copies an operation that has one output."""
    attributes = {k: v for k, v in node.attr.items() if not k.startswith("_")}
    return tf_compat.outputs_of(node.op, inputs, attributes)[0]


def _may_be_nan(value: tf.Tensor) -> bool:
    known = tf.get_static_value(value)
    return known is None or bool(np.isnan(np.asarray(known, np.float64)).any())


def _extreme(node: Any, inputs: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
    del key
    result = _raw(node, inputs)
    if result.dtype.is_floating:
        for value in inputs:
            if _may_be_nan(value):
                result = tf.where(tf.math.is_nan(value), value, result)
    return [result]


def _reduced_extreme(node: Any, inputs: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
    del key
    result = _raw(node, inputs)
    if result.dtype.is_floating:
        spoiled = tf.raw_ops.Any(
            input=tf.math.is_nan(inputs[0]), axis=inputs[1], keep_dims=node.attr["keep_dims"].b
        )
        result = tf.where(spoiled, tf.constant(math.nan, result.dtype), result)
    return [result]


def _clip(node: Any, inputs: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
    del node, key
    value, low, high = inputs
    return [tf.where(value < low, low, tf.where(value > high, high, value))]


def _shift(node: Any, inputs: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
    """Writes a shift. Kernels clamp the count to the range from 0 to the number of bits minus 1."""
    del key
    value, count = inputs
    most = 8 * value.dtype.size - 1
    known = tf.get_static_value(count)
    if known is None or (known < 0).any() or (known > most).any():
        count = tf.clip_by_value(count, tf.zeros([], count.dtype), tf.constant(most, count.dtype))
    return [_raw(node, [value, count])]


def _cast(node: Any, inputs: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
    """Writes a cast. Values out of range and NaN become the smallest integer, as on processors."""
    del key
    (value,) = inputs
    whole = _raw(node, inputs)
    if not (value.dtype.is_floating and whole.dtype in (tf.int32, tf.int64)):
        return [whole]
    least = float(whole.dtype.min)
    if least < float(value.dtype.min):  # all numbers of a float16 fit
        fits = tf.math.is_finite(value)
    else:
        fits = (value >= tf.constant(least, value.dtype)) & (
            value < tf.constant(-least, value.dtype)
        )
    return [tf.where(fits, whole, tf.constant(whole.dtype.min, whole.dtype))]


def _position_of_extreme(node: Any, inputs: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
    """Writes an `ArgMax` or `ArgMin`. XLA returns the position of a NaN; the kernels skip NaN."""
    del key
    value, axis = inputs
    if value.dtype.is_floating:
        infinite = -math.inf if node.op == "ArgMax" else math.inf
        value = tf.where(tf.math.is_nan(value), tf.constant(infinite, value.dtype), value)
    return [_raw(node, [value, axis])]


def _relu_gradient(node: Any, inputs: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
    del key
    gradient, feature = inputs
    passes = feature > 0
    if node.op == "Relu6Grad":
        passes &= feature < 6
    # Where the rectifier is flat: zero, or NaN if the gradient is not finite.
    return [tf.where(passes, gradient, gradient * tf.zeros([], gradient.dtype))]


def _elu_gradient(node: Any, inputs: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
    del key
    gradient, output = inputs
    if node.op == "EluGrad":
        return [tf.where(output < 0, (output + 1) * gradient, gradient)]
    dtype = gradient.dtype
    scale, alpha = tf.constant(_SELU, dtype), tf.constant(_SELU_ALPHA, dtype)
    return [tf.where(output < 0, (output + alpha) * gradient, gradient * scale)]


def _floor_of_quotient(node: Any, inputs: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
    dividend, divisor = inputs
    if divisor.dtype.is_floating:  # XLA would multiply by the reciprocal of a constant
        divisor = apart(divisor, key)
    return [_raw(node, [dividend, divisor])]


def _key_of_seed(node: Any, inputs: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
    del node, key
    (seed,) = inputs
    mixed = _bits([2], tf.constant([_SCRAMBLER], tf.uint64), tf.cast(seed, tf.uint64), tf.uint64)
    return [mixed[:1], tf.stack([tf.constant(0, tf.uint64), mixed[1]])]


def _bits(shape: Any, key: tf.Tensor, counter: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape, key=key, counter=counter, alg=_PHILOX, dtype=dtype
    )


def _uniform(node: Any, inputs: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
    del key
    shape, own, counter, algorithm = inputs
    dtype = _dtype_of_draw(node, algorithm)
    return [_uniforms(_bits(shape, own, counter, _WORDS[dtype]), dtype)]


def _uniforms(bits: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns numbers in [0, 1) from random words, in the same way as TensorFlow's kernels."""
    if dtype == tf.float32:
        mantissa = tf.bitwise.bitwise_and(bits, tf.constant(0x7FFFFF, tf.uint32))
        one = tf.constant(0x3F800000, tf.uint32)
    else:
        high = tf.bitwise.left_shift(bits, tf.constant(32, tf.uint64))
        bits = tf.bitwise.bitwise_or(high, tf.bitwise.right_shift(bits, tf.constant(32, tf.uint64)))
        mantissa = tf.bitwise.bitwise_and(bits, tf.constant(0xFFFFFFFFFFFFF, tf.uint64))
        one = tf.constant(0x3FF0000000000000, tf.uint64)
    return tf.bitcast(tf.bitwise.bitwise_or(mantissa, one), dtype) - tf.constant(1, dtype)


def _normal(node: Any, inputs: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
    """Writes normal draws, by the Box-Muller transform of pairs of uniform numbers."""
    del key
    shape, own, counter, algorithm = inputs
    dtype = _dtype_of_draw(node, algorithm)
    known = tf.get_static_value(shape)
    if known is None:
        raise NotImplementedError(f"{node.op} ({node.name}) draws a number of words that varies")
    count = math.prod(int(size) for size in known)
    words = _bits([(count + 1) // 2, 2], own, counter, _WORDS[dtype])
    pairs = _uniforms(words, dtype)
    radius = tf.sqrt(-2 * tf.math.log(tf.maximum(pairs[:, 0], tf.constant(_LEAST_UNIFORM, dtype))))
    angle = tf.constant(2 * math.pi, dtype) * pairs[:, 1]
    both = tf.stack([tf.sin(angle) * radius, tf.cos(angle) * radius], 1)
    return [tf.reshape(tf.reshape(both, [-1])[:count], [int(size) for size in known])]


_WORDS = {tf.float32: tf.uint32, tf.float64: tf.uint64}


def _dtype_of_draw(node: Any, algorithm: tf.Tensor) -> tf.DType:
    dtype = tf.as_dtype(node.attr["dtype"].type)
    known = tf.get_static_value(algorithm)
    if dtype not in _WORDS or known is None or int(known) not in (_PHILOX, _AUTOMATIC):
        raise NotImplementedError(
            f"{node.op} ({node.name}) draws other {dtype.name} numbers under XLA"
        )
    return dtype


_Writer = Callable[[Any, list[Any], tf.Tensor], list[tf.Tensor]]
_WRITERS: dict[str, _Writer] = {
    **dict.fromkeys(("Maximum", "Minimum"), _extreme),
    **dict.fromkeys(("Max", "Min"), _reduced_extreme),
    **dict.fromkeys(("ArgMax", "ArgMin"), _position_of_extreme),
    **dict.fromkeys(("ReluGrad", "Relu6Grad"), _relu_gradient),
    **dict.fromkeys(("EluGrad", "SeluGrad"), _elu_gradient),
    "Cast": _cast,
    "ClipByValue": _clip,
    "FloorDiv": _floor_of_quotient,
    "LeftShift": _shift,
    "RightShift": _shift,
    "StatelessRandomGetKeyCounter": _key_of_seed,
    "StatelessRandomUniformV2": _uniform,
    "StatelessRandomNormalV2": _normal,
}
PRODUCTS = frozenset({"Div", "Mul", "RealDiv", "Square", "SquaredDifference"})
_STEPS = frozenset({"Ceil", "Floor", "Rint", "Round"})
# Operations that pass on a difference in roundoff elementwise, or that only rearrange elements.
_PASSED = PRODUCTS | frozenset(
    [
        "Abs",
        "Add",
        "AddN",
        "AddV2",
        "BroadcastTo",
        "Cast",
        "ClipByValue",
        "ConcatV2",
        "Div",
        "DivNoNan",
        "Exp",
        "Exp2",
        "ExpandDims",
        "Identity",
        "IdentityN",
        "Log",
        "Maximum",
        "Minimum",
        "MulNoNan",
        "Neg",
        "Pack",
        "Pow",
        "Reciprocal",
        "Reshape",
        "Select",
        "SelectV2",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "StopGradient",
        "StridedSlice",
        "Sub",
        "Transpose",
        "Unpack",
    ]
)
