"""Sampler x adjacency x mechanism x accountant: each cell has its value, or is refused with the reason.

Values marked with a source are published or computed by others; each of the others is one of its
neighbors (a restatement of the same Gaussian) or is checked by an oracle in its mechanism's own tests.
"""

from __future__ import annotations

import pytest

from tff_dp.accounting import spend
from tff_dp.accounting.rounds import _KINDS
from tff_dp.config import is_own
from tff_dp.errors import AccountingError
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    BandedMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    LocalGaussianMechanism,
    LocalLaplaceMechanism,
    PerLayerGaussianMechanism,
    TreeMechanism,
)
from tff_dp.plan import PrivacyPlan
from tff_dp.sampling import (
    Adjacency,
    CyclicPoissonSampler,
    FixedSizeSampler,
    FullParticipation,
    MinSeparationSampler,
    PoissonSampler,
    Sampler,
)

POPULATION, DELTA = 1000, 1e-5
AOR, REPLACE, ZERO_OUT = Adjacency

# Each with its rounds and noise multiplier.
SAMPLERS = {
    "poisson": (PoissonSampler(rate=0.01), 1000, 1.0),
    "fixed": (FixedSizeSampler(size=10), 1000, 1.0),
    "full": (FullParticipation(), 100, 10.0),
    "separated": (MinSeparationSampler(size=10, min_separation=20), 100, 10.0),
    "cyclic": (CyclicPoissonSampler(rate=0.1, cycle=10), 1000, 1.0),
}

MECHANISMS = {
    "gaussian": lambda z: GaussianMechanism(clip_norm=1.0, noise_multiplier=z),
    "adaptive": lambda z: AdaptiveGaussianMechanism(noise_multiplier=z, clipped_count_stddev=20.0),
    "per layer": lambda z: PerLayerGaussianMechanism(clip_norms=(0.5, 0.5), noise_multiplier=z),
    "laplace": lambda z: LaplaceMechanism(clip_norm=1.0, noise_multiplier=z),
    "tree": lambda z: TreeMechanism(clip_norm=1.0, noise_multiplier=z),
    "banded": lambda z: BandedMechanism(clip_norm=1.0, noise_multiplier=z, bands=1),
    "local gaussian": lambda z: LocalGaussianMechanism(clip_norm=1.0, noise_multiplier=z),
    "local laplace": lambda z: LocalLaplaceMechanism(clip_norm=1.0, noise_multiplier=z),
}
OTHERS = ("Distributed", "Record")  # have matrices of their own

Values = dict[str, float]
_FULL = {"rdp": 4.728507, "exact": 4.377178}  # dp-accounting, and Balle and Wang's formula
_FULL_REPLACED = {"rdp": 10.725510, "exact": 9.997256}  # exact: also dp-accounting 0.6.0's PLD
_FIVE = {"rdp": 0.896960, "exact": 0.819728}  # five participations at z=10
_FIVE_REPLACED = {"rdp": 1.914250, "exact": 1.760057}
_POISSON = {"rdp": 2.101365, "pld": 1.828244}  # dp-accounting

EXPECTED: dict[tuple[str, str], dict[Adjacency, Values]] = {
    ("gaussian", "poisson"): {AOR: _POISSON, REPLACE: {"pld": 2.843446}, ZERO_OUT: _POISSON},
    ("gaussian", "fixed"): {REPLACE: {"rdp": 20.987072}},  # dp-accounting at z / 2
    ("gaussian", "full"): {AOR: _FULL, REPLACE: _FULL_REPLACED, ZERO_OUT: _FULL},
    ("laplace", "poisson"): {
        AOR: {"pure": 17.036863, "pld": 1.123783},
        ZERO_OUT: {"pure": 17.036863, "pld": 1.123783},
    },
    ("laplace", "full"): {
        AOR: {"pure": 10.0, "rdp": 4.532686, "pld": 4.220347},
        REPLACE: {"pure": 20.0, "rdp": 10.001416, "pld": 9.381917},
        ZERO_OUT: {"pure": 10.0, "rdp": 4.532686, "pld": 4.220347},
    },
    ("tree", "full"): {
        REPLACE: {"rdp": 298.989260, "exact": 288.561578},
        ZERO_OUT: {"rdp": 97.406308, "exact": 93.041372},
    },
    ("tree", "separated"): {
        REPLACE: {"rdp": 7.077392, "exact": 6.572970},
        ZERO_OUT: {"rdp": 3.188992, "exact": 2.943225},
    },
    ("banded", "full"): {REPLACE: _FULL_REPLACED, ZERO_OUT: _FULL},
    ("banded", "separated"): {REPLACE: _FIVE_REPLACED, ZERO_OUT: _FIVE},
    ("banded", "cyclic"): {ZERO_OUT: {"rdp": 7.899255, "pld": 7.046603}},  # dp-accounting
    # Every report counts: a thousand of them at z=1, a hundred or five at z=10, a hundred at z=1.
    ("local gaussian", "poisson"): {REPLACE: {"rdp": 2311.778258, "exact": 2268.767722}},
    ("local gaussian", "fixed"): {REPLACE: {"rdp": 2311.778258, "exact": 2268.767722}},
    ("local gaussian", "full"): {REPLACE: _FULL_REPLACED},
    ("local gaussian", "separated"): {REPLACE: _FIVE_REPLACED},
    ("local gaussian", "cyclic"): {REPLACE: {"rdp": 294.861260, "exact": 284.391849}},
    ("local laplace", "poisson"): {REPLACE: {"pure": 2000.0, "rdp": 1323.797, "pld": 1301.9721}},
    ("local laplace", "fixed"): {REPLACE: {"pure": 2000.0, "rdp": 1323.797, "pld": 1301.9721}},
    ("local laplace", "full"): {REPLACE: {"pure": 20.0, "rdp": 10.001416, "pld": 9.381917}},
    ("local laplace", "separated"): {REPLACE: {"pure": 1.0, "rdp": 1.000116, "pld": 0.999680}},
    ("local laplace", "cyclic"): {REPLACE: {"pure": 200.0, "rdp": 164.797, "pld": 161.243}},
}
for _sampler in ("poisson", "fixed", "full"):  # one Gaussian of the total noise multiplier
    EXPECTED["per layer", _sampler] = EXPECTED["gaussian", _sampler]
    # Zeros are an update that is not clipped, and the count of those says so.
    EXPECTED["adaptive", _sampler] = {
        adjacency: values
        for adjacency, values in EXPECTED["gaussian", _sampler].items()
        if adjacency is not ZERO_OUT
    }

# What a refusal has to say: the sampler or the adjacency, and what to take instead.
REASONS = {
    "gaussian": "PoissonSampler",
    "adaptive": "PoissonSampler|counts as unclipped",
    "per layer": "PoissonSampler",
    "laplace": "PoissonSampler or FullParticipation",
    "tree": "MinSeparationSampler.*zero-out",
    "banded": "MinSeparationSampler.*zero-out",
    "local gaussian": "'replace-one'.*participates",
    "local laplace": "'replace-one'.*participates",
}

CELLS = [
    (mechanism, sampler, adjacency)
    for mechanism in MECHANISMS
    for sampler in SAMPLERS
    for adjacency in Adjacency
]


def test_the_matrix_is_complete():
    tried = {type(make(1.0)) for make in MECHANISMS.values()}
    assert tried | {kind for kind in _KINDS if kind.__name__.startswith(OTHERS)} == set(_KINDS)
    samplers = {type(sampler) for sampler, *_ in SAMPLERS.values()}
    assert samplers == {kind for kind in Sampler.__subclasses__() if is_own(kind)}
    assert set(EXPECTED) <= {(mechanism, sampler) for mechanism, sampler, _ in CELLS}


@pytest.mark.parametrize(("mechanism", "sampler", "adjacency"), CELLS)
def test_each_cell_has_its_values_or_is_refused(mechanism, sampler, adjacency):
    draws, rounds, z = SAMPLERS[sampler]

    def make() -> PrivacyPlan:
        return PrivacyPlan(
            mechanism=MECHANISMS[mechanism](z),
            population=POPULATION,
            rounds=rounds,
            delta=DELTA,
            sampler=draws,
            adjacency=adjacency,
        )

    expected = EXPECTED.get((mechanism, sampler), {}).get(adjacency)
    if expected is None:
        with pytest.raises(AccountingError, match=REASONS[mechanism]) as caught:
            make()
        named = (f"sampler={type(draws).__name__}", f"adjacency={adjacency.value!r}")
        assert any(part in str(caught.value) for part in named)
        return
    # Of the ideal mechanism; tests/accounting/test_arithmetic.py has what computed noise is charged for.
    report = spend(make().one_round(), rounds, DELTA)
    # RDP's golden values come from finer orders here and there, up to .06 % below.
    assert dict(report.values) == {
        name: pytest.approx(value, rel=6e-4 if name == "rdp" else 2e-6)
        for name, value in expected.items()
    }
    assert report.accountant == min(expected, key=lambda name: expected[name])
    assert report.epsilon == min(report.values.values())
    assert report.adjacency is adjacency
    assert all(report.refused.values())  # with a reason
    assert not set(report.refused) & set(report.values)


@pytest.mark.parametrize(
    ("mechanism", "sampler", "default"),
    [
        ("gaussian", "poisson", AOR),
        ("gaussian", "fixed", REPLACE),
        ("gaussian", "full", AOR),
        ("laplace", "poisson", AOR),
        ("tree", "separated", ZERO_OUT),
        ("banded", "cyclic", ZERO_OUT),
        ("local gaussian", "poisson", REPLACE),
    ],
)
def test_the_default_adjacency_is_one_that_has_a_proof(mechanism, sampler, default):
    plan = PrivacyPlan(
        mechanism=MECHANISMS[mechanism](1.0),
        population=POPULATION,
        rounds=1,
        delta=DELTA,
        sampler=SAMPLERS[sampler][0],
    )
    assert plan.adjacency is default
    assert PrivacyPlan.from_dict(plan.to_dict()) == plan
