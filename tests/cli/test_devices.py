"""The device of `tff-dp train` and `tff-dp resume`: by option or configuration, or refused."""

from __future__ import annotations

import json
import os
import pathlib
import sys

import pytest

from tests.support.command_line import run
from tff_dp import execution
from tff_dp.cli import devices
from tff_dp.cli.configs import device_of, restored_source
from tff_dp.errors import ArgumentError

NO_GPU = "no GPU: a reason. A remedy."


def source(**tables):
    return restored_source(tables, "name.toml", pathlib.Path())


def test_the_device_is_that_of_the_configuration():
    assert device_of(source()) == "auto"
    assert device_of(source(train={"run_dir": "run"})) == "auto"
    assert device_of(source(train={"device": "gpu"})) == "gpu"
    for wrong in ({"train": {"device": 3}}, {"train": 5}):  # reported where the table is checked
        assert device_of(source(**wrong)) == "auto"


def test_a_value_is_replaced_with_its_origin_and_the_rest_stays():
    before = source(train={"run_dir": "run", "device": "gpu"}, data={"file": "a"})
    after = before.replaced(("train", "device"), "cpu", "--device cpu")
    assert after.values == {"train": {"run_dir": "run", "device": "cpu"}, "data": {"file": "a"}}
    assert after.where(("train", "device")) == "--device cpu"
    assert before.values["train"]["device"] == "gpu"
    assert before.where(("train", "device")) == "name.toml"
    assert source().replaced(("train", "device"), "cpu", "").values == {"train": {"device": "cpu"}}
    no_table = source(train=5)
    assert no_table.replaced(("train", "device"), "cpu", "") is no_table


def test_the_options_have_the_choices_that_there_are(capsys):
    for command in ("train", "resume"):
        code, _, err = run(capsys, command, "x", "--device", "tpu")
        assert code == 2
        assert "--device: invalid choice: 'tpu'" in err


def test_gpus_are_hidden_before_tensorflow_is_imported(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    devices.choose("auto")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    devices.choose("cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    assert "tensorflow" not in sys.modules


@pytest.mark.heavy
def test_hiding_them_later_is_done_by_tensorflow_or_is_too_late(tff, monkeypatch):
    import tensorflow as tf

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    hidden = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *which: hidden.append(which))
    devices.hide_gpus()
    assert hidden == [([], "GPU")]

    def late(*_):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", late)
    with pytest.raises(ArgumentError, match="--device='cpu' comes too late"):
        devices.hide_gpus()


@pytest.mark.heavy
def test_a_gpu_that_is_seen_is_no_obstacle_and_one_that_is_not_is_explained(tff, monkeypatch):
    import tensorflow as tf

    seen, present = [], []
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: seen)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: present)
    with pytest.raises(ArgumentError, match=r"--device='gpu' needs a GPU; no GPU: .*tff-dp doctor"):
        devices.choose("gpu")
    with pytest.raises(ArgumentError, match=r"^device='gpu', but TensorFlow sees no GPU: .*doctor"):
        execution.fast(device="gpu").__enter__()
    present.append(object())
    with pytest.raises(ArgumentError, match=r"set_visible_devices hides all cards in this process"):
        devices.choose("gpu")
    with execution.fast() as context:  # on the CPU, although there is a card
        assert not context.settings.places.on_gpu
        assert context.settings.places.names
    seen.append(object())
    assert devices.obstacle() is None
    devices.choose("gpu")


@pytest.fixture
def demo(tmp_path, monkeypatch, tff, capsys):
    """Returns the devices of the contexts that commands make, in a folder with the example."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # restored, since commands set it
    assert run(capsys, "train", "--example", "demo")[0] == 0
    found, fast = [], execution.fast

    def on(*, device, cluster):
        assert cluster is None
        found.append(device)
        return fast(device="cpu")

    monkeypatch.setattr(execution, "fast", on)
    yield found
    sys.modules.pop("example_model", None)


def train(capsys, *more):
    return run(capsys, "train", "demo/train.toml", "--set", "privacy.rounds=2", *more)


@pytest.mark.heavy
def test_a_run_is_on_its_device_and_goes_on_there_or_on_another(demo, capsys, monkeypatch):
    monkeypatch.setattr(devices, "obstacle", lambda: None)
    code, _, err = train(capsys, "--device", "gpu", "--set", "train.rounds=1")
    assert (code, demo) == (0, ["gpu"]), err
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    stored = json.loads(pathlib.Path("demo/run/train.json").read_text())
    assert stored["config"]["train"]["device"] == "gpu"
    assert run(capsys, "resume", "demo/run")[0] == 0
    assert demo == ["gpu", "gpu"]
    code, _, err = run(capsys, "resume", "demo/run", "--rounds", "2", "--device", "cpu")
    assert (code, demo) == (0, ["gpu", "gpu", "cpu"]), err
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"


@pytest.mark.heavy
def test_the_configuration_may_name_the_device_and_the_option_is_stronger(demo, capsys):
    code, _, err = train(capsys, "--set", "train.device='cpu'")
    assert (code, demo) == (0, ["cpu"]), err
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    wanted = ("--set", "train.device='cpu'", "--set", "train.run_dir='other'", "--device", "auto")
    assert train(capsys, *wanted)[0] == 0
    assert demo == ["cpu"]  # with auto, training makes a context of its own


@pytest.mark.heavy
def test_a_device_that_is_not_there_is_a_mistake_of_the_configuration(demo, capsys, monkeypatch):
    monkeypatch.setattr(devices, "obstacle", lambda: NO_GPU)
    for more, origin in (
        (("--device", "gpu"), "--device gpu"),
        (("--set", "train.device='gpu'"), "--set train.device='gpu'"),
    ):
        for check in ((), ("--check",)):
            code, out, err = train(capsys, *more, *check)
            assert (code, out) == (2, "")
            assert f"{origin}: train.device='gpu' needs a GPU; {NO_GPU}" in err, err
            assert not pathlib.Path("demo/run").exists()
    code, _, err = train(capsys, "--set", "train.device='tpu'")
    assert code == 2
    assert "train.device='tpu' is outside its bound: expected" in err
    assert train(capsys)[0] == 0
    before = pathlib.Path("demo/run/ledger.jsonl").read_text()
    code, _, err = run(capsys, "resume", "demo/run", "--device", "gpu")
    assert code == 2
    assert f"--device gpu: train.device='gpu' needs a GPU; {NO_GPU}" in err, err
    assert pathlib.Path("demo/run/ledger.jsonl").read_text() == before
