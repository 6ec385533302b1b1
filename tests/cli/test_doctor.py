"""`tff-dp doctor`: what it finds, what it advises, and that it ends in time."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib

import pytest

from tests.support.command_line import found, run
from tests.support.fake_driver import H200
from tests.support.paths import ROOT
from tff_dp import _cuda_driver, _why_no_gpu
from tff_dp._compat import stack
from tff_dp.cli import doctor, examinations
from tff_dp.cli.findings import Finding

BUILD = {
    "folder": str(importlib.metadata.distribution("tensorflow").locate_file("tensorflow")),
    "version": "2.21.0",
    "cuda": "12.5.1",
    "code": ["sm_80"],
}
DEVICES = {"seen": ["/physical_device:CPU:0"], "gpus": 0, "build": BUILD}
IMPORTED = {"used": "2 threads of the CPU", "on_gpu": False, "seconds": 4.0}
TRAINING = {"rounds": 2, "clients": 50, "epsilon": 0.5, "seconds": 1.0}


def by_name(findings) -> dict[str, Finding]:
    return {each.name: each for each in findings}


@pytest.fixture
def versions(monkeypatch):
    """Returns the versions that are said to be installed, which a test may change."""
    real, changed = importlib.metadata.version, {}

    def version(name: str) -> str:
        if name in changed and changed[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return changed.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return changed


# Overrides for packages whose data the experiments read, and whose code nothing runs.
OF_DATA_PACKAGES = {"genshi", "pandas", "pygooglechart", "pylons", "sqlobject"}


def test_the_overridden_packages_are_those_of_the_project():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = [
        re.match(r"[A-Za-z0-9._-]+", each).group()
        for each in settings["tool"]["uv"]["override-dependencies"]
    ]
    assert sorted(set(names) - OF_DATA_PACKAGES) == sorted(stack.OVERRIDDEN)


def test_the_lock_has_one_version_of_each_package_for_this_python():
    pinned = stack.locked()
    assert len(pinned) > 50
    for name, prefixes in stack.TESTED.items():
        assert pinned[name].startswith(prefixes)


def test_versions_that_are_not_the_tested_ones_are_named(versions, monkeypatch):
    monkeypatch.setattr(stack, "locked", lambda: {"numpy": "2.0.0", "keras": "3.10.0"})
    versions |= {"numpy": "2.0.0", "keras": "3.10.0"}
    assert by_name(examinations._versions())["versions"].state == "ok"
    versions["keras"] = "3.99.0"
    lock = by_name(examinations._versions())["lock"]
    assert lock.state == "warning"
    assert "keras 3.99.0 (tested: 3.10.0)" in lock.text
    assert "requirements.lock" in lock.remedy
    versions["keras"] = None
    assert "not installed: keras" in by_name(examinations._versions())["missing"].text
    versions["keras"] = "2.0"
    wrong = by_name(examinations._versions())["versions"]
    assert wrong.state == "error"
    assert "keras is 2.0, tested is 3." in wrong.text
    monkeypatch.setattr(stack, "locked", dict)
    assert by_name(examinations._versions())["lock"].state == "warning"


def test_a_wrong_pin_is_told_from_an_override(versions):
    pins = dict(examinations._unsatisfied())
    assert "tensorflow" in pins  # TFF 0.87.0 wants 2.14
    assert set(pins) <= set(stack.OVERRIDDEN)
    assert "cryptography" not in pins
    versions["cryptography"] = "1.0"
    found = dict(examinations._unsatisfied())
    assert "installed is 1.0" in found["cryptography"]
    result = by_name(examinations.all_without_tensorflow())
    assert result["pins"].state == "warning"
    assert "cryptography" in result["pins"].text
    assert "tensorflow" in result["overrides"].text


def test_missing_optional_packages_come_with_the_command_that_installs_them(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = by_name(examinations._optional())
    for name, remedy in (
        ("tensorboard", "pip install 'tff_dp[tensorboard]', or pip install tensorboard"),
        ("pandas", "pip install pandas"),
        ("pyarrow", "pip install pyarrow"),
    ):
        assert (found[name].state, found[name].remedy) == ("note", remedy)


@pytest.mark.parametrize(
    ("stages", "ended", "errors", "state", "part"),
    [
        (
            {"devices": DEVICES, "imported": IMPORTED, "training": TRAINING},
            True,
            "",
            "ok",
            "2 private",
        ),
        ({}, False, "", "warning", "while TensorFlow was imported"),
        ({"devices": DEVICES}, False, "", "warning", "while TensorFlow Federated was imported"),
        (
            {"devices": DEVICES, "imported": IMPORTED},
            True,
            "Traceback\nValueError: wrong\n\n",
            "error",
            "while the model was trained: ValueError: wrong",
        ),
        ({}, True, "", "error", "no message"),
    ],
)
def test_the_training_check_says_how_far_it_came(stages, ended, errors, state, part):
    training = by_name(examinations.of_stages(stages, errors, ended, 9.3))["training"]
    assert training.state == state
    assert part in training.text
    assert bool(training.remedy) == (state != "ok")


def of_devices(*, imported=None, **devices):
    stages = {"devices": DEVICES | devices} | ({"imported": imported} if imported else {})
    return by_name(examinations.of_stages(stages, "", False, 9))


def test_devices_that_were_seen_and_used_are_named(monkeypatch):
    monkeypatch.setattr(_cuda_driver, "cards", lambda: [H200])
    on_gpu = IMPORTED | {"used": "1 GPUs", "on_gpu": True}
    result = of_devices(gpus=1, imported=on_gpu)
    assert "used for clients: 1 GPUs" in result["devices"].text
    card = "NVIDIA H200, 141.0 GiB, compute capability 9.0."
    assert result["gpu"][1:3] == ("ok", f"seen and used: {card}")
    assert of_devices(gpus=1)["gpu"][1:3] == ("ok", f"seen: {card}")
    result = of_devices(gpus=1, imported=IMPORTED)
    assert result["gpu"][1:3] == ("warning", f"seen and not used: {card}")
    monkeypatch.setattr(_cuda_driver, "cards", list)
    assert of_devices(gpus=2)["gpu"].text == "seen: 2."


def test_without_a_gpu_the_reason_and_the_remedy_are_said(monkeypatch, tmp_path):
    asked = []

    def why(build, environment):
        asked.append(build)
        return _why_no_gpu.Reason("no GPU: a reason.", "a remedy")

    monkeypatch.setattr(_why_no_gpu, "why_no_gpu", why)
    result = of_devices(imported=IMPORTED)
    assert result["gpu"] == ("gpu", "note", "no GPU: a reason.", "a remedy")
    assert asked == [_why_no_gpu.Build(**BUILD | {"code": ("sm_80",)})]
    assert "tensorflow" not in result


def test_another_tensorflow_on_the_path_is_a_warning_whatever_comes_of_it():
    other = {"located": "/elsewhere/tensorflow"}
    for stages in (other, other | {"devices": DEVICES}, other | {"devices": DEVICES | {"gpus": 1}}):
        found = by_name(examinations.of_stages(stages, "no attribute 'config'", True, 9))
        assert found["tensorflow"].state == "warning"
        assert "/elsewhere/tensorflow" in found["tensorflow"].text
        assert "off Python's path" in found["tensorflow"].remedy
    installed = {"located": BUILD["folder"]}
    assert "tensorflow" not in by_name(examinations.of_stages(installed, "", True, 9))


def test_a_folder_that_is_called_tensorflow_is_found_before_it_is_imported(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "tff_dp.cli.training_check"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    stages = json.loads(done.stdout)
    result = by_name(examinations.of_stages(stages, done.stderr, True, 9.3))
    assert str(tmp_path / "tensorflow") in result["tensorflow"].text
    assert result["training"].state == "error"
    assert "while TensorFlow was imported" in result["training"].text


def replaced_child(monkeypatch, program: str) -> None:
    real = subprocess.Popen

    def popen(_, **options):
        return real([sys.executable, "-c", program], **options)

    monkeypatch.setattr(doctor.subprocess, "Popen", popen)


def test_a_training_that_does_not_end_is_stopped(monkeypatch, capsys):
    stage = json.dumps({"devices": DEVICES})
    replaced_child(monkeypatch, f"import time; print({stage!r}, flush=True); time.sleep(600)")
    monkeypatch.setattr(doctor, "_SECONDS", 2.0)
    answer = found(capsys, "doctor")
    assert answer["works"]
    training = {each["name"]: each for each in answer["findings"]}["training"]
    assert training["state"] == "warning"


def test_a_training_that_fails_is_an_error(monkeypatch, capsys):
    replaced_child(monkeypatch, "raise ImportError('no tensorflow')")
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "ERROR   training" in out
    assert "no tensorflow" in out


@pytest.mark.slow
@pytest.mark.heavy
def test_the_training_check_trains():
    done = subprocess.run(
        [sys.executable, "-m", "tff_dp.cli.training_check"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    stages = {}
    for line in done.stdout.splitlines():
        stages |= json.loads(line)
    result = by_name(examinations.of_stages(stages, done.stderr, True, 9.3))
    assert result["training"].state == "ok"
    assert 0 < stages["training"]["epsilon"] < 10
    assert "not known" not in result["devices"].text
    assert "tensorflow" not in result  # the installed one
    assert result["gpu"].state in ("ok", "note")
    assert result["gpu"].state == "ok" or result["gpu"].remedy
