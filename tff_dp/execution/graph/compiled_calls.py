"""Functions that XLA compiles by themselves, in a graph that it does not compile.

TensorFlow runs one operation at a time and writes the result of each into memory. A function that
applies several operations to large tensors, one element at a time, moves many times the bytes of
its inputs. XLA computes them together. A graph as a whole may be faster without XLA, as that of a
convolutional network is on a CPU.

Whoever writes a computation marks such functions by their name, which TFF's serialization keeps.
Elsewhere, as on stock TFF, they are functions like others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.graph import carried, range_checks
from tff_dp.execution.graph.emission import Emission
from tff_dp.execution.graph.style import PLAIN, Style

# A test checks that it equals `tff_dp.noise.compiling.NAME`, which cannot be imported here: this
# package imports nothing of tff_dp above the lowest layer.
NAME = "tff_dp_compiled"
_BYTES = 1 << 20  # of inputs or outputs: what is smaller stays in a core's cache


def write(
    emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]
) -> list[Any] | None:
    """Writes the call of a marked function, which XLA compiles by itself.

    Args:
      emission: The emission that writes the node.
      node: The `NodeDef` of the call.
      inputs: The values of the node's inputs, control edges left out.
      path: The names of the nodes that lead to the node, its own name last.

    Returns:
      The values of the function's results; None if it is to be written like any other, because it
      is not marked, XLA compiles the whole graph, clients run side by side, there is a GPU, its
      tensors are small, or a shape depends on values.
    """
    function = node.attr["f"].func.name
    if NAME not in function or emission.style != PLAIN or range_checks.has_gpu():
        return None
    if not all(isinstance(i, tf.Tensor) and i.shape.is_fully_defined() for i in inputs):
        return None
    compiled = tf.function(
        lambda *tensors: _write_inside(emission, function, list(tensors), path),
        jit_compile=True,
        autograph=False,
    )
    kept = dict(emission.carried)
    try:
        traced = compiled.get_concrete_function(*(tf.TensorSpec(i.shape, i.dtype) for i in inputs))
    except NotImplementedError:
        emission.carried = kept
        return None
    if max(_bytes(inputs), _bytes(traced.outputs)) < _BYTES:
        return None
    results: list[Any]
    *results, failed = compiled(*inputs)
    emission.resume([carried.FAILED], [failed])
    return results


def _write_inside(
    emission: Emission, function: str, tensors: list[Any], path: tuple[str, ...]
) -> list[tf.Tensor]:
    """Writes a function for XLA. Returns its results and the number of the first failed check."""
    with emission.styled(Style(xla=True)):
        results, out = emission.apart(emission.call, function, tensors, path)
    after = dict(zip(emission.carried, out, strict=True))
    failed = after.pop(carried.FAILED)
    if any(tensor is not emission.carried[name] for name, tensor in after.items()):
        raise NotImplementedError(f"{function} changes a variable")
    return [*results, failed]


def _bytes(tensors: Sequence[tf.Tensor]) -> int:
    return sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in tensors)
