"""Cases: who takes part in a round is other than the accountant assumes."""

from __future__ import annotations

import math

from experiments.epsilon_cases import lower_bounds as bounds
from experiments.epsilon_cases import wrong
from experiments.epsilon_cases.definition import BASE, FIXED, KNOWN_SUM, OTHERS_AGREE, Definition


def _fixed_size(z: float, rounds: int) -> float:
    return bounds.sampled_gaussian(0.01, z / 2, rounds, 1e-5)


CASES = (
    Definition(
        name="fixed_size_as_poisson",
        question="10 of 1000 clients are drawn without replacement in each of 1000 rounds.",
        mistake="The accountant of Poisson sampling is asked, at rate cohort / N, for a client "
        "that is added.",
        proof=OTHERS_AGREE,
        source="Lebeda et al., arXiv:2405.20769 (abstract: epsilon about 1 for Poisson sampling and "
        "above 10 without replacement)",
        seen='meta-pytorch/opacus issue 80 ("a shortcut, which assumes Poisson sampling"); '
        "yuxiangw/autodp issue 3 says why not",
        inputs=FIXED,
        wrong=lambda: wrong.poisson(0.01, 1.0, 1000, 1e-5),
        lower_bound=lambda: _fixed_size(1.0, 1000),
    ),
    Definition(
        name="fixed_size_single_sensitivity",
        question="10 of 1000 clients are drawn without replacement in each of 1000 rounds.",
        mistake="The accountant of sampling without replacement is given z; a replaced client "
        "moves the sum by 2 C, so that it must be given z / 2.",
        proof=OTHERS_AGREE,
        source="Wang et al., arXiv:1808.00087",
        seen="dp-accounting 0.6.0, dp_event.py and rdp/rdp_privacy_accountant.py: the noise "
        "multiplier of a GaussianDpEvent is over the norm of one value, and is taken as it is "
        "under REPLACE_ONE; for SampledWithoutReplacementDpEvent as well",
        inputs=FIXED,
        wrong=lambda: wrong.without_replacement(1000, 10, 1.0, 1000, 1e-5),
        lower_bound=lambda: _fixed_size(1.0, 1000),
    ),
    Definition(
        name="shuffled_as_poisson",
        question="100 batches of a random order of all 1000 clients, one epoch; z = 0.7.",
        mistake="The accountant of Poisson sampling is asked, at rate batch / N, for as many "
        "rounds.",
        proof="All others send -C; the client +C, or 0 in the other data set. The statistic is "
        "the highest of the batches.",
        source="Chua et al., arXiv:2403.17673, and arXiv:2411.04205 for several epochs; audited by "
        "Annamalai et al., arXiv:2411.10614",
        seen="pytorch/opacus, opacus/privacy_engine.py (013a071): poisson_sampling=False leaves "
        "the loader as it is, and the accountant has Poisson sampling at rate 1 / "
        "len(data_loader); the docstring says so. lxuechen/private-transformers issue 7 says "
        "the same of its batches. tensorflow-privacy has deprecated compute_dp_sgd_privacy "
        "for it",
        inputs={
            "noise": "gaussian",
            "noise_multiplier": 0.7,
            "population": 1000,
            "sampling": "shuffled",
            "cohort": 10,
            "epochs": 1,
            "delta": 1e-5,
            "adjacency": "zero_out",
        },
        wrong=lambda: wrong.poisson(0.01, 0.7, 100, 1e-5),
        lower_bound=lambda: bounds.shuffled(100, 1, 0.7, 1e-5),
    ),
    Definition(
        name="fixed_order_as_poisson",
        question="The same 100 batches of 10 clients in each of 10 epochs, such as a loader gives "
        "that never shuffles, or clients in turn.",
        mistake="The accountant of Poisson sampling is asked, at rate batch / N, for 1000 rounds.",
        proof="Exact: the client moves the sums of 10 known rounds by C each.",
        source="Choquette-Choo et al., arXiv:2306.08153 (several participations without "
        "amplification)",
        seen="The same option of Opacus, with a loader that does not shuffle",
        inputs={
            "noise": "gaussian",
            "noise_multiplier": 1.0,
            "population": 1000,
            "sampling": "fixed_order",
            "cohort": 10,
            "epochs": 10,
            "delta": 1e-5,
            "adjacency": "zero_out",
        },
        wrong=lambda: wrong.poisson(0.01, 1.0, 1000, 1e-5),
        lower_bound=lambda: bounds.gaussian(math.sqrt(10), 1e-5),
    ),
    Definition(
        name="availability_ignored",
        question="10 clients of those 100 which are available, of 1000, by Poisson sampling; the "
        "client is one of the 100 in all of 1000 rounds. The rate of those who are available is "
        "0.1.",
        mistake="Rate 10 / 1000: the server samples, but from fewer clients than there are.",
        proof=KNOWN_SUM,
        source="Balle et al., arXiv:2007.06605, section 1; Kairouz et al., arXiv:2103.00039",
        seen="No public instance is known; Balle et al. say that works on federated learning "
        "assume sampling that their systems do not have",
        inputs=BASE | {"population": 100, "rate": 0.1},
        wrong=lambda: wrong.poisson(0.01, 1.0, 1000, 1e-5),
        lower_bound=lambda: bounds.sampled_gaussian(0.1, 1.0, 1000, 1e-5),
    ),
)
