"""NVIDIA's driver as a library of C functions, for machines that have none."""

from __future__ import annotations

import ctypes

from tff_dp import _cuda_driver

_INT = ctypes.POINTER(ctypes.c_int)
A100 = _cuda_driver.Card("NVIDIA A100-SXM4-40GB", 40 * 2**30, (8, 0), "0000:01:00.0")
H200 = _cuda_driver.Card("NVIDIA H200", 141 * 2**30, (9, 0), "0000:41:00.0")
P100 = _cuda_driver.Card("Tesla P100", 16 * 2**30, (6, 0), "0000:02:00.0")


def function(*kinds):
    return ctypes.CFUNCTYPE(ctypes.c_int, *kinds)


class FakeDriver:
    """A library with the functions of the driver that are called.

    Args:
      version: The number that the driver has for the newest CUDA that it knows; None for an error.
      code: What its start returns.
      cards: What it offers.
    """

    def __init__(
        self, *cards: _cuda_driver.Card, version: int | None = 12080, code: int = 0
    ) -> None:
        def put(value):
            def write(where, *_):
                where[0] = value
                return 0

            return write

        def put_text(attribute):
            def write(where, size, number):
                text = getattr(cards[number], attribute).encode() + b"\0"
                assert len(text) <= size
                ctypes.memmove(where, text, len(text))
                return 0

            return write

        def put_memory(where, number):
            where[0] = cards[number].memory
            return 0

        def put_attribute(where, which, number):
            where[0] = cards[number].capability[{75: 0, 76: 1}[which]]
            return 0

        def put_device(where, number):
            where[0] = number
            return 0

        integer = ctypes.c_int
        told = put(version) if version is not None else lambda _: code
        self.cuDriverGetVersion = function(_INT)(told)
        self.cuInit = function(ctypes.c_uint)(lambda _: code)
        self.cuDeviceGetCount = function(_INT)(put(len(cards)))
        self.cuDeviceGet = function(_INT, integer)(put_device)
        of_text = function(ctypes.c_void_p, integer, integer)
        self.cuDeviceGetName = of_text(put_text("name"))
        self.cuDeviceGetPCIBusId = of_text(put_text("bus"))
        size = ctypes.POINTER(ctypes.c_size_t)
        self.cuDeviceTotalMem_v2 = function(size, integer)(put_memory)
        self.cuDeviceGetAttribute = function(_INT, integer, integer)(put_attribute)


def loads(driver: FakeDriver | None, *libraries: str):
    """Returns a function that loads the driver, and libraries by their names or paths.

    Args:
      driver: The driver; None if there is none.
      libraries: What else there is; "all" for everything.
    """

    def load(name: str) -> object:
        if name == _cuda_driver.LIBRARY and driver is not None:
            return driver
        if name != _cuda_driver.LIBRARY and {"all", name} & {*libraries}:
            return object()
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    return load
