"""The benchmark of a population, of a few clients: that each part runs, and what its figures mean."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from benchmarks import population

OPTIONS = argparse.Namespace(clients=50, cohort=[5, 20], round_cohort=[4], repeats=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("population")
    population.write(path, OPTIONS.clients, 2, 8)
    return path


def test_clients_have_as_many_examples_as_asked_for(folder):
    clients = population.clients_of(folder)
    assert len(clients) == OPTIONS.clients
    assert set(clients.sizes.tolist()) == set(range(2, 9))
    x, y = clients.pooled()
    assert x.shape == (clients.num_examples, population.FEATURES)
    np.testing.assert_allclose(
        y[:, 0], x @ np.arange(1, population.FEATURES + 1), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("part", "figures"),
    [
        ("making", 8),
        ("drawing", 2 * 6 + 1),
        ("cohorts", 2 * 2),
        pytest.param("cutting", 1 + 2 * 2 * 3, marks=pytest.mark.heavy),
        pytest.param("rounds", 2, marks=pytest.mark.heavy),
    ],
)
def test_each_part_measures_its_calls(folder, tmp_path, part, figures):
    for file in folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).symlink_to(file)
    found = list(getattr(population, part)(tmp_path, OPTIONS))
    assert len({label for label, *_ in found}) == len(found) == figures
    assert all(seconds > 0 and most >= 0 and kept >= 0 for _, seconds, most, kept in found)


def test_a_figure_tells_what_a_call_takes_and_keeps():
    mib = 1 << 20

    def call():
        large = np.ones(64 * mib, np.uint8)
        return large[: 16 * mib].copy()

    label, seconds, most, kept = population.figure("call", call, 3)
    assert label == "call"
    assert seconds > 0
    assert 78 * mib < most < 120 * mib
    assert 15 * mib < kept < 30 * mib


def test_the_command_measures_in_processes_of_their_own_and_deletes_its_files(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    population.main(
        ["--clients", "50", "--cohort", "5", "--examples", "3", "3", "--only", "drawing", "cohorts"]
    )
    out = capsys.readouterr().out
    assert "50 clients of 3 to 3 examples" in out
    assert "| Poisson, 5 " in out
    assert "| 5 clients, shuffled " in out
    assert list(tmp_path.iterdir()) == []
