"""Cases: one client changes what is released by more than is assumed, or the noise is less."""

from __future__ import annotations

import math

import numpy as np
from scipy import special, stats

from experiments.epsilon_cases import lower_bounds as bounds
from experiments.epsilon_cases import wrong
from experiments.epsilon_cases.definition import BASE, EXACT, FULL, KNOWN_SUM, Definition


def _averages(rate: float, others: int, z: float) -> bounds.Pair:
    """Averages over the clients that came; all others send +C, the client sends -C or is not there.

    Of k others, the average is 1 + noise z / k without the client, and 1 - 2 / (k + 1) + noise
    z / (k + 1) with it; nothing is released, which is a cell of its own, if nobody came.
    """
    counts = np.arange(1, others + 1)
    nobody = (1 - rate) ** others
    weights = stats.binom.pmf(counts, others, rate)
    parts = [(w, int(k)) for w, k in zip(weights, counts, strict=True) if w > 1e-25]
    absent = bounds.mixture([(w, bounds.normal(1.0, z / k)) for w, k in parts])
    present = bounds.mixture(
        [(w, bounds.normal(1 - 2 / (k + 1), z / (k + 1))) for w, k in [(nobody, 0), *parts]]
    )
    pair = bounds.cells(present, absent, -1 - 8 * z, 1 + 8 * z)
    p = np.append((1 - rate) * pair.q + rate * pair.p, (1 - rate) * nobody)
    return bounds.Pair(p, np.append(pair.q, nobody))


def _records(records: int, rate: float, z: float, steps: int, delta: float) -> float:
    """A client has several records, each drawn by itself, which all move the sum in one direction."""
    counts = np.arange(records + 1)
    weights = stats.binom.pmf(counts, records, rate)
    present = bounds.mixture(
        [(w, bounds.normal(float(k), z)) for w, k in zip(weights, counts, strict=True)]
    )
    pair = bounds.cells(present, bounds.normal(0.0, z), -10 * z, records + 10 * z)
    return bounds.composed(pair, steps, delta)


def _largest_noise(rate: float, z: float, rounds: int, end: float, delta: float) -> float:
    """Noise ends at `end` deviations: a sum beyond that proves that the client is in it."""
    beyond = float(special.ndtr(-(end - 1 / z)) - special.ndtr(-end))
    return bounds.event(-math.expm1(rounds * math.log1p(-rate * beyond)), 0.0, delta)


CASES = (
    Definition(
        name="weighted_mean",
        question="Clipped updates are weighted by the clients' numbers of examples; the largest "
        "weight is twice the mean one (largest_weight).",
        mistake="Sensitivity C; that of a weighted sum is C times the largest weight.",
        proof=KNOWN_SUM + " By 2 C, if its weight is the largest.",
        source="McMahan et al., arXiv:1710.06963, which caps the weights",
        seen="adap/flower, src/py/flwr/server/strategy/dp_fixed_clipping.py (006e1f5): noise of z "
        "C / num_sampled_clients on the average of FedAvg, which aggregate.py (00cd859) "
        "weights by examples. With an accountant, flwrlabs/flower (341eb03) requires equal "
        "weights",
        inputs=BASE | {"largest_weight": 2.0},
        wrong=lambda: wrong.poisson(0.01, 1.0, 1000, 1e-5),
        lower_bound=lambda: bounds.sampled_gaussian(0.01, 0.5, 1000, 1e-5),
    ),
    Definition(
        name="realized_cohort",
        question="Poisson sampling of 100 clients at rate 0.1, 100 rounds; the noisy sum is "
        "divided by the number of clients that came (divided_by), and nothing is released if "
        "nobody did.",
        mistake="Sensitivity C / cohort; the number of clients changes with the client, and with "
        "it what all others contribute to the average.",
        proof="All others send +C, the client -C or nothing. Both averages are mixtures over how "
        "many came.",
        source="McMahan et al., arXiv:1710.06963 (the fixed denominator)",
        seen="meta-pytorch/opacus issue 571: a denominator that depends on the number of records, "
        "1.2 reported and 2.5 measured. Issue 420 asks for the actual size as denominator",
        inputs=BASE
        | {"population": 100, "rate": 0.1, "rounds": 100, "divided_by": "realized cohort"},
        wrong=lambda: wrong.poisson(0.1, 1.0, 100, 1e-5),
        lower_bound=lambda: bounds.composed(_averages(0.1, 99, 1.0), 100, 1e-5),
    ),
    Definition(
        name="replace_one_single_sensitivity",
        question="All clients in each of 100 rounds, z = 10; a neighbor replaces a client.",
        mistake="An accountant is set to replace-one and given z: 2 C is accounted for as C.",
        proof="Exact: the client's update is C in one data set and -C in the other.",
        source="Ponomareva et al., arXiv:2303.00654",
        seen="dp-accounting 0.6.0, dp_event.py and rdp/rdp_privacy_accountant.py: the noise "
        "multiplier of a GaussianDpEvent is over the norm of one value, and is taken as it is "
        "under REPLACE_ONE",
        inputs=FULL | {"noise_multiplier": 10.0, "rounds": 100, "adjacency": "replace_one"},
        wrong=lambda: wrong.replace_one(10.0, 100, 1e-5),
        lower_bound=lambda: bounds.gaussian(2.0, 1e-5),
    ),
    Definition(
        name="unshifted_bits",
        question="Adaptive clipping: besides the updates, a noisy count of the unclipped ones is "
        "released, with noise of deviation bit_noise = 1 (0.05 times the cohort of 20); the "
        "updates' noise is (z^-2 - (2 bit_noise)^-2)^(-1/2) for a total of z = 1. A client "
        "changes the count by bit_change = 1, since its bit is 0 or 1.",
        mistake="The formula holds for bits of -1/2 and 1/2, of which a client changes the sum by "
        "1/2.",
        proof=KNOWN_SUM + " It moves the count by 1 as well: both together are one Gaussian.",
        source="Andrew et al., arXiv:1905.03871",
        seen="flwrlabs/flower, framework/py/flwr/serverapp/strategy/dp_adaptive_clipping.py "
        "(3d7dfd4): bits of 0 and 1, with this formula and bit_noise = num_sampled_clients / "
        "20 (supercore/differential_privacy.py, 712c510). tensorflow-privacy and pfl-research "
        "shift theirs",
        inputs=BASE | {"rate": 0.02, "rounds": 100, "bit_noise": 1.0, "bit_change": 1.0},
        wrong=lambda: wrong.poisson(0.02, 1.0, 100, 1e-5),
        lower_bound=lambda: bounds.sampled_gaussian(
            0.02, (wrong.shared_noise(1.0, 1.0) ** -2 + 1) ** -0.5, 100, 1e-5
        ),
    ),
    Definition(
        name="second_release",
        question="In each round a metric of the clients is released beside the update, each with "
        "noise of its own of z = 1 (releases = 2).",
        mistake="Only the update is accounted for.",
        proof=KNOWN_SUM
        + " It moves the metric as well: both together are a Gaussian of z / sqrt(2).",
        source="Dwork and Roth (2014), section 3.5 (composition)",
        seen="adap/flower, src/py/flwr/server/strategy/dp_fixed_clipping.py (006e1f5): the "
        "aggregated metrics are returned beside the noisy parameters, even without noise",
        inputs=BASE | {"releases": 2},
        wrong=lambda: wrong.poisson(0.01, 1.0, 1000, 1e-5),
        lower_bound=lambda: bounds.sampled_gaussian(0.01, 0.5**0.5, 1000, 1e-5),
    ),
    Definition(
        name="unnoised_count",
        question="All clients in one round; beside the noisy sum, the exact count of updates "
        "above a norm steers what is taken for an outlier (unnoised_count).",
        mistake="Only the noisy sum is accounted for.",
        proof="The client is above the norm, or is not there: the counts differ, and so does "
        "whatever is computed from them.",
        source="the definition: whatever depends on a client and is released exactly has no epsilon",
        seen="TFF 0.87.0, learning/model_update_aggregator.py: dp_aggregator(zeroing=True), the "
        "default, estimates the quantile behind the zeroing by "
        "PrivateQuantileEstimationProcess.no_noise",
        inputs=FULL | {"unnoised_count": True},
        wrong=lambda: wrong.full(1.0, 1, 1e-5),
        lower_bound=lambda: bounds.event(1.0, 0.0, 1e-5),
    ),
    Definition(
        name="records_for_clients",
        question="DP-SGD on 1000 records at rate 0.01, 1000 steps. The epsilon of a client who "
        "has 10 of the records (records_of_a_client).",
        mistake="The epsilon of a record is reported as that of a client.",
        proof="The sum of the others is known; the client's records all move it in one direction, "
        "as many as are drawn.",
        source="Dwork and Roth (2014), theorem 2.2 (groups); Levy et al., arXiv:2102.11845",
        seen="No public instance is known. tensorflow-privacy's compute_dp_sgd_privacy_statement "
        "names both epsilons, and refuses the second one without a bound on a user's examples",
        inputs={key: value for key, value in BASE.items() if key != "rounds"}
        | {"unit": "client", "records_of_a_client": 10, "steps": 1000, "noise_multiplier": 5.0},
        wrong=lambda: wrong.poisson(0.01, 5.0, 1000, 1e-5),
        lower_bound=lambda: _records(10, 0.01, 5.0, 1000, 1e-5),
    ),
    Definition(
        name="secure_sum_scale",
        question="16 clients add noise to their own updates, whose secure sum is released for a z "
        "of 4; each client's noise is z C / 16 (noise_of_a_client, reporting_clients).",
        mistake="The deviations of the shares are added up; of independent noise, the variances "
        "are: each share has to have z C / sqrt(16).",
        proof=EXACT,
        source="Kairouz, Liu and Steinke, arXiv:2102.06387",
        seen="No public instance is known; flwrlabs/flower issue 1892 asks for it, of code that is "
        "right",
        inputs=FULL
        | {
            "noise_multiplier": 4.0,
            "population": 16,
            "noise_of_a_client": 0.25,
            "reporting_clients": 16,
        },
        wrong=lambda: wrong.full(4.0, 1, 1e-5),
        lower_bound=lambda: bounds.gaussian(1 / (0.25 * math.sqrt(16)), 1e-5),
    ),
    Definition(
        name="dropouts",
        question="100 clients add noise of z C / sqrt(100) to their own updates, for a z of 4; 40 "
        "of them drop out after they were drawn (reporting_clients = 60).",
        mistake="The noise of the clients that were drawn is accounted for, not of those who "
        "reported.",
        proof=EXACT,
        source="Kairouz, Liu and Steinke, arXiv:2102.06387; Jiang et al. (Dordis), arXiv:2209.12528",
        seen="adap/flower, src/py/flwr/server/strategy/dp_fixed_clipping.py (006e1f5): if fewer "
        "clients reply than the server's noise is meant for, a warning is logged and the "
        "round goes on",
        inputs=FULL
        | {
            "noise_multiplier": 4.0,
            "population": 100,
            "noise_of_a_client": 0.4,
            "reporting_clients": 60,
        },
        wrong=lambda: wrong.full(4.0, 1, 1e-5),
        lower_bound=lambda: bounds.gaussian(1 / (0.4 * math.sqrt(60)), 1e-5),
    ),
    Definition(
        name="noise_of_a_larger_cohort",
        question="20 of 1000 clients in expectation, 100 rounds; the noise on the average is 5 C "
        "/ 100, as if 100 had come. On the sum of the 20 it is 20 times as much: z = 1.",
        mistake="Epsilon with z = 5, as for a cohort and a population 5 times as large.",
        proof=KNOWN_SUM,
        source="Granqvist et al. (pfl-research), arXiv:2404.06430",
        seen="apple/pfl-research, benchmarks/utils/argument_parsing.py (06651ed): "
        "--noise_cohort_size scales the noise; its help says that results hold only for a "
        "cohort of that size",
        inputs=BASE | {"rate": 0.02, "rounds": 100},
        wrong=lambda: wrong.poisson(0.02, 5.0, 100, 1e-5),
        lower_bound=lambda: bounds.sampled_gaussian(0.02, 1.0, 100, 1e-5),
    ),
    Definition(
        name="largest_noise",
        question="1000 rounds at rate 0.01; the generator's Gaussian ends at 5.6777 deviations "
        "(largest_noise), as one by Box and Muller does that replaces uniform numbers below 1e-7.",
        mistake="The noise is taken for a Gaussian, whose tails have no end.",
        proof="A sum beyond the noise's end proves that the client is in it; that happens in some "
        "round with probability 1.4e-5, which is above delta.",
        source="Mironov (2012), On Significance of the Least Significant Bits",
        seen="TensorFlow 2.21, xla/tsl/lib/random/random_distributions_utils.h: BoxMullerFloat, "
        "behind tf.random.normal",
        inputs=BASE | {"largest_noise": 5.6777},
        wrong=lambda: wrong.poisson(0.01, 1.0, 1000, 1e-5),
        lower_bound=lambda: _largest_noise(0.01, 1.0, 1000, 5.6777, 1e-5),
    ),
)
