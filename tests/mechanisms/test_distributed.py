"""What rounds of distributed noise cost: goldens, oracles, and which combinations are accounted for."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import dp_accounting
import numpy as np
import pytest

import tff_dp
from tests.support.distributed import BETA, CLIP, DELTA, a_plan, both_kinds, mechanism
from tests.support.oracles import (
    discrete_gaussian_sum_log_pmf,
    epsilon_from_rdp,
    renyi_of_shift,
    skellam_log_pmf,
)
from tff_dp import accounting, ledger
from tff_dp.accounting import skellam_rdp, sum_of_discrete_gaussians_rdp
from tff_dp.config import Config
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.mechanisms import (
    DistributedSkellamMechanism,
)
from tff_dp.sampling import Adjacency, FixedSizeSampler, FullParticipation, PoissonSampler

FALSE_POSITIVE = 1e-6


@pytest.mark.parametrize(
    ("l1", "l2", "stddev", "clients", "dimension", "orders", "expected"),
    [
        # google-research/federated at a5af8c4, distributed_dp/accounting_utils.py, compute_rdp_dgaussian
        # with tau as in ddgauss_epsilon there.
        (10, 3, 2.0, 4, 16, [2, 8, 64], [0.5625, 2.25, 18.0]),
        (4, 2, 0.5, 3, 1, [2, 8], [6.553970680519885, 22.55397068051989]),
        (100, 20, 1.0, 1000, 64, [2, 16], [0.4036458038357775, 3.22916643068622]),
        (
            4280021,
            133750.62,
            66858.65,
            4,
            1024,
            [2, 8, 64],
            [1.0004984269257466, 4.001993707702987, 32.01594966162389],
        ),
    ],
)
def test_rdp_of_discrete_gaussians_is_the_reference_implementations(
    l1, l2, stddev, clients, dimension, orders, expected
):
    actual = sum_of_discrete_gaussians_rdp(
        np.array(orders, float),
        l1_sensitivity=l1,
        l2_sensitivity=l2,
        local_stddev=stddev,
        clients=clients,
        dimension=dimension,
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("l1", "l2", "variance", "orders", "expected"),
    [
        # The same, _skellam_rdp at scale 1.
        (10, 3, 16.0, [2, 8, 64], [0.6474609375, 2.4404296875, 18.9375]),
        (1, 1, 1.0, [2, 5], [2.5, 4.0]),
        (1000, 40, 400.0, [2, 32], [4.016875, 64.166875]),
        (
            4280021,
            133750.62,
            133717.3**2,
            [2, 8, 64],
            [1.0004984269677333, 4.001993707912839, 32.01594966340049],
        ),
    ],
)
def test_rdp_of_skellam_noise_is_the_reference_implementations(l1, l2, variance, orders, expected):
    actual = skellam_rdp(
        np.array(orders, float), l1_sensitivity=l1, l2_sensitivity=l2, variance=variance
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def one_coordinate(rdp, order, shift, **noise) -> float:
    bound = rdp(np.array([order], float), l1_sensitivity=shift, l2_sensitivity=shift, **noise)
    return float(bound[0])


@pytest.mark.parametrize("order", [1.1, 1.5, 2, 2.5, 4, 7.9, 16])
@pytest.mark.parametrize(
    ("variance", "shift"), [(1, 1), (4, 1), (4, 3), (25, 2), (100, 1), (100, 10), (2500, 50)]
)
def test_skellams_exact_divergence_is_below_the_bound_and_near_it(variance, shift, order):
    exact = renyi_of_shift(skellam_log_pmf(variance, reach=16 * shift), shift, order)
    bound = one_coordinate(skellam_rdp, order, shift, variance=variance)
    assert exact <= bound
    if variance >= 100 and order in (2, 4):
        assert bound < 1.05 * exact
        # The oracle would notice a bound for 5 % more noise.
        assert exact > one_coordinate(skellam_rdp, order, shift, variance=1.05 * variance)


@pytest.mark.parametrize("order", [1.1, 1.5, 2, 4, 7.9])
@pytest.mark.parametrize("clients", [1, 2, 3, 6])
@pytest.mark.parametrize(("stddev", "shift"), [(0.5, 1), (0.7, 2), (1, 1), (1, 3), (2, 5), (3, 4)])
def test_the_exact_divergence_of_a_sum_of_discrete_gaussians_is_below_the_bound_and_near_it(
    stddev, shift, clients, order
):
    sum_ = discrete_gaussian_sum_log_pmf(stddev, clients, reach=8 * shift)
    exact = renyi_of_shift(sum_, shift, order)
    noise = {"local_stddev": stddev, "clients": clients, "dimension": 1}
    bound = one_coordinate(sum_of_discrete_gaussians_rdp, order, shift, **noise)
    assert exact <= bound * (1 + 1e-12)
    if stddev >= 1:
        assert bound < 1.01 * exact + 0.001
        noise["local_stddev"] = 1.03 * stddev
        assert exact > one_coordinate(sum_of_discrete_gaussians_rdp, order, shift, **noise) - 0.001


def test_without_tau_the_bound_of_few_small_discrete_gaussians_would_be_wrong():
    exact = renyi_of_shift(discrete_gaussian_sum_log_pmf(0.5, 6, reach=10), 1, 2)
    without_tau = 2 * 1 / (2 * 6 * 0.5**2)
    assert exact > 1.05 * without_tau


@pytest.mark.parametrize("order", [2, 3.5, 4])
def test_the_bounds_hold_for_vectors_whose_coordinates_add_up(order):
    rng = np.random.default_rng(0)
    for _ in range(5):
        vector = rng.integers(0, 4, size=12)
        norms = {
            "l1_sensitivity": float(vector.sum()),
            "l2_sensitivity": float(np.linalg.norm(vector)),
        }
        orders = np.array([order], float)
        pmf = skellam_log_pmf(25.0, reach=24)
        exact = sum(renyi_of_shift(pmf, shift, order) for shift in vector if shift)
        bound = skellam_rdp(orders, variance=25.0, **norms)[0]
        assert exact <= bound < 1.3 * exact
        pmf = discrete_gaussian_sum_log_pmf(0.8, 3, reach=24)
        exact = sum(renyi_of_shift(pmf, shift, order) for shift in vector if shift)
        bound = sum_of_discrete_gaussians_rdp(
            orders, local_stddev=0.8, clients=3, dimension=12, **norms
        )[0]
        assert exact <= bound < 1.3 * exact


@pytest.mark.parametrize(
    ("z", "clients", "bits", "dimension", "modclip_prob", "beta", "scale", "l2", "l1"),
    [
        # The same reference: heuristic_scale_factor, rounded_l2_norm_bound and rounded_l1_norm_bound.
        (1.0, 4, 20, 1000, 1e-4, 0.0, 133717.28482469093, 133749.28482469093, 4279977.11439011),
        (1.0, 4, 20, 1024, 1e-4, BETA, 133717.28482469093, 133717.78584082352, 4278969.146906353),
        (0.5, 100, 16, 2049, 1e-4, 0.0, 5133.866289486125, 5197.866289486125, 332663.442527112),
        (0.5, 100, 16, 4096, 1e-4, BETA, 5133.866289486125, 5134.469100560595, 328606.02243587805),
        (2.0, 1000, 18, 2**20, 1e-6, 0.0, 12039.037668065681, 13063.037668065681, 13376550.5720992),
        (5.0, 50, 12, 64, 1e-3, 0.0, 77.75987978544298, 85.75987978544298, 686.0790382835438),
        (5.0, 50, 12, 64, 1e-3, BETA, 77.75987978544298, 78.38596037577129, 627.0876830061703),
    ],
)
def test_the_grid_is_the_reference_implementations_but_for_tffs_leeway(
    z, clients, bits, dimension, modclip_prob, beta, scale, l2, l1
):
    found = mechanism(
        z=z, dimension=dimension, bits=bits, modclip_prob=modclip_prob, beta=beta
    ).grid(clients)
    assert found.scale == pytest.approx(scale, rel=1e-12)
    assert found.l2_sensitivity == pytest.approx(l2 + 1e-5 * scale, rel=1e-7)
    assert l1 <= found.l1_sensitivity <= l1 * (1 + 3e-5) + 1
    assert found.local_stddev == pytest.approx(z / math.sqrt(clients) * scale, rel=1e-12)
    assert found.message_bits == bits * found.padded_dimension
    assert dimension <= found.padded_dimension < 2 * dimension


@both_kinds
def test_epsilon_is_the_reference_bound_of_the_grid_that_runs(kind):
    plan = a_plan(kind, z=2.0, bits=14)
    grid = plan.mechanism.grid(100)
    norms = {"l1_sensitivity": grid.l1_sensitivity, "l2_sensitivity": grid.l2_sensitivity}
    orders = np.arange(2, 64)
    if kind is DistributedSkellamMechanism:
        curve = skellam_rdp(orders, variance=100 * grid.local_stddev**2, **norms)
    else:
        curve = sum_of_discrete_gaussians_rdp(
            orders,
            local_stddev=math.ceil(grid.local_stddev),  # what tensorflow-privacy draws
            clients=100,
            dimension=1024,
            **norms,
        )
    expected = epsilon_from_rdp(orders, 10 * curve, DELTA)
    report = plan.epsilon()
    assert report.accountant == "rdp"
    assert report.epsilon == pytest.approx(expected, rel=1e-2)  # it has more orders, and slack
    assert plan.quick_epsilon(10) == report.epsilon


@both_kinds
def test_epsilon_nears_the_central_gaussians_as_the_grid_gets_finer(kind):
    central = tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=CLIP, noise_multiplier=5.0),
        population=100,
        sampler=FullParticipation(),
        rounds=10,
        delta=DELTA,
    )
    gaussian = central.epsilon().values["rdp"]
    found = [a_plan(kind, z=5.0, bits=bits).epsilon().epsilon for bits in (12, 14, 16, 20)]
    assert found == sorted(found, reverse=True)
    assert gaussian < found[-1] < 1.01 * gaussian
    assert found[0] > 1.1 * gaussian  # rounding inflates the sensitivity


@both_kinds
def test_replace_one_costs_what_twice_the_sensitivities_do(kind):
    zero_out = a_plan(kind, z=4.0).one_round()
    replace = a_plan(kind, z=4.0, adjacency="replace-one").one_round()
    assert zero_out.adjacency is Adjacency.ZERO_OUT
    np.testing.assert_allclose(replace.sensitivities(), 2 * np.array(zero_out.sensitivities()))
    # Nearly that of half the noise; the grid differs.
    assert accounting.spend(replace, 10, DELTA).epsilon == pytest.approx(
        a_plan(kind, z=2.0).epsilon().epsilon, rel=1e-2
    )


@both_kinds
@pytest.mark.parametrize("sampler", [FullParticipation(), FixedSizeSampler(size=20)])
@pytest.mark.parametrize("adjacency", ["zero-out", "replace-one"])
def test_fixed_numbers_of_clients_are_accounted_for_without_amplification(kind, sampler, adjacency):
    plan = a_plan(kind, sampler=sampler, adjacency=adjacency)
    of_all = a_plan(
        kind,
        population=int(plan.clients_per_round),
        sampler=FullParticipation(),
        adjacency=adjacency,
    )
    assert plan.epsilon().epsilon == of_all.epsilon().epsilon
    assert plan.epsilon().adjacency is Adjacency(adjacency)


@both_kinds
@pytest.mark.parametrize("adjacency", [None, *Adjacency])
def test_poisson_sampling_is_refused_because_of_the_noise_that_it_would_leave_out(kind, adjacency):
    for who in ({"sampler": PoissonSampler(rate=0.5)}, {"sampler": None, "cohort": 50}):
        with pytest.raises(AccountingError, match=r"PoissonSampler.*shares.*FixedSizeSampler"):
            a_plan(kind, adjacency=adjacency, **who)


@both_kinds
@pytest.mark.parametrize("sampler", [FullParticipation(), FixedSizeSampler(size=20)])
def test_adding_or_removing_a_client_is_refused(kind, sampler):
    with pytest.raises(AccountingError, match=r"add-or-remove-one.*'zero-out' or 'replace-one'"):
        a_plan(kind, sampler=sampler, adjacency="add-or-remove-one")


@both_kinds
@pytest.mark.parametrize(
    ("bits", "dimension", "clients", "beta"),
    [
        (20, 10, 10, 0.0),
        (12, 1000, 100, 0.0),
        (16, 10**6, 50, 0.5),
        (8, 3, 4, 0.5),
        (22, 10**5, 9, 0),
    ],
)
def test_epsilon_falls_as_noise_grows(kind, bits, dimension, clients, beta):
    found = []
    for z in np.geomspace(0.3, 3000, 200):
        made = mechanism(kind, z=float(z), dimension=dimension, bits=bits, beta=beta)
        try:
            made.check(clients)
        except ArgumentError:  # a grid coarser than the clip norm: from here on, there is none
            break
        one_round = accounting.round_of(made, FullParticipation(), clients)
        found.append(accounting.spend(one_round, 20, DELTA).epsilon)
    assert len(found) > 60
    assert (np.diff(found) <= 0).all()
    assert found[-1] < found[0] / 10


@both_kinds
@pytest.mark.parametrize("target", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("bits", [14, 20])
def test_noise_is_calibrated_to_the_target_and_not_far_below(kind, target, bits):
    plan = a_plan(kind, bits=bits).calibrated(target)
    assert plan.epsilon().epsilon <= target
    less = plan.mechanism.with_noise(plan.mechanism.noise_multiplier / 1.0011)
    assert dataclasses.replace(plan, mechanism=less).epsilon().epsilon > target


@both_kinds
def test_a_target_that_no_noise_reaches_on_so_coarse_a_grid_asks_for_more_bits(kind):
    plan = a_plan(kind, dimension=10**6, bits=12)
    with pytest.raises(ArgumentError, match=r"bits=12.*coarser.*more bits"):
        plan.calibrated(0.5)
    assert a_plan(kind, dimension=10**6, bits=20).calibrated(0.5).epsilon().epsilon <= 0.5


def test_epsilon_does_not_depend_on_the_clip_norm():
    plans = [
        a_plan(mechanism=dataclasses.replace(mechanism(), clip_norm=clip)) for clip in (1e-3, 1e3)
    ]
    assert plans[0].epsilon().epsilon == plans[1].epsilon().epsilon


@both_kinds
def test_no_noise_is_no_privacy(kind):
    assert a_plan(kind, z=0.0).epsilon().epsilon == math.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_norm": 0.0}, r"clip_norm=0\.0.*\[1e-10, 1e\+10\]"),
        ({"noise_multiplier": -1.0}, r"noise_multiplier=-1\.0.*\[0, 1e9\]"),
        ({"dimension": 0}, r"dimension=0.*\[1, inf\).*trainable"),
        ({"dimension": 2.0}, r"dimension=2\.0.*whole number"),
        ({"bits": 0}, r"bits=0.*\[1, 22\]"),
        ({"bits": 23}, r"bits=23.*\[1, 22\]"),
        ({"beta": -0.1}, r"beta=-0\.1.*\[0, 0\.95\]"),
        ({"beta": 0.96}, r"beta=0\.96.*\[0, 0\.95\]"),
        ({"modclip_prob": 0.0}, r"modclip_prob=0\.0.*\[1e-30, 0\.5\]"),
        ({"modclip_prob": 0.6}, r"modclip_prob=0\.6"),
    ],
)
@both_kinds
def test_values_outside_their_bounds_are_refused(kind, changes, message):
    values = {"clip_norm": CLIP, "noise_multiplier": 1.0, "dimension": 10} | changes
    with pytest.raises(ArgumentError, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("bits", "z", "dimension", "clients", "message"),
    [
        (5, 1.0, 10, 40, r"bits=5 is too few for the sum over 40 clients: expected at least 6"),
        (2, 1.0, 10, 2, r"bits=2 is too few .* at least 3"),
        (8, 50.0, 10, 4, r"bits=8 makes a grid coarser.*more bits, less noise or fewer"),
        (22, 0.01, 10**8, 4, r"dimension=100000000 is too large for bits=22.*fewer bits"),
        (20, 1.0, 10, 2.5, r"clients_per_round=2\.5: expected a whole number.*FixedSizeSampler"),
    ],
)
@both_kinds
def test_clients_that_have_no_grid_are_refused(kind, bits, z, dimension, clients, message):
    with pytest.raises(ArgumentError, match=message):
        mechanism(kind, z, dimension, bits=bits).check(clients)


@both_kinds
def test_plans_are_restored_and_charged_in_a_ledger(kind, tmp_path):
    plan = a_plan(kind, sampler=FixedSizeSampler(size=20), adjacency="replace-one", delta=1e-4)
    assert tff_dp.PrivacyPlan.from_dict(plan.to_dict()) == plan
    assert Config.from_dict(plan.one_round().to_dict()) == plan.one_round()
    path = tmp_path / "ledger.jsonl"
    with tff_dp.Ledger(path, plan) as book:
        book.charge(1, 3)
        book.charge(3)
        assert book.spent().epsilon == plan.epsilon(4).epsilon
    assert ledger.replay(path).epsilon == plan.epsilon(4).epsilon


@both_kinds
def test_dp_accounting_is_given_no_event_that_it_could_misread(kind):
    event = a_plan(kind, sampler=FixedSizeSampler(size=20)).event()
    for accountant in (dp_accounting.rdp.RdpAccountant(), dp_accounting.pld.PLDAccountant()):
        assert not accountant.supports(event)


def test_accounting_imports_no_tensorflow():
    program = (
        "import sys; from tff_dp import PrivacyPlan, DistributedSkellamMechanism, FixedSizeSampler\n"
        "PrivacyPlan(mechanism=DistributedSkellamMechanism(clip_norm=1, noise_multiplier=1, dimension=9),"
        " population=100, sampler=FixedSizeSampler(size=9), rounds=5, delta=1e-4).epsilon()\n"
        "print([m for m in ('tensorflow', 'tensorflow_federated') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
