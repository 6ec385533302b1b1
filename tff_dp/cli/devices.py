"""The devices that a command runs on: its option --device, and why there is no GPU."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator

from tff_dp import _compat, _why_no_gpu
from tff_dp.errors import ArgumentError

CHOICES = ("auto", "cpu", "gpu")
"""A GPU if TensorFlow sees one; the CPU, with GPUs hidden; a GPU, or an error."""


def add_device(command: argparse.ArgumentParser, default: str | None, more: str = "") -> None:
    """Adds the option --device.

    Args:
      command: The parser of the command.
      default: The value if it is not given.
      more: What else the help says.
    """
    command.add_argument(
        "--device",
        choices=CHOICES,
        default=default,
        help=f"what TensorFlow runs on; cpu hides GPUs, and gpu is an error if there is none{more}",
    )


def add_cluster(command: argparse.ArgumentParser) -> None:
    """Adds the option --cluster.

    Args:
      command: The parser of the command.
    """
    command.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="have the workers of a Ray cluster run the clients: the address of its head, auto for the "
        "one that Ray finds or a new one on this machine, or local for a new one (docs/cluster.md)",
    )


def choose(device: str) -> None:
    """Makes TensorFlow use a kind of device, in this process and from now on.

    Args:
      device: One of `CHOICES`.

    Raises:
      ArgumentError: device="gpu", and TensorFlow sees no GPU; the message has the reason. Or "cpu" in a
        process in which TensorFlow uses a GPU already.
    """
    if device == "cpu":
        hide_gpus()
    elif device == "gpu":
        found = obstacle()
        if found is not None:
            raise ArgumentError(f"--device='gpu' needs a GPU; {found}")


def hide_gpus() -> None:
    """Hides GPUs from TensorFlow, in this process and from now on.

    Raises:
      ArgumentError: TensorFlow uses a GPU already.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    if "tensorflow" in sys.modules:  # which may have read the variable already
        import tensorflow as tf

        try:
            tf.config.set_visible_devices([], "GPU")
        except RuntimeError:  # on a machine with a GPU, of which this process has made use
            raise ArgumentError(
                "--device='cpu' comes too late: TensorFlow has run in this process. Start another."
            ) from None


def obstacle() -> str | None:
    """Finds why no GPU can be used.

    Returns:
      The reason and the remedies, in sentences that begin with "no GPU: "; None if TensorFlow sees one.
    """
    with _compat.quiet.quiet_import():
        import tensorflow as tf

        found = _why_no_gpu.obstacle(tf, os.environ)
    return (
        found
        and f"{found.text} {found.remedy} Or use the device cpu or auto; tff-dp doctor says more."
    )


@contextlib.contextmanager
def used(device: str, cluster: str | None = None) -> Iterator[None]:
    """Runs the trainings of a block on a device.

    Args:
      device: One of `CHOICES`; "auto" leaves the choice to the trainings, and without a cluster the
        execution context as well.
      cluster: The address of the Ray cluster that runs the clients, as for `execution.fast`; None for
        none.

    Yields:
      Nothing.

    Raises:
      ArgumentError: device="gpu", and TensorFlow sees no GPU; or the address is none.
      ClusterError: The cluster cannot be reached.
      StackError: Ray is missing.
    """
    if device == "auto" and cluster is None:
        yield
        return
    from tff_dp import execution

    with execution.fast(device=device, cluster=cluster):
        yield
