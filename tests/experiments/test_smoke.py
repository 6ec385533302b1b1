"""Every experiment runs at its small size, and what it writes is complete."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from experiments import __main__ as command
from experiments import _curve, _settings
from tests.support.tables import thinned

# What trains; the main job has tests of its own, and so have the ones that compute formulas.
NAMES = [
    "education",
    "finance",
    "iot_delays",
    "laplace_or_gaussian",
    "medicine_persons",
    "medicine_silos",
]

# By default one of them runs, which the tests of an interruption need as well.
by_name = pytest.mark.parametrize("name", thinned(NAMES, by=["medicine_silos"]))


@pytest.fixture(scope="module")
def outputs(tff, tmp_path_factory):
    """The folder of each experiment, run once in this process."""
    folder, made = tmp_path_factory.mktemp("experiments"), {}

    def output_of(name):
        if name not in made:
            assert command.main([name, "--smoke", "--out", str(folder / name)]) == 0
            made[name] = folder / name
        return made[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(
            "CUDA_VISIBLE_DEVICES", raising=False
        )  # which --device cpu sets, and is undone
        yield output_of


@by_name
def test_an_experiment_runs_at_its_small_size(outputs, name):
    out = outputs(name)
    results = json.loads((out / "results.json").read_text())
    assert results["command"] == f"python -m experiments {name} --smoke"
    assert results["question"].rstrip().endswith(("?", "."))
    assert results["seeds"]
    assert results["machines"][0]["devices"]
    rows, table = pd.read_csv(out / "cells.csv"), pd.read_csv(out / "table.csv")
    assert len(rows) == len(results["cells"])
    assert table["seeds"].sum() == len(rows)
    assert (out / "table.md").read_text().startswith("| ")
    plots = list(out.glob("*.png"))
    assert plots
    assert all(plot.read_bytes().startswith(b"\x89PNG") for plot in plots)


@by_name
def test_private_rows_stay_within_their_target_and_others_have_none(outputs, name):
    rows = pd.read_csv(outputs(name) / "cells.csv")
    if name == "laplace_or_gaussian":
        settings = _settings.load(name, smoke=True)["training"]
        rows = rows.assign(epsilon=settings["epsilon"])
    private = rows[rows["epsilon"].notna()]
    assert len(private)
    spent = private["epsilon spent"]
    assert (spent <= private["epsilon"]).all()
    assert (spent > 0.97 * private["epsilon"]).all()  # the smallest noise, and no less
    others = rows[rows["epsilon"].isna()]["epsilon spent"].dropna()
    assert (others == math.inf).all()


def test_a_finished_experiment_is_read_and_not_trained_again(outputs, monkeypatch, capsys):
    out = outputs("medicine_silos")
    before = (out / "table.csv").read_text()

    def train(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(_curve._training, "train", train)
    arguments = ["medicine_silos", "--smoke", "--out", str(out)]
    assert command.main(arguments) == 0
    assert (out / "table.csv").read_text() == before
    assert command.main([*arguments, "--set", "federated.rounds=4"]) == 2
    assert "federated.rounds was 2 there and is 4 here" in capsys.readouterr().err


def test_a_training_that_ctrl_c_ends_early_is_no_result(tff, tmp_path, monkeypatch):
    """`fit` returns what it has after Ctrl-C; the cell must not take it for its result."""
    import keras
    import numpy as np

    import tff_dp
    from experiments import _training
    from tff_dp.training import fitting

    x = np.ones([20, 2], "float32")
    clients = tff_dp.data.iid(x, x[:, :1], clients=4, seed=1)
    spec = tff_dp.ModelSpec(
        model=keras.Sequential([keras.layers.Input([2]), keras.layers.Dense(1)]), loss="mse"
    )
    arguments = {"folder": tmp_path, "privacy": tff_dp.NoPrivacy(), "rounds": 6, "seed": 2}
    with monkeypatch.context() as patch:
        step, taken = fitting.observed_step, []

        def third(run, observers):
            step(run, observers)
            taken.append(run.round_number)
            if len(taken) == 3:
                run.end(fitting.INTERRUPTED)

        patch.setattr(fitting, "observed_step", third)
        with pytest.raises(KeyboardInterrupt):
            _training.train(spec, clients, **arguments)
    resumed = _training.train(spec, clients, **arguments)
    assert [record.round_number for record in resumed.history] == [1, 2, 3, 4, 5, 6]
    assert resumed.resumed == 1
    (tmp_path / "whole").mkdir()
    whole = _training.train(spec, clients, **(arguments | {"folder": tmp_path / "whole"}))
    for one, other in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_differences_are_those_of_the_same_seed():
    rows = [
        {"task": "a", "method": method, "seed": seed, "AUC": value}
        for method, seed, value in [
            ("federated", 1, 0.7), ("federated", 2, 0.8), ("private", 1, 0.6), ("private", 2, 0.75),
        ]
    ]  # fmt: skip
    found = _curve.with_differences(rows, {"a": "AUC"})
    assert [round(row["difference to federated"], 6) for row in found] == [0, 0, -0.1, -0.05]


def test_binary_scores_are_those_of_scikit_learn():
    import numpy as np
    from sklearn.metrics import log_loss, roc_auc_score

    rng = np.random.default_rng(0)
    labels, logits = rng.integers(2, size=50), rng.normal(size=50)
    found = _curve.binary_scores(labels.astype("float32"), logits)
    assert found["AUC"] == pytest.approx(roc_auc_score(labels, logits))
    assert found["log loss"] == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-logits))))


BAD = [
    ("medicine_persons", "training.clip_norm=-1.0", "clip_norm=-1.0 is outside its bound"),
    ("medicine_persons", "training.learning_rate=-1.0", "learning_rate=-1.0 is outside its bound"),
    ("medicine_persons", "training.seeds=[]", "seeds=[] is outside its bound"),
    ("medicine_persons", "training.held_out=1.0", "held_out=1.0 is outside its bound"),
    ("education", "linear.seeds=[1, 1]", "seeds=[1, 1] is outside its bound"),
    ("medicine_silos", "grid.seeds=[]", "seeds=[] is outside its bound"),
    ("medicine_silos", "record.momentum=1.0", "momentum=1.0 is outside its bound"),
    ("medicine_silos", "client.delta=0.25", "delta=0.25 is outside its bound"),
    ("laplace_or_gaussian", "training.dimensions=[1]", "dimensions=1 is outside its bound"),
    ("laplace_or_gaussian", "training.steps=[0.0]", "steps=0.0 is outside its bound"),
    ("laplace_or_gaussian", "training.steps=[1.0, 0.5, 0.5]", "does not fit rounds=[1]"),
]


@pytest.mark.parametrize(("name", "override", "message"), BAD)
def test_wrong_settings_are_one_line_before_anything_is_made(
    tmp_path, capsys, name, override, message
):
    out = tmp_path / "results"
    assert command.main([name, "--smoke", "--set", override, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not out.exists()
