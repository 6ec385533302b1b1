"""The device that an experiment runs on, and facts about the machine without its name."""

from __future__ import annotations

import os
import pathlib
import platform
import sys
from typing import Any

from tff_dp.cli.devices import CHOICES, choose

__all__ = ["CHOICES", "choose", "facts"]


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
