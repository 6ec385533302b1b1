"""The device that an experiment runs on, and facts about the machine without its name."""

from __future__ import annotations

import os
import pathlib
import platform
import sys
from typing import Any

from tff_dp import _compat
from tff_dp.errors import ArgumentError

CHOICES = ("auto", "cpu", "gpu")


def choose(device: str) -> None:
    """Makes TensorFlow use a kind of device, in this process and from now on.

    Args:
      device: "auto" for TensorFlow's choice, "cpu" to hide GPUs, or "gpu".

    Raises:
      ArgumentError: device="gpu", and TensorFlow sees no GPU; the message has the reason. Or "cpu" in a
        process in which TensorFlow uses a GPU already.
    """
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        if "tensorflow" in sys.modules:  # which has read the variable already
            import tensorflow as tf

            try:
                tf.config.set_visible_devices([], "GPU")
            except RuntimeError:  # on a machine with a GPU, of which this process has made use
                raise ArgumentError(
                    "--device='cpu' comes too late: TensorFlow has run in this process. Start another."
                ) from None
    elif device == "gpu":
        with _compat.quiet.quiet_import():
            import tensorflow as tf

            from tff_dp.cli.examinations import why_no_gpu

            present = tf.config.list_physical_devices("GPU")
        if not present:
            cuda = tf.test.is_built_with_cuda()
            reason, remedy = why_no_gpu(cuda, os.environ, pathlib.Path("/"))
            raise ArgumentError(
                f"--device='gpu' needs a GPU; {reason} Use --device cpu or auto. {remedy}".rstrip()
            )


def facts() -> dict[str, Any]:
    """Returns what a reader of timings wants to know of this machine; nothing identifies it."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "devices": _devices(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    named = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return named[0] if named else "unknown"


def _devices() -> list[str]:
    """Returns the kinds of devices that graphs run on; TensorFlow is asked only if it is there."""
    if "tensorflow" not in sys.modules:
        return ["CPU"]
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return [found.get("device_name", "GPU") for found in details] or ["CPU"]
