"""The framework of the experiments, with a fake experiment that trains nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import sys

import numpy as np
import pandas as pd
import pytest

from experiments import __main__ as command
from experiments import _cells, _device, _files, _plots, _report, _scores, _settings, _tables
from tff_dp.errors import ArgumentError

SETTINGS = {"fake": {"seeds": [1, 2, 3], "scale": 2.0}}
CELLS = _cells.grid([{"method": "a", "epsilon": 4.0}, {"method": "b", "epsilon": None}], [1, 2, 3])


class Fake:
    """A computation that notes what it was asked for, and can be interrupted at a cell."""

    def __init__(self, stop_at=None):
        self.asked, self.stop_at = [], stop_at

    def __call__(self, cell, folder):
        if len(self.asked) == self.stop_at:
            (folder / "kept").write_text("so far")
            raise KeyboardInterrupt
        self.asked.append(cell.name)
        value = cell.seed * (2.0 if cell.setting["method"] == "a" else np.float32(0.5))
        spent = 4.0 if cell.setting["method"] == "a" else math.inf
        return {"auc": value, "spent": spent, "went on": (folder / "kept").exists()}


def run(out, compute, settings=SETTINGS, cells=CELLS):
    return _cells.run(cells, compute, settings=settings, out=out)


def publish(finished, **changes):
    arguments = {
        "name": "linear_regression",
        "settings": _settings.load("linear_regression"),
        "by": ["method", "epsilon"],
        "measures": ["auc", "spent"],
    }
    return _report.publish(finished, **(arguments | changes))


def test_an_experiment_that_is_interrupted_goes_on_and_gives_the_same_table(tmp_path):
    whole, first, second = Fake(), Fake(stop_at=4), Fake()
    publish(run(tmp_path / "whole", whole))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", first)
    finished = run(tmp_path / "resumed", second)
    publish(finished)
    assert first.asked + second.asked == whole.asked
    assert len(whole.asked) == 6
    assert (tmp_path / "resumed" / "table.md").read_text() == (
        tmp_path / "whole" / "table.md"
    ).read_text()
    # The cell in progress found what it had kept, and no other one did.
    assert [row["went on"] for row in finished.rows] == [False] * 4 + [True, False]
    results = json.loads((tmp_path / "resumed" / "results.json").read_text())
    assert results["resumed_cells"] == 1


def test_a_finished_experiment_computes_nothing_again(tmp_path):
    once = run(tmp_path, Fake())
    again = Fake()
    assert run(tmp_path, again).rows == once.rows
    assert again.asked == []


@pytest.mark.parametrize("content", ["", '{"format": 1, "setting"', "[]", '{"format": 0}'])
def test_a_cell_that_cannot_be_read_is_computed_again(tmp_path, content):
    once = run(tmp_path, Fake())
    (tmp_path / "runs" / CELLS[2].name / "cell.json").write_text(content)
    again = Fake()
    assert run(tmp_path, again).rows == once.rows
    assert again.asked == [CELLS[2].name]


def test_a_cell_whose_folder_has_another_cell_is_computed_again(tmp_path):
    run(tmp_path, Fake())
    file = tmp_path / "runs" / CELLS[0].name / "cell.json"
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 7'))
    again = Fake()
    run(tmp_path, again)
    assert again.asked == [CELLS[0].name]


@pytest.mark.parametrize(
    "other",
    [
        {"fake": {"seeds": [1, 2, 3], "scale": 3.0}},
        {"fake": {"seeds": [1, 2, 3]}},
        {"fake": {"seeds": [1, 2, 3], "scale": 2.0, "more": 1}},
    ],
)
def test_other_settings_are_refused_and_change_nothing(tmp_path, other):
    once = run(tmp_path, Fake())
    fake = Fake()
    with pytest.raises(
        ArgumentError, match=r"fake\.(scale|more) was .* there and is .* here\. Give"
    ):
        run(tmp_path, fake, other)
    assert fake.asked == []
    assert run(tmp_path, Fake()).rows == once.rows


def test_cells_without_their_settings_are_refused(tmp_path):
    run(tmp_path, Fake())
    (tmp_path / "experiment.json").write_text("torn")
    with pytest.raises(ArgumentError, match="has results with other settings"):
        run(tmp_path, Fake())


def hold(out, is_open, go_on):
    with _cells._opened(out, SETTINGS):
        is_open.set()
        go_on.wait()


def test_a_folder_in_use_is_refused(tmp_path):
    context = multiprocessing.get_context("spawn")
    is_open, go_on = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, is_open, go_on))
    other.start()
    try:
        assert is_open.wait(60)
        with pytest.raises(ArgumentError, match="in use: another process"):
            run(tmp_path, Fake())
    finally:
        go_on.set()
        other.join()
    run(tmp_path, Fake())


def test_progress_says_what_is_done_and_left_and_for_how_long(tmp_path, capsys):
    run(tmp_path, Fake(stop_at=99))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "0 of 6 cells done, 6 left"
    assert lines[2].startswith("2 of 6 cells done, 4 left, about 0 s [method b, seed 1:")
    assert lines[-1].startswith("6 of 6 cells done, 0 left [")


def test_the_time_left_is_that_of_the_same_settings():
    done = {cell.name: None for cell in CELLS}
    done[CELLS[0].name], done[CELLS[1].name] = {"seconds": 100.0}, {"seconds": 10.0}
    progress = _cells._Progress(CELLS, done)
    assert progress._remaining(CELLS[2:], done) == 220
    done[CELLS[1].name] = None
    assert progress._remaining(CELLS[1:], done) == 500  # of what has not been seen, the mean of all
    assert [_cells.duration(s) for s in (5, 240, 7500)] == ["5 s", "4 min", "2 h 05 min"]


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_are_one_or_more_different_ones(seeds):
    with pytest.raises(ArgumentError, match="seeds="):
        _cells.grid([{"method": "a"}], seeds)


def test_cells_of_one_name_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ArgumentError, match="same setting and seed"):
        run(tmp_path / "new", Fake(), cells=[CELLS[0], CELLS[0]])
    assert not (tmp_path / "new").exists()


def test_the_table_has_mean_deviation_and_number_of_seeds(tmp_path):
    table = publish(run(tmp_path, Fake()), decimals={"spent": 0})
    assert table["auc"].tolist() == [4.0, 1.0]
    assert table["auc sd"].tolist() == [2.0, 0.5]
    assert table["seeds"].tolist() == [3, 3]
    assert (tmp_path / "table.md").read_text().splitlines() == [
        "| method | epsilon | seeds | auc | spent |",
        "|---|---|---:|---:|---:|",
        "| a | 4 | 3 | 4.000 ± 2.000 | 4 |",
        "| b |  | 3 | 1.000 ± 0.500 | inf |",
    ]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv"), table, check_dtype=False)
    assert len(pd.read_csv(tmp_path / "cells.csv")) == 6


def test_one_seed_has_no_deviation_and_intervals_stand_in_brackets():
    rows = [{"method": "a", "seed": 1, "auc": 0.8, "low": 0.7, "high": 0.9, "none": None}]
    table = _tables.summary(rows, by=["method"], measures=["auc", "low", "high", "none"])
    assert math.isnan(table["auc sd"][0])
    text = _tables.markdown(
        table, by=["method"], measures=["auc", "none"], decimals={"auc": 2},
        intervals={"auc": ("low", "high")},
    )  # fmt: skip
    assert text.splitlines()[-1] == "| a | 1 | 0.80 [0.70, 0.90] |  |"


def test_results_have_their_circumstances_and_no_name_of_the_machine(tmp_path):
    import socket

    publish(run(tmp_path, Fake()), notes={"more": math.inf})
    text = (tmp_path / "results.json").read_text()
    results = json.loads(text)
    assert results["command"] == "python -m experiments linear_regression"
    assert results["seeds"] == [1, 2, 3]
    assert results["settings"]["schools"]["rounds"] == 20
    assert results["machines"][0]["cores"] >= 1
    assert results["versions"]["tff-dp"]
    assert len(results["cells"]) == 6
    assert results["more"] == {"float": "inf"}
    assert socket.gethostname() not in text


def test_results_that_cannot_be_written_are_one_error_and_the_cells_are_kept(tmp_path):
    finished = run(tmp_path, Fake())
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(
        ArgumentError, match=r"could not be written.*cells that are finished are kept"
    ):
        publish(finished)
    assert run(tmp_path, Fake()).rows == finished.rows


def test_json_is_whole_or_not_there_and_keeps_what_is_infinite(tmp_path):
    path = tmp_path / "a.json"
    value = {"a": [1, 2.5, math.inf, None, True], "b": {"c": "text"}}
    _files.write_json(path, value | {"d": np.float32(0.5)})
    assert _files.read_json(path) == value | {"d": 0.5}
    with pytest.raises(TypeError):
        _files.write_json(path, {"a": object()})
    assert _files.read_json(path)["d"] == 0.5
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert _files.read_json(tmp_path / "missing") is None


def test_the_area_under_the_curve_is_that_of_scikit_learn_and_its_interval_covers():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    covered, truth = 0, 0.7602  # of normal scores that lie one deviation apart: Phi(1 / sqrt(2))
    for _ in range(400):
        labels = np.r_[np.ones(40), np.zeros(60)]
        scores = np.round(rng.normal(size=100) + labels, 1)  # with ties
        found = _scores.auc(labels, scores)
        assert found.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        covered += found.low < truth < found.high
    # Binomial(400, 0.95) is outside [363, 393] with probability below 5e-4; the seed is fixed.
    assert 363 <= covered <= 393


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([1, 1, 0, 0], [2, 3, 0, 1], (1.0, 0.0, 1.0)),
        ([1, 0, 0], [0.5, 0.4, 0.6], (0.5, 0.0, 1.0)),
    ],
)
def test_where_no_interval_is_known_it_is_all(labels, scores, expected):
    found = _scores.auc(np.array(labels), np.array(scores, float))
    assert (found.value, found.low, found.high) == expected


def test_labels_of_one_class_are_refused():
    with pytest.raises(ArgumentError, match="3 positive and 0 negative"):
        _scores.auc(np.ones(3), np.zeros(3))


def test_an_accuracy_has_the_interval_of_wilson():
    found = _scores.accuracy(8, 10)
    z = 1.959964
    center, half = (0.8 + z**2 / 20) / (1 + z**2 / 10), z * math.sqrt(0.016 + z**2 / 400)
    assert found.low == pytest.approx(center - half / (1 + z**2 / 10), abs=1e-6)
    assert found.high == pytest.approx(center + half / (1 + z**2 / 10), abs=1e-6)


def test_plots_are_pictures(tmp_path):
    curve = _plots.Curve(
        label="a", x=[1, 2, math.inf], y=[0.5, 0.6, 0.7], spread=[0.1, math.nan, 0]
    )
    band = _plots.Curve(label="b", x=[1, 2], y=[0.5, 0.6], band=([0.4, 0.5], [0.7, 0.8]))
    panel = _plots.Panel(
        title="t", x_label="x", y_label="y", curves=[curve, band],
        levels=[_plots.Level(label="l", y=0.55, spread=0.01)],
    )  # fmt: skip
    theory = _plots.Curve(label="a, theory", x=[1, 2], y=[0.5, 0.6], of="a")
    wide = dataclasses.replace(
        panel, curves=[curve, theory], log_y=True, verticals=[("here", 1.5)], y_range=(0.01, 1)
    )
    path = _plots.draw([panel, wide] * 2, tmp_path / "plot.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_bars_on_a_logarithmic_axis_stay_above_zero():
    curve = _plots.Curve(label="a", x=[1, 2], y=[1.0, 4.0], spread=[2.0, math.nan])
    y, shown = np.array([1.0, 4.0]), np.array([True, True])
    below, above = _plots._bars(curve, y, shown, log=True)
    assert (below < y).all()
    np.testing.assert_allclose(np.log(y / (y - below)), [2.0, 0.0])
    np.testing.assert_allclose(np.log((y + above) / y), [2.0, 0.0])
    assert _plots._bars(curve, y, shown, log=False).tolist() == [[2.0, 0.0], [2.0, 0.0]]


def test_the_command_of_results_gives_their_settings():
    for smoke in (False, True):
        settings = _settings.load("linear_regression", None, ["schools.cohort=3"], smoke=smoke)
        line = _settings.command("linear_regression", settings)
        assert line == (
            f"python -m experiments linear_regression{' --smoke' * smoke} --set schools.cohort=3"
        )


def test_without_a_name_all_experiments_are_listed_with_their_questions(capsys):
    assert command.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == _settings.names()
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


@pytest.mark.parametrize("name", _settings.names())
def test_every_experiment_has_a_smoke_size_of_its_own_settings(name):
    assert _settings.load(name, smoke=True) != _settings.load(name)


def test_changes_of_the_command_line_come_after_those_of_the_smoke_size(tmp_path):
    own = ["tutorial.rounds=41"]
    assert _settings.load("linear_regression", None, own, smoke=True)["tutorial"]["rounds"] == 41
    path = tmp_path / "mine.toml"
    text = (_settings.FOLDER / "linear_regression.toml").read_text()
    path.write_text(text.replace("schools.rounds", "schools.nothing"))
    # The file's own table [smoke] is none of its settings; the experiment's holds.
    assert _settings.load("linear_regression", str(path), smoke=True)["schools"]["rounds"] == 3


def test_a_smoke_size_that_names_no_setting_is_refused(tmp_path, monkeypatch):
    (tmp_path / "wrong.toml").write_text('[a]\nb = 1\n[smoke]\n"a.c" = 2\n')
    monkeypatch.setattr(_settings, "FOLDER", tmp_path)
    with pytest.raises(ArgumentError, match=r"have a\.c besides"):
        _settings.load("wrong", smoke=True)


def test_on_the_cpu_gpus_are_hidden_before_tensorflow_is_imported(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    _device.choose("auto")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    _device.choose("cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    assert "tensorflow" not in sys.modules


@pytest.mark.heavy
def test_without_a_gpu_the_device_is_refused_with_the_reason(tff, tmp_path, capsys):
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    out = tmp_path / "out"
    assert command.main(["linear_regression", "--device", "gpu", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --device='gpu' needs a GPU; no GPU: ")
    assert len(said.splitlines()) == 1
    assert not out.exists()


def test_the_area_within_groups_does_not_count_what_tells_groups_apart():
    groups = np.repeat(["a", "b"], 100)
    rng = np.random.default_rng(0)
    labels = (rng.random(200) < np.where(groups == "a", 0.1, 0.9)).astype(int)
    scores = (groups == "b").astype(float)  # knows the group, and nothing else
    assert _scores.auc(labels, scores).value > 0.8
    within = _scores.auc_within(labels, scores, groups)
    assert within.value == 0.5
    assert within.low <= 0.5 <= within.high


def test_the_area_within_groups_is_the_share_of_ordered_pairs_and_its_interval_covers():
    rng = np.random.default_rng(1)
    groups = np.repeat(["a", "b", "c"], [60, 40, 5])
    labels = np.r_[np.tile([0, 1], 30), np.tile([0, 0, 0, 1], 10), [0, 1, 1, 1, 1]]
    covered, truth = 0, 0.7602
    for _ in range(400):
        scores = rng.normal(size=105) + labels
        found = _scores.auc_within(labels, scores, groups)
        covered += found.low < truth < found.high
    assert 363 <= covered <= 393  # as above
    right = pairs = 0
    for group in ("a", "b"):  # the last group has a single negative example
        mine = groups == group
        higher = scores[mine & (labels == 1)][:, None] > scores[mine & (labels == 0)]
        right, pairs = right + higher.sum(), pairs + higher.size
    assert found.value == pytest.approx(right / pairs)


def test_groups_without_both_classes_are_refused():
    with pytest.raises(ArgumentError, match="groups has none"):
        _scores.auc_within(np.array([0, 1]), np.zeros(2), np.array(["a", "b"]))
