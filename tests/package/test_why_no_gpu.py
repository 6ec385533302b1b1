"""Why there is no GPU: each reason is found where it holds, by itself and before those that follow."""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import types

import pytest

from tests.support.fake_driver import A100, H200, P100, FakeDriver, loads
from tests.support.paths import ROOT
from tff_dp import _cuda_driver, _why_no_gpu
from tff_dp._why_no_gpu import Build, another_tensorflow, kind_of_code, missing_libraries

FOLDER = str(importlib.metadata.distribution("tensorflow").locate_file("tensorflow"))
CODE = ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90")  # TensorFlow 2.21
BUILD = Build(FOLDER, "2.21.0", "12.5.1", CODE)


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    """Returns the root of a file system with a driver and a card."""
    for name in ("proc/driver/nvidia/version", "dev/nvidia0"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    return tmp_path


def why(root, build=BUILD, load=None, **environment) -> _why_no_gpu.Reason:
    load = load or loads(FakeDriver(A100), "all")
    found = _why_no_gpu.why_no_gpu(build, environment, root, load)
    assert found.text.startswith("no GPU: ")
    assert found.text.endswith(".")
    assert found.remedy
    return found


def test_without_a_driver_there_may_be_no_card(tmp_path):
    found = why(tmp_path, load=loads(None))
    assert "there is no NVIDIA driver, or no card" in found.text
    assert "install its driver" in found.remedy


def test_a_container_without_cards_is_told_from_a_machine_without_a_driver(root):
    (root / "dev/nvidia0").unlink()
    found = why(root, load=loads(None))
    assert "no file /dev/nvidia0" in found.text
    assert "--gpus all" in found.remedy


def test_the_card_of_windows_counts_as_one(root):
    (root / "dev/nvidia0").rename(root / "dev/dxg")
    (root / "proc/driver/nvidia/version").unlink()
    assert "libcuda" in why(root, load=loads(None)).text


def test_a_driver_whose_library_cannot_be_loaded_is_named(root):
    found = why(root, load=loads(None, "all"))
    assert "libcuda.so.1: cannot open shared object file" in found.text
    assert "capability compute" in found.remedy


@pytest.mark.parametrize("hidden", ["", " ", "-1", "-1,0"])
def test_cards_that_a_variable_hides(root, hidden):
    found = why(root, CUDA_VISIBLE_DEVICES=hidden)
    assert f"CUDA_VISIBLE_DEVICES={hidden!r} hides all cards" in found.text
    assert "Unset it" in found.remedy


def test_a_card_that_a_variable_names_and_is_not_there(root):
    driver = FakeDriver(code=_cuda_driver.NO_CARD)
    found = why(root, load=loads(driver, "all"), CUDA_VISIBLE_DEVICES="7")
    assert "CUDA_VISIBLE_DEVICES='7' names no card" in found.text
    found = why(root, load=loads(driver, "all"))
    assert "error 100 of cuInit" in found.text


@pytest.mark.parametrize(
    ("cuda", "version", "least"),
    [
        ("12.5.1", 11080, "525.60.13 or newer"),
        ("13.0.0", 12090, "580 or newer"),
        ("15.1", 14000, "CUDA 15."),
    ],
)
def test_a_driver_that_is_too_old_for_the_cuda_of_tensorflow(root, cuda, version, least):
    driver = FakeDriver(A100, version=version)
    found = why(root, BUILD._replace(cuda=cuda), loads(driver, "all"))
    known = f"{version // 1000}.{version % 1000 // 10}"
    assert f"the driver is too old: it knows CUDA {known}, " in found.text
    assert least in found.text
    assert "Update the driver" in found.remedy


def test_an_older_driver_of_the_same_cuda_is_enough_for_machine_code_alone(root):
    for version in (12000, 12040):
        assert "too old" not in why(root, load=loads(FakeDriver(A100, version=version), "all")).text
        found = why(root, load=loads(FakeDriver(H200, version=version), "all"))
        assert "too old for NVIDIA H200 (9.0)" in found.text
        assert "translate code of CUDA 12.5.1" in found.text
    assert "too old" not in why(root, load=loads(FakeDriver(H200, version=12050), "all")).text
    # One card that works is enough.
    both = FakeDriver(H200, A100, version=12000)
    assert "too old" not in why(root, load=loads(both, "all")).text


def test_a_card_for_which_tensorflow_has_no_code(root):
    old = _cuda_driver.Card("Tesla M40", 12 * 2**30, (5, 2), "0000:03:00.0")
    found = why(root, load=loads(FakeDriver(old), "all"))
    assert "no code for Tesla M40 (5.2), only for sm_60" in found.text
    assert "code" not in why(root, BUILD._replace(code=()), loads(FakeDriver(old), "all")).text


def test_a_driver_that_does_not_start(root):
    # 34 is that of the library for linking, which a toolkit of CUDA has in place of a driver.
    for driver in (FakeDriver(A100, code=803), FakeDriver(version=None, code=34)):
        found = why(root, load=loads(driver, "all"))
        assert re.search(r"error (803|34) of cuInit", found.text)
        assert "nvidia-smi" in found.remedy


def test_a_library_that_is_no_driver_is_not_asked(root):
    found = why(root, load=lambda name: types.SimpleNamespace())
    assert "libcuda.so.1: it is not the library of NVIDIA's driver" in found.text


def test_a_tensorflow_that_hides_the_installed_one(root, tmp_path):
    other = BUILD._replace(folder=str(tmp_path / "tensorflow"), cuda="", version="2.99")
    for found in (why(root, other), another_tensorflow(other.folder)):
        assert f"imported is that in {tmp_path / 'tensorflow'}, " in found.text
        assert f"the installed one in {pathlib.Path(FOLDER).resolve()}" in found.text
        assert f"Take the folder {tmp_path} off Python's path" in found.remedy
    assert another_tensorflow(FOLDER) is None
    link = tmp_path / "link"
    link.symlink_to(FOLDER)
    assert another_tensorflow(str(link)) is None


@pytest.fixture
def packages(monkeypatch):
    """Returns versions of packages that are said to be installed, None for those that are not."""
    real, changed = importlib.metadata.version, {}

    def version(name: str) -> str:
        if name in changed:
            return changed[name]
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return changed


def test_a_tensorflow_without_cuda(root, packages):
    without = BUILD._replace(cuda="", code=())
    found = why(root, without)
    assert "TensorFlow 2.21.0 was built without CUDA." in found.text
    assert "pip install 'tensorflow[and-cuda]==2.21.0'" in found.remedy
    assert "uninstall" not in found.remedy
    packages["tensorflow-cpu"] = "2.21.0"
    found = why(root, without)
    assert "the package tensorflow-cpu is installed" in found.text
    assert "pip uninstall tensorflow-cpu; pip install" in found.remedy


def test_where_no_package_is_called_tensorflow_nothing_is_hidden(root, monkeypatch):
    def distribution(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    assert another_tensorflow("/elsewhere/tensorflow") is None
    assert "built without CUDA" in why(root, BUILD._replace(cuda="")).text


def test_libraries_of_cuda_that_are_missing_are_named(root):
    found = why(root, load=loads(FakeDriver(A100)))
    for name in ("libcudart.so.12", "libcublas.so.12", "libcudnn.so.9"):
        assert name in found.text
    assert "pip install 'tensorflow[and-cuda]==2.21.0'" in found.remedy
    there = [*_why_no_gpu._LIBRARIES]
    there.remove("libcudnn.so.9")
    found = why(root, load=loads(FakeDriver(A100), *there))
    assert found.text == "no GPU: libraries of CUDA are missing: libcudnn.so.9."


def test_libraries_are_found_beside_tensorflow_or_where_the_system_has_them(tmp_path):
    beside = tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9"
    names = [*_why_no_gpu._LIBRARIES]
    others = [name for name in names if name != "libcudnn.so.9"]
    assert missing_libraries(tmp_path, loads(None, *others)) == ["libcudnn.so.9"]
    assert missing_libraries(tmp_path, loads(None, *others, str(beside))) == []
    assert missing_libraries(tmp_path, loads(None, *names)) == []
    assert missing_libraries(tmp_path) != []  # really loaded: an empty folder has none
    beside.parent.mkdir(parents=True)
    beside.write_bytes(b"no library")
    assert "libcudnn.so.9" in missing_libraries(tmp_path)


def test_the_libraries_are_those_of_the_locked_packages():
    """A package of NVIDIA is nvidia-NAME-cu12 for a folder nvidia/NAME, whose version has the number."""
    lock = (ROOT / "requirements-cuda.lock").read_text()
    versions = dict(re.findall(r"^nvidia-(\S+)-cu12==(\d+)\.", lock, re.MULTILINE))
    for name, folder in _why_no_gpu._LIBRARIES.items():
        assert name.rpartition(".")[2] == versions[folder.replace("_", "-")], name


def test_where_all_is_there_the_log_is_to_be_read(root):
    found = why(root)
    assert "TensorFlow does not say why" in found.text
    assert "TF_CPP_MIN_LOG_LEVEL=0" in found.remedy


@pytest.mark.parametrize(
    ("capability", "kind"),
    [
        ((6, 0), "machine"),
        ((6, 1), "machine"),
        ((7, 5), "machine"),
        ((8, 6), "machine"),
        ((8, 9), "machine"),
        ((9, 0), "portable"),
        ((10, 0), "portable"),
        ((12, 0), "portable"),
        ((5, 2), ""),
    ],
)
def test_the_code_that_a_card_runs(capability, kind):
    assert kind_of_code(capability, CODE) == kind
    assert kind_of_code(capability, CODE[::-1]) == kind


def test_newer_names_of_code_are_read():
    assert kind_of_code((10, 0), ("sm_90a", "sm_100f")) == "machine"
    assert kind_of_code((9, 0), ("compute_90a",)) == "portable"
    assert kind_of_code((9, 0), ("sm_80",)) == ""


def test_the_driver_says_what_cards_there_are():
    cards = (A100, H200, P100)
    driver = _cuda_driver.Driver(loads(FakeDriver(*cards)))
    assert driver.version() == (12, 8)
    assert driver.cards() == [*cards]
    assert _cuda_driver.cards(loads(FakeDriver(*cards))) == [*cards]
    assert _cuda_driver.cards(loads(FakeDriver(*cards, code=100))) == []
    assert _cuda_driver.cards(loads(None)) == []
    assert _cuda_driver.cards(lambda name: types.SimpleNamespace()) == []


@pytest.mark.heavy
def test_the_installed_tensorflow_is_the_one_that_is_looked_at(tff):
    import tensorflow as tf

    build = _why_no_gpu.build_of(tf)
    assert build.version == importlib.metadata.version("tensorflow")
    assert another_tensorflow(build.folder) is None
    assert build.cuda.startswith("12.")
    for name in build.code:
        assert re.fullmatch(r"(sm|compute)_\d+", name)
    assert kind_of_code((9, 0), build.code)  # an H200
    plain = types.SimpleNamespace(
        __file__="/x/tensorflow/__init__.py",
        __version__="2.21.0",
        sysconfig=types.SimpleNamespace(get_build_info=lambda: {"is_cuda_build": False}),
    )
    assert _why_no_gpu.build_of(plain) == Build("/x/tensorflow", "2.21.0", "", ())
