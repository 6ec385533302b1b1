"""The experiment on the smartwatch."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from experiments import __main__ as command
from experiments import _settings, iot_watch
from experiments.data import watch
from tff_dp.errors import ArgumentError


@pytest.mark.slow
@pytest.mark.heavy
def test_the_smoke_size_trains_all_models_and_tunes_those_that_are_federated(tff, tmp_path):
    assert command.main(["iot_watch", "--smoke", "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "table.csv").set_index("model")
    assert list(table.index) == ["features", "cnn1d", "lstm"]
    assert 0.7 < table["accuracy"]["features"] < 0.95  # the whole of the others' data
    assert table["accuracy"].between(0, 1).all()
    assert table["fine-tuned"].isna().tolist() == [True, False, False]
    assert json.loads((tmp_path / "results.json").read_text())["seeds"] == [1]
    assert (tmp_path / "accuracy_by_subject.png").read_bytes().startswith(b"\x89PNG")


def test_the_parts_of_a_recording_are_apart_in_time():
    recordings = np.repeat([3, 4, 9], [8, 2, 5])
    earlier, later = iot_watch.parts(recordings, 0.25)
    assert earlier.tolist() == [0, 1, 8, 10]
    assert later.tolist() == [3, 4, 5, 6, 7, 12, 13, 14]  # 2, 9 and 11 share samples with both


def test_no_sample_of_the_later_part_is_in_the_earlier_one():
    data = watch.load(held_out=0.1, seed=0, subject=3)
    earlier, later = iot_watch.parts(data.test_recordings, 0.25)
    assert set(data.test_y[earlier]) == set(data.test_y[later]) == set(range(7))
    seen = {sample.tobytes() for window in data.test_x[earlier] for sample in window}
    assert not any(sample.tobytes() in seen for window in data.test_x[later] for sample in window)


def test_windows_are_cut_down_evenly():
    clients = watch.load(held_out=0.1, seed=0, subject=3).train
    few = iot_watch._first(clients, 16)
    assert few.ids == clients.ids
    assert few.sizes.tolist() == [16] * 9
    assert len(set(np.asarray(few.client(0)[1]))) >= 5  # exercises
    assert iot_watch._first(clients, 0) is clients


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subjects": [11]}, r"subjects=11 .*\[1, 10\]"),
        ({"models": ["cnn"]}, r"models='cnn' .*'features', 'cnn1d', 'lstm'"),
        ({"rounds": 0}, r"rounds=0 "),
        ({"earlier": 1.0}, r"earlier=1\.0 .*\(0, 0\.9\]"),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0 "),
        ({"momentum": 1.0}, r"momentum=1\.0 "),
        ({"fine_epochs": 0}, r"fine_epochs=0 "),
        ({"most_windows": -1}, r"most_windows=-1 "),
    ],
)
def test_settings_outside_their_bounds_are_named(change, message):
    settings = _settings.load("iot_watch", smoke=True)["watch"] | change
    with pytest.raises(ArgumentError, match=message):
        iot_watch.WatchSettings.from_dict(settings)
