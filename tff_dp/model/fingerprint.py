"""A digest of the graph of a training step, which says whether two models compute the same.

A model is identified by the graph that TensorFlow traces, and not by its configuration or its
class: these do not show the values that a function closes over, or an attribute that has changed
since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tff_dp import _compat
from tff_dp._compat import tensorflow as tf_compat

tff = _compat.tff.load()

# These attributes differ from trace to trace, and have no meaning once gradients have been traced.
_LABELS = frozenset({"_gradient_op_type", "_class", "_output_shapes"})


def of_step(model: Any, input_spec: tuple[Any, Any], examples: int | None = None) -> str | None:
    """Returns a digest of what a model's training step computes, apart from the values of its weights.

    The step consists of the predictions in training mode, the loss, its gradient with respect to
    the trainable weights, and the metrics. Models with the same digest can be trained by the same
    TFF process.

    Args:
      model: A `tff.learning.models.FunctionalModel`.
      input_spec: The specs of x and y of a batch.
      examples: The number of examples in the batch; None for any number.

    Returns:
      The digest; None if the graph reads variables or tensors from outside, or cannot be traced.
    """

    def step(trainable: Any, non_trainable: Any, x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            predictions = model.predict_on_batch((trainable, non_trainable), x, training=True)
            loss = model.loss(predictions, y)
        count = tf.shape(tf.nest.flatten(y)[0])[0]
        output = tff.learning.models.BatchOutput(
            loss=loss, predictions=predictions, num_examples=count
        )
        state = model.initialize_metrics_state()
        found = model.finalize_metrics(model.update_metrics_state(state, y, output))
        return predictions, loss, tape.gradient(loss, trainable), found

    weights = tf.nest.map_structure(
        lambda w: tf.TensorSpec(w.shape, w.dtype), tuple(map(tuple, model.initial_weights))
    )
    batch = tf.nest.map_structure(
        lambda s: tf.TensorSpec([examples, *s.shape[1:]], s.dtype), input_spec
    )
    try:
        with (
            tf_compat.one_stack_trace(),
            tf.Graph().as_default(),
        ):  # TFF's converter of tf-keras models refuses to run eagerly
            traced = tf.function(step, autograph=False).get_concrete_function(*weights, *batch)
    except Exception:  # the error is raised again, with its reason, when the process is built
        return None
    if traced.captured_inputs:
        return None
    results = repr(tf.nest.map_structure(lambda _: 0, traced.structured_outputs))
    return _digest(traced.graph.as_graph_def(), results, [t.name for t in traced.outputs])


def _digest(graph_def: Any, results: str, outputs: list[str]) -> str:
    """Returns a digest of a graph that does not depend on the names of its nodes and functions.

    Args:
      graph_def: The graph.
      results: The containers of its results.
      outputs: The names of the result tensors.
    """
    functions = {each.signature.name: each for each in graph_def.library.function}
    order = [""]  # functions in the order of their first use; the graph itself comes first
    hashed = hashlib.sha256()
    _add(hashed, results)
    for met in order:  # the list grows during the loop
        body = functions[met] if met else graph_def
        nodes = body.node_def if met else body.node
        places = {node.name: f"n{i}" for i, node in enumerate(nodes)}
        if met:
            places |= {each.name: f"a{i}" for i, each in enumerate(body.signature.input_arg)}
            for each in body.signature.output_arg:
                _add(hashed, each.type, _placed(body.ret[each.name], places))
        else:
            _add(hashed, *(_placed(name, places) for name in outputs))
        for node in nodes:
            op = node.op if node.op not in functions else _number(node.op, order)
            _add(hashed, op, *(_placed(name, places) for name in node.input))
            for key in sorted(set(node.attr) - _LABELS):
                _add(hashed, key, _attribute(node.attr[key], functions, order))
    return hashed.hexdigest()


def _attribute(attribute: Any, functions: Mapping[str, Any], order: list[str]) -> bytes:
    if not attribute.HasField("func") and not attribute.list.func:
        return bytes(attribute.SerializeToString(deterministic=True))
    copy = type(attribute)()
    copy.CopyFrom(attribute)
    for each in [copy.func] if copy.HasField("func") else copy.list.func:
        if each.name in functions:
            each.name = _number(each.name, order)
    return bytes(copy.SerializeToString(deterministic=True))


def _number(function: str, order: list[str]) -> str:
    if function not in order:
        order.append(function)
    return f"function {order.index(function)}"


def _placed(reference: str, places: Mapping[str, str]) -> str:
    mark = "^" if reference.startswith("^") else ""
    name, *rest = reference.removeprefix("^").split(":")
    return mark + ":".join([places[name], *rest])


def _add(hashed: Any, *parts: Any) -> None:
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        hashed.update(len(data).to_bytes(8, "little") + data)
