"""The experiment on sampling that is accounted for as other sampling."""

from __future__ import annotations

import pandas as pd
import pytest

from experiments import __main__ as command
from experiments import sampling_mismatch
from tff_dp.errors import ArgumentError


def test_the_smoke_size_writes_tables_and_plot_and_reports_are_below_what_is_proven(tmp_path):
    assert command.main(["sampling_mismatch", "--smoke", "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["noise multiplier"].tolist() == [1.0, 2.0]
    assert (table["reported"] < table["fixed size at least"]).all()
    assert (table["reported"] < table["shuffled at least"]).all()
    for kind in ("fixed size", "shuffled"):
        assert (table[f"{kind} at least"] < table[f"{kind} valid"]).all()
    assert "| 1.828 | 13.356 | 13.361 |" in (tmp_path / "epsilon_cases.md").read_text()
    assert (tmp_path / "epsilon_against_noise.png").read_bytes().startswith(b"\x89PNG")


def test_an_epsilon_below_a_proven_bound_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling_mismatch.ours, "epsilon", lambda inputs: 0.5)
    assert command.main(["sampling_mismatch", "--smoke", "--out", str(tmp_path)]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cohort": 7}, r"cohort=7 does not divide population=1000"),
        ({"cohort": 0}, r"cohort=0 .*\[1, 1000\]"),
        ({"epochs": [1, 0]}, r"epochs=0 .*\[1, 1000\]"),
        ({"noise_multipliers": [0.1]}, r"noise_multipliers=0\.1 .*\[0\.3, 100\]"),
        ({"delta": 0.001}, r"delta=0\.001 .*\(0, 0\.001\)"),
    ],
)
def test_settings_outside_their_bounds_are_named(change, message, tmp_path):
    settings = {
        "population": 1000, "cohort": 10, "epochs": [1], "noise_multipliers": [1.0], "delta": 1e-5,
    }  # fmt: skip
    with pytest.raises(ArgumentError, match=message):
        sampling_mismatch.main({"sampling": settings | change}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
