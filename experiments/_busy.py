"""How busy a device is while something runs: the CPU by process time, GPUs by what NVIDIA measures."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tff_dp import _cuda_driver

_EVERY = 0.1  # seconds; NVIDIA's own figure is that of the last 1/6 s to 1 s
_NOT = "not measured: "


@dataclasses.dataclass
class Busy:
    """What was measured.

    Attributes:
      share: In percent: of the cores' time, what this process has used; of a GPU's time, that in which it
        ran something, the mean over samples. Of several GPUs, that of the busiest one: a small cohort
        leaves the others idle. None if it was not measured.
      by: What has measured it, or "not measured: " and the reason.
      samples: The number of samples of GPUs.
      core_seconds: The cores' time that this process has used, in seconds; None on GPUs.
    """

    share: float | None = None
    by: str = f"{_NOT}it has not ended"
    samples: int = 0
    core_seconds: float | None = None


@contextlib.contextmanager
def measured(on_gpu: bool) -> Iterator[Busy]:
    """Measures how busy a device is while a block runs.

    Args:
      on_gpu: Whether the block runs on GPUs.

    Yields:
      What is measured, complete after the block.
    """
    with _gpus() if on_gpu else _cpu() as found:
        yield found


@contextlib.contextmanager
def _cpu() -> Iterator[Busy]:
    found, used, begun = Busy(), time.process_time(), time.monotonic()
    yield found
    cores = len(os.sched_getaffinity(0))
    found.by = "process time"
    found.core_seconds = time.process_time() - used
    found.share = 100 * found.core_seconds / ((time.monotonic() - begun) * cores)


@contextlib.contextmanager
def _gpus() -> Iterator[Busy]:
    found = Busy()
    buses = [card.bus for card in _cuda_driver.cards()]
    try:
        found.by, read = meter(buses)
        read()
    except (OSError, ValueError, RuntimeError) as error:
        found.by = f"{_NOT}{error}"
        yield found
        return
    ended, samples = threading.Event(), list[list[float]]()

    def sample() -> None:
        while not ended.wait(_EVERY):
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                samples.append(read())
                found.samples = len(samples)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
    if samples:
        found.share = max(sum(card) / len(card) for card in zip(*samples, strict=True))
    else:
        found.by = f"{_NOT}it took less than {_EVERY:g} s"


def meter(buses: Sequence[str]) -> tuple[str, Callable[[], list[float]]]:
    """Finds something that measures GPUs: NVML by the package nvidia-ml-py, or else nvidia-smi.

    Args:
      buses: Where the GPUs in use are plugged in.

    Returns:
      What measures, and a function that returns for each GPU the percentage of the time in which it ran
      something. The function raises RuntimeError, OSError or ValueError if it cannot.

    Raises:
      RuntimeError: There is nothing that measures, or no GPU.
    """
    if not buses:
        raise RuntimeError("the driver shows no GPU")
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        nvml = None
    if nvml is not None:
        return "NVML", lambda: _by_nvml(nvml, buses)
    command = shutil.which("nvidia-smi")
    if command is None:
        raise RuntimeError("neither the package nvidia-ml-py nor nvidia-smi is installed")
    return "nvidia-smi", lambda: _by_command(command, buses)


def _by_nvml(nvml: Any, buses: Sequence[str]) -> list[float]:
    try:
        nvml.nvmlInit()  # counts how often it was called
        handles = [nvml.nvmlDeviceGetHandleByPciBusId(bus.encode()) for bus in buses]
        return [float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) for handle in handles]
    except nvml.NVMLError as error:
        raise RuntimeError(f"NVML: {error}") from None


def _by_command(command: str, buses: Sequence[str]) -> list[float]:
    options = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    done = subprocess.run(
        [command, f"--id={','.join(buses)}", *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"nvidia-smi: {(done.stdout or done.stderr).strip()}")
    return [float(line) for line in done.stdout.split()]
