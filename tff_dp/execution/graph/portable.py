"""Traced functions as messages, for processes that hold nothing but TensorFlow."""

from __future__ import annotations

import functools
import hashlib
import os
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.cluster import messages, worker

# Operations that call Python of this process.
_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
# Variables by which TensorFlow, oneDNN, XLA and CUDA choose kernels, whose last bits may differ.
_VARIABLES = (
    "TF_ENABLE_ONEDNN_OPTS",
    "ONEDNN_MAX_CPU_ISA",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
    "TF_DETERMINISTIC_OPS",
    "TF_CUDNN_DETERMINISTIC",
    "NVIDIA_TF32_OVERRIDE",
)


class NotPortableError(Exception):
    """A graph needs something that only this process has."""


def packed(function: Any, device: str) -> messages.Graph:
    """Packs a traced function.

    Args:
      function: The `ConcreteFunction`, from tensors to a flat list of tensors.
      device: The kind of device that runs it, "cpu" or "gpu".

    Returns:
      The message, from which `worker.run_parts` makes the function again.

    Raises:
      NotPortableError: The function calls Python, or uses a resource of this process.
    """
    definition = function.graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    calling = next((node.op for node in nodes if node.op in _PYTHON), None)
    if calling is not None:
        raise NotPortableError(f"it calls Python code of this process ({calling})")
    captured = function.captured_inputs
    if any(tensor.dtype in (tf.resource, tf.variant) for tensor in captured):
        raise NotPortableError("it uses a variable, a table or another resource of this process")
    content = definition.SerializeToString(deterministic=True)
    inputs = tuple(tensor.name for tensor in function.inputs)
    outputs = tuple(tensor.name for tensor in function.outputs)
    digest = hashlib.blake2b(content, digest_size=16)
    digest.update(repr((inputs, outputs)).encode())
    values = tuple(tensor.numpy() for tensor in captured)
    for value in values:
        # The bytes of strings would be those of their addresses.
        raw = repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes()
        digest.update(repr((value.dtype.str, value.shape, len(raw))).encode() + raw)
    return messages.Graph(
        digest.hexdigest(),
        np.frombuffer(content, np.uint8),
        inputs,
        outputs,
        values,
        runtime(device),
    )


@functools.cache
def runtime(device: str) -> messages.Runtime:
    """Describes what has to agree on all workers.

    Args:
      device: The kind of device that runs the clients, "cpu" or "gpu".

    Returns:
      The description.
    """
    threads = tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0))
    options = tf.config.optimizer.get_experimental_options()
    environment = tuple((name, os.environ.get(name)) for name in _VARIABLES)
    return messages.Runtime(
        worker.versions(), threads, tuple(sorted(options.items())), environment, device
    )
