"""What NVIDIA's driver says of this machine's cards, read from its library without TensorFlow."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
NO_CARD = 100  # CUDA_ERROR_NO_DEVICE


class Card(NamedTuple):
    """A card that the driver offers to this process.

    Attributes:
      name: Such as "NVIDIA A100-SXM4-40GB".
      memory: All of its memory, in bytes.
      capability: Its compute capability, such as (8, 0).
      bus: Where it is plugged in, such as "0000:01:00.0": by this, NVML and nvidia-smi know the card,
        whose order of cards is another one.
    """

    name: str
    memory: int
    capability: tuple[int, int]
    bus: str


class Driver:
    """NVIDIA's driver.

    Asking it makes no context on a card, and takes none of its memory.

    Args:
      load: Loads a shared library by its name.

    Raises:
      OSError: The driver's library cannot be loaded, or is something else of its name.
    """

    def __init__(self, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        self._library = load(LIBRARY)
        if not hasattr(self._library, "cuDriverGetVersion"):
            raise OSError(f"{LIBRARY}: it is not the library of NVIDIA's driver")

    def version(self) -> tuple[int, int]:
        """Returns the newest version of CUDA that the driver knows, such as (12, 8), or (0, 0)."""
        number = ctypes.c_int(0)
        if self._library.cuDriverGetVersion(ctypes.byref(number)):
            return 0, 0
        return number.value // 1000, number.value % 1000 // 10

    def start(self) -> int:
        """Prepares the driver; it can be done again.

        Returns:
          0, or the driver's own number of what is wrong, such as `NO_CARD`.
        """
        return int(self._library.cuInit(0))

    def cards(self) -> list[Card]:
        """Returns the cards that this process may use, in the order in which TensorFlow numbers them.

        The environment variable CUDA_VISIBLE_DEVICES chooses among the machine's cards.
        """
        if self.start():
            return []
        count = ctypes.c_int(0)
        if self._library.cuDeviceGetCount(ctypes.byref(count)):
            return []
        return [self._card(number) for number in range(count.value)]

    def _card(self, number: int) -> Card:
        device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
        memory, bus = ctypes.c_size_t(0), ctypes.create_string_buffer(32)
        self._library.cuDeviceGet(ctypes.byref(device), ctypes.c_int(number))
        self._library.cuDeviceGetName(name, ctypes.c_int(len(name)), device)
        self._library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        self._library.cuDeviceGetPCIBusId(bus, ctypes.c_int(len(bus)), device)
        major, minor = (self._attribute(which, device) for which in (_MAJOR, _MINOR))
        texts = (text.value.decode(errors="replace") for text in (name, bus))
        return Card(next(texts), memory.value, (major, minor), next(texts))

    def _attribute(self, which: int, device: ctypes.c_int) -> int:
        found = ctypes.c_int(0)
        self._library.cuDeviceGetAttribute(ctypes.byref(found), ctypes.c_int(which), device)
        return found.value


def cards(load: Callable[[str], Any] = ctypes.CDLL) -> list[Card]:
    """Returns the cards that this process may use.

    Args:
      load: Loads a shared library by its name.

    Returns:
      The cards; none if there is no driver.
    """
    try:
        return Driver(load).cards()
    except OSError:
        return []
