"""The experiment on speed at the sizes of a published benchmark, and how it measures what is busy."""

from __future__ import annotations

import json
import shutil
import sys
import time
import types

import pandas as pd
import pytest

from experiments import __main__ as command
from experiments import _busy, _settings, cifar_shape
from tests.support.fake_driver import A100, H200
from tff_dp import _cuda_driver
from tff_dp.cli import devices

BUSES = [A100.bus, H200.bus]


def test_the_sizes_are_those_of_the_benchmark():
    """Those of its configuration: benchmarks/image_classification/configs/baseline.yaml."""
    settings = _settings.load("cifar_shape")
    assert settings["shape"] == {
        "clients": 1000,
        "examples": 50,
        "image": [32, 32, 3],
        "classes": 10,
        "cohort": 50,
        "batch_size": 10,
        "epochs": 1,
        "learning_rate": 0.1,
    }
    assert settings["privacy"] == {
        "clip_norm": 0.4,
        "target_epsilon": 2.0,
        "delta": 1e-6,
        "rounds": 1500,
    }


@pytest.mark.heavy
def test_the_model_is_that_of_the_benchmark(tff):
    """Two convolutions without padding, a pooling, 128 units: 12,544 numbers into the dense layer."""
    from models import cnn

    layers = [type(layer).__name__ for layer in cnn.build(shape=(32, 32, 3)).model.layers]
    assert layers == [
        *("Conv2D", "Conv2D", "MaxPooling2D", "Dropout", "Flatten", "Dense", "Dropout", "Dense"),
    ]
    weights = 3 * 9 * 32 + 32 + 32 * 9 * 64 + 64 + 14 * 14 * 64 * 128 + 128 + 128 * 10 + 10
    assert cnn.build(shape=(32, 32, 3)).model.count_params() == weights


@pytest.mark.slow
@pytest.mark.heavy
def test_the_small_size_runs_and_goes_on(tff, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(devices, "obstacle", lambda: "no GPU: a reason.")
    arguments = ["cifar_shape", "--smoke", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    said = capsys.readouterr().out
    assert "GPU: not run: no GPU: a reason." in said
    assert "Device busy, cpu: process time" in said
    rows = pd.read_csv(tmp_path / "cells.csv")
    assert rows["device"].tolist() == ["cpu", "cpu"]
    assert rows["privacy"].tolist() == ["none", "central"]
    assert (rows["clients/s"] / rows["rounds/s"]).tolist() == pytest.approx([6, 6])
    assert (rows["rounds/s"] > 0).all()
    assert rows["busy %"].between(0, 100 * 1.05).all()
    assert rows["first rounds s"].gt(0).all()
    assert rows["core s/round"].gt(0).all()
    assert pd.isna(rows["epsilon"][0])
    assert 7.7 < rows["epsilon"][1] <= 8
    assert json.loads((tmp_path / "results.json").read_text())["not_run"]

    monkeypatch.setattr(cifar_shape, "_measured", lambda *_: pytest.fail("measured again"))
    assert command.main(arguments) == 0


def test_without_any_of_its_devices_it_is_an_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(devices, "obstacle", lambda: "no GPU: a reason.")
    out = tmp_path / "out"
    arguments = [
        "cifar_shape",
        "--smoke",
        "--set",
        'measurement.devices=["gpu"]',
        "--out",
        str(out),
    ]
    assert command.main(arguments) == 2
    assert "devices=['gpu']: no GPU: a reason." in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("shape.cohort=13", "cohort=13 is outside its bound"),
        ("shape.image=[5, 8, 1]", "image=[5, 8, 1] is outside its bound"),
        ("shape.image=[8, 8]", "image=[8, 8] is outside its bound"),
        ("shape.classes=1", "classes=1 is outside its bound"),
        ('measurement.devices=["tpu"]', "devices='tpu' is outside its bound"),
        ('measurement.strategies=["map"]', "strategies='map' is outside its bound"),
        ("measurement.warm_up=0", "warm_up=0 is outside its bound"),
        ("measurement.seeds=[1, 1]", "seeds=[1, 1] is outside its bound"),
        ("privacy.delta=2.0", "delta=2.0 is outside its bound"),
    ],
)
def test_wrong_settings_are_one_line_before_anything_is_made(tmp_path, capsys, override, message):
    out = tmp_path / "out"
    assert command.main(["cifar_shape", "--smoke", "--set", override, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not out.exists()


# --- What is busy ------------------------------------------------------------------------------------


def test_a_process_that_computes_is_busy_and_one_that_sleeps_is_not(monkeypatch):
    """By clocks that the test moves."""
    clock = {"process": 0.0, "wall": 0.0}
    monkeypatch.setattr(_busy.time, "process_time", lambda: clock["process"])
    monkeypatch.setattr(_busy.time, "monotonic", lambda: clock["wall"])
    monkeypatch.setattr(_busy.os, "sched_getaffinity", lambda _: {0, 1})
    for process, share in ((20.0, 100), (5.0, 25), (0.0, 0)):
        with _busy.measured(on_gpu=False) as found:
            clock["process"] += process
            clock["wall"] += 10.0
        assert (found.share, found.by) == (share, "process time")
        assert found.core_seconds == process


class FakeNvml(types.SimpleNamespace):
    """The package nvidia-ml-py, of two cards that are 40 and 80 percent busy."""

    class NVMLError(Exception):
        pass

    def __init__(self, fails: str = "") -> None:
        super().__init__(asked=0)

        def start():
            if fails:
                raise self.NVMLError(fails)

        def rates(handle):
            self.asked += 1
            return types.SimpleNamespace(gpu=(40, 80)[handle])

        self.nvmlInit = start
        self.nvmlDeviceGetHandleByPciBusId = lambda bus: BUSES.index(bus.decode())
        self.nvmlDeviceGetUtilizationRates = rates


@pytest.fixture
def cards(monkeypatch):
    monkeypatch.setattr(_cuda_driver, "cards", lambda: [A100, H200])


def while_busy():
    """Returns what is measured of GPUs while a block waits for a few samples, where there are any."""
    with _busy.measured(on_gpu=True) as found:
        while found.samples < 3 and not found.by.startswith("not measured"):
            time.sleep(0.01)
    return found


def test_gpus_are_sampled_by_nvml(cards, monkeypatch):
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = while_busy()
    assert (found.share, found.by) == (80, "NVML")
    assert nvml.asked == 2 * (found.samples + 1)  # once before, to see whether it works
    monkeypatch.setattr(_busy, "_EVERY", 3600.0)
    with _busy.measured(on_gpu=True) as found:
        pass
    assert found.share is None
    assert found.by == "not measured: it took less than 3600 s"


def test_without_the_package_it_is_nvidia_smi_and_without_that_it_is_said(
    cards, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # cannot be imported
    script = tmp_path / "nvidia-smi"
    script.write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/asked\nprintf "40\\n80\\n"\n')
    script.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(script))
    found = while_busy()
    assert (found.share, found.by) == (80, "nvidia-smi")
    asked = (tmp_path / "asked").read_text()
    assert f"--id={A100.bus},{H200.bus} --query-gpu=utilization.gpu" in asked
    script.write_text("#!/bin/sh\necho 'no devices were found'\nexit 6\n")
    found = while_busy()
    assert (found.share, found.by) == (None, "not measured: nvidia-smi: no devices were found")
    script.write_text("#!/bin/sh\necho '[N/A]'\n")
    assert while_busy().by.startswith("not measured: could not convert string to float")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert while_busy().by == (
        "not measured: neither the package nvidia-ml-py nor nvidia-smi is installed"
    )


def test_what_nvml_refuses_is_not_measured(cards, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(fails="Not Supported"))
    found = while_busy()
    assert (found.share, found.by) == (None, "not measured: NVML: Not Supported")


def test_without_a_card_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(_cuda_driver, "cards", list)
    assert while_busy().by == "not measured: the driver shows no GPU"


def test_an_error_within_the_block_ends_the_sampling(cards, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    import threading

    before = threading.active_count()
    with pytest.raises(KeyError), _busy.measured(on_gpu=True):
        raise KeyError
    assert threading.active_count() == before
