"""The devices that graphs run on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

import tensorflow as tf

from tff_dp.errors import ArgumentError

_MOST_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the clients of a round run.

    Attributes:
      on_gpu: Whether they run on GPUs.
      names: Devices that take parts of a large cohort at the same time; empty names for threads of
        whatever device the graph is on.
      resident_bytes: Bytes of examples that may stay on a device between rounds.
      default: The device of everything else, or None for TensorFlow's choice.
    """

    on_gpu: bool
    names: tuple[str, ...]
    resident_bytes: int
    default: str | None

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context in which graphs are called on the default device."""
        return tf.device(self.default) if self.default else contextlib.nullcontext()


def choose(device: str) -> Places:
    """Returns where graphs run.

    A GPU's memory is taken as it is needed, not all at once: memory growth is switched on unless
    TensorFlow has been started with another setting.

    Args:
      device: "auto", "cpu" or "gpu".

    Raises:
      ArgumentError: There is no GPU.
    """
    present = tf.config.list_physical_devices("GPU")
    gpus = present if device != "cpu" else []
    if device == "gpu" and not gpus:
        raise ArgumentError(
            "device='gpu', but TensorFlow sees no GPU: expected 'cpu' or 'auto' on this machine. "
            "tensorflow[and-cuda] brings what TensorFlow needs to see one (docs/execution.md)."
        )
    for gpu in present:
        with contextlib.suppress(RuntimeError):  # started already: its setting stays
            tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        names = tuple(place.name for place in tf.config.list_logical_devices("GPU"))
        return Places(True, names, 1 << 31, None)
    names = tuple(place.name for place in tf.config.list_logical_devices("CPU"))
    if len(names) == 1:
        names = ("",) * min(os.cpu_count() or 1, _MOST_THREADS)
    return Places(False, names, 1 << 28, "/CPU:0" if present else None)
