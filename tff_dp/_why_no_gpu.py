"""Why TensorFlow sees no GPU: the first of the reasons that holds, with its remedy."""

from __future__ import annotations

import ctypes
import importlib.metadata
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tff_dp import _cuda_driver

PREFIX = "no GPU: "
"""How every reason begins."""
MINIMUM_DRIVERS = {12: "525.60.13", 13: "580"}
"""The oldest driver for each CUDA, by NVIDIA's table of minor version compatibility."""

# What TensorFlow loads of CUDA 12 when it looks for GPUs, and where the packages of NVIDIA have it.
_LIBRARIES = {
    "libcudart.so.12": "cuda_runtime",
    "libcublas.so.12": "cublas",
    "libcublasLt.so.12": "cublas",
    "libcufft.so.11": "cufft",
    "libcusolver.so.11": "cusolver",
    "libcusparse.so.12": "cusparse",
    "libcudnn.so.9": "cudnn",
}
_ALSO_TENSORFLOW = ("tensorflow-cpu", "tensorflow-rocm", "tf-nightly", "tf-nightly-cpu")
_IN_CONTAINERS = "a container needs the option --gpus all"
_Load = Callable[[str], Any]


class Build(NamedTuple):
    """The TensorFlow that has been imported.

    Attributes:
      folder: The folder of the package.
      version: Its version.
      cuda: The version of CUDA that it was built with, such as "12.5.1"; empty if it was built without.
      code: The compute capabilities for which it has code: machine code ("sm_80"), or instructions that
        the driver translates ("compute_90").
    """

    folder: str
    version: str
    cuda: str
    code: tuple[str, ...]


class Reason(NamedTuple):
    """Why there is no GPU.

    Attributes:
      text: The reason, in a sentence that begins with `PREFIX`.
      remedy: What to do about it, in a sentence.
    """

    text: str
    remedy: str


def build_of(tensorflow: Any) -> Build:
    """Looks at a TensorFlow.

    Args:
      tensorflow: The module.

    Returns:
      What it is.
    """
    facts = tensorflow.sysconfig.get_build_info()
    return Build(
        folder=str(pathlib.Path(tensorflow.__file__).parent),
        version=str(tensorflow.__version__),
        cuda=str(facts.get("cuda_version", "")) if facts.get("is_cuda_build") else "",
        code=tuple(facts.get("cuda_compute_capabilities", ())),
    )


def obstacle(tensorflow: Any, environment: Mapping[str, str]) -> Reason | None:
    """Finds what keeps a TensorFlow from using a GPU.

    Args:
      tensorflow: The module.
      environment: The variables of the environment.

    Returns:
      The reason; None if it uses one.
    """
    if tensorflow.config.get_visible_devices("GPU"):
        return None
    if tensorflow.config.list_physical_devices("GPU"):
        return Reason(
            f"{PREFIX}tf.config.set_visible_devices hides all cards in this process.",
            "Leave that call out, or start another process.",
        )
    return why_no_gpu(build_of(tensorflow), environment)


def why_no_gpu(
    build: Build,
    environment: Mapping[str, str],
    root: pathlib.Path = pathlib.Path("/"),
    load: _Load = ctypes.CDLL,
) -> Reason:
    """Finds why TensorFlow sees no GPU.

    Args:
      build: The TensorFlow.
      environment: The variables of the environment.
      root: The root of the file system.
      load: Loads a shared library by its name.

    Returns:
      The first reason that holds, of: no card or driver, cards that are not passed to a container, a
      driver that cannot be loaded, hidden cards, a driver that is too old or does not start, another
      TensorFlow, one without CUDA, a card for which it has no code, missing libraries of CUDA.
    """
    reasons = _reasons(build, environment, root, load)
    text, remedy = next(reasons)
    return Reason(PREFIX + text, remedy)


def another_tensorflow(folder: str) -> Reason | None:
    """Looks for a TensorFlow that hides the installed one.

    Args:
      folder: The folder of the package that Python imports.

    Returns:
      Which one it is, and what to do about it; None if it is the installed one, or if none is installed
      under this name.
    """
    try:
        installed = importlib.metadata.distribution("tensorflow").locate_file("tensorflow")
    except importlib.metadata.PackageNotFoundError:
        return None
    expected, found = (pathlib.Path(str(each)).resolve() for each in (installed, folder))
    if expected == found:
        return None
    return Reason(
        f"the TensorFlow that is imported is that in {found}, and not the installed one in {expected}.",
        f"Take the folder {found.parent} off Python's path (PYTHONPATH, or the working directory).",
    )


def _reasons(
    build: Build, environment: Mapping[str, str], root: pathlib.Path, load: _Load
) -> Iterator[tuple[str, str]]:
    """Yields the reasons that hold, and, at the end, that none was found."""
    install = f"pip install 'tensorflow[and-cuda]=={build.version}' (docs/gpu.md)"
    yield from _no_card(root)
    try:
        driver = _cuda_driver.Driver(load)
    except OSError as error:
        yield (
            f"the driver's library cannot be loaded: {error}.",
            f"Install the driver's package for CUDA; {_IN_CONTAINERS} and the capability compute.",
        )
        return
    yield from _hidden(environment)
    yield from _driver(build, driver, environment)
    other = another_tensorflow(build.folder)
    if other is not None:
        yield other
    if not build.cuda:
        also = [name for name in _ALSO_TENSORFLOW if _is_installed(name)]
        which = f"; the package {', '.join(also)} is installed" if also else ""
        yield f"TensorFlow {build.version} was built without CUDA{which}.", _replace(also, install)
        return
    yield from _code(build, driver)
    missing = missing_libraries(pathlib.Path(build.folder).parent, load)
    if missing and build.cuda.startswith("12."):
        yield f"libraries of CUDA are missing: {', '.join(missing)}.", f"Install them: {install}"
    yield (
        "the driver, a card and the libraries of CUDA are there, and TensorFlow does not say why.",
        'Read its log: TF_CPP_MIN_LOG_LEVEL=0 python -c "import tensorflow as tf; '
        'tf.config.list_physical_devices()"',
    )


def _replace(packages: list[str], install: str) -> str:
    remove = f"pip uninstall {' '.join(packages)}; " if packages else ""
    return f"Install one that has it: {remove}{install}"


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _no_card(root: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yields a reason if there is no card: no driver in the kernel, or no file of a card."""
    files = [*(root / "dev").glob("nvidia[0-9]*"), *(root / "dev").glob("dxg")]  # dxg: Windows
    if files:
        return
    if (root / "proc/driver/nvidia/version").exists():
        yield (
            "there is an NVIDIA driver, but no card: no file /dev/nvidia0.",
            f"Pass the cards to this environment; {_IN_CONTAINERS}.",
        )
        return
    yield (
        "there is no NVIDIA driver, or no card.",
        f"If the machine has a card, install its driver (docs/gpu.md); {_IN_CONTAINERS}.",
    )


def _hidden(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    value = environment.get("CUDA_VISIBLE_DEVICES")
    if value is not None and (not value.strip() or value.strip().startswith("-1")):
        yield (
            f"CUDA_VISIBLE_DEVICES={value!r} hides all cards.",
            "Unset it, or name a card in it.",
        )


def _driver(
    build: Build, driver: _cuda_driver.Driver, environment: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yields a reason if the driver is too old for TensorFlow's CUDA, or does not start."""
    known, needed = driver.version(), _version(build.cuda)
    update = "Update the driver (docs/gpu.md has the versions)."
    if needed and (0, 0) < known < (needed[0], 0):
        version = MINIMUM_DRIVERS.get(needed[0])
        yield (
            f"the driver is too old: it knows CUDA {_dotted(known)}, and TensorFlow {build.version} "
            f"needs one for CUDA {needed[0]}{f', {version} or newer' if version else ''}.",
            update,
        )
        return
    code = driver.start()
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if code == _cuda_driver.NO_CARD and visible is not None:
        yield (
            f"CUDA_VISIBLE_DEVICES={visible!r} names no card of this machine.",
            "Unset it, or name a card in it; nvidia-smi -L lists them.",
        )
    elif code:
        yield (
            f"the driver does not start: error {code} of cuInit.",
            "Try nvidia-smi. If it fails as well, load the driver again, or restart the machine; a "
            "library of another version than the driver in the kernel is the usual cause.",
        )


def _code(build: Build, driver: _cuda_driver.Driver) -> Iterator[tuple[str, str]]:
    """Yields a reason if TensorFlow has no code for any card, or needs a newer driver for it."""
    if not build.code:
        return
    cards, known = driver.cards(), driver.version()
    kinds = {card: kind_of_code(card.capability, build.code) for card in cards}
    if not kinds or "machine" in kinds.values():
        return
    described = ", ".join(f"{card.name} ({_dotted(card.capability)})" for card in cards)
    if "portable" not in kinds.values():
        yield (
            f"TensorFlow {build.version} has no code for {described}, only for "
            f"{', '.join(build.code)}.",
            "Use another card, or a TensorFlow for this one.",
        )
    elif known < _version(build.cuda)[:2]:
        yield (
            f"the driver is too old for {described}: it knows CUDA {_dotted(known)}, and has to "
            f"translate code of CUDA {build.cuda}.",
            "Update the driver (docs/gpu.md has the versions).",
        )


def kind_of_code(capability: tuple[int, int], code: tuple[str, ...]) -> str:
    """Tells which code of a program a card runs.

    Args:
      capability: The card's compute capability.
      code: The capabilities of the program's code, as in `Build`.

    Returns:
      "machine" for machine code, which runs on cards of the same major and a minor version at least as
      large; "portable" for instructions that the driver translates, on cards of this capability and all
      larger ones; "" for none.

    Source:
      NVIDIA, "CUDA C++ programming guide", sections on binary and on PTX compatibility.
    """
    found = ""
    for name in code:
        kind, _, number = name.rstrip("af").partition(
            "_"
        )  # the letters are for newer kinds of code
        major, minor = int(number[:-1]), int(number[-1])
        if kind == "sm" and capability[0] == major and capability[1] >= minor:
            return "machine"
        if kind == "compute" and capability >= (major, minor):
            found = "portable"
    return found


def missing_libraries(site: pathlib.Path, load: _Load = ctypes.CDLL) -> list[str]:
    """Looks for the libraries of CUDA that TensorFlow loads.

    Args:
      site: The folder in which TensorFlow's package is, and beside it those of NVIDIA, where it looks
        first.
      load: Loads a shared library by its name.

    Returns:
      The names of those that it would not find.
    """

    def can_load(name: str) -> bool:
        for path in (site / "nvidia" / _LIBRARIES[name] / "lib" / name, pathlib.Path(name)):
            try:
                load(str(path))
            except OSError:
                continue
            return True
        return False

    return [name for name in _LIBRARIES if not can_load(name)]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
