"""The experiments on images: their tuning, their mechanisms, and their small sizes."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import linalg

from experiments import __main__ as command
from experiments import _image_mechanisms, _images, _settings, _trials
from experiments import images_algorithms as algorithms
from experiments import images_mechanisms as mechanisms
from experiments._image_mechanisms import KINDS, Population
from experiments._image_settings import MechanismTuning, PopulationSettings, PrivacySettings
from experiments.data import fashion
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms.strategy import banded_strategy

POPULATION = Population(clients=600, cohort=60, rounds=13, delta=1e-4, dimension=50)


@pytest.fixture
def digits(monkeypatch, tmp_path):
    """scikit-learn's digits in place of the images, which take seconds to read."""
    monkeypatch.setattr(fashion, "FOLDER", tmp_path / "missing")
    _images.load.cache_clear()
    yield
    _images.load.cache_clear()


# The mechanisms.


@pytest.mark.parametrize("name", KINDS)
def test_every_plan_has_the_smallest_noise_within_its_epsilon_and_the_bound_that_was_given(name):
    plan = _image_mechanisms.plan_of(name, POPULATION, 4.0, 0.25)
    assert 0.99 * 4.0 < plan.epsilon().epsilon <= 4.0
    assert (plan.population, plan.rounds, plan.delta) == (600, 13, 1e-4)
    assert plan.clients_per_round == pytest.approx(60)
    field = "target_quantile" if KINDS[name].bound == "quantile" else "clip_norm"
    assert getattr(plan.mechanism, field) == 0.25
    other = _image_mechanisms.plan_of(name, POPULATION, 4.0, 0.5)
    assert other.mechanism.noise_multiplier == plan.mechanism.noise_multiplier


def running_sums(name, plan) -> float:
    """The noise of running sums, from the covariance of all rounds' noise, written out as a matrix."""
    rounds, mechanism = plan.rounds, plan.mechanism
    sums = np.tril(np.ones([rounds, rounds]))
    of_a_round = {
        "Gaussian, adaptive": lambda: mechanism.value_noise_multiplier(plan.clients_per_round),
        "Laplace": lambda: math.sqrt(2) * mechanism.noise_multiplier,
        "local Gaussian": lambda: math.sqrt(plan.clients_per_round) * mechanism.noise_multiplier,
    }.get(name, lambda: mechanism.noise_multiplier)()
    factor = of_a_round * sums
    if name.startswith("banded"):
        strategy = np.zeros(rounds)
        strategy[: mechanism.bands] = banded_strategy(mechanism.bands, rounds)
        factor = factor @ np.linalg.inv(linalg.toeplitz(strategy, np.zeros(rounds)))
    return float(np.sqrt(np.mean(np.sum(factor**2, axis=1)))) / plan.clients_per_round


@pytest.mark.parametrize("name", [name for name in KINDS if name != "tree"])
def test_the_noise_in_the_model_is_that_of_the_covariance_of_all_rounds(name):
    plan = _image_mechanisms.plan_of(name, POPULATION, 4.0, 0.25)
    assert _image_mechanisms.noise_of(name, plan) == pytest.approx(running_sums(name, plan))


@pytest.mark.parametrize("rounds", [1, 2, 3, 7, 8, 13])
def test_the_noise_of_a_tree_is_that_of_least_squares_within_each_subtree(rounds):
    def of_subtree(leaves: int) -> float:
        """The variance of the best estimate of a sum from all nodes of its tree, each with noise 1."""
        nodes = [
            [float(start <= leaf < start + size) for leaf in range(leaves)]
            for size in (1 << h for h in range(leaves.bit_length()))
            for start in range(0, leaves, size)
        ]
        covariance = np.linalg.inv(np.array(nodes).T @ np.array(nodes))
        return float(covariance.sum())

    expected = [
        sum(of_subtree(1 << h) for h in range(t.bit_length()) if t >> h & 1)
        for t in range(1, rounds + 1)
    ]
    assert _image_mechanisms.tree_error(rounds) ** 2 == pytest.approx(np.mean(expected))
    plan = _image_mechanisms.plan_of("tree", POPULATION, 4.0, 0.25)
    found = _image_mechanisms.noise_of("tree", plan)
    assert found == pytest.approx(
        plan.mechanism.noise_multiplier * _image_mechanisms.tree_error(13) / 60
    )


@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_the_bands_of_sampled_cohorts_are_those_of_the_least_noise(epsilon):
    chosen = _image_mechanisms.plan_of("banded, sampled", POPULATION, epsilon, 0.25)
    noise = {
        bands: running_sums(
            "banded",
            _image_mechanisms._sampled_plan(POPULATION, bands, 0.25, 1.0).calibrated(epsilon),
        )
        for bands in (2, 5, 10)  # 10 rounds for all clients to have their turn
    }
    assert chosen.mechanism.bands == min(noise, key=noise.__getitem__)
    assert chosen.sampler.rate == pytest.approx(chosen.mechanism.bands / 10)


def test_few_bands_are_best_for_much_noise_and_many_for_little():
    bands = [
        _image_mechanisms.plan_of("banded, sampled", POPULATION, epsilon, 0.25).mechanism.bands
        for epsilon in (0.5, 8.0)
    ]
    assert bands[0] < bands[1]


# The tuning.


def row(name: str, tuned_as: str, values=(1, 2, 3)) -> _trials.Row:
    return _trials.Row(
        setting={"row": name},
        tuned_as={"row": tuned_as},
        candidates=[{"value": value} for value in values],
    )


class Training:
    """A training that is the better the nearer its value is to 2, and notes what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, setting, candidate, seed, trial, folder):
        self.asked.append((setting["row"], candidate["value"], seed, trial))
        return {"accuracy": -abs(candidate["value"] - 2) + seed / 100}


def tuned(out, training, rows):
    return _trials.run(
        rows, training, tuning_seed=0, seeds=[1, 2], settings={"s": {"a": 1}}, out=out
    )


def test_the_best_candidate_of_the_trials_is_trained_with_other_seeds(tmp_path):
    training, rows = Training(), [row("a", "t"), row("b", "t"), row("c", "c", (4, 3, 9))]
    found = tuned(tmp_path, training, rows)
    trials = [each for each in training.asked if each[3]]
    assert trials == [
        *(("t", value, 0, True) for value in (1, 2, 3)),
        *(("c", value, 0, True) for value in (4, 3, 9)),
    ]
    finals = training.asked[len(trials) :]
    assert finals == [
        (name, value, seed, False)
        for name, value in (("a", 2), ("b", 2), ("c", 3))
        for seed in (1, 2)
    ]
    assert [(r["row"], r["value"], r["seed"]) for r in found.finished.rows] == [
        each[:3] for each in finals
    ]
    assert len(found.notes["trials"]) == 6
    found.save()
    table = pd.read_csv(tmp_path / "trials.csv")
    assert table["accuracy"].tolist() == [-1, 0, -1, -2, -1, -7]
    # What is finished is not done again, and says the same.
    again = Training()
    assert tuned(tmp_path, again, rows).finished.rows == found.finished.rows
    assert again.asked == []


def test_the_first_of_equal_candidates_is_taken():
    mine = row("a", "a", (3, 1))
    scores = {(("row", "a"), ("value", v)): {"accuracy": 0.5} for v in (1, 3)}
    assert _trials.best_of(mine, scores) == {"value": 3}


@pytest.mark.parametrize(
    ("rows", "seeds", "message"),
    [
        ([row("a", "a"), row("b", "b", (1, 2))], [1], r"candidates are \[2, 3\]"),
        ([row("a", "a", ())], [1], r"candidates are \[0\]"),
        ([], [1], r"candidates are \[\]"),
        ([row("a", "a")], [1, 0], r"tuning\.seed=0 is one of seeds=\[1, 0\]"),
        ([row("a", "a")], [], r"seeds=\[\]"),
    ],
)
def test_unequal_effort_and_tuning_on_what_is_reported_are_refused(rows, seeds, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        _trials.run(
            rows, Training(), tuning_seed=0, seeds=seeds, settings={"s": {}}, out=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("smoke", [False, True])
def test_the_rows_of_both_experiments_get_the_same_number_of_trials(smoke):
    settings = _settings.load("images_mechanisms", smoke=smoke)
    tuning = MechanismTuning.from_dict(settings["tuning"])
    counts = {len(tuning.candidates(kind)) for kind in (None, *KINDS)}
    of = algorithms.AlgorithmTuning.from_dict(
        _settings.load("images_algorithms", smoke=smoke)["tuning"]
    )
    assert len(counts) == 1
    assert len({len(of.candidates(name)) for name in algorithms.ALGORITHMS}) == 1


def test_a_target_takes_the_trials_at_the_nearest_epsilon_by_ratio():
    settings = _settings.load("images_mechanisms")
    tuning = MechanismTuning.from_dict(settings["tuning"])
    assert [tuning.nearest(epsilon) for epsilon in (1.0, 2.0, 4.0, 8.0)] == [1.4, 1.4, 5.6, 5.6]
    rows = mechanisms.rows_of(
        PopulationSettings.from_dict(settings["small"]),
        PrivacySettings.from_dict(settings["privacy"]),
        tuning,
    )
    names = settings["small"]["mechanisms"]
    assert [row.setting["mechanism"] for row in rows] == [
        mechanisms.NONE, mechanisms.CLIPPED, *(name for name in names for _ in range(4))
    ]  # fmt: skip
    assert len({tuple(row.setting.items()) for row in rows}) == len(rows)
    assert len({tuple(row.tuned_as.items()) for row in rows}) == 2 + 2 * len(names)
    for size in ("small", "large"):  # everything is trained, or its noise is computed
        assert {*settings[size]["mechanisms"], *settings[size]["by_formula"]} == KINDS.keys()


# The data.


def test_trials_are_scored_on_training_images_and_results_on_test_images(digits):
    whole = fashion.load(seed=3, clients=10)
    tuning = fashion.load(seed=3, clients=10, validation=0.25)
    count = whole.train.num_examples
    assert len(tuning.test_y) == round(0.25 * count)
    assert tuning.train.num_examples == count - len(tuning.test_y)

    def sorted_rows(*images):
        flat = np.concatenate([np.asarray(each).reshape(len(each), -1) for each in images])
        return flat[np.lexsort(flat.T)]

    np.testing.assert_array_equal(
        sorted_rows(tuning.train.pooled()[0], tuning.test_x), sorted_rows(whole.train.pooled()[0])
    )
    with pytest.raises(ArgumentError, match=r"validation=1\.0 .*\(0, 1\)"):
        fashion.load(seed=3, clients=10, validation=1.0)


def test_pixels_are_averages_over_squares(digits):
    whole, pooled = (fashion.load(seed=3, clients=10, pool=pool) for pool in (1, 4))
    expected = [
        [image[r : r + 4, c : c + 4].mean() for r in (0, 4) for c in (0, 4)]
        for image in whole.test_x
    ]
    assert pooled.test_x.shape[1:] == (2, 2, 1)
    assert fashion.pixels(4) == 4
    np.testing.assert_allclose(pooled.test_x.reshape(-1, 4), expected, rtol=1e-6)
    np.testing.assert_array_equal(pooled.train.sizes, whole.train.sizes)
    with pytest.raises(ArgumentError, match=r"pool=3 .*a divisor of the images' side, 8"):
        fashion.load(seed=3, clients=10, pool=3)


def test_models_get_the_same_images_as_rows_of_scaled_pixels(digits):
    split = fashion.load(seed=3, clients=10, pool=2, alpha=0.5, examples=300)
    task = _images.load(clients=10, alpha=0.5, seed=3, pool=2, examples=300, validation=None)
    assert task.pixels == fashion.pixels(2) == 16
    np.testing.assert_allclose(0.3 + 0.3 * task.x, split.test_x.reshape(-1, 16), atol=1e-6)
    for client in range(10):
        (x, y), (images, labels) = task.train.client(client), split.train.client(client)
        np.testing.assert_allclose(0.3 + 0.3 * x, images.reshape(-1, 16), atol=1e-6)
        np.testing.assert_array_equal(y, labels)
    assert task.train.num_examples == 300


def test_accuracy_is_the_share_of_right_classes():
    task = _images.Task(train=None, x=np.eye(4, 10), y=np.array([0, 1, 2, 9]), source="made up")
    assert task.accuracy(lambda x, training: x) == 0.75


# The experiments.


@pytest.mark.slow
@pytest.mark.heavy
def test_the_mechanisms_run_at_their_small_size_within_their_targets(tff, digits, tmp_path):
    assert command.main(["images_mechanisms", "--smoke", "--out", str(tmp_path)]) == 0
    rows = pd.read_csv(tmp_path / "cells.csv")
    assert set(rows["data"]) == {"digits"}
    private = rows[rows["epsilon"].notna()]
    assert (private["epsilon spent"] <= private["epsilon"]).all()
    assert (private["epsilon spent"] > 0.99 * private["epsilon"]).all()
    assert (rows[rows["epsilon"].isna()]["epsilon spent"] == math.inf).all()
    assert private["noise in the model"].gt(0).all()
    assert rows["accuracy"].between(0, 1).all()
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["trials"]) == len(pd.read_csv(tmp_path / "trials.csv")) == 3
    assert {cell["seed"] for cell in results["cells"]} == {1}
    noise = pd.read_csv(tmp_path / "noise.csv").set_index(["clients", "mechanism"])
    assert list(noise.index) == [(40, "banded, sampled"), (40, "Laplace")]
    for row in private.itertuples():
        found = noise.loc[(row.clients, row.mechanism), "noise in the model"]
        assert found == pytest.approx(private.loc[row.Index, "noise in the model"])
    for name in ("images_mechanisms.png", "others.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.heavy
def test_the_algorithms_run_at_their_small_size(tff, digits, tmp_path):
    assert command.main(["images_algorithms", "--smoke", "--out", str(tmp_path)]) == 0
    rows = pd.read_csv(tmp_path / "cells.csv")
    assert rows["labels"].tolist() == ["Dirichlet 0.5", "iid"]
    assert set(rows["algorithm"]) == {"FedYogi"}
    assert rows["accuracy"].between(0, 1).all()
    assert (tmp_path / "images_algorithms.png").read_bytes().startswith(b"\x89PNG")


def test_algorithms_are_what_their_names_say():
    import tff_dp

    made = {
        name: algorithms.algorithm_of(name, {"strength": 0.1, "server rate": 1.0})
        for name in algorithms.ALGORITHMS
    }
    assert type(made["FedAvg"]) is tff_dp.FedAvg
    assert made["FedProx"].proximal_strength == 0.1
    assert isinstance(made["FedAdam"].server_optimizer, tff_dp.Adam)
    assert isinstance(made["FedYogi"].server_optimizer, tff_dp.Yogi)


BAD = [
    ("images_mechanisms", 'small.mechanisms=["gauss"]', "mechanisms and by_formula have 'gauss'"),
    ("images_mechanisms", "privacy.cohort=21", "cohort=21 is outside its bound"),
    ("images_mechanisms", "privacy.alpha=0.0", "alpha=0.0 is outside its bound"),
    ("images_mechanisms", "tuning.seed=1", "tuning.seed=1 is one of seeds=[1]"),
    ("images_mechanisms", "tuning.epsilons=[]", "epsilons=0 is outside its bound"),
    ("images_mechanisms", "small.delta=0.5", "delta=0.5 is outside its bound"),
    ("images_mechanisms", "tuning.clip_norms=[0.1, 0.2]", "candidates are [1, 2]"),
    ("images_mechanisms", "training.rounds=0", "rounds=0 is outside its bound"),
    ("images_algorithms", 'federation.algorithms=["Adam"]', "algorithms has 'Adam'"),
    ("images_algorithms", "federation.cohort=41", "cohort=41 is outside its bound"),
    ("images_algorithms", "tuning.client_rates=[-1.0]", "client_rates=-1.0 is outside its bound"),
    ("images_algorithms", "tuning.adaptive_server_rates=[]", "candidates are [0]"),
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
