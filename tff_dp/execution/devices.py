"""The devices that graphs run on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

import tensorflow as tf

from tff_dp.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the clients of a round run.

    Attributes:
      on_gpu: Whether they run on GPUs.
      names: The workers that take parts of a large cohort at the same time: names of devices, or
        empty names for threads of whatever device the graph is on.
      resident_bytes: Bytes of examples that may stay on a device between rounds.
      default: The device of everything else, or None for TensorFlow's choice.
    """

    on_gpu: bool
    names: tuple[str, ...]
    resident_bytes: int
    default: str | None

    def of_parts(self, parts: int) -> tuple[str, ...]:
        """Returns the workers that run a number of parts: no more than there are parts."""
        return self.names[:parts]

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context in which graphs are called on the default device."""
        return tf.device(self.default) if self.default else contextlib.nullcontext()


def choose(device: str, workers: int | None = None) -> Places:
    """Returns where graphs run.

    A GPU's memory is taken as it is needed, not all at once: memory growth is switched on unless
    TensorFlow has been started with another setting.

    Args:
      device: "auto", "cpu" or "gpu".
      workers: How many devices to use, if there are several, or otherwise how many threads of a
        CPU, in [1, inf); None for all devices, or as many threads as there are cores.

    Raises:
      ArgumentError: There is no GPU, or there are more workers than devices of several.
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
    kind = "GPU" if gpus else "CPU"
    names = tuple(place.name for place in tf.config.list_logical_devices(kind))
    if len(names) == 1 and not gpus:
        names = ("",) * (workers or os.cpu_count() or 1)
    elif workers is not None and workers > len(names):
        raise ArgumentError(
            f"workers={workers}: expected a whole number in [1, {len(names)}], the number of {kind}s "
            "that TensorFlow sees. Leave it out to use all of them."
        )
    names = names[:workers]
    if gpus:
        return Places(True, names, 1 << 31, None)
    return Places(False, names, 1 << 28, "/CPU:0" if present else None)
