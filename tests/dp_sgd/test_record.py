"""Record-level privacy: what it costs at each silo, and training under it from end to end."""

from __future__ import annotations

import dataclasses
import json
import math

import keras
import numpy as np
import pytest

import tff_dp
from tests.support import oracles
from tests.support.silos import linear, mechanism
from tff_dp import data, execution
from tff_dp.accounting import RecordRound, Round, quick_epsilon, spend
from tff_dp.config import Config
from tff_dp.errors import AccountingError, ArgumentError, DataError
from tff_dp.ledger import Ledger, replay
from tff_dp.mechanisms import GaussianMechanism
from tff_dp.sampling import Adjacency, FixedSizeSampler, FullParticipation, PoissonSampler

AOR, REPLACE, ZERO_OUT = Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE, Adjacency.ZERO_OUT


def a_plan(records=(200, 400, 900), rounds=100, adjacency=None, sampler=None, **changes):
    return tff_dp.PrivacyPlan(
        unit="record",
        mechanism=mechanism(**changes),
        records=records,
        rounds=rounds,
        delta=1e-5,
        adjacency=adjacency,
        sampler=sampler,
    )


# --- Accounting -----------------------------------------------------------------------------------

# Of the literature and of other libraries (docs/privacy.md): rate and number of steps as given.
GOLDENS = [
    # records, batch size, z, rounds, local steps, adjacency: RDP, PLD, exact
    ((200, 400, 900), 2, 1.0, 100, 10, AOR, 2.101365, 1.828244, None),  # q = .01, 1000 steps
    ((900, 200, 400), 2, 1.0, 1000, 1, ZERO_OUT, 2.101365, 1.828244, None),
    ((200, 400, 900), 2, 1.0, 100, 10, REPLACE, None, 2.843446, None),
    ((100, 101), 4, 1.5, 250, 9, AOR, 7.32911117, 6.768787, None),  # q = .04, 2250 steps
    ((400,), 1, 1.3, 1000, 6, AOR, 0.7242234, 0.640111, None),  # q = .0025, 6000 steps
    ((50, 900), 50, 10.0, 10, 10, AOR, 4.728507, None, 4.377178),  # all records, 100 steps
    ((50, 900), 50, 10.0, 10, 10, REPLACE, 9.9973, None, 9.997256),
]


@pytest.mark.parametrize("row", GOLDENS)
def test_the_worst_silo_has_the_golden_epsilon_of_its_rate_and_steps(row):
    records, batch_size, z, rounds, steps, adjacency, rdp, pld, exact = row
    changes = {"noise_multiplier": z, "batch_size": batch_size, "local_steps": steps}
    plan = a_plan(records, rounds, adjacency, **changes)
    plan = dataclasses.replace(plan, max_dimension=1)  # next to nothing is charged for arithmetic
    report = plan.epsilon()
    assert (report.rounds, report.adjacency) == (rounds, adjacency)
    for name, golden in (("pld", pld), ("exact", exact)):
        assert report.values.get(name) == (golden and pytest.approx(golden, rel=1e-6))
    if adjacency is not REPLACE:
        assert report.values["rdp"] == pytest.approx(rdp, rel=5e-5)  # Opacus has other orders
    smallest = records.index(min(records))
    assert plan.epsilon_by_client()[smallest].epsilon == report.epsilon
    assert plan.quick_epsilon(rounds) >= report.epsilon


def test_each_silo_has_the_epsilon_of_its_own_rate_and_none_is_above_the_worst():
    plan = a_plan((100, 300, 150), rounds=20, batch_size=3, local_steps=5)
    reports = plan.epsilon_by_client()
    for report, count in zip(reports, plan.records, strict=True):
        oracle = oracles.composed_epsilon(3 / count, 1.0, 100, 1e-5, replace=False)
        assert report.epsilon == pytest.approx(oracle, rel=2e-3)
        assert report.rounds == 20
    assert plan.epsilon() == reports[0] == max(reports, key=lambda report: report.epsilon)
    assert reports[1].epsilon < reports[2].epsilon < reports[0].epsilon
    half = plan.epsilon_by_client(10)
    assert all(a.epsilon < b.epsilon for a, b in zip(half, reports, strict=True))


def test_a_silo_whose_accountants_are_looser_is_not_reported_above_the_worst():
    # The smallest silo takes all its records, which has an exact formula; the other's rate is .998.
    plan = a_plan((500, 501), rounds=100, noise_multiplier=0.7, batch_size=500, local_steps=1)
    assert plan.epsilon().accountant == "exact"
    own = spend(plan.one_round().of_client(1), 100, 1e-5)
    assert own.epsilon > plan.epsilon().epsilon  # of RDP: the grid of PLD is too large
    assert plan.epsilon_by_client()[1].epsilon == plan.epsilon().epsilon
    # Under replace-one no accountant is left for the second silo's own rate.
    replace = a_plan((500, 501), 100, REPLACE, noise_multiplier=0.7, batch_size=500, local_steps=1)
    with pytest.raises(AccountingError):
        spend(replace.one_round().of_client(1), 100, 1e-5)
    assert replace.epsilon_by_client()[1].epsilon == replace.epsilon().epsilon


@dataclasses.dataclass(frozen=True, kw_only=True)
class AverageRate(RecordRound):
    """Defect: the rate of an average silo."""

    def equivalent(self, runs):
        step, count = super().equivalent(runs)
        mean = sum(self.records) / len(self.records)
        sampler = PoissonSampler(rate=self.batch_size / mean)
        return dataclasses.replace(step, sampler=sampler), count


@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledRate(RecordRound):
    """Defect: the rate of a batch among the records of all silos."""

    def equivalent(self, runs):
        step, count = super().equivalent(runs)
        sampler = PoissonSampler(rate=self.batch_size / sum(self.records))
        return dataclasses.replace(step, sampler=sampler), count


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundsForSteps(RecordRound):
    """Defect: a round counts once, however many steps it has."""

    def equivalent(self, runs):
        step, count = super().equivalent(runs)
        return step, count // self.local_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class AmplifiedBySilos(RecordRound):
    """Defect: who takes part is taken for another sampling of records."""

    def equivalent(self, runs):
        step, count = super().equivalent(runs)
        rate = step.sampler.rate * self.sampler.expected_clients(self.population) / self.population
        return dataclasses.replace(step, sampler=PoissonSampler(rate=rate)), count


def is_right(kind: type[RecordRound]) -> bool:
    """Whether a kind of round states what the worst silo's steps cost, by the golden value."""
    one_round = kind(
        noise_multiplier=1.0,
        sampler=PoissonSampler(rate=0.5),
        population=3,
        adjacency=AOR,
        batch_size=2,
        local_steps=10,
        records=(200, 400, 900),
    )
    values = [spend(one_round, 100, 1e-5).values, {"rdp": quick_epsilon(one_round, 100, 1e-5)}]
    goldens = {"rdp": 2.101365, "pld": 1.828244}
    return all(value >= goldens[name] * (1 - 1e-6) for v in values for name, value in v.items())


def test_planted_defects_of_the_accounting_are_caught():
    assert is_right(RecordRound)
    for defect in (AverageRate, PooledRate, RoundsForSteps, AmplifiedBySilos):
        assert not is_right(defect), defect.__doc__


@pytest.mark.parametrize(
    "sampler", [PoissonSampler(rate=0.3), FixedSizeSampler(size=1), FullParticipation()]
)
def test_who_takes_part_amplifies_nothing(sampler):
    report = a_plan(rounds=20, sampler=sampler).epsilon()
    assert report.epsilon == a_plan(rounds=20).epsilon().epsilon
    cohort = tff_dp.PrivacyPlan(
        unit="record", mechanism=mechanism(), records=(200, 400), rounds=20, delta=1e-5, cohort=1
    )
    assert cohort.sampler == PoissonSampler(rate=0.5)
    assert cohort.epsilon().epsilon == report.epsilon


def test_rounds_that_are_run_again_cost_again():
    plan = a_plan()
    again = plan.epsilon((range(1, 11), range(6, 21)))
    assert again.epsilon == plan.epsilon(25).epsilon
    assert again.rounds == 25


def test_a_calibrated_plan_keeps_every_silo_within_the_target():
    plan = a_plan(rounds=50).calibrated(1.0)
    epsilons = [report.epsilon for report in plan.epsilon_by_client()]
    assert max(epsilons) == plan.epsilon().epsilon <= 1.0
    assert plan.epsilon().epsilon == pytest.approx(1.0, rel=5e-3)
    assert plan.mechanism == mechanism(noise_multiplier=plan.mechanism.noise_multiplier)


def test_the_event_is_that_of_the_worst_silo_s_steps():
    event = a_plan().event()
    assert event.count == 1000
    assert event.event.sampling_probability == 0.01
    assert event.event.event.noise_multiplier == 1.0


def test_clients_under_a_plan_for_clients_all_have_the_same_epsilon():
    plan = tff_dp.PrivacyPlan(
        mechanism=GaussianMechanism(clip_norm=1.0, noise_multiplier=10.0),
        population=3,
        sampler=FullParticipation(),
        rounds=5,
        delta=1e-5,
    )
    assert plan.epsilon_by_client() == (plan.epsilon(),) * 3


def test_rounds_and_plans_come_back_from_json():
    plan = a_plan(rounds=3)
    for config in (plan, plan.one_round(), plan.one_round().of_client(1)):
        assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert Round.from_dict(plan.one_round().to_dict()) == plan.one_round()
    assert plan.population == 3
    counts = np.array([200, 400, 900])  # as Clients.sizes gives them
    assert a_plan(counts, rounds=3) == plan


def test_the_ledger_charges_and_replays_steps_of_silos(tmp_path):
    path, plan = tmp_path / "ledger.jsonl", a_plan(rounds=30)
    with Ledger(path, plan) as book:
        book.charge(1, count=10)
        book.charge(10, count=5)  # round 10 again
        assert book.spent() == plan.epsilon(15) == replay(path)
    first = json.loads(path.read_bytes().splitlines()[1])
    assert first["event"] == {
        "type": "RecordRound",
        "noise_multiplier": 1.0,
        "batch_size": 2,
        "local_steps": 10,
        "records": [200, 400, 900],
    }
    with Ledger(path, plan) as book:
        assert book.charges == 15
    assert replay(path).epsilon == pytest.approx(
        oracles.composed_epsilon(0.01, 1.0, 150, 1e-5, replace=False), rel=2e-3
    )


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: mechanism(clip_norm=0), ("clip_norm=0", "[1e-10, 1e+10]")),
        (lambda: mechanism(noise_multiplier=-1), ("noise_multiplier=-1", "[0, 1e9]")),
        (lambda: mechanism(batch_size=0), ("batch_size=0", "[1, inf)")),
        (lambda: mechanism(batch_size=2.5), ("batch_size=2.5", "whole number")),
        (lambda: mechanism(local_steps=0), ("local_steps=0", "[1, inf)")),
        (lambda: a_plan(None), ("records=None", "one for each client", "clients.sizes")),
        (lambda: a_plan(()), ("records=()", "at least one")),
        (lambda: a_plan((200, 0)), ("records=0", "[1, inf)")),
        (lambda: a_plan((200, 1.5)), ("records=1.5", "whole number")),
        (lambda: a_plan("12"), ("records='12'",)),
        (lambda: a_plan((9, 2, 4), batch_size=3), ("batch_size=3", "[1, 2]", "Client 1 has 2")),
        (lambda: a_plan((200, 100_000)), ("delta=1e-05", "(0, 1e-05)", "100000 records")),
        (
            lambda: dataclasses.replace(a_plan(), population=4, sampler=FullParticipation()),
            ("records=(200, 400, 900)", "population=4"),
        ),
        (
            lambda: dataclasses.replace(a_plan(), unit="client", sampler=FullParticipation()),
            ("unit='client'", "RecordGaussianMechanism", "unit='record'"),
        ),
        (
            lambda: tff_dp.PrivacyPlan(
                unit="record",
                mechanism=GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
                records=(200, 400),
                rounds=5,
                delta=1e-5,
            ),
            ("unit='record'", "RecordGaussianMechanism"),
        ),
        (
            lambda: tff_dp.PrivacyPlan(
                mechanism=GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
                population=2,
                records=(200, 400),
                sampler=FullParticipation(),
                rounds=5,
                delta=1e-5,
            ),
            ("records=(200, 400)", "unit='client'", "leave it out"),
        ),
        (
            lambda: tff_dp.PrivacyPlan(
                mechanism=GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
                sampler=FullParticipation(),
                rounds=5,
                delta=1e-5,
            ),
            ("population=None", "[2, inf)"),
        ),
    ],
)
def test_what_has_no_meaning_is_refused_with_its_bound(make, parts):
    with pytest.raises(ArgumentError) as caught:
        make()
    for part in parts:
        assert part in str(caught.value)


def test_without_noise_epsilon_is_infinite_at_every_silo():
    plan = a_plan(noise_multiplier=0.0)
    assert [report.epsilon for report in plan.epsilon_by_client()] == [math.inf] * 3


# --- Training -------------------------------------------------------------------------------------

SIZES = (400, 1000, 300)


def hospitals(sizes=SIZES, seed=3) -> data.Clients:
    """Silos whose labels say on which side of a plane an example lies."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(sum(sizes), 4)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5, 1.5]) > 0).astype(np.float32)[:, None]
    offsets = np.cumsum([0, *sizes])
    ids = ["north", "east", "south"][: len(sizes)]
    return data.from_arrays(
        {name: (x[a:b], y[a:b]) for name, a, b in zip(ids, offsets, offsets[1:], strict=False)}
    )


def fitted(clients=None, plan=None, **changes):
    clients = clients or hospitals()
    plan = plan or a_plan(tuple(clients.sizes), 15, batch_size=30, local_steps=5)
    values = {
        "loss": keras.losses.BinaryCrossentropy(from_logits=True),
        "algorithm": tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.5)),
    }
    return tff_dp.fit(lambda: linear(4, bias=True), clients, privacy=plan, **(values | changes))


def accuracy(model) -> float:
    x, y = hospitals(seed=4).pooled()
    return float(((model.predict(x, verbose=0) > 0) == y).mean())


@pytest.mark.parametrize("strategy", ["call", "auto"])
def test_training_learns_at_a_moderate_epsilon_and_states_it_for_each_silo(tff, strategy, tmp_path):
    clients = hospitals()
    plan = a_plan(tuple(clients.sizes), 15, batch_size=30, local_steps=5).calibrated(3.0)
    path = tmp_path / "ledger.jsonl"
    with execution.fast(strategy):
        result = fitted(clients, plan, ledger=path)
    assert accuracy(result.model) > 0.9  # a coin gets 0.5
    assert 2.9 < result.epsilon == plan.epsilon().epsilon <= 3.0
    assert result.spent == plan.epsilon() == replay(path)
    assert dict(result.spent_by_client) == dict(
        zip(clients.ids, plan.epsilon_by_client(), strict=True)
    )
    south, east = (result.spent_by_client[name].epsilon for name in ("south", "east"))
    assert east < south == result.epsilon
    assert all(record.metrics is None for record in result.history)
    assert [record.epsilon for record in result.history] == sorted(
        min(plan.quick_epsilon(t), result.epsilon) for t in range(1, 16)
    )
    text = result.statement()
    for part in ("record-level", "worst client, south", "east ", "north ", "15 rounds", "public"):
        assert part in text
    assert "seed" not in text


def test_a_seed_for_cohorts_takes_nothing_from_records(tff):
    clients = hospitals()
    plan = a_plan(tuple(clients.sizes), 2, batch_size=30, sampler=PoissonSampler(rate=0.5))
    with execution.fast(xla=False):
        result = fitted(clients, plan, seed=1)
    assert "seed" not in result.statement()
    assert result.epsilon == plan.epsilon().epsilon
    with execution.fast(xla=False, seed=1):
        seeded = fitted(clients, plan)
    assert math.isinf(seeded.epsilon)
    assert seeded.spent_by_client is None


def test_rounds_without_clients_leave_the_model_and_are_charged(tff):
    clients = hospitals()
    plan = a_plan(tuple(clients.sizes), 6, batch_size=30, sampler=PoissonSampler(rate=0.02))
    sizes = [len(plan.draw_cohort(t, population=3, seed=2)) for t in range(1, 7)]
    assert sum(sizes) == 0  # else the test shows something else
    result = fitted(clients, plan, seed=2)
    np.testing.assert_array_equal(result.model.get_weights()[0], 0)
    assert result.epsilon == plan.epsilon(6).epsilon


def test_a_budget_stops_before_the_worst_silo_exceeds_it(tff, tmp_path):
    clients = hospitals((40, 30))
    plan = a_plan((40, 30), 20, batch_size=3, local_steps=2, noise_multiplier=3.0)
    budget = plan.epsilon(4).epsilon
    result = fitted(clients, plan, max_epsilon=budget, ledger=tmp_path / "ledger.jsonl")
    assert len(result.history) == 4
    assert result.spent_by_client["east"].epsilon == result.epsilon <= budget
    assert result.stopped


def test_without_noise_the_statement_claims_nothing(tff):
    clients = hospitals((20, 10))
    plan = a_plan((20, 10), 1, batch_size=5, noise_multiplier=0.0)
    result = fitted(clients, plan)
    assert math.isinf(result.epsilon)
    assert "no guarantee" in result.statement()


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"epochs": 2}, ArgumentError, r"epochs=2.*expected 1.*local_steps"),
        ({"batch_size": 32}, ArgumentError, r"batch_size=32 is not that of the mechanism, 30"),
        ({"batch_size": 0}, ArgumentError, r"batch_size=0.*\[1, inf\)"),
        ({"release_metrics": True}, ArgumentError, r"release_metrics=True.*no noise covers"),
        ({"rounds": 16}, AccountingError, r"rounds=16.*at most the 15"),
        (
            {"plan": a_plan((400, 1000, 301), 15, batch_size=30)},
            DataError,
            r"records=\(400, 1000, 301\).*client 2 has 300 records.*says 301\. Make .*=tuple",
        ),
        (
            {"plan": a_plan((400, 1000), 15, batch_size=30)},
            ArgumentError,
            r"population=2 .*number of clients, 3",
        ),
    ],
)
def test_arguments_that_would_break_the_accounting_are_refused(tff, changes, kind, message):
    with pytest.raises(kind, match=message):
        fitted(**changes)


def test_a_mismatch_of_many_records_is_told_in_a_few_words():
    counts = tuple(range(100, 260))
    plan = a_plan(counts, batch_size=5)
    with pytest.raises(DataError) as caught:
        plan.check_records([99, *counts[1:-1], 7])
    assert str(caught.value) == (
        "records=(100, 101, 102, ...) (160 in all) of the privacy plan does not fit the data: client 0 "
        "has 99 records, and the plan says 100, and 1 more differ. Make the plan with "
        "records=tuple(clients.sizes)."
    )
    plan.check_records(counts)


def test_the_example_of_the_documentation_makes_the_plan_that_it_says():
    plan = tff_dp.PrivacyPlan(
        unit="record",
        mechanism=mechanism(batch_size=32),
        records=(400, 1000, 300),
        rounds=50,
        delta=1e-5,
    ).calibrated(target_epsilon=3.0)
    assert plan.epsilon().epsilon <= 3.0
    assert [report.epsilon <= 3.0 for report in plan.epsilon_by_client()] == [True] * 3
