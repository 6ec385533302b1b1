"""The experiment on text: its plans, its tables of counts, and that it runs."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

import tff_dp
from experiments import __main__ as command
from experiments import _settings, text
from experiments._correlated import (
    BANDED,
    FEDAVG,
    METHODS,
    SAMPLED,
    TREE,
    Rounds,
    noise_of_sums,
    tree_error,
)
from experiments._counts import Table, plan_of_pairs, private_pairs
from experiments._text_settings import Candidate, TextSettings, TuningSettings
from tff_dp.errors import ArgumentError


@pytest.fixture(scope="module")
def smoke_run(tff, tmp_path_factory):
    out = tmp_path_factory.mktemp("text")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert command.main(["text", "--smoke", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_the_small_size_trains_every_method_within_its_target(smoke_run):
    rows = pd.read_csv(smoke_run / "cells.csv")
    results = json.loads((smoke_run / "results.json").read_text())
    assert results["command"] == "python -m experiments text --smoke"
    assert (smoke_run / "against_epsilon.png").read_bytes().startswith(b"\x89PNG")
    private = rows[rows["epsilon"].notna()].set_index("method")
    assert sorted(private.index) == sorted([*METHODS, "private bigram table"])
    assert (private["epsilon spent"] <= private["epsilon"]).all()
    assert (private["epsilon spent"] > 0.97 * private["epsilon"]).all()
    assert (rows[rows["epsilon"].isna()]["epsilon spent"] == math.inf).all()
    assert (rows["rounds"].dropna() == 4).all()
    assert rows["rounds"].notna().sum() == 1 + len(METHODS)
    # What holds for everybody who knows the cohorts is no news where no sampling is assumed.
    known = private["epsilon if known"]
    np.testing.assert_array_equal(known[[TREE, BANDED]], private["epsilon spent"][[TREE, BANDED]])
    assert known[FEDAVG] > 1.5 * private["epsilon spent"][FEDAVG]


@pytest.mark.slow
def test_noise_and_tuning_are_cells_of_the_results(smoke_run):
    noise, tuning = (pd.read_csv(smoke_run / f"{name}.csv") for name in ("noise", "tuning"))
    assert noise["method"].tolist() == list(METHODS)
    assert tuning["method"].tolist() == ["federated", *METHODS]
    assert (tuning["seed"] == 0).all()
    rows = pd.read_csv(smoke_run / "cells.csv")
    assert (rows["seed"] == 1).all()
    parts = json.loads((smoke_run / "results.json").read_text())["cells"]
    assert len(parts) == len(noise) + len(tuning) + len(rows)
    shared = tuning.merge(rows, on=["method", "epsilon"], suffixes=("", " used"))
    assert len(shared) == len(tuning)
    private = shared[shared["epsilon"].notna()]
    assert (private["clip norm"] == private["clip norm used"]).all()


@pytest.mark.slow
def test_a_finished_experiment_is_read_and_a_killed_cell_is_trained_from_its_first_round(
    smoke_run, monkeypatch
):
    before = (smoke_run / "table.csv").read_text()
    monkeypatch.setattr(text._training, "train", lambda *_, **__: pytest.fail("trained again"))
    assert command.main(["text", "--smoke", "--out", str(smoke_run)]) == 0
    assert (smoke_run / "table.csv").read_text() == before
    monkeypatch.undo()
    cell = next((smoke_run / "runs").glob(f"method={FEDAVG}*seed=1"))
    (cell / "cell.json").unlink()
    assert (cell / "run").is_dir()
    assert command.main(["text", "--smoke", "--out", str(smoke_run)]) == 0
    found = json.loads((cell / "cell.json").read_text())["result"]
    assert found["rounds"] == 4
    assert found["epsilon spent"] <= 8.0  # the rounds of the folder that was left are not counted


def rounds(**changes) -> Rounds:
    values = {
        "population": 1000, "cohort": 50, "rounds": 64, "delta": 1e-4, "restarts": [64, 16],
        "cycles": [2, 8],
    }  # fmt: skip
    return Rounds(**(values | changes))


def test_plans_have_the_same_rounds_clients_and_relation():
    for method in METHODS:
        for plan in rounds().candidates(method, clip_norm=0.5):
            assert (plan.population, plan.rounds, plan.delta) == (1000, 64, 1e-4)
            assert plan.adjacency is tff_dp.Adjacency.ZERO_OUT
            assert plan.sampler.expected_clients(1000) == pytest.approx(50)
            assert plan.mechanism.clip_norm == 0.5


@pytest.mark.parametrize("method", [TREE, BANDED])
def test_clients_who_wait_take_part_as_rarely_as_is_accounted_for(method):
    plan = rounds().candidates(method)[0]
    cohorts = [plan.sampler.cohort(1000, number, 3) for number in range(1, 65)]
    assert np.mean([len(cohort) for cohort in cohorts]) > 49.5
    taken = [np.flatnonzero([client in set(c) for c in cohorts]) for client in range(0, 1000, 37)]
    assert max(map(len, taken)) <= rounds().participations == 4
    assert min(np.diff(each).min() for each in taken if len(each) > 1) >= rounds().separation == 20


@pytest.mark.parametrize("epsilon", [2.0, 8.0])
def test_the_best_candidate_has_the_least_noise_within_the_target(epsilon):
    for method in (TREE, SAMPLED):
        best = rounds().best(method, epsilon)
        assert 0.97 * epsilon < best.epsilon().epsilon <= epsilon
        others = [plan.calibrated(epsilon) for plan in rounds().candidates(method)]
        assert noise_of_sums(best) == min(noise_of_sums(plan) for plan in others)
        assert len({noise_of_sums(plan) for plan in others}) == 2


@pytest.mark.slow
def test_without_sampling_banded_noise_needs_a_large_epsilon_to_beat_independent_noise():
    """The crossover that the experiment shows, from the accounting alone."""
    small, large = ([noise_of_sums(rounds().best(m, e)) for m in METHODS] for e in (1.0, 16.0))
    fedavg, tree, banded, sampled = range(4)
    assert small[fedavg] < small[banded] < small[tree]
    assert large[banded] < large[fedavg]
    assert large[banded] < large[tree]
    assert small[sampled] <= 1.05 * min(small)


def test_independent_noise_grows_as_the_root_of_the_rounds():
    plan = rounds().candidates(FEDAVG)[0]
    assert noise_of_sums(plan) == pytest.approx(math.sqrt((64 + 1) / 2))


def test_the_epsilon_without_sampling_is_that_of_all_participations():
    from tests.support import oracles

    mine = rounds()
    plan = mine.best(FEDAVG, 2.0)
    known = mine.known_epsilon(plan)
    z = plan.mechanism.noise_multiplier / math.sqrt(mine.participations)
    assert oracles.gaussian_delta(z, known) <= 1e-4
    assert oracles.gaussian_delta(z, 0.99 * known) > 1e-4
    tree = mine.best(TREE, 2.0)
    assert mine.known_epsilon(tree) == tree.epsilon().epsilon


@pytest.mark.heavy
@pytest.mark.parametrize(("period", "total"), [(8, 8), (4, 11), (1, 3)])
def test_the_error_of_a_tree_is_that_of_the_noise_that_is_added(tff, period, total):
    from tff_dp.aggregation.correlated import TreeNoise

    shape, deviation = [40_000], 2.0**20
    noise = TreeNoise(deviation, period)
    state, running, squares = noise.initial([shape]), 0.0, []
    for _ in range(total):
        (grown,), state = noise.next(state, [shape])
        running = running + grown.numpy()
        squares.append(np.mean((running / deviation) ** 2))
    # Relative deviation of each mean square: sqrt(2 / 40000) = 0.7 %; five of them have probability 6e-7.
    assert np.mean(squares) == pytest.approx(tree_error(total, period) ** 2, rel=0.035)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cohort": 0}, r"cohort=0 .*\[1, 1000\]"),
        ({"rounds": 0}, "rounds=0 "),
        ({"restarts": [65]}, r"restarts=65 .*\[1, 64\]"),
        ({"restarts": []}, r"restarts=\[\] "),
        ({"cycles": [21]}, r"cycles=21 .*\[1, 20\]"),
    ],
)
def test_rounds_outside_their_bounds_are_named(change, message):
    with pytest.raises(ArgumentError, match=message):
        rounds(**change)


BAD = [
    ("text.model=\"rnn\"", "model='rnn' is outside its bound"),
    ("text.context=0", "context=0 is outside its bound"),
    ("text.seeds=[]", "seeds=[] is outside its bound"),
    ("text.units=0", "units=0 is outside its bound"),
    ("text.delta=0.5", "delta=0.5 is outside its bound"),
    ("text.target_epsilons=[0.0]", "target_epsilons and curve=0.0 is outside its bound"),
    ("text.cohort=2000", "cohort=2000 is outside its bound"),
    ("text.held_out=0.0", "held_out=0.0 is outside its bound"),
    ("tuning.momenta=[1.0]", "momenta=1.0 is outside its bound"),
    ("tuning.momenta=[]", "momenta=0 is outside its bound"),
    ("tuning.steps=[-1.0]", "steps=-1.0 is outside its bound"),
    ("tuning.steps=[]", "learning_rates=1 is outside its bound"),
    ("tuning.learning_rates=[0.1, 0.2]", "learning_rates=2 is outside its bound"),
    ("tuning.learning_rate=-1.0", "learning_rate=-1.0 is outside its bound"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "message"), BAD)
def test_wrong_settings_are_one_line_before_anything_is_made(tmp_path, capsys, override, message):
    out = tmp_path / "results"
    assert command.main(["text", "--smoke", "--set", override, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not out.exists()


def test_every_method_has_as_many_candidates():
    tuning = TuningSettings.from_dict(_settings.load("text")["tuning"])
    private, public = (tuning.candidates(private=private) for private in (True, False))
    assert len(private) == len(public) == len(set(private)) == len(set(public)) == 6
    assert {round(c.clip_norm / (1 - c.momentum), 6) for c in private} == set(tuning.steps)
    assert all(c.clip_norm is None for c in public)


def test_a_clip_norm_changes_no_epsilon():
    plan = rounds().best(BANDED, 4.0)
    candidate = Candidate(learning_rate=1.0, momentum=0.0, clip_norm=0.03)
    clipped = candidate.clipped(plan)
    assert clipped.mechanism.clip_norm == 0.03
    assert clipped.epsilon().epsilon == plan.epsilon().epsilon


def test_the_best_candidate_has_the_highest_accuracy_and_finite_numbers():
    rows = [
        {
            "method": "banded", "epsilon": epsilon, "accuracy": accuracy, "bits": bits,
            "learning rate": 1.0, "momentum": 0.0, "clip norm": clip_norm,
        }
        for epsilon, accuracy, bits, clip_norm in [
            (2.0, 0.1, 4.0, 1.0), (2.0, 0.3, 3.0, 2.0), (2.0, 0.9, math.nan, 3.0),
            (2.0, 0.2, 3.5, 4.0), (8.0, 0.2, math.inf, 5.0), (8.0, 0.1, 4.0, 6.0),
        ]
    ]  # fmt: skip
    found = text.best_of(rows)
    assert {key: candidate.clip_norm for key, candidate in found.items()} == {
        ("banded", 2.0): 2.0,
        ("banded", 8.0): 6.0,
    }


def test_differences_are_those_of_the_same_seed():
    rows = [
        {"method": method, "seed": seed, "accuracy": accuracy}
        for method, seed, accuracy in [
            ("federated", 1, 0.4), ("federated", 2, 0.5), ("banded", 1, 0.3), ("banded", 2, 0.45),
        ]
    ]  # fmt: skip
    assert [round(row["difference"], 6) for row in text.with_differences(rows)] == [
        0, 0, -0.1, -0.05,
    ]  # fmt: skip


def test_scores_are_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, log_loss

    rng = np.random.default_rng(0)
    logits, labels = 50 * rng.normal(size=[4, 5, 6]), rng.integers(6, size=[4, 5])
    probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    found = text.scores(labels, logits.astype("float32"))
    flat = probabilities.reshape(-1, 6)
    assert found["accuracy"] == accuracy_score(labels.ravel(), flat.argmax(axis=1))
    smooth = text.scores(labels, logits / 50)["bits"] * math.log(2)
    gentle = np.exp(logits / 50).reshape(-1, 6)
    gentle /= gentle.sum(axis=1, keepdims=True)
    assert smooth == pytest.approx(log_loss(labels.ravel(), gentle, labels=range(6)))
    assert math.isnan(text.scores(labels, np.full([4, 5, 6], np.nan))["bits"])


def counted(x, y, context, here):
    """How often each character followed `here`, character by character."""
    found = np.zeros(3)
    for row, following in zip(x, y, strict=True):
        for place in range(max(context - 1, 0), len(row)):
            if list(row[place - context + 1 : place + 1] if context else []) == list(here):
                found[following[place]] += 1
    return found


def test_a_table_predicts_from_counts_of_the_longest_context():
    rng = np.random.default_rng(1)
    x, y = rng.integers(3, size=[20, 6]), rng.integers(3, size=[20, 6])
    table = Table.of(x, y, context=2, vocabulary=3)
    new = np.array([[2, 0, 1, 1]])
    found = table.predict(new)
    np.testing.assert_allclose(found.sum(axis=-1), 1)
    for place in range(4):
        expected = np.full(3, 1 / 3)
        for context in range(min(place + 1, 2) + 1):
            rows = counted(x, y, context, new[0, place + 1 - context : place + 1])
            expected = (rows + 5 * expected) / (rows.sum() + 5)
        np.testing.assert_allclose(found[0, place], expected)


def test_a_table_knows_what_always_follows_and_the_most_frequent_character():
    x = np.tile([0, 1, 2], [30, 4])
    y = np.roll(x, -1, axis=1)
    assert (Table.of(x, y, context=1, vocabulary=4).predict(x).argmax(axis=-1) == y).all()
    often = Table.of(x, np.full_like(y, 3), context=0, vocabulary=4)
    assert (often.predict(x).argmax(axis=-1) == 3).all()


@pytest.mark.heavy
def test_private_pairs_are_sums_in_which_all_clients_count_alike_with_the_plans_noise(tff):
    x = np.array([[0, 1, 0, 1], [0, 1, 0, 1]])
    speakers = {f"{number}": (x, np.roll(x, -1, axis=1)) for number in range(300)}
    speakers["other"] = (np.full([1, 4], 2), np.full([1, 4], 3))  # says half as much
    clients = tff_dp.data.from_arrays(speakers)
    plan = plan_of_pairs(301, 1e-4, 4.0)
    assert 0.97 * 4.0 < plan.epsilon().epsilon <= 4.0
    found = private_pairs(clients, vocabulary=70, plan=plan)
    z = plan.mechanism.noise_multiplier
    exact = np.zeros([70, 70])
    exact[0, 1] = exact[1, 0] = 300 / math.sqrt(2)
    exact[2, 3] = 1
    noise = (found - exact).ravel() / z
    # The relative deviation of the mean square is sqrt(2 / 4900) = 2 %: five of them, as 6e-7.
    assert np.mean(noise**2) == pytest.approx(1, rel=0.1)
    assert np.abs(noise).max() < 6.5
    assert Table.of_pairs(found).predict(x)[0].argmax(axis=-1).tolist() == [1, 0, 1, 0]
    again = private_pairs(clients, vocabulary=70, plan=plan)
    assert (again != found).any()


def test_negative_counts_are_none():
    pairs = np.array([[-3.0, 2.0], [1.0, -1.0]])
    table = Table.of_pairs(pairs)
    assert table.counts[0].tolist() == [1, 2]
    assert table.counts[1].tolist() == [[0, 2], [1, 0]]
    assert (table.predict(np.array([[0, 1]])) > 0).all()


@pytest.mark.heavy
@pytest.mark.parametrize("model", ["ngram", "lstm"])
def test_both_models_have_a_logit_for_each_character(tff, model):
    settings = _settings.load("text", None, [f'text.model="{model}"'], smoke=True)
    spec = TextSettings.from_dict(settings["text"]).build()
    assert spec.model.output_shape == (None, 40, 78)


@pytest.mark.heavy
def test_a_prediction_sees_the_context_and_nothing_after_it(tff):
    from models import ngram

    model = ngram.build(vocabulary=9, length=8, context=3, units=5).model
    x = np.arange(8)[None] % 9
    before = np.asarray(model(x))
    for place in range(8):
        changed = x.copy()
        changed[0, place] = 8
        seen = np.abs(np.asarray(model(changed)) - before)[0].max(axis=-1) > 0
        assert np.flatnonzero(seen).tolist() == [p for p in range(8) if 0 <= p - place < 3]
