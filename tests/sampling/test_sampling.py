"""Cohorts: drawn as the accounting assumes, repeatable from a seed, independent otherwise.

Each statistical check rejects at a false-positive rate of ALPHA = 1e-6 in all, split evenly over
its comparisons. The seeds are fixed, so that a test which passes once always passes; the rate is
the chance that a right sampler were to fail at a seed chosen blindly. Each check comes with
negative controls: wrong samplers which it must reject.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import oracles
from tff_dp import _seeds
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import GaussianMechanism
from tff_dp.plan import NoPrivacy, PrivacyPlan
from tff_dp.sampling import (
    Adjacency,
    CyclicPoissonSampler,
    FixedSizeSampler,
    FullParticipation,
    MinSeparationSampler,
    PoissonSampler,
    Sampler,
    independent,
)

examples = settings(max_examples=100, deadline=None, derandomize=True)

ALPHA = 1e-6
ROUNDS = 4000
CLIENTS = 40
RATE = 0.3
SIZE = 12
SAMPLERS = [PoissonSampler(rate=RATE), FixedSizeSampler(size=SIZE), FullParticipation()]

Draw = Callable[[int, np.random.Generator], np.ndarray]  # round number, generator -> positions


def participation(sampler: Sampler, rounds: int = ROUNDS, seed: int = 1234) -> np.ndarray:
    """Who took part: booleans, shape [rounds, clients]."""
    table = np.zeros((rounds, CLIENTS), bool)
    for r in range(rounds):
        table[r, sampler.cohort(CLIENTS, r + 1, seed)] = True
    return table


def planted(draw: Draw) -> np.ndarray:
    """The table of a wrong sampler."""
    rng = np.random.default_rng(99)
    table = np.zeros((ROUNDS, CLIENTS), bool)
    for r in range(ROUNDS):
        table[r, draw(r + 1, rng)] = True
    return table


# --- The statistics, each with what it can see --------------------------------------------------


def check_rate(table: np.ndarray, probability: float) -> None:
    """One binomial test over all draws; a rate off by 4 % is 10 standard deviations away."""
    p = oracles.binomial_p(table.sum(), table.size, probability)
    assert p > ALPHA, f"rate {table.mean():.4f} instead of {probability}"


def check_each_client(table: np.ndarray, probability: float) -> None:
    """One binomial test a client, ALPHA split over them; sees one client off by 20 %."""
    for client, count in enumerate(table.sum(axis=0)):
        p = oracles.binomial_p(count, len(table), probability)
        assert p > ALPHA / table.shape[1], f"client {client} in {count} of {len(table)} rounds"


def check_each_pair(table: np.ndarray, probability: float) -> None:
    """One binomial test a pair, ALPHA split over them; sees clients that come together."""
    together = table.T.astype(int) @ table.astype(int)
    pairs = [(i, j) for i in range(table.shape[1]) for j in range(i)]
    for i, j in pairs:
        p = oracles.binomial_p(together[i, j], len(table), probability)
        assert p > ALPHA / len(pairs), f"clients {j} and {i} together {together[i, j]} times"


def check_size_variance(table: np.ndarray, variance: float) -> None:
    """A chi-square test of the cohort size; sees a variance off by 15 %."""
    sizes = table.sum(axis=1)
    p = oracles.variance_p(sizes, variance)
    assert p > ALPHA, f"variance {sizes.var():.3f} instead of {variance:.3f}"


def check_rounds_are_independent(table: np.ndarray, probability: float) -> None:
    """A binomial test of who takes part in both of two rounds, at distances 1, 2 and 7.

    `probability` is that of one client in one round. Under fixed sizes the count varies less than a
    binomial one, so that the rate of false positives is below ALPHA.
    """
    for distance in (1, 2, 7):
        starts = [r for r in range(len(table) - distance) if (r // distance) % 2 == 0]
        both = table[starts] & table[[r + distance for r in starts]]  # disjoint pairs of rounds
        p = oracles.binomial_p(both.sum(), both.size, probability**2)
        assert p > ALPHA / 3, f"both of two rounds {distance} apart: {both.mean():.4f}"


def check_poisson(table: np.ndarray) -> None:
    check_rate(table, RATE)
    check_each_client(table, RATE)
    check_each_pair(table, RATE**2)
    check_size_variance(table, CLIENTS * RATE * (1 - RATE))
    check_rounds_are_independent(table, RATE)


def check_fixed_size(table: np.ndarray) -> None:
    assert (table.sum(axis=1) == SIZE).all()
    check_each_client(table, SIZE / CLIENTS)
    check_each_pair(table, SIZE * (SIZE - 1) / (CLIENTS * (CLIENTS - 1)))
    check_rounds_are_independent(table, SIZE / CLIENTS)


# --- Right samplers pass, wrong ones fail -------------------------------------------------------


@pytest.mark.parametrize("seed", [1234, 0, 2**128 - 1])
def test_poisson_cohorts_are_independent_coins(seed):
    check_poisson(participation(PoissonSampler(rate=RATE), seed=seed))


def test_fixed_size_cohorts_are_uniform():
    check_fixed_size(participation(FixedSizeSampler(size=SIZE)))


def test_a_rate_off_by_a_tenth_is_caught():
    for rate in (0.9 * RATE, 1.1 * RATE):
        table = participation(PoissonSampler(rate=rate))
        with pytest.raises(AssertionError, match="rate"):
            check_rate(table, RATE)
        with pytest.raises(AssertionError):
            check_poisson(table)


def test_fixed_sizes_posing_as_poisson_are_caught():
    table = participation(FixedSizeSampler(size=SIZE))  # of the very same rate
    check_rate(table, RATE)
    check_each_client(table, RATE)
    with pytest.raises(AssertionError, match="variance"):
        check_size_variance(table, CLIENTS * RATE * (1 - RATE))


def test_poisson_posing_as_fixed_sizes_is_caught():
    with pytest.raises(AssertionError):
        check_fixed_size(participation(PoissonSampler(rate=SIZE / CLIENTS)))


def test_clients_that_come_in_pairs_are_caught():
    table = planted(lambda r, rng: np.flatnonzero(np.repeat(rng.random(CLIENTS // 2) < RATE, 2)))
    check_each_client(table, RATE)
    with pytest.raises(AssertionError, match="together"):
        check_each_pair(table, RATE**2)
    with pytest.raises(AssertionError, match="variance"):
        check_size_variance(table, CLIENTS * RATE * (1 - RATE))


def test_a_favored_client_is_caught():
    odds = np.full(CLIENTS, RATE)
    odds[17] *= 1.25
    table = planted(lambda r, rng: np.flatnonzero(rng.random(CLIENTS) < odds))
    check_rate(table, RATE)  # unseen in the sum
    with pytest.raises(AssertionError, match="client 17"):
        check_each_client(table, RATE)


def test_blocks_of_neighbors_posing_as_fixed_sizes_are_caught():
    table = planted(lambda r, rng: (rng.integers(CLIENTS) + np.arange(SIZE)) % CLIENTS)
    check_each_client(table, SIZE / CLIENTS)  # each client is as likely as any other
    with pytest.raises(AssertionError, match="together"):
        check_fixed_size(table)


def test_cyclic_participation_posing_as_fixed_sizes_is_caught():
    orders = np.random.default_rng(5).permuted(np.tile(np.arange(36), (ROUNDS, 1)), axis=1)

    def draw(r, rng):
        epoch, part = divmod(r, 3)  # three rounds of twelve use up a shuffle of 36 clients
        return orders[epoch, 12 * part : 12 * (part + 1)]

    with pytest.raises(AssertionError, match="both of two rounds 1 apart"):
        check_rounds_are_independent(planted(draw)[:, :36], SIZE / 36)


def test_the_same_cohort_for_two_rounds_is_caught():
    sampler = PoissonSampler(rate=RATE)
    table = planted(lambda r, rng: sampler.cohort(CLIENTS, (r + 1) // 2, 3))
    check_rate(table, RATE)
    with pytest.raises(AssertionError, match="both of two rounds 1 apart"):
        check_rounds_are_independent(table, RATE)


# --- What every sampler keeps -------------------------------------------------------------------


@examples
@given(
    population=st.integers(1, 200),
    share=st.floats(0, 1, exclude_min=True),
    round_number=st.integers(1, 10**6),
    seed=st.integers(0, 2**128 - 1),
    kind=st.sampled_from([PoissonSampler, FixedSizeSampler, FullParticipation]),
)
def test_cohorts_are_sorted_positions_without_repetition(
    population, share, round_number, seed, kind
):
    size = max(1, round(share * population))
    sampler = {
        PoissonSampler: PoissonSampler(rate=share),
        FixedSizeSampler: FixedSizeSampler(size=size),
        FullParticipation: FullParticipation(),
    }[kind]
    cohort = sampler.cohort(population, round_number, seed)
    assert cohort.dtype == np.int64
    assert cohort.ndim == 1
    assert (np.diff(cohort) > 0).all()
    assert ((cohort >= 0) & (cohort < population)).all()
    if kind is FixedSizeSampler:
        assert len(cohort) == size
    if kind is FullParticipation:
        assert len(cohort) == population
    np.testing.assert_array_equal(cohort, sampler.cohort(population, round_number, seed))


def test_a_poisson_cohort_may_be_empty_and_may_be_everyone():
    rare = [len(PoissonSampler(rate=0.01).cohort(3, r, 0)) for r in range(1, 200)]
    assert min(rare) == 0
    assert max(rare) > 0
    np.testing.assert_array_equal(PoissonSampler(rate=1.0).cohort(50, 1, 0), np.arange(50))


def test_full_participation_takes_every_client_in_every_round():
    assert participation(FullParticipation(), rounds=20).all()


def test_the_whole_population_as_fixed_size():
    np.testing.assert_array_equal(FixedSizeSampler(size=50).cohort(50, 1, 0), np.arange(50))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("value", [0, -1, 1.0, True, None])
def test_population_out_of_bounds(sampler, value):
    with pytest.raises(ArgumentError) as caught:
        sampler.cohort(value, 1, 0)
    for part in (f"population={value!r}", "[1, inf)"):
        assert part in str(caught.value)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("value", [0, -1, 1.0, True, None])
def test_round_number_out_of_bounds(sampler, value):
    with pytest.raises(ArgumentError) as caught:
        sampler.cohort(CLIENTS, value, 0)
    for part in (f"round_number={value!r}", "[1, inf)"):
        assert part in str(caught.value)


def test_more_clients_than_there_are():
    with pytest.raises(ArgumentError, match=r"size=12 .*\[1, 11\]"):
        FixedSizeSampler(size=12).cohort(11, 1, 0)


@pytest.mark.parametrize(
    ("sampler", "clients"), list(zip(SAMPLERS, [30.0, 12.0, 100.0], strict=True)), ids=repr
)
def test_expected_clients(sampler, clients):
    assert sampler.expected_clients(100) == pytest.approx(clients, rel=1e-15)
    assert isinstance(sampler.expected_clients(100), float)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_expected_clients_are_those_that_come(sampler):
    # Over 1000 rounds the mean of the Poisson sizes, the only ones to vary, has a standard error of
    # 0.092; at 5 of them the rate of false positives is 6e-7, and a client too few or many is seen.
    table = participation(sampler, rounds=1000)
    assert table.sum(axis=1).mean() == pytest.approx(sampler.expected_clients(CLIENTS), abs=0.46)


def test_wrapped_events():
    event = dp_accounting.GaussianDpEvent(1.1)
    poisson, fixed, full = (sampler.wrap(event, 100) for sampler in SAMPLERS)
    assert poisson == dp_accounting.PoissonSampledDpEvent(RATE, event)
    assert fixed == dp_accounting.SampledWithoutReplacementDpEvent(100, SIZE, event)
    assert full == event


def test_relations_are_those_that_are_proven():
    assert FixedSizeSampler.adjacencies == (Adjacency.REPLACE_ONE,)
    assert PoissonSampler.adjacencies == FullParticipation.adjacencies == tuple(Adjacency)
    names = [adjacency.relation.name for adjacency in Adjacency]
    assert names == ["ADD_OR_REMOVE_ONE", "REPLACE_ONE", "REPLACE_SPECIAL"]


# --- Seeds --------------------------------------------------------------------------------------


def check_streams_are_apart(generator: Callable[..., np.random.Generator]) -> None:
    """Asserts that no two sets of arguments share a stream, and that equal ones do."""
    streams = {}
    for seed in (0, 1, 2, 2**32, 2**64 + 1, 2**128 - 1):
        for purpose in ("cohort", "order", ""):
            for r in (0, 1, 2, 3, 2**32):
                for client in (0, 1, 2):
                    key = (seed, purpose, r, client)
                    rng = generator(seed, purpose, round_number=r, client=client)
                    again = generator(seed, purpose, round_number=r, client=client)
                    streams[key] = tuple(rng.integers(2**63, size=2))
                    assert streams[key] == tuple(again.integers(2**63, size=2))
    # By chance two of 270 streams agree with probability 4e-34.
    assert len(set(streams.values())) == len(streams)


def test_each_set_of_arguments_has_a_stream_of_its_own():
    check_streams_are_apart(_seeds.generator)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda seed, purpose, *, round_number, client: seed + round_number + 1000 * client,
        lambda seed, purpose, *, round_number, client: [seed, round_number, client],
        lambda seed, purpose, *, round_number, client: [seed, len(purpose), client],
        lambda seed, purpose, *, round_number, client: [seed, len(purpose), round_number],
        lambda seed, purpose, *, round_number, client: [len(purpose), round_number, client],
    ],
    ids=["sum", "no purpose", "no round", "no client", "no seed"],
)
def test_wrong_seeds_are_caught(wrong):
    def generator(*args, **kwargs):
        return np.random.default_rng(wrong(*args, **kwargs))

    with pytest.raises(AssertionError):
        check_streams_are_apart(generator)


@pytest.mark.parametrize("sampler", SAMPLERS[:2], ids=lambda s: type(s).__name__)
def test_round_one_of_seed_two_is_not_round_two_of_seed_one(sampler):
    cohorts = {
        (seed, r): tuple(sampler.cohort(1000, r, seed)) for seed in range(6) for r in range(1, 7)
    }
    assert len(set(cohorts.values())) == len(cohorts)


def test_two_seeds_agree_no_more_than_chance():
    # A binomial test of who takes part under both seeds, at a false-positive rate of ALPHA; a
    # shared stream would make it RATE in place of RATE^2.
    first, second = (participation(PoissonSampler(rate=RATE), seed=seed) for seed in (1, 2))
    both = first & second
    assert oracles.binomial_p(both.sum(), both.size, RATE**2) > ALPHA
    same = first & first
    assert oracles.binomial_p(same.sum(), same.size, RATE**2) < ALPHA


def test_cohorts_share_no_stream_with_another_purpose():
    drawn = _seeds.generator(7, "cohort", round_number=3).random(1000) < 0.5
    other = _seeds.generator(7, "order", round_number=3).random(1000) < 0.5
    np.testing.assert_array_equal(
        PoissonSampler(rate=0.5).cohort(1000, 3, 7), np.flatnonzero(drawn)
    )
    # Two-sided binomial test at ALPHA: independent halves agree in about half of the places.
    assert oracles.binomial_p((drawn == other).sum(), 1000, 0.5) > ALPHA


def test_a_large_population_is_drawn_in_pieces_from_the_same_numbers(monkeypatch):
    expected = {}
    for pieces in (1 << 30, 1000, 333, 1):
        monkeypatch.setattr(independent, "_DRAWN_AT_ONCE", pieces)
        for sampler in (PoissonSampler(rate=0.5), CyclicPoissonSampler(rate=0.5, cycle=2)):
            drawn = [sampler.cohort(2000, number, 7) for number in (3, 4)]
            for cohort, first in zip(drawn, expected.setdefault(sampler, drawn), strict=True):
                np.testing.assert_array_equal(cohort, first)
    numbers = _seeds.generator(7, "cohort", round_number=3).random(2000)
    np.testing.assert_array_equal(
        expected[PoissonSampler(rate=0.5)][0], np.flatnonzero(numbers < 0.5)
    )


def test_what_was_drawn_can_be_written_to_without_changing_the_sampler():
    sampler = MinSeparationSampler(size=3, min_separation=2)
    drawn = sampler.cohort(10, 1, 5)
    kept = drawn.copy()
    drawn[:] = 0
    np.testing.assert_array_equal(sampler.cohort(10, 1, 5), kept)


def test_root_keeps_a_seed_and_draws_128_bits_without():
    assert [_seeds.root(seed) for seed in (0, 5, 2**128 - 1)] == [0, 5, 2**128 - 1]
    drawn = [_seeds.root(None) for _ in range(64)]
    # Two of 64 agree with probability 6e-36; all below 2^120 with probability 2^-512.
    assert len(set(drawn)) == len(drawn)
    assert 2**120 < max(drawn) < 2**128


@pytest.mark.parametrize("value", [-1, 2**128, 1.0, True, "1"])
def test_seed_out_of_bounds(value):
    with pytest.raises(ArgumentError) as caught:
        _seeds.root(value)
    for part in (f"seed={value!r}", f"[0, {2**128})"):
        assert part in str(caught.value)


def test_without_a_seed_two_calls_differ():
    plan = PrivacyPlan(
        mechanism=GaussianMechanism(clip_norm=1.0, noise_multiplier=0.0),
        population=1000,
        rounds=1,
        delta=1e-5,
        cohort=500,
    )
    for source in (plan, NoPrivacy(sampler=PoissonSampler(rate=0.5))):
        # By chance two cohorts out of 1000 clients agree with probability 2^-1000.
        first, second = (source.draw_cohort(1, population=1000, seed=None) for _ in range(2))
        assert not np.array_equal(first, second)
        first, second = (source.draw_cohort(1, population=1000, seed=8) for _ in range(2))
        np.testing.assert_array_equal(first, second)


# --- The tests of the tests ---------------------------------------------------------------------


def test_p_values_are_as_stated():
    # Of 2000 right counts none should fail at ALPHA (false-positive rate 2e-3) and about 20 at
    # 0.01: between 3 and 45 by the binomial law (2e-6). The same of 2000 right variances.
    rng = np.random.default_rng(0)
    counts = rng.binomial(ROUNDS, RATE, 2000)
    p = np.array([oracles.binomial_p(count, ROUNDS, RATE) for count in counts])
    assert p.min() > ALPHA
    assert 3 <= (p < 0.01).sum() <= 45
    variance = CLIENTS * RATE * (1 - RATE)
    samples = rng.binomial(CLIENTS, RATE, (2000, 500))
    p = np.array([oracles.variance_p(row, variance) for row in samples])
    assert p.min() > ALPHA
    assert 3 <= (p < 0.01).sum() <= 45
    assert math.isclose(np.median(p), 0.5, abs_tol=0.1)


# --- Samplers that bound participation ----------------------------------------------------------

SEEDS = range(300)


def cohorts(sampler, population: int, rounds: int, seed: int) -> list[np.ndarray]:
    return [sampler.cohort(population, number, seed) for number in range(1, rounds + 1)]


def violations(drawn: list[np.ndarray], separation: int, most: int) -> int:
    """Returns how often a client comes back too soon, or too often."""
    last: dict[int, int] = {}
    counts: dict[int, int] = {}
    found = 0
    for number, cohort in enumerate(drawn):
        for client in cohort:
            found += number - last.get(client, -separation) < separation
            counts[client] = counts.get(client, 0) + 1
            found += counts[client] > most
            last[client] = number
    return found


@pytest.mark.parametrize(
    ("population", "size", "separation", "most"),
    [
        (20, 5, 4, None),
        (20, 5, 4, 3),
        (23, 5, 3, 2),
        (50, 7, 1, 1),
        (9, 3, 3, None),
        (40, 2, 20, 1),
    ],
)
def test_no_client_comes_back_too_soon_or_too_often(population, size, separation, most):
    sampler = MinSeparationSampler(size=size, min_separation=separation, max_participations=most)
    rounds = 24 if most is None else population * most // size
    allowed, apart = sampler.participation(rounds)
    assert apart == separation
    assert allowed == min(-(-rounds // separation), most or rounds)
    for seed in range(20):
        drawn = cohorts(sampler, population, rounds, seed)
        assert violations(drawn, separation, allowed) == 0
        assert all(len(set(cohort)) == len(cohort) <= size for cohort in drawn)
        if most is None:
            assert all(len(cohort) == size for cohort in drawn)
    # Negative control: cohorts of a fixed size alone keep no such bound.
    if separation > 1:
        fixed = cohorts(FixedSizeSampler(size=size), population, rounds, 0)
        assert violations(fixed, separation, allowed) > 0


def test_separated_cohorts_are_uniform_among_those_who_may_take_part():
    population, sampler = 12, MinSeparationSampler(size=3, min_separation=2)
    table = np.zeros([len(SEEDS), 3, population], bool)
    for seed in SEEDS:
        for number, cohort in enumerate(cohorts(sampler, population, 3, seed)):
            table[seed, number, cohort] = True
    for number in range(3):  # by symmetry, everybody's chance is the same in each round
        check_each_client(table[:, number], 3 / population)
    for first, then in ((0, 1), (1, 2)):  # those who rest never, everybody else alike
        assert not (table[:, first] & table[:, then]).any()
        rested = ~table[:, first]
        p = oracles.binomial_p(table[:, then][rested].sum(), rested.sum(), 3 / 9)
        assert p > ALPHA
    both = table[:, 0] & table[:, 2]  # a third of the nine who may come were in the first round
    assert oracles.binomial_p(both.sum(), both.size, 3 / population * 3 / 9) > ALPHA


def test_draws_do_not_depend_on_their_order():
    sampler = MinSeparationSampler(size=3, min_separation=4, max_participations=5)
    forwards = cohorts(sampler, 15, 20, 7)
    cohorts(sampler, 15, 20, 8)
    for number in (20, 3, 11, 1):
        again = sampler.cohort(15, number, 7)
        np.testing.assert_array_equal(again, forwards[number - 1])
        again[:] = 0  # what a caller does with it changes nothing
    np.testing.assert_array_equal(sampler.cohort(15, 20, 7), forwards[-1])


def test_parts_of_a_cycle_are_disjoint_and_everybody_is_in_one():
    sampler = CyclicPoissonSampler(rate=1.0, cycle=4)
    for seed in (1, 2):
        drawn = cohorts(sampler, 22, 8, seed)
        assert sorted(np.concatenate(drawn[:4])) == list(range(22))
        assert {len(part) for part in drawn} == {5, 6}
        for part, again in zip(drawn[:4], drawn[4:], strict=True):
            np.testing.assert_array_equal(part, again)
    one, other = (sampler.cohort(22, 1, seed) for seed in (1, 2))
    assert set(one) != set(other)
    assert sampler.expected_clients(22) == 5.5
    assert sampler.participation(9) == (3, 4)


def test_cyclic_cohorts_are_coins_within_a_part():
    sampler = CyclicPoissonSampler(rate=0.25, cycle=2)
    everybody = CyclicPoissonSampler(rate=1.0, cycle=2)
    rounds = 4000
    for offset in (1, 2):
        part = everybody.cohort(40, offset, 99)
        table = np.zeros([rounds, 40], bool)
        for row in range(rounds):
            table[row, sampler.cohort(40, 2 * row + offset, 99)] = True
        assert not np.delete(table, part, axis=1).any()
        inside = table[:, part]
        check_rate(inside, 0.25)
        check_each_client(inside, 0.25)
        check_each_pair(inside, 0.25**2)
        check_size_variance(inside, len(part) * 0.25 * 0.75)
        check_rounds_are_independent(inside, 0.25)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: MinSeparationSampler(size=0, min_separation=1), ("size=0", "[1, inf)")),
        (lambda: MinSeparationSampler(size=1, min_separation=0), ("min_separation=0", "[1, inf)")),
        (
            lambda: MinSeparationSampler(size=1, min_separation=1, max_participations=0),
            ("max_participations=0", "[1, inf)"),
        ),
        (
            lambda: MinSeparationSampler(size=5, min_separation=5).check(20),
            ("min_separation=5", "[1, 4]", "cohorts of 5"),
        ),
        (
            lambda: MinSeparationSampler(
                size=5, min_separation=2, max_participations=2
            ).check_rounds(20, 9),
            ("rounds=9", "[1, 8]", "max_participations"),
        ),
        (lambda: CyclicPoissonSampler(rate=0.0, cycle=2), ("rate=0.0", "(0, 1]")),
        (lambda: CyclicPoissonSampler(rate=0.5, cycle=0), ("cycle=0", "[1, inf)")),
        (lambda: CyclicPoissonSampler(rate=0.5, cycle=9).check(8), ("cycle=9", "[1, 8]")),
    ],
)
def test_bounded_participation_names_what_is_out_of_bounds(make, parts):
    with pytest.raises(ArgumentError) as caught:
        make()
    for part in parts:
        assert part in str(caught.value)
