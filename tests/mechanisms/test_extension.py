"""Mechanisms and samplers from outside of the package: what works, and what is refused by name."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import ClassVar

import dp_accounting
import numpy as np
import pytest

import tff_dp
from tests.support import toys
from tests.support.toys import PartsSampler, RepeatedMechanism, RepeatedRound
from tff_dp import accounting, mechanisms
from tff_dp._registry import Registry
from tff_dp.accounting import (
    GaussianRound,
    IndependentRound,
    RecordRound,
    Round,
    accountants,
    round_of,
)
from tff_dp.accounting.correlated import BandedRound
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.mechanisms import (
    DistributedSkellamMechanism,
    GaussianMechanism,
    Mechanism,
    RecordGaussianMechanism,
)
from tff_dp.sampling import Adjacency, FullParticipation, PoissonSampler, Sampler

DELTA = 1e-5
SIZE = "noise: standard deviation"


def a_plan(mechanism: Mechanism | None = None, **changes: object) -> tff_dp.PrivacyPlan:
    arguments = {
        "mechanism": mechanism or toy(),
        "population": 1000,
        "sampler": FullParticipation(),
        "rounds": 10,
        "delta": DELTA,
    }
    return tff_dp.PrivacyPlan(**(arguments | changes))


def toy(z: float = 8.0, releases: int = 3) -> RepeatedMechanism:
    return RepeatedMechanism(clip_norm=0.5, noise_multiplier=z, releases=releases)


# --- A mechanism: accounting ----------------------------------------------------------------------


@pytest.mark.parametrize("adjacency", list(Adjacency))
def test_epsilon_is_valid_and_near_the_exact_one(adjacency):
    plan = a_plan(adjacency=adjacency)
    report = accounting.spend(plan.one_round(), 10, DELTA)
    shift = 2 if adjacency is Adjacency.REPLACE_ONE else 1
    exact = dp_accounting.get_epsilon_gaussian(8.0 / math.sqrt(30) / shift, DELTA)
    assert set(report.values) == {"rdp", "zcdp"}
    assert all(exact < value < 1.3 * exact for value in report.values.values())
    # Without the releases, or without doubling, it would be below.
    assert report.epsilon > exact > dp_accounting.get_epsilon_gaussian(8.0 / math.sqrt(10), DELTA)


def test_its_draws_are_charged_for():
    charged = [a_plan(toy(releases=r), max_dimension=100).arithmetic for r in (1, 5)]
    assert [each.draws_per_round for each in charged] == [200, 1000]
    ideal = accounting.spend(a_plan().one_round(), 10, DELTA).epsilon
    assert a_plan().epsilon().epsilon > ideal


def test_it_is_calibrated_and_counted_with_other_plans():
    plan = a_plan().calibrated(2.0)
    assert 1.99 < plan.epsilon().epsilon <= 2.0
    assert type(plan.mechanism) is RepeatedMechanism
    gaussian = a_plan(GaussianMechanism(clip_norm=0.5, noise_multiplier=8.0))
    charges = tff_dp.Charges().with_run(a_plan(), 10).with_run(gaussian, 10)
    exact = dp_accounting.get_epsilon_gaussian(8.0 / math.sqrt(40), DELTA)
    assert exact < charges.spent(DELTA).epsilon < 1.3 * exact


def test_a_plan_a_ledger_and_charges_are_read_back(tmp_path):
    plan = a_plan(sampler=PartsSampler(parts=4))
    values = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert values["mechanism"]["type"] == "tests.support.toys:RepeatedMechanism"
    assert tff_dp.PrivacyPlan.from_dict(values) == plan
    path = tmp_path / "ledger.jsonl"
    with tff_dp.Ledger(path, plan) as ledger:
        for number in (1, 2, 3):
            ledger.charge(number)
        spent = ledger.spent()
    assert tff_dp.ledger.replay(path) == spent
    with tff_dp.Ledger(path, plan) as ledger:
        assert ledger.charges == 3
    charges = tff_dp.Charges().with_run(plan, 3)
    assert type(charges).from_dict(json.loads(json.dumps(charges.to_dict()))) == charges


def test_a_plan_of_a_module_that_is_not_imported_is_refused_with_its_name():
    program = (
        "import json, sys, tff_dp\n"
        "try: tff_dp.PrivacyPlan.from_dict(json.loads(sys.argv[1]))\n"
        "except tff_dp.ArgumentError as error: print(error)\n"
        "import tests.support.toys\n"
        "print(tff_dp.PrivacyPlan.from_dict(json.loads(sys.argv[1])).mechanism.releases,\n"
        "  [m for m in ('tensorflow', 'keras') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(a_plan().to_dict())],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    refused, read = done.stdout.splitlines()
    assert "type='tests.support.toys:RepeatedMechanism' is unknown here" in refused
    assert "Import tests.support.toys first" in refused
    assert read == "3 []"  # and registering imports no TensorFlow


# --- A mechanism: training and its self-test ------------------------------------------------------


@pytest.fixture(scope="module")
def clients():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    return tff_dp.data.Clients(x, x @ np.float32([[1], [2], [3]]), np.arange(0, 41, 2))


@pytest.mark.heavy
def test_it_trains_and_what_is_spent_is_in_the_ledger(tff, clients, tmp_path):
    import keras

    from tff_dp.training import kept_processes

    path = tmp_path / "ledger.jsonl"
    plan = a_plan(toy(z=1.0), population=20, rounds=3, sampler=PartsSampler(), delta=1e-3)
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    kept = list(kept_processes._kept)
    result = tff_dp.fit(model, clients, loss="mse", privacy=plan, rounds=2, ledger=path, seed=3)
    assert len(result.history) == 2
    assert result.epsilon == plan.epsilon(2).epsilon == tff_dp.ledger.replay(path).epsilon
    moved = [a - b for a, b in zip(result.model.get_weights(), model.get_weights(), strict=True)]
    assert all(np.all(np.isfinite(part)) and np.any(part) for part in moved)
    # What a class of somebody's own does is not known by its fields: its process is not kept.
    assert list(kept_processes._kept) == kept


def checked(plan: tff_dp.PrivacyPlan, *parts: str) -> tff_dp.SelfTestReport:
    """Parts of the self-test, of one algorithm and on fewer coordinates: enough for half the noise."""
    from tff_dp import execution
    from tff_dp.selftest import suite

    with execution.fast(xla=False):
        return suite.checks_of(plan, algorithms=("FedAvg",), samples=4000, parts=parts)


@pytest.mark.slow
@pytest.mark.heavy
def test_it_passes_its_self_test(tff):
    from tff_dp.selftest import suite

    report = checked(a_plan(sampler=None, cohort=20), *suite.PARTS)
    assert report.passed, report.text()
    assert not report.untested


@dataclasses.dataclass(frozen=True, kw_only=True)
class HalfTheNoise(RepeatedMechanism):
    """A defect: each release has half of the noise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneDraw(RepeatedMechanism):
    """A defect: all releases have the same noise, and their mean has more than is stated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwiceTheNorm(RepeatedMechanism):
    """A defect: updates are clipped to twice the norm."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherNorm(RepeatedMechanism):
    """A defect: updates are clipped in L2 norm, which bounds the noised sum but not what is stated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnBits(RepeatedMechanism):
    """A defect: noise that is not of `tff_dp.noise`, whose bits nobody vouches for."""


def _defective(mechanism, m, rounds):
    import tensorflow as tf

    from tff_dp import aggregation, noise

    kind, z, clip_norm = type(mechanism), mechanism.noise_multiplier, mechanism.clip_norm
    releases = mechanism.releases
    bound = noise.clip_l2 if kind is OtherNorm else noise.clip_l1
    times = 2 if kind is TwiceTheNorm else 1

    def clip(update, grid):
        parts = bound(update, times * clip_norm, grid).parts  # in steps of that norm
        return [releases * times * part for part in parts]

    def draw(shape, stddev):
        if kind is OneDraw:
            return releases * noise.gaussian(shape, stddev)
        if kind is OwnBits:
            scale = stddev * math.sqrt(releases)
            return tf.cast(tf.random.normal(shape, 0.0, scale, tf.float64), tf.int64)
        half = 2 if kind is HalfTheNoise else 1
        return sum(noise.gaussian(shape, stddev / half) for _ in range(releases))

    return aggregation.independent_noise(
        noise_multiplier=z,
        clip_norm=clip_norm,
        clients_per_round=releases * m,
        clip=clip,
        draw=draw,
    )


for _kind in (HalfTheNoise, OneDraw, TwiceTheNorm, OtherNorm, OwnBits):
    accounting.register_round(
        _kind, RepeatedRound, fields=["releases"], draws_per_coordinate=lambda m, _: m.releases
    )
    mechanisms.register_aggregator(_kind)(_defective)
    mechanisms.register_law(_kind)(toys.law)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("kind", "part", "caught"),
    [
        (HalfTheNoise, "noise", SIZE),
        (OneDraw, "noise", SIZE),
        (TwiceTheNorm, "influence", "sensitivity: norm 1e9"),
        (OtherNorm, "influence", "sensitivity: norm 1e9"),
        (OwnBits, "provenance", "provenance: the noise's random bits are known to nobody"),
    ],
)
def test_its_planted_defects_are_caught(tff, kind, part, caught):
    plan = a_plan(kind(clip_norm=0.5, noise_multiplier=8.0, releases=3), sampler=None, cohort=20)
    report = checked(plan, part)
    assert caught in report.failures, report.text()


# --- A mechanism: what is missing is refused by name ----------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heir(GaussianMechanism):
    """A subclass that has registered nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grandchild(RepeatedMechanism):
    """A subclass of a user's mechanism that has registered nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accounted(RepeatedMechanism):
    """A subclass that has its accounting alone."""


accounting.register_round(Accounted, RepeatedRound, fields=["releases"], draws_per_coordinate=3)


@pytest.mark.parametrize("kind", [Heir, Grandchild])
def test_a_subclass_inherits_no_accounting(kind):
    parent = kind.__mro__[1].__name__
    with pytest.raises(ArgumentError) as caught:
        a_plan(kind(clip_norm=1.0, noise_multiplier=8.0))
    for part in (
        f"mechanism={kind.__name__}(", "has no accounting", f"That of {parent} is not taken",
        "tff_dp.accounting.register_round adds it",
    ):  # fmt: skip
        assert part in str(caught.value)


@pytest.mark.heavy
def test_a_subclass_inherits_no_aggregator_and_no_law(tff):
    from tff_dp.aggregation import build_aggregator, scale_structure

    plan = a_plan(Accounted(clip_norm=0.5, noise_multiplier=8.0))
    with pytest.raises(ArgumentError, match=r"no aggregator.*mechanisms\.register_aggregator adds"):
        build_aggregator(plan.mechanism, 10.0)
    with pytest.raises(ArgumentError, match=r"no self-test.*mechanisms\.register_law adds it"):
        tff_dp.self_test(plan)
    # A graph whose noise is in the state is for exact classes, too.
    assert scale_structure(GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0)) is not None
    for kind in (Heir, RepeatedMechanism):
        assert scale_structure(kind(clip_norm=1.0, noise_multiplier=1.0)) is None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighted(Accounted):
    """A mechanism whose aggregator is one that weighs clients."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skellam(DistributedSkellamMechanism):
    """A subclass of a mechanism whose self-test is another one than by a law."""


@pytest.mark.heavy
def test_what_registered_functions_return_is_checked(tff):
    from tff_dp.aggregation import build_aggregator
    from tff_dp.selftest import laws, suite

    mechanism = Weighted(clip_norm=0.5, noise_multiplier=8.0)
    mechanisms.register_aggregator(Weighted)(lambda *_: tff.aggregators.MeanFactory())
    with pytest.raises(
        ArgumentError, match=r"registered for Weighted.*UnweightedAggregationFactory"
    ):
        build_aggregator(mechanism, 10.0)
    mechanisms.register_law(Weighted)(lambda: None)
    with pytest.raises(ArgumentError, match=r"law=None.*an instance of Law.*register_law"):
        laws.law_of(mechanism)
    own = Skellam(clip_norm=0.5, noise_multiplier=8.0, dimension=100)
    accounting.register_round(
        Skellam,
        accounting.DistributedSkellamRound,
        fields=("dimension", "bits", "beta", "modclip_prob"),
        draws_per_coordinate=1,
    )
    with pytest.raises(ArgumentError, match=r"Skellam.*has no self-test"):
        suite.check_plan(a_plan(own, adjacency="zero-out"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failing(GaussianMechanism):
    """A mechanism whose aggregator fails when it is built, or when it is traced."""

    when: str = "built"


accounting.register_round(Failing, GaussianRound, draws_per_coordinate=1)


@mechanisms.register_aggregator(Failing)
def _fails(mechanism, clients_per_round, rounds):
    from tff_dp import aggregation, noise

    if mechanism.when == "built":
        raise KeyError("a mistake")

    def draw(shape, stddev):
        raise KeyError("a mistake")

    return aggregation.independent_noise(
        noise_multiplier=mechanism.noise_multiplier,
        clip_norm=mechanism.clip_norm,
        clients_per_round=clients_per_round,
        clip=lambda update, grid: noise.clip_l1(update, mechanism.clip_norm, grid).parts,
        draw=draw,
    )


@pytest.mark.heavy
@pytest.mark.parametrize("when", ["built", "traced"])
def test_a_failure_of_a_registered_aggregator_is_not_the_models(tff, clients, tmp_path, when):
    import keras

    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    mechanism = Failing(clip_norm=1.0, noise_multiplier=8.0, when=when)
    plan = a_plan(mechanism, population=clients.num_clients, delta=1e-3)
    path = tmp_path / "ledger.jsonl"
    with pytest.raises(ArgumentError, match=r"registered for Failing raised KeyError: 'a mistake'"):
        tff_dp.fit(model, clients, privacy=plan, loss="mse", ledger=path)
    assert not path.exists()


class Unaccountable(IndependentRound):
    """A round without accountants."""

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        return sampler.adjacencies

    def _mechanism_event(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        return dp_accounting.GaussianDpEvent(noise_multiplier)


def test_a_round_without_accountants_is_refused_when_the_plan_is_made():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Unaccounted(GaussianMechanism):
        pass

    accounting.register_round(Unaccounted, Unaccountable, draws_per_coordinate=1)
    with pytest.raises(
        AccountingError, match=r"Unaccountable has no accountant.*register_accountants"
    ):
        a_plan(Unaccounted(clip_norm=1.0, noise_multiplier=8.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed(RepeatedMechanism):
    """A mechanism with a field that can change."""

    weights: list[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListedSampler(Sampler):
    """A sampler with one."""

    adjacencies = PartsSampler.adjacencies
    weights: list[float]

    expected_clients, wrap, _draw = (
        PartsSampler.expected_clients, PartsSampler.wrap, PartsSampler._draw,
    )  # fmt: skip


def test_what_cannot_be_hashed_is_refused_when_the_plan_is_made():
    mechanism = Listed(clip_norm=1.0, noise_multiplier=8.0, weights=[1.0])
    with pytest.raises(ArgumentError, match=r"mechanism=Listed.*cannot be looked up.*tuples"):
        a_plan(mechanism)
    with pytest.raises(ArgumentError, match=r"sampler=ListedSampler.*cannot be looked up"):
        a_plan(sampler=ListedSampler(weights=[1.0]))


class Mode(enum.Enum):
    FIRST = "first"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moded(RepeatedMechanism):
    """A mechanism with a field that is stored as another value than it has."""

    mode: Mode = Mode.FIRST


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sized(RepeatedMechanism):
    """A mechanism with a field for values that may not be storable."""

    sizes: object = None


def test_what_is_not_stored_as_it_is_is_refused_when_the_plan_is_made(tmp_path):
    """The ledger would not know the plan again, and its rounds would be granted anew in each run."""
    for kind in (Moded, Sized):
        accounting.register_round(kind, RepeatedRound, fields=["releases"], draws_per_coordinate=9)
    moded = Moded(clip_norm=1.0, noise_multiplier=8.0)
    with pytest.raises(ArgumentError, match=r"Moded.*'mode' becomes 'first'.*plain value"):
        a_plan(moded)
    for value in (math.nan, math.inf, frozenset({1}), b"bytes", Mode.FIRST):
        with pytest.raises(
            ArgumentError, match=r"mechanism=Sized.*(cannot be stored|'sizes' becomes)"
        ):
            a_plan(Sized(clip_norm=1.0, noise_multiplier=8.0, sizes=value))
    for value in (None, 1, 0.5, "text", (1, (2.0, "x"))):
        plan = a_plan(Sized(clip_norm=1.0, noise_multiplier=8.0, sizes=value))
        with tff_dp.Ledger(tmp_path / f"{value}.jsonl", plan) as book:
            book.charge(1, 10)
        with tff_dp.Ledger(tmp_path / f"{value}.jsonl", plan) as book:
            assert book.last_round == 10


def test_a_plan_with_the_line_of_another_is_that_plan(monkeypatch, tmp_path):
    """Whatever its parts say of being equal: a second line for it would damage the ledger."""
    path, plan = tmp_path / "ledger.jsonl", a_plan()
    with tff_dp.Ledger(path, plan) as book:
        book.charge(1, 10)
    monkeypatch.setattr(tff_dp.PrivacyPlan, "__eq__", lambda self, other: self is other)
    with tff_dp.Ledger(path, plan) as book:
        assert book.last_round == 10


class Changing(Sampler):
    """A sampler that is no dataclass, whose cohorts may grow after epsilon has been computed."""

    adjacencies = (Adjacency.ZERO_OUT,)

    def __init__(self):
        self.size = 10

    expected_clients, wrap, _draw = (
        PartsSampler.expected_clients, PartsSampler.wrap, PartsSampler._draw,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Telling(Sampler):
    """A sampler that says what it is told to say of itself."""

    adjacencies = (Adjacency.ZERO_OUT,)
    clients: object = 10.0

    def expected_clients(self, population):
        return self.clients

    wrap, _draw = PartsSampler.wrap, PartsSampler._draw


@dataclasses.dataclass(frozen=True)
class Nowhere(Sampler):
    """A sampler whose adjacencies are none."""

    adjacencies = ("zero-out",)

    expected_clients, wrap, _draw = (
        PartsSampler.expected_clients, PartsSampler.wrap, PartsSampler._draw,
    )  # fmt: skip


def test_what_a_sampler_says_of_itself_is_checked():
    assert a_plan(sampler=Telling()).clients_per_round == 10.0
    with pytest.raises(ArgumentError, match=r"sampler=.* can change: .*class Changing.*frozen"):
        a_plan(sampler=Changing())
    for clients in (0, -1.0, 1001, "10", None):
        with pytest.raises(ArgumentError, match=r"expected_clients=.*in \(0, 1000\].*denominator"):
            a_plan(sampler=Telling(clients))
    with pytest.raises(ArgumentError, match=r"adjacencies=\('zero-out',\): expected a tuple of"):
        a_plan(sampler=Nowhere())


class Answering(IndependentRound):
    """A round whose accountants a test chooses."""

    answers: ClassVar[dict[str, Callable]] = {}

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        return sampler.adjacencies

    def _mechanism_event(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        return dp_accounting.GaussianDpEvent(noise_multiplier)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answered(GaussianMechanism):
    """A mechanism with such rounds."""


accounting.register_accountants(Answering)(lambda one_round: dict(Answering.answers))
accounting.register_round(Answered, Answering, draws_per_coordinate=1)


@pytest.fixture
def answer(monkeypatch):
    def set_answers(**answers):
        accountants.clear_caches()
        monkeypatch.setattr(
            Answering, "answers", {name: lambda *_, v=value: v for name, value in answers.items()}
        )

    yield set_answers
    accountants.clear_caches()


def answered(noise_multiplier: float = 2.0) -> Answering:
    return Answering(
        noise_multiplier=noise_multiplier,
        sampler=FullParticipation(),
        population=1000,
        adjacency=Adjacency.ZERO_OUT,
    )


@pytest.mark.parametrize("wrong", [-5.0, -math.inf, math.nan, "1", None, True, np.zeros(2)])
@pytest.mark.parametrize("name", ["rdp", "pld", "own"])
@pytest.mark.parametrize("first", [False, True])
def test_an_accountant_that_returns_no_epsilon_is_named(answer, wrong, name, first):
    """Whatever other accountants say, and in whatever order they are asked."""
    answers = {name: wrong, "other": 3.0}
    answer(**(answers if first else dict(reversed(answers.items()))))
    message = f"{name}.* of Answering returned .*upper bound"
    with pytest.raises(ArgumentError, match=message):
        a_plan(Answered(clip_norm=1.0, noise_multiplier=2.0))
    with pytest.raises(ArgumentError, match=message):
        accounting.spend(answered(), 10, DELTA)
    with pytest.raises(ArgumentError, match=message):
        accounting.calibrate_noise(answered(), rounds=10, delta=DELTA, target_epsilon=1.0)
    with pytest.raises(ArgumentError, match=message):
        accounting.calibrate_rounds(answered(), delta=DELTA, target_epsilon=1.0)


def test_a_search_for_less_noise_ends_if_an_accountant_never_says_more(answer):
    answer(rdp=0.0)
    plan = a_plan(Answered(clip_norm=1.0, noise_multiplier=2.0)).calibrated(target_epsilon=1.0)
    assert plan.mechanism.noise_multiplier > 0


def test_accountants_are_registered_once_and_not_for_classes_of_tff_dp(answer):
    answer(own=3.0)
    for kind, why in (
        (GaussianRound, "of tff_dp, whose accountants"),
        (BandedRound, "Independent"),
    ):
        with pytest.raises(ArgumentError, match=why):
            accounting.register_accountants(kind)
    with pytest.raises(ArgumentError, match="Answering has accountants already"):
        accounting.register_accountants(Answering)(lambda one_round: {"own": lambda *_: 0.0})
    assert accounting.spend(answered(), 10, DELTA).values == {"own": 3.0}


# --- Registering ----------------------------------------------------------------------------------


class _Half(GaussianRound):
    """A Gaussian round whose event is another than accountants of Gaussians take it for."""

    def _mechanism_event(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        return dp_accounting.GaussianDpEvent(noise_multiplier / 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class New(Mechanism):
    """A mechanism that nothing is registered for."""

    noise_multiplier: float
    bands: int = 1


class Plain(Mechanism):
    """No dataclass."""


@dataclasses.dataclass(kw_only=True)
class Thawed(Mechanism):
    """A dataclass that can be changed."""

    noise_multiplier: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quiet(Mechanism):
    """A mechanism without noise."""

    clip_norm: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfRecords(RecordGaussianMechanism):
    """A mechanism of records, whose clients' work is nobody's to replace."""


def _round(kind=New, one_round=GaussianRound, draws=1, **fields):
    return lambda: accounting.register_round(kind, one_round, draws_per_coordinate=draws, **fields)


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (_round(GaussianMechanism), "GaussianMechanism is a class of tff_dp"),
        (_round(RepeatedMechanism), "RepeatedMechanism has its accounting already"),
        (_round(toy()), "expected a class that derives from Mechanism"),
        (_round(PoissonSampler), "expected a class that derives from Mechanism"),
        (_round(Plain), r"Plain is not a frozen dataclass.*frozen=True, kw_only=True"),
        (_round(Thawed), "Thawed is not a frozen dataclass"),
        (_round(OfRecords, RecordRound), "OfRecords protects records"),
        (_round(one_round=RepeatedRound), r"fields=\(\) lacks releases"),
        (_round(one_round=RepeatedRound, fields=["releases"]), "fields='releases' is outside"),
        (_round(fields=["bands"]), "fields='bands' is outside"),
        (_round(one_round=GaussianMechanism), "expected a class that derives from Round"),
        (_round(one_round=Round), "one_round=Round is abstract"),
        (_round(one_round=_Half), "_Half overrides _mechanism_event of GaussianRound.*IndependentRound"),
        (_round(Quiet), "Quiet has no field noise_multiplier"),
        (_round(fields=["noise_multiplier"]), "names noise_multiplier, which every round has"),
        (_round(one_round=BandedRound), r"fields=\(\) lacks bands.*another mechanism"),
        (_round(one_round=RecordRound), "New protects records"),
        (_round(draws=0), r"draws_per_coordinate=0 .*\[1, inf\)"),
        (_round(draws=1.5), "draws_per_coordinate=1.5"),
        (lambda: mechanisms.register_aggregator(GaussianMechanism), "class of tff_dp"),
        (lambda: mechanisms.register_law(GaussianMechanism), "class of tff_dp"),
        (lambda: mechanisms.register_aggregator(RepeatedMechanism), "aggregator already"),
        (lambda: mechanisms.register_law(RepeatedMechanism), "self-test already"),
        (lambda: mechanisms.register_law(New)(None), "function=None"),
    ],
)  # fmt: skip
def test_what_cannot_be_registered_is_refused_and_nothing_is_added(register, message):
    with pytest.raises(ArgumentError, match=message):
        register()
    with pytest.raises(ArgumentError, match="has no accounting"):
        round_of(New(noise_multiplier=1.0), FullParticipation(), 10)


def test_of_many_threads_one_registers():
    registry, outcomes = Registry(Mechanism, "thing", "register"), []

    def add(number: int) -> None:
        try:
            registry.add(New, number)
            outcomes.append(number)
        except ArgumentError:
            pass

    threads = [threading.Thread(target=add, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert registry.find("value", New(noise_multiplier=1.0), {}) == outcomes[0]


# --- A sampler ------------------------------------------------------------------------------------


def test_a_users_sampler_draws_what_it_says_and_amplifies_nothing():
    plan = a_plan(GaussianMechanism(clip_norm=1.0, noise_multiplier=10.0), sampler=PartsSampler())
    cohorts = [plan.draw_cohort(n, population=1000, seed=4) for n in range(1, 11)]
    assert {len(cohort) for cohort in cohorts} == {500}
    assert {int(cohort[0]) for cohort in cohorts} == {0, 500}
    assert (plan.clients_per_round, plan.adjacency) == (500.0, Adjacency.ZERO_OUT)
    everybody = a_plan(plan.mechanism, adjacency="zero-out")
    assert plan.epsilon().values["rdp"] == everybody.epsilon().values["rdp"]
    assert plan.epsilon().epsilon >= everybody.epsilon().epsilon
    with pytest.raises(AccountingError, match=r"add-or-remove-one.*PartsSampler"):
        a_plan(plan.mechanism, sampler=PartsSampler(), adjacency="add-or-remove-one")
    with pytest.raises(ArgumentError, match="parts=3"):
        a_plan(plan.mechanism, sampler=PartsSampler(parts=3))


def test_mechanisms_whose_accounting_knows_no_such_sampler_refuse_it():
    for mechanism in (
        tff_dp.LaplaceMechanism(clip_norm=1.0, noise_multiplier=9.0),
        tff_dp.TreeMechanism(clip_norm=1.0, noise_multiplier=9.0),
        DistributedSkellamMechanism(clip_norm=1.0, noise_multiplier=9.0, dimension=8),
    ):
        with pytest.raises(AccountingError, match="PartsSampler"):
            a_plan(mechanism, sampler=PartsSampler())


@pytest.mark.parametrize(
    "drawn",
    [
        np.array([1, 1, 2]),  # twice the influence
        np.array([2, 1]),
        np.array([-1, 2]),
        np.array([3, 1000]),
        np.array([0.0, 1.5]),
        np.array([[0], [1]]),
        [0, 1],
        np.array([True, False]),
    ],
    ids=lambda drawn: str(drawn).replace("\n", ","),
)
def test_what_a_sampler_draws_has_to_be_a_cohort(monkeypatch, drawn):
    monkeypatch.setattr(PartsSampler, "_draw", lambda *_: drawn)
    with pytest.raises(ArgumentError, match=r"PartsSampler.*has drawn.*different client positions"):
        PartsSampler().cohort(1000, 1, 0)


def test_a_sampler_that_can_draw_has_no_subclasses():
    with pytest.raises(
        ArgumentError, match=r"Biased derives from PoissonSampler.*Derive from Sampler"
    ):

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Biased(PoissonSampler):
            """A sampler whose epsilon would be that of Poisson sampling."""

            def _draw(self, population: int, round_number: int, root_seed: int) -> np.ndarray:
                return np.arange(population)

    class Part(Sampler):
        """A step on the way to a sampler can have subclasses."""

        adjacencies: ClassVar[tuple[Adjacency, ...]] = ()

    class Other(Part):
        pass

    assert issubclass(Other, Sampler)
