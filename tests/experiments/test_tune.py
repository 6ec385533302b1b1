"""The experiment on tuning."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from experiments import __main__ as command
from experiments import _cells, _settings, tune
from experiments._selection import Stopping, selected_epsilon
from tff_dp.errors import ArgumentError


def settings(**changes) -> tune.TuneSettings:
    return tune.TuneSettings.from_dict(_settings.load("tune", smoke=True)["tune"] | changes)


@pytest.mark.slow
@pytest.mark.heavy
def test_the_smoke_size_reports_what_holds_except_where_it_says_so(tff, tmp_path):
    assert command.main(["tune", "--smoke", "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "table.csv")
    task = table[table["part"] == "chem97"].set_index("method")
    assert list(task.index) == list(tune.METHODS)
    target = settings().target_epsilon
    honest = task.drop(index="not counted")
    assert (honest["epsilon valid"] <= target).all()
    assert (honest["epsilon valid"] >= 0.98 * target).all()
    np.testing.assert_array_equal(honest["epsilon reported"], honest["epsilon valid"])
    wrong = task.loc["not counted"]
    assert wrong["epsilon reported"] <= target < 1.1 * target < wrong["epsilon valid"]
    # The ledger of two runs says what the plan of twice the rounds says.
    cost = table[table["part"] == "cost"].set_index(["method", "runs"])["epsilon valid"]
    assert wrong["epsilon valid"] == pytest.approx(cost["composed", 2], rel=1e-6)
    assert (task["noise multiplier"][["composed", "geometric"]] > wrong["noise multiplier"]).all()
    assert (tmp_path / "cost_of_tuning.png").read_bytes().startswith(b"\x89PNG")


def test_private_public_and_test_schools_are_apart():
    schools = tune.load(settings(), 3)
    parts = [
        set(schools.private.ids), set(schools.public.ids), set(schools.split.test_ids.tolist()),
    ]  # fmt: skip
    assert sum(map(len, parts)) == len(set.union(*parts)) == 2410
    assert len(parts[1]) == round(0.05 * 1928)
    assert tune.load(settings(), 3).public.ids == schools.public.ids
    assert tune.load(settings(), 4).public.ids != schools.public.ids


def test_what_was_drawn_is_kept_for_a_cell_that_is_resumed(tmp_path):
    stopping = Stopping(mean=20, law="geometric")
    drawn = tune._drawn(settings(), stopping, tmp_path)
    assert drawn
    assert tune._drawn(settings(), stopping, tmp_path) == drawn
    (tmp_path / "drawn.txt").write_text("")
    assert tune._drawn(settings(), stopping, tmp_path) == []  # no run at all


@pytest.mark.parametrize("repeated", [0, 3])
def test_rounds_that_were_run_twice_after_a_kill_are_counted(repeated, tmp_path, monkeypatch):
    mine, method = settings(), "geometric"
    schools, model = tune.load(mine, 1), SimpleNamespace()
    plan = tune._plans(mine, schools.private.num_clients)[method]
    monkeypatch.setattr(tune, "_r2", lambda *_: 0.5)
    monkeypatch.setattr(
        tune, "_trained", lambda *_: SimpleNamespace(model=model, repeated_rounds=repeated)
    )
    cell = _cells.Cell(setting={"method": method}, seed=1)
    found = tune._tuned(mine, cell, schools, plan, tmp_path)
    more = dataclasses.replace(plan, rounds=plan.rounds + repeated)
    assert found["epsilon valid"] == selected_epsilon(more, Stopping(mean=2, law=method))
    assert (found["epsilon valid"] > mine.target_epsilon) is (repeated > 0)


def test_runs_have_seeds_of_their_own():
    cells = _cells.grid([{"method": "composed"}], [1, 2, 10**6])
    seeds = [tune._seed(cell, number) for cell in cells for number in range(200)]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"public": 0.0}, r"public=0\.0 .*\(0, 1\)"),
        ({"seeds": [-1]}, r"seeds=-1 .*\[0, 1000000\]"),
        ({"costs": [1]}, r"costs=1 .*\[2, 1000\]"),
        ({"clip_norms": [0.1, -1.0]}, r"clip_norms=-1\.0 .*\[1e-10, 1e10\]"),
        ({"learning_rates": [0.0]}, r"learning_rates=0\.0 .*\(0, inf\)"),
        ({"default_learning_rate": 0.0}, r"learning_rates=0\.0 .*\(0, inf\)"),
        ({"learning_rates": [0.1]}, r"candidates=1 .*more clip_norms"),
        ({"momentum": 1.0}, r"momentum=1\.0 .*\[0, 1\)"),
    ],
)
def test_settings_outside_their_bounds_are_named(change, message):
    with pytest.raises(ArgumentError, match=message):
        settings(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tune.target_epsilon=8.0", r"target=8\.0 .*\(0, 8\)"),
        ("tune.delta=0.1", r"delta=0\.1 "),
        ("tune.cohort=5000", "cohort=5000"),
    ],
)
def test_settings_that_no_plan_takes_end_the_command_before_training(
    change, message, tmp_path, capsys
):
    out = tmp_path / "out"
    assert command.main(["tune", "--set", change, "--out", str(out)]) == 2
    assert not out.exists()

    assert re.search(message, capsys.readouterr().err)
