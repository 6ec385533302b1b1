"""How full the cards are, in words, and what to do when one is."""

from __future__ import annotations

import functools
from typing import NamedTuple

import tensorflow as tf

from tff_dp import _compat, _cuda_driver

tff = _compat.tff.load()

_ADVICE = (
    "What takes less: a smaller batch_size or model; fast(strategy='scan'), which holds one client at a "
    "time; fewer workers; on a GPU, device='cpu', or to end other processes on the card (nvidia-smi)."
)


class Usage(NamedTuple):
    """What TensorFlow holds of a card's memory, in bytes.

    Attributes:
      used: What is in use now.
      peak: The most that was in use at a time.
      total: All memory of the card; 0 if it is not known.
    """

    used: int
    peak: int
    total: int


def usages() -> list[Usage]:
    """Returns what TensorFlow holds of each GPU that it sees, in its order."""
    places = tf.config.list_logical_devices("GPU")
    cards = _cards()
    found = []
    for number, place in enumerate(places):
        name = place.name.removeprefix("/device:")
        try:
            memory = tf.config.experimental.get_memory_info(name)
        except ValueError:  # an allocator that keeps no account
            continue
        # A card that is divided into several logical devices has no total for each of them.
        total = cards[number].memory if len(cards) == len(places) else 0
        found.append(Usage(memory["current"], memory["peak"], total))
    return found


def described() -> str:
    """Returns how full the fullest GPU is: "GPU memory 3.1 of 79.2 GiB, at most 5.0"; "" without one."""
    found = usages()
    if not found:
        return ""
    fullest = max(found, key=lambda each: each.used / (each.total or 1))
    of = f" of {_gib(fullest.total)}" if fullest.total else ""
    which = f" (the fullest of {len(found)} GPUs)" if len(found) > 1 else ""
    return f"GPU memory {_gib(fullest.used)}{of} GiB, at most {_gib(fullest.peak)}{which}"


def of_context() -> str:
    """Returns what `described` does; "" if the context in effect uses no GPU."""
    settings = getattr(tff.framework.get_context_stack().current, "settings", None)
    places = getattr(settings, "places", None)
    return described() if places is not None and places.on_gpu else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Recognizes an error that says that a device has no memory left.

    Args:
      error: The error.

    Returns:
      Whether it is one, of TensorFlow.
    """
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return True
    # XLA's allocator, and libraries of CUDA, have other classes for it.
    text = str(error).lower()
    return isinstance(error, tf.errors.OpError) and any(
        sign in text for sign in ("out of memory", "out_of_memory", "resource_exhausted")
    )


def advice(error: BaseException) -> str:
    """Says what to do about an error, if a device has no memory left.

    Args:
      error: An error of TensorFlow.

    Returns:
      Sentences that begin with a space; "" for other errors.
    """
    if not is_out_of_memory(error):
        return ""
    full = of_context()
    return f" A device is out of memory{f' ({full})' if full else ''}. {_ADVICE}"


@functools.cache
def _cards() -> list[_cuda_driver.Card]:
    return _cuda_driver.cards()


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
