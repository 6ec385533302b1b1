"""The devices that graphs run on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

import tensorflow as tf

from tff_dp import _why_no_gpu
from tff_dp.errors import ArgumentError

_CPU_BYTES, _GPU_BYTES = 1 << 28, 1 << 31  # of examples that may stay on a device


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the clients of a round run.

    Attributes:
      on_gpu: Whether they run on GPUs.
      names: The workers that run the parts of a large cohort at the same time: names of devices, or
        empty names for threads of the device that the graph is on.
      resident_bytes: How many bytes of examples may stay on a device between rounds.
      default: The name of the device of everything else; None for TensorFlow's choice.
    """

    on_gpu: bool
    names: tuple[str, ...]
    resident_bytes: int
    default: str | None

    def of_parts(self, parts: int) -> tuple[str, ...]:
        """Returns the workers that run a block's parts.

        Args:
          parts: The number of parts.

        Returns:
          The first workers, at most as many as there are parts.
        """
        return self.names[:parts]

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context manager in which graphs are called on the default device."""
        return tf.device(self.default) if self.default else contextlib.nullcontext()


def of_workers_gpus(here: Places) -> Places:
    """Returns the places of a driver without a GPU whose clients run on the GPUs of a cluster.

    Args:
      here: The driver's own places.

    Returns:
      Places to which the rules for GPUs apply. Cohorts that do not leave the driver run on its CPU.
    """
    return dataclasses.replace(here, on_gpu=True, resident_bytes=_GPU_BYTES)


def choose(device: str, workers: int | None = None) -> Places:
    """Chooses where graphs run.

    GPU memory is allocated as it is needed, not all at once: memory growth is switched on. Where
    TensorFlow has been initialized already, as by a model that was built, the setting is fixed, and is
    that of the environment variable that importing tff_dp has set (`_memory_growth`).

    Args:
      device: "auto", "cpu" or "gpu".
      workers: The number of devices to use if there are several, otherwise the number of threads of
        a CPU; in [1, inf). None for all devices, or for as many threads as there are cores.

    Returns:
      The devices.

    Raises:
      ArgumentError: A GPU is asked for, and TensorFlow sees none; or `workers` exceeds the number of
        devices.
    """
    present = tf.config.get_visible_devices("GPU")
    gpus = present if device != "cpu" else []
    obstacle = _why_no_gpu.obstacle(tf, os.environ) if device == "gpu" else None
    if obstacle is not None:
        reason, remedy = obstacle
        raise ArgumentError(
            f"device='gpu', but TensorFlow sees no GPU: {reason.removeprefix(_why_no_gpu.PREFIX)} "
            f"{remedy} Or use 'cpu' or 'auto'; tff-dp doctor says more."
        )
    for gpu in present:
        with contextlib.suppress(RuntimeError):  # TensorFlow is initialized already
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
        return Places(True, names, _GPU_BYTES, None)
    return Places(False, names, _CPU_BYTES, "/CPU:0" if present else None)
