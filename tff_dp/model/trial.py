"""Tries losses and metrics on shapes, so that they fail before training and with a short message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.errors import ModelError

_SIZES = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67)
_LONGEST = 300  # characters that are kept of another library's message
_TRACE = re.compile(r'^\s*File ".*", line \d+')
_NOISE = re.compile(
    r"\x1b\[\d*m|\{\{.*?\}\} ?|\s*\[Op:\w+\]( name:)?\s*$|Exception encountered when calling \S+ ?"
)
_NAMED = re.compile(r"^\s*[\w.]*(?:Error|Exception): ")


def batch_size(*specs: Any) -> int:
    """Returns a batch size that differs from all other dimensions, so that nothing fits it by chance.

    Args:
      *specs: Structures of `tf.TensorSpec`s of batches.

    Returns:
      The batch size.
    """
    taken = {size for spec in tf.nest.flatten(specs) for size in spec.shape[1:]}
    return next(size for size in _SIZES if size not in taken) if taken else _SIZES[0]


def on_shapes(function: Callable[..., Any], *specs: Any) -> Any:
    """Traces a function for tensors of given specs.

    Args:
      function: A function of tensors.
      *specs: The specs of its arguments.

    Returns:
      The specs of its results.
    """
    return tf.function(function, autograph=False).get_concrete_function(*specs).structured_outputs


def of_loss(
    value: Callable[[Any, Any], Any], told: str, labels: Any, predictions: Any, hint: str = ""
) -> None:
    """Traces the loss of a batch and its gradient with respect to the predictions.

    Args:
      value: A function of (labels, predictions).
      told: The beginning of messages.
      labels: The spec of the labels.
      predictions: The spec of the predictions.
      hint: The end of the message if the loss fails.

    Raises:
      ModelError: The loss fails, or is not one floating-point number.
    """
    sized = _sized(batch_size(labels, predictions), (labels, predictions))

    def traced(labels: Any, predictions: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(predictions)
            loss = value(labels, predictions)
        floats = [p for p in tf.nest.flatten(predictions) if p.dtype.is_floating]
        return loss, tape.gradient(loss, floats)

    try:
        loss, _ = tf.function(traced).get_concrete_function(*sized).structured_outputs
    except Exception as error:
        raise ModelError(f"{told}: {reason(error)}{hint}") from error
    if loss.shape.rank != 0 or not loss.dtype.is_floating:
        raise ModelError(
            f"{told}: it gives {loss.dtype.name}{list(loss.shape)}, where one floating-point number is "
            "expected."
        )


def mixes_by_broadcast(value: Callable[[Any, Any], Any], labels: Any, predictions: Any) -> bool:
    """Says whether a loss broadcasts labels of one example against predictions of others.

    A loss may compare examples with each other on purpose. It is considered a mistake if there are
    shapes of different ranks that can be broadcast over the examples, such as [n] and [n, 1].

    Args:
      value: A function of (labels, predictions).
      labels: The spec of the labels.
      predictions: The spec of the predictions.

    Returns:
      True if exchanging the labels of one example changes the loss by an amount that depends on
      another example, and the shapes can be broadcast.
    """
    sized = _sized(batch_size(labels, predictions), (labels, predictions))
    if not any(
        _broadcasts(a.shape, b.shape)
        for a in tf.nest.flatten(sized[0])
        for b in tf.nest.flatten(sized[1])
    ):
        return False
    rng = np.random.default_rng(0)
    (y1, p1), (y2, p2) = (_example((labels, predictions), rng) for _ in range(2))
    (y3, p3), (y4, p4) = (_example((labels, predictions), rng) for _ in range(2))

    def of(y: Any, p: Any, other_y: Any, other_p: Any) -> float:
        return float(value(_pair(y, other_y), _pair(p, other_p)))

    try:
        losses = [
            of(y1, p1, y2, p2), of(y1, p1, y4, p4), of(y3, p3, y2, p2), of(y3, p3, y4, p4)
        ]  # fmt: skip
    except Exception:  # the loss does not accept random values, and the test says nothing
        return False
    coupling = abs(losses[0] - losses[1] - losses[2] + losses[3])
    return coupling > 1e-4 * max(map(abs, losses))


def reason(error: BaseException) -> str:
    """Shortens the message of another library's error.

    Args:
      error: The error.

    Returns:
      The message in one line, without traces, truncated if it is long.
    """
    lines = str(getattr(error, "message", None) or error).splitlines()
    for place in range(len(lines) - 1, -1, -1):  # the innermost error is the informative one
        if _NAMED.match(lines[place]) and any(_TRACE.match(line) for line in lines[:place]):
            lines = lines[place:]
            break
    kept = []
    for line in lines:
        if line.strip().startswith(("Arguments received by", "Call arguments received")):
            break
        if not _TRACE.match(line):
            kept.append(line)
    text = _NOISE.sub("", " ".join(" ".join(kept).split()))
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3].rstrip()}..."
    return text or type(error).__name__


def zeros(spec: Any, size: int) -> Any:
    """Returns a batch of zeros, or of empty strings.

    Args:
      spec: A structure of `tf.TensorSpec`s.
      size: The number of examples.

    Returns:
      Tensors [size, ...] in the structure of the spec; dimensions of unknown size have size 3.
    """
    return tf.nest.map_structure(
        lambda s: (
            tf.fill([size, *(d or 3 for d in s.shape[1:])], "")
            if s.dtype == tf.string
            else tf.zeros([size, *(d or 3 for d in s.shape[1:])], s.dtype)
        ),
        spec,
    )


def _sized(size: int, spec: Any) -> Any:
    return tf.nest.map_structure(lambda s: tf.TensorSpec([size, *s.shape[1:]], s.dtype), spec)


def _broadcasts(a: Any, b: Any) -> bool:
    if len(a) == len(b):
        return False
    try:
        tf.broadcast_static_shape(a, b)
    except ValueError:
        return False
    return True


def _example(spec: Any, rng: np.random.Generator) -> Any:
    def example(s: Any) -> Any:
        shape = [1, *(size or 3 for size in s.shape[1:])]
        if s.dtype.is_floating:
            return tf.cast(rng.uniform(0.1, 0.9, size=shape), s.dtype)
        return tf.cast(rng.integers(0, 2, size=shape), s.dtype)

    return tf.nest.map_structure(example, spec)


def _pair(first: Any, second: Any) -> Any:
    return tf.nest.map_structure(lambda a, b: tf.concat([a, b], 0), first, second)
