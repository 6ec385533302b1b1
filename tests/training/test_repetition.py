"""What rounds cost that were charged, lost and run again: the argument of docs/privacy.md, by oracles."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats

import tff_dp
from tff_dp.accounting.sensitivity import tree_sensitivity_squared
from tff_dp.charges import ChargedRun, Charges
from tff_dp.errors import AccountingError, ArgumentError, LedgerError
from tff_dp.mechanisms.strategy import banded_strategy
from tff_dp.training import repetition
from tff_dp.training.repetition import Standing, affordable, coins_of, continued

N, T = 40, 20


def make_plan(mechanism=None, **changes):
    values = {
        "mechanism": mechanism or tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
        "population": N,
        "rounds": T,
        "delta": 1e-3,
    }
    if "sampler" not in changes:
        values["cohort"] = 8
    return tff_dp.PrivacyPlan(**(values | changes))


@dataclasses.dataclass
class Setup:
    """The part of a `Setup` that is read here."""

    plan: tff_dp.PrivacyPlan
    root: int = 5
    seeded: bool = True
    max_epsilon: float | None = None


def standing(done, runs=("a",), asked=T, first=1, root=5):
    return Standing(
        round_number=done, asked=asked, run=runs[-1], first=first, root=root, runs=runs, resumed=1
    )


def charged(plan, last, run="a", first=1, root=5):
    coins = coins_of(plan, True, root)
    return ChargedRun(plan=plan, rounds=range(first, last + 1), run=run, coins=coins)


def gone_on(plan, done, last, setup=None):
    known = Charges(runs=(charged(plan, last),))
    return continued(setup or Setup(plan), known, standing(done)), known


# --- Independent rounds, sampled ---------------------------------------------------------------------


def delta_of_one_sample(q, z, releases, epsilon):
    """Returns the exact delta of several Gaussian releases of one Poisson sample, for adding or removing.

    Their joint likelihood ratio depends on their sum alone: one sampled Gaussian of z / sqrt(releases).
    """
    mu = math.sqrt(releases) / z

    def at(threshold):
        return math.log(threshold / q) / mu + mu / 2 if threshold > 0 else -math.inf

    cdf, scale = stats.norm.cdf, math.exp(epsilon)
    y = at(scale - 1 + q)
    remove = q * cdf(mu - y) + (1 - q) * cdf(-y) - scale * cdf(-y)
    y = at(1 / scale - 1 + q)
    add = cdf(y) - scale * ((1 - q) * cdf(y) + q * cdf(y - mu))
    return max(remove, add)


@pytest.mark.parametrize(("q", "z"), [(0.01, 1.0), (0.05, 0.8), (0.2, 2.0)])
def test_one_sample_released_twice_costs_more_than_two_samples(q, z):
    """The trap: charged as two sampled rounds, a repeated cohort would have too small an epsilon."""
    mechanism = tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=z)
    plan = make_plan(
        mechanism, sampler=tff_dp.PoissonSampler(rate=q), population=10_000, delta=1e-5
    )
    two = plan.epsilon(2)
    assert delta_of_one_sample(q, z, 2, two.epsilon) > 1.5 * plan.delta
    # The oracle itself: one release is what one round is charged for.
    one = plan.epsilon(1)
    assert delta_of_one_sample(q, z, 1, one.epsilon) <= plan.delta
    assert delta_of_one_sample(q, z, 1, one.lower_bound * 0.999) > plan.delta


SAMPLED = [
    make_plan(),
    make_plan(sampler=tff_dp.FixedSizeSampler(size=8)),
    make_plan(tff_dp.LaplaceMechanism(clip_norm=1.0, noise_multiplier=5.0)),
    make_plan(sampler=tff_dp.FullParticipation()),
]


@pytest.mark.parametrize("plan", SAMPLED, ids=lambda plan: type(plan.sampler).__name__)
@pytest.mark.parametrize("seeded", [True, False])
def test_repeated_rounds_have_coins_that_no_run_had(plan, seeded):
    roots = {5}
    known, runs, done = Charges(runs=(charged(plan, 4),)), ("a",), 3
    for _ in range(3):  # lost again and again, at the same round or later
        part = continued(Setup(plan, seeded=seeded), known, standing(done, runs))
        assert part.root not in roots
        assert (part.first, part.before) == (done + 1, known)
        roots.add(part.root)
        if seeded and not isinstance(plan.sampler, tff_dp.FullParticipation):
            assert part.coins == coins_of(plan, True, part.root) is not None
        known = known.with_run(plan, done + 2, part.coins, first=part.first)
    assert known.of(plan) == (range(1, 5), *[range(4, 6)] * 3)
    assert known.spent().epsilon == plan.epsilon(4 + 3 * 2).epsilon


def test_a_repetition_with_the_same_coins_is_refused_by_the_charges():
    """A planted defect: the sampled rounds go on with the coins of the lost ones."""
    plan = make_plan()
    part, known = gone_on(plan, 3, 4)
    with pytest.raises(ArgumentError, match="same seed"):
        known.with_run(plan, T, coins_of(plan, True, 5), first=part.first)


def test_cohorts_after_the_seam_are_independent_of_the_lost_ones():
    plan = make_plan()
    part, _ = gone_on(plan, 3, 6)

    def cohorts(root):
        return [plan.draw_cohort(n, population=N, seed=root).tolist() for n in range(4, 7)]

    def overlap(root):
        return sum(one == two for one, two in zip(cohorts(5), cohorts(root), strict=True))

    assert overlap(part.root) == 0
    assert overlap(5) == 3  # what the defect would give


@pytest.mark.parametrize("last", [3, 4])
def test_without_noise_the_same_coins_go_on(last):
    plan = make_plan(tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=0.0))
    part, known = gone_on(plan, 3, last)
    assert part.root == 5
    if last == 4:
        assert (part.coins, part.first, part.before) == (None, 4, known)
        assert math.isinf(known.with_run(plan, T, part.coins, first=4).spent().epsilon)


@pytest.mark.parametrize("plan", SAMPLED, ids=lambda plan: type(plan.sampler).__name__)
def test_if_nothing_was_lost_the_same_run_goes_on(plan):
    part, known = gone_on(plan, 4, 4)
    (own,) = known.runs
    assert (part.run, part.first, part.root, part.coins) == ("a", 1, 5, own.coins)
    assert part.before == Charges()


# --- Rounds that share noise -------------------------------------------------------------------------


def patterns(rounds, separation):
    """Yields every set of rounds in which a client may participate."""
    for size in range(1, rounds + 1):
        for found in itertools.combinations(range(1, rounds + 1), size):
            if all(b - a >= separation for a, b in itertools.pairwise(found)):
                yield found


def tree_nodes(rounds, restart):
    """Yields the rounds below each node, in the order in which the nodes are completed."""
    period = restart or rounds
    for last in range(1, rounds + 1):
        start, place = (last - 1) // period * period, (last - 1) % period + 1
        for level in range(place.bit_length()):
            if place % (1 << level) == 0:
                yield range(start + place - (1 << level) + 1, last + 1)


@pytest.mark.parametrize("restart", [None, 3, 4])
@pytest.mark.parametrize("separation", [1, 2, 3])
def test_a_tree_that_goes_on_from_a_state_moves_no_more_than_two_runs(restart, separation):
    """All nodes that are released: those up to the state once, those after it in both runs."""
    rounds, nearest = 8, math.inf
    for done, lost in [(d, j) for d in range(rounds) for j in range(1, rounds - d + 1)]:
        two = sum(
            tree_sensitivity_squared(each, -(-each // separation), separation, restart)
            for each in (done + lost, rounds)
        )
        worst = 0
        for pattern in patterns(rounds, separation):
            moved = 0
            for node in tree_nodes(rounds, restart):
                count = sum(number in node for number in pattern)
                times = (node.stop - 1 <= done + lost) + (node.stop - 1 > done)
                moved += times * count**2
            worst = max(worst, moved)
        assert worst <= two
        nearest = min(nearest, two - worst)
    # Charged by what comes after the seam alone, it would be too little.
    assert tree_sensitivity_squared(rounds - 4, 4, 1) < max(
        sum(sum(n in node for n in p) ** 2 for node in tree_nodes(8, None) if node.stop - 1 > 4)
        for p in patterns(8, 1)
    )


@pytest.mark.parametrize(("bands", "separation"), [(1, 1), (2, 2), (3, 4)])
def test_banded_noise_that_goes_on_from_a_state_moves_no_more_than_two_runs(bands, separation):
    rounds = 9
    column = np.array(banded_strategy(bands, rounds))
    for done, lost in [(d, j) for d in range(rounds) for j in range(1, rounds - d + 1)]:
        two = sum(-(-each // separation) for each in (done + lost, rounds))
        for pattern in patterns(rounds, separation):
            rows = np.zeros(rounds + bands)
            for number in pattern:
                rows[number - 1 : number - 1 + bands] += column
            squares = rows[:rounds] ** 2
            moved = squares[: done + lost].sum() + squares[done:].sum()
            assert moved <= two + 1e-12


SHARED = [
    make_plan(mechanism, sampler=tff_dp.MinSeparationSampler(size=4, min_separation=5))
    for mechanism in (
        tff_dp.TreeMechanism(clip_norm=1.0, noise_multiplier=8.0),
        tff_dp.BandedMechanism(clip_norm=1.0, noise_multiplier=8.0, bands=3),
    )
]


@pytest.mark.parametrize("plan", SHARED, ids=lambda plan: type(plan.mechanism).__name__)
def test_shared_noise_goes_on_with_its_participations_and_pays_for_a_whole_run(plan):
    setup = Setup(plan)
    part, known = gone_on(plan, 12, 13, setup)
    # The same root: a client's participations keep their distance across the seam.
    assert (part.root, part.coins, part.first) == (5, None, 13)
    whole = plan.epsilon((range(1, 14), range(13, T))).epsilon
    assert whole > plan.epsilon().epsilon * 1.2
    with pytest.raises(
        AccountingError, match=r"as much as another run from its first .*Pass max_epsilon="
    ):
        affordable(setup, known, standing(12), part)
    setup.max_epsilon = 100.0
    last, epsilon, why = affordable(setup, known, standing(12), part)
    # One round of the plan went into the lost one.
    assert (last, epsilon) == (T - 1, whole)
    assert "those that were lost and charged again count" in why
    setup.max_epsilon = plan.epsilon().epsilon
    last, epsilon, why = affordable(setup, known, standing(12), part)
    assert last < T - 1
    assert "the next one would have spent more" in why


def test_a_run_that_was_lost_before_its_first_save_stays_within_its_plan():
    """Nothing was saved, so that it begins at round 1 again, and pays for two runs."""
    plan = SHARED[1]
    setup = Setup(plan)
    part, known = gone_on(plan, 0, 1, setup)
    assert (part.first, part.run != "a") == (1, True)
    whole = plan.epsilon((range(1, 2), range(1, T))).epsilon
    assert whole > plan.epsilon().epsilon * 1.05
    with pytest.raises(AccountingError, match="Pass max_epsilon="):
        affordable(setup, known, standing(0), part)
    setup.max_epsilon = 100.0
    assert affordable(setup, known, standing(0), part)[:2] == (T - 1, whole)
    # A run that had charged nothing yet begins as any other.
    setup, known = Setup(plan), Charges()
    part = continued(setup, known, standing(0))
    assert affordable(setup, known, standing(0), part)[:2] == (T, plan.epsilon().epsilon)


@pytest.mark.parametrize("plan", SHARED, ids=lambda plan: type(plan.mechanism).__name__)
def test_other_coins_would_break_the_separation_across_the_seam(plan):
    """A planted defect: the rounds after the seam are drawn from another root, as for sampled rounds."""

    def nearest(root):
        seen, found = {}, math.inf
        for number in range(1, T + 1):
            drawn = plan.draw_cohort(number, population=N, seed=5 if number <= 12 else root)
            for client in drawn.tolist():
                found = min(found, number - seen.get(client, -math.inf))
                seen[client] = number
        return found

    part, _ = gone_on(plan, 12, 13)
    assert nearest(part.root) >= plan.sampler.min_separation
    assert nearest(6) < plan.sampler.min_separation


# --- What is refused, and limits ---------------------------------------------------------------------


class Eager(tff_dp.sampling.Sampler):
    """A sampler of a user's whose cohorts depend on each other."""

    adjacencies = (tff_dp.Adjacency.ADD_OR_REMOVE_ONE,)
    of_one_seed = True

    def expected_clients(self, population):
        return float(population)

    def wrap(self, event, population):
        return event

    def _draw(self, population, round_number, root_seed):
        return np.arange(population)


def test_what_is_not_known_is_refused_by_name_with_the_remedy():
    cyclic = make_plan(
        tff_dp.BandedMechanism(clip_norm=1.0, noise_multiplier=1.0, bands=2),
        sampler=tff_dp.CyclicPoissonSampler(rate=0.5, cycle=4),
    )
    with pytest.raises(
        AccountingError,
        match=r"rounds 4 to 5 were .* BandedMechanism with CyclicPoissonSampler.*Begin another run",
    ):
        gone_on(cyclic, 3, 5)
    eager = make_plan(sampler=dataclasses.dataclass(frozen=True, kw_only=True)(Eager)())
    with pytest.raises(AccountingError, match="GaussianMechanism with Eager"):
        gone_on(eager, 3, 4)
    for plan in (cyclic, eager):  # nothing was lost
        assert gone_on(plan, 4, 4)[0].root == 5


LOCAL = tff_dp.LocalGaussianMechanism(clip_norm=1.0, noise_multiplier=20.0)


@pytest.mark.parametrize(
    "plan",
    [
        make_plan(LOCAL, sampler=tff_dp.MinSeparationSampler(size=4, min_separation=5)),
        make_plan(LOCAL, sampler=tff_dp.CyclicPoissonSampler(rate=0.5, cycle=4)),
        tff_dp.PrivacyPlan(
            mechanism=tff_dp.RecordGaussianMechanism(
                clip_norm=1.0, noise_multiplier=1.0, batch_size=4, local_steps=2
            ),
            records=[20] * N,
            rounds=T,
            delta=1e-3,
        ),
    ],
    ids=["separated", "cyclic", "records"],
)
def test_where_sampling_amplifies_nothing_the_participations_go_on(plan):
    part, known = gone_on(plan, 3, 5)
    assert (part.root, part.coins, part.first) == (5, None, 4)
    whole = plan.epsilon((range(1, 6), range(4, T - 1))).epsilon
    setup = Setup(plan)
    if whole > plan.epsilon().epsilon:  # a client participates more often than in a run of the plan
        with pytest.raises(AccountingError, match="Pass max_epsilon="):
            affordable(setup, known, standing(3), part)
        setup.max_epsilon = whole
    last, epsilon, _ = affordable(setup, known, standing(3), part)
    assert (last, epsilon) == (T - 2, whole)


def test_lost_rounds_count_toward_those_of_the_plan():
    plan = make_plan()
    for asked, expected in [(T, T - 2), (T - 2, T - 2), (10, 10)]:
        part, known = gone_on(plan, 3, 5)
        last, epsilon, why = affordable(Setup(plan), known, standing(3, asked=asked), part)
        assert last == expected
        assert (why is None) == (last == asked)
        assert epsilon == plan.epsilon(last + 2).epsilon
    # Nothing may be left at all.
    known = Charges(runs=(charged(plan, T),))
    part = continued(Setup(plan), known, standing(3))
    last, epsilon, why = affordable(Setup(plan), known, standing(3), part)
    assert (last, epsilon) == (3, plan.epsilon().epsilon)
    assert "after 3 of 20 rounds" in why


def test_a_budget_ends_a_run_that_goes_on():
    plan = make_plan()
    part, known = gone_on(plan, 3, 5)
    most = plan.epsilon(12).epsilon
    last, epsilon, why = affordable(Setup(plan, max_epsilon=most), known, standing(3), part)
    assert (last, epsilon) == (10, most)
    assert "the next one would have spent more" in why


@pytest.mark.parametrize("known", [Charges(), "short", "other plan", "later"])
def test_a_ledger_without_the_rounds_of_the_state_is_refused(known):
    plan = make_plan()
    runs = {
        "short": charged(plan, 3),
        "other plan": dataclasses.replace(charged(make_plan(rounds=T + 1), 5), coins=None),
        "later": charged(plan, 5, first=2),
    }
    known = Charges(runs=(runs[known],)) if isinstance(known, str) else known
    with pytest.raises(LedgerError, match=r"has rounds up to 4, .*lost charges, or is another one"):
        continued(Setup(plan), known, standing(4))


def test_runs_of_others_in_the_same_ledger_are_left_as_they_are():
    plan = make_plan()
    other = charged(plan, 6, run="b", root=9)
    known = Charges(runs=(charged(plan, 4), other))
    part = continued(Setup(plan), known, standing(4))
    assert (part.run, part.before) == ("a", Charges(runs=(other,)))
    last, *_ = affordable(Setup(plan), known, standing(4), part)
    assert last == T - 6
    assert repetition.continued(Setup(plan), known, standing(3)).before == known
