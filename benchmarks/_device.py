"""Measures exported rounds, and PyTorch's, on the device that is there, without TensorFlow or TFF."""

from __future__ import annotations

import contextlib
import io
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
_TOLERANCE = 2e-2
PYTORCH, PFL = "PyTorch", "pfl"


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
      The device, the seconds that compiling took and those of a round (the median), the share of time
      in which the device was busy, the memory that a round takes, and how far the result is from the
      expected one.
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
    memory = whole.compile()
    compiling = time.perf_counter() - begin
    state, _ = whole.step(start, fields, key=np.array(expected["key"], np.uint64))
    found = projections([state[name] for name in names])
    held = {"state": state}

    def step() -> None:
        held["state"], _ = whole.step(held["state"], fields)

    device = jax.devices()[0]
    measured = _timed(step, rounds, seconds, Utilization())
    return {
        **measured,
        "system": case.system,
        "device": device.device_kind,
        "compile_seconds": compiling,
        "memory_bytes": memory,
        "clients_a_second": workload.clients / measured["seconds"],
        "difference": difference(found, expected),
        "tolerance": tolerance(workload),
    }


def difference(found: Any, expected: Any) -> float:
    """Returns how far projections are from what was prepared.

    Args:
      found: Of the weights after the first round; see `benchmarks._exports.projections`.
      expected: What `benchmarks._exports.prepare` has written.

    Returns:
      The largest difference, those of norms included, relative to the largest movement of a projection
      by training.
    """
    pairs = zip(found, expected["projections"], strict=True)
    largest = max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs)
    return largest / float(expected["moved"])


def tolerance(workload: Workload) -> float:
    """Returns the largest difference that is taken for roundoff.

    On a GPU, factors of matrix products keep 10 bits. Where rectifiers and maxima nearly tie, roundoff
    decides between them: the workload's own tolerance, of other roundings, says how often.

    Args:
      workload: The workload.
    """
    return max(_TOLERANCE, 4 * workload.tolerance)


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
    _forget_memory_of_torch()
    loop = kind(workload, Privacy() if private else None, x, y, device=device)
    loop.run()  # loads the libraries
    measured = _timed(lambda: (loop.run(), None)[1], rounds, seconds, Utilization())
    return {**measured, **_of_torch(workload, measured["seconds"]), "system": PYTORCH}


def runs_in_pfl(workload: Workload) -> bool:
    """Returns whether `benchmarks.peers.in_pfl` has the workload's algorithm and model."""
    return not workload.local_steps and not workload.is_text


def measure_pfl(workload: Workload, private: bool, rounds: int, seconds: float) -> dict[str, Any]:
    """Measures `FederatedAveraging` of pfl, which takes PyTorch's GPU if there is one.

    Args:
      workload: The workload.
      private: Whether with central differential privacy.
      rounds: Rounds to time, at most.
      seconds: How long to time them, about.

    Returns:
      As `measure_exported` does, without a difference.
    """
    from benchmarks.peers import in_pfl
    from benchmarks.peers.task import Clock, Task

    x, y = workload.data()
    privacy, initial = Privacy() if private else None, workload.initial_weights()

    def times(count: int) -> list[float]:
        clock = Clock(count)
        with contextlib.redirect_stdout(io.StringIO()):  # pfl prints its metrics in each round
            in_pfl.run(Task(workload, privacy, count, x, y, initial, pathlib.Path()), clock)
        return clock.seconds

    _forget_memory_of_torch()
    times(1)  # loads the libraries
    (once,) = times(1)
    busy = Utilization()
    with busy.sampling():
        found = times(max(1, min(rounds, int(seconds / once))))
    median = statistics.median(found)
    measured = {"seconds": median, "rounds": len(found), "busy": busy.percent()}
    return {**measured, **_of_torch(workload, median), "system": PFL}


def _forget_memory_of_torch() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _of_torch(workload: Workload, seconds: float) -> dict[str, Any]:
    """Returns what is measured of PyTorch beside the seconds of a round."""
    import torch

    on_gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "clients_a_second": workload.clients / seconds,
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
    strategy: str, workload: Workload, private: bool, rounds: int, seconds: float
) -> dict[str, Any]:
    """Measures the rounds of the fast context on TensorFlow's GPU if there is one.

    Args:
      strategy: "scan" or "vmap"; see `tff_dp.execution.fast`.
      workload: The workload.
      private: Whether with differential privacy.
      rounds: Rounds to time, at most.
      seconds: How long to time them, at most.

    Returns:
      As `measure_exported` does, without a difference. Compiling is what the first round took longer
      than later ones.
    """
    import tensorflow as tf

    from benchmarks._systems import Arrays, Task
    from tff_dp import execution

    class Compiled(Arrays):
        def _context(self) -> contextlib.AbstractContextManager[Any]:
            return execution.fast(strategy, strict=True, xla=True)

    x, y = workload.data()
    task = Task(workload, Privacy() if private else None, x, y, calls=rounds + 1)
    devices = tf.config.list_physical_devices("GPU")
    if devices:
        tf.config.experimental.reset_memory_stats("GPU:0")
    with contextlib.ExitStack() as stack:
        system = Compiled(task, stack)
        begin = time.perf_counter()
        system.run()
        first = time.perf_counter() - begin
        measured = _timed(lambda: (system.run(), None)[1], rounds, seconds, Utilization())
    kind, memory = "cpu", None
    if devices:
        kind = tf.config.experimental.get_device_details(devices[0]).get("device_name", "GPU")
        memory = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return {
        **measured,
        "system": f"TensorFlow, {strategy}",
        "device": kind,
        "compile_seconds": first - measured["seconds"],
        "memory_bytes": memory,
        "clients_a_second": workload.clients / measured["seconds"],
        "difference": None,
    }
