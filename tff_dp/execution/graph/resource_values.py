"""Operations on variables and iterators, written as operations on their carried tensors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_dp.execution.graph import carried, range_checks
from tff_dp.execution.graph.emission import Emission


def write_variable(
    emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]
) -> list[Any]:
    """Writes an operation on a variable.

    Args:
      emission: The emission that writes the node.
      node: The `NodeDef`.
      inputs: The values of the node's inputs, control edges left out.
      path: The names of the nodes that lead to the node, its own name last.

    Returns:
      The values of its outputs. A handle of a variable is a `carried.Variable`.

    Raises:
      NotImplementedError: The variable is read before it has a value, or gets its first value in a
        branch that is written as a select.
    """
    op = node.op
    if op == "VarHandleOp":
        # TensorFlow identifies a variable by its shared name. One without a name has its path
        # instead.
        name = node.attr["shared_name"].s.decode() or "/".join(path)
        if name not in emission.variables:
            shape = tf.TensorShape(node.attr["shape"].shape)
            dtype = tf.as_dtype(node.attr["dtype"].type)
            emission.variables[name] = carried.Variable(dtype, shape)
        return [emission.variables[name]]
    handle, *operands = inputs
    value = emission.carried.get(handle)
    if op == "VarIsInitializedOp":
        return [tf.constant(value is not None)]
    if op == "AssignVariableOp":
        _assign(emission, handle, operands[0])
        return []
    if value is None:
        raise NotImplementedError("a variable that is read before it has a value")
    if op == "ReadVariableOp":
        return [value]
    if op == "VariableShape":
        dtype = tf.as_dtype(node.attr["out_type"].type)
        known = value.shape.is_fully_defined()
        return [tf.constant(value.shape.as_list(), dtype) if known else tf.shape(value, dtype)]
    if op == "ResourceGather":
        return [_gather(emission, node, value, operands[0])]
    _assign(emission, handle, value + operands[0] if "Add" in op else value - operands[0])
    return []


def _gather(emission: Emission, node: Any, value: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    dimensions = node.attr["batch_dims"].i
    if emission.is_unchecked:
        limit = tf.shape(value)[dimensions]
        limit = limit if value.shape[dimensions] is None else value.shape[dimensions]
        check = range_checks.gather(f"{node.op} ({node.name})", indices, limit)
        emission.keep(None if check is None or emission.limits.allow(check) else check)
    return tf.gather(value, indices, batch_dims=dimensions)


def _assign(emission: Emission, handle: carried.Variable, value: tf.Tensor) -> None:
    """Assigns a value to a variable; in a branch that is not taken, it keeps its old value."""
    taken = emission.is_taken()
    if taken is not None:
        if handle not in emission.carried:
            raise NotImplementedError("a variable that has its first value in a branch")
        value = tf.where(taken, value, emission.carried[handle])
    emission.carried[handle] = value


def write_iterator(
    emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]
) -> list[Any]:
    """Writes an operation on an iterator over a client's batches, or on an optional batch from it.

    Args:
      emission: The emission that writes the node.
      node: The `NodeDef`.
      inputs: The values of the node's inputs, control edges left out.
      path: The names of the nodes that lead to the node, its own name last.

    Returns:
      The values of its outputs. A handle of an iterator is a `carried.Iterator`, and an optional
      batch is a `carried.Optional`.

    Raises:
      NotImplementedError: The iterator advances in a branch that is written as a select.
    """
    op = node.op
    if op == "AnonymousIteratorV3":
        iterator = carried.Iterator()
        emission.carried[iterator] = tf.constant(0)
        return [iterator]
    if op == "MakeIterator":
        inputs[1].batches = inputs[0]
        return []
    if op == "IteratorGetNextAsOptional":
        (iterator,) = inputs
        number = emission.carried[iterator]
        if emission.is_taken() is not None:
            raise NotImplementedError("an iterator that moves in a branch")
        emission.carried[iterator] = number + 1
        return [carried.Optional(iterator.batches, number)]
    (optional,) = inputs
    if isinstance(
        optional, tf.Tensor
    ):  # an optional in the gradient of a branch, not from an iterator
        return emission.copy(node, inputs, path)
    if op == "OptionalHasValue":
        return [optional.number < optional.batches.count()]
    return list(optional.batches.take(optional.number))
