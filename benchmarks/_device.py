"""Measures exported rounds, and PyTorch's, on the device that is there, without TensorFlow or TFF."""

from __future__ import annotations

import contextlib
import json
import pathlib
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks._exports import NAMED, Case, fields_of, projections
from benchmarks._workloads import Privacy, Workload

_SAMPLING_SECONDS = 0.05
# Of a result, relative to what a round changes: on a GPU, factors of matrix products keep 10 bits.
TOLERANCE = 2e-2


class Utilization:
    """Samples how busy a GPU is, by NVML or by nvidia-smi, while its block runs.

    Attributes:
      source: What tells, or why nothing does.
    """

    def __init__(self) -> None:
        self._samples: list[int] = []
        self._read, self.source = _reader()

    @contextlib.contextmanager
    def sampling(self) -> Iterator[None]:
        """Samples in a thread while a block runs."""
        self._samples = []
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(_SAMPLING_SECONDS):
                if self._read is not None:
                    self._samples.append(self._read())

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def percent(self) -> float | None:
        """Returns the mean of the samples, in percent; None if there are none."""
        return statistics.fmean(self._samples) if self._samples else None


def _reader() -> tuple[Callable[[], int] | None, str]:
    try:
        import pynvml  # type: ignore[import-not-found]

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu), "NVML"
    except Exception:  # no package, no library, no driver
        pass
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def by_command() -> int:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout.splitlines()[0])

    try:
        by_command()
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None, "not measured: no NVML and no nvidia-smi"
    return by_command, "nvidia-smi"


def _timed(
    step: Callable[[], None], rounds: int, seconds: float, busy: Utilization
) -> dict[str, Any]:
    """Calls a function, which waits for its result, until `rounds` calls or `seconds` are over."""
    times: list[float] = []
    begin = time.perf_counter()
    with busy.sampling():
        while len(times) < rounds and (len(times) < 3 or time.perf_counter() - begin < seconds):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times), "rounds": len(times), "busy": busy.percent()}


def measure_exported(
    case: Case, folder: pathlib.Path, rounds: int, seconds: float
) -> dict[str, Any]:
    """Measures an exported round on JAX's default device, and checks its first result.

    Args:
      case: The case.
      folder: Where `benchmarks._exports.prepare` put its files.
      rounds: Rounds to time, at most.
      seconds: How long to time them, at most; three are timed in any case.

    Returns:
      The device, the seconds of the first call and of a round (the median), the share of time in which
      the device was busy, the most memory in use, and how far the result is from the expected one.
    """
    import jax

    from tff_dp import exported

    workload = NAMED[case.workload]
    whole = exported.load_exported(folder / f"{case.name}.round")
    expected = json.loads((folder / f"{case.name}.json").read_text(encoding="utf-8"))
    names = [each.name for each in whole.manifest.state if ".trainable." in each.name]
    initial = workload.initial_weights()
    start = {**whole.initial_state, **dict(zip(names, initial, strict=True))}
    # The data stay on the device, as they do in the loop of PyTorch.
    fields = [jax.device_put(field) for field in fields_of(workload)]
    begin = time.perf_counter()
    state, _ = whole.step(start, fields, key=np.array(expected["key"], np.uint64))
    first = time.perf_counter() - begin
    found = projections([state[name] for name in names])
    held = {"state": state}

    def step() -> None:
        held["state"], _ = whole.step(held["state"], fields)

    device = jax.devices()[0]
    measured = _timed(step, rounds, seconds, Utilization())
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {
        **measured,
        "system": f"exported, {case.side_by_side} at once",
        "device": device.device_kind,
        "first_seconds": first,
        "memory_bytes": memory,
        "clients_a_second": workload.clients / measured["seconds"],
        "difference": _difference(found, expected["projections"], projections(initial)),
    }


def _difference(found: Any, expected: Any, before: Any) -> float:
    """Returns the largest difference of projections, relative to the largest change of a round."""
    pairs = zip(found, expected, before, strict=True)
    differences, changes = zip(
        *((np.abs(np.subtract(a, b)).max(), np.abs(np.subtract(b, c)).max()) for a, b, c in pairs),
        strict=True,
    )
    return float(max(differences) / max(changes))


def measure_pytorch(
    workload: Workload, private: bool, rounds: int, seconds: float
) -> dict[str, Any]:
    """Measures the loop over clients in PyTorch, on its GPU if there is one.

    Args:
      workload: The workload.
      private: Whether with central differential privacy, or DP-SGD in the clients.
      rounds: Rounds to time, at most.
      seconds: How long to time them, at most.

    Returns:
      As `measure_exported` does, without a difference.
    """
    import torch

    from benchmarks import _pytorch

    kind = _pytorch.Vectorized if workload.local_steps else _pytorch.Loop
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = workload.data()
    loop = kind(workload, Privacy() if private else None, x, y, device=device)
    begin = time.perf_counter()
    loop.run()
    first = time.perf_counter() - begin
    measured = _timed(lambda: (loop.run(), None)[1], rounds, seconds, Utilization())
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {
        **measured,
        "system": "PyTorch loop" if kind is _pytorch.Loop else "PyTorch vmap",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "first_seconds": first,
        "memory_bytes": memory,
        "clients_a_second": workload.clients / measured["seconds"],
        "difference": None,
    }


def has_tensorflow_gpu() -> bool:
    """Returns whether TensorFlow and TFF are here, and TensorFlow sees a GPU."""
    try:
        import tensorflow as tf

        import tff_dp
    except ImportError:
        return False
    return bool(tf.config.list_physical_devices("GPU")) and tff_dp.tff is not None


def measure_tensorflow(
    workload: Workload, private: bool, rounds: int, seconds: float
) -> dict[str, Any]:
    """Measures the rounds of the fast context on TensorFlow's GPU.

    Args:
      workload: The workload.
      private: Whether with differential privacy.
      rounds: Rounds to time, at most.
      seconds: How long to time them, at most.

    Returns:
      As `measure_exported` does, without a difference.
    """
    import tensorflow as tf

    from benchmarks._systems import Arrays, Task

    x, y = workload.data()
    task = Task(workload, Privacy() if private else None, x, y, calls=rounds + 1)
    with contextlib.ExitStack() as stack:
        system = Arrays(task, stack)
        begin = time.perf_counter()
        system.run()
        first = time.perf_counter() - begin
        measured = _timed(lambda: (system.run(), None)[1], rounds, seconds, Utilization())
    device = tf.config.list_physical_devices("GPU")[0]
    return {
        **measured,
        "system": "fast context, arrays",
        "device": tf.config.experimental.get_device_details(device).get("device_name", "GPU"),
        "first_seconds": first,
        "memory_bytes": tf.config.experimental.get_memory_info("GPU:0")["peak"],
        "clients_a_second": workload.clients / measured["seconds"],
        "difference": None,
    }
