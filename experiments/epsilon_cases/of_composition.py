"""Cases: the formula is wrong, or not all that was released is counted."""

from __future__ import annotations

import math

from experiments.epsilon_cases import lower_bounds as bounds
from experiments.epsilon_cases import wrong
from experiments.epsilon_cases.definition import BASE, EXACT, FULL, KNOWN_SUM, Definition

CASES = (
    Definition(
        name="classic_calibration",
        question="One round for a target of epsilon 10, whose noise is sqrt(2 log(1.25 / delta)) "
        "/ 10.",
        mistake="The classic theorem of the Gaussian mechanism is proven for epsilon below 1.",
        proof=EXACT,
        source="Dwork and Roth (2014), theorem A.1; Balle and Wang, arXiv:1805.06530; Zhao et al., "
        "arXiv:1911.12060, who find many studies that do it",
        seen="adap/flower, src/py/flwr/client/mod/localdp_mod.py (006e1f5), for any epsilon; "
        "londonaicentre/FLIP pull request 833, where the default is epsilon 10",
        inputs=FULL | {"noise_multiplier": wrong.classic(10.0, 1e-5)},
        wrong=lambda: wrong.classic(wrong.classic(10.0, 1e-5), 1e-5),
        lower_bound=lambda: bounds.gaussian(1 / wrong.classic(10.0, 1e-5), 1e-5),
    ),
    Definition(
        name="half_of_advanced_composition",
        question="1000 rounds of Laplace noise, each with epsilon 0.1 and delta 0.",
        mistake="epsilon sqrt(2 T log(1 / delta)), without the second term T epsilon (e^epsilon - "
        "1).",
        proof="The client moves each round's sum by C.",
        source="Dwork and Roth (2014), theorem 3.20; Kairouz et al., arXiv:1311.0776",
        seen="No public instance is known. "
        "JeffffffFu/Awesome-Differential-Privacy-and-Meachine-Learning, "
        "privacy_analysis/DP_Pure_Comp/advaced_composition.py has twice the first term for "
        "any epsilon, which is enough up to epsilon 1 (Dwork and Roth, corollary 3.21)",
        inputs=FULL | {"noise": "laplace", "noise_multiplier": 10.0, "rounds": 1000},
        wrong=lambda: wrong.half_composition(0.1, 1000, 1e-5),
        lower_bound=lambda: bounds.composed(
            bounds.cells(bounds.laplace(1.0, 10.0), bounds.laplace(0.0, 10.0), -300, 300),
            1000,
            1e-5,
        ),
    ),
    Definition(
        name="rdp_conversion",
        question="10 rounds with all clients, z = 0.5.",
        mistake="RDP is converted with log(1 / delta) / a; the denominator is a - 1. (Too few "
        "orders, in contrast, only make epsilon larger than it need be.)",
        proof=EXACT,
        source="Mironov, arXiv:1702.07476, proposition 3",
        seen="No public instance is known",
        inputs=FULL | {"noise_multiplier": 0.5, "rounds": 10},
        wrong=lambda: wrong.conversion_by_order(0.5, 10, 1e-5),
        lower_bound=lambda: bounds.gaussian(math.sqrt(10) / 0.5, 1e-5),
    ),
    Definition(
        name="large_delta",
        question="1000 rounds at rate 0.01; the epsilon at a delta below 1 / N, here N^-1.1 of "
        "1000 clients.",
        mistake="Epsilon at delta 0.01, ten times 1 / N: a mechanism that publishes the data of "
        "10 random clients has epsilon 0 at this delta.",
        proof=KNOWN_SUM,
        source="Dwork and Roth (2014), section 2.3; tensorflow/privacy issue 71",
        seen="owkin/FLamby pull request 184: --dp_target_delta 0.01 for Fed-TCGA-BRCA, whose six "
        "centers have 40 to 248 training records",
        inputs=BASE | {"delta": 1000**-1.1},
        wrong=lambda: wrong.poisson(0.01, 1.0, 1000, 0.01),
        lower_bound=lambda: bounds.sampled_gaussian(0.01, 1.0, 1000, 1000**-1.1),
    ),
    Definition(
        name="one_round",
        question="1000 rounds at rate 0.01 with z = 0.6; all models are released.",
        mistake="The epsilon of one round is reported for all of them.",
        proof=KNOWN_SUM,
        source="Dwork and Roth (2014), section 3.5 (composition)",
        seen="adap/flower, examples/opacus/opacus_fl/client_app.py (09ed383): each call of fit "
        "makes a new PrivacyEngine, and prints its epsilon",
        inputs=BASE | {"noise_multiplier": 0.6},
        wrong=lambda: wrong.poisson(0.01, 0.6, 1, 1e-5),
        lower_bound=lambda: bounds.sampled_gaussian(0.01, 0.6, 1000, 1e-5),
    ),
    Definition(
        name="local_steps",
        question="DP-SGD on a client's 1000 records at rate 0.01: 100 rounds of 20 local steps "
        "each (steps = 2000 in all).",
        mistake="The number of rounds is given to the accountant in place of that of noisy steps.",
        proof=KNOWN_SUM,
        source="Abadi et al., arXiv:1607.00133, whose T is the number of steps",
        seen="No public instance is known; google-research/federated issue 25 asks which of both "
        "to count",
        inputs={key: value for key, value in BASE.items() if key != "rounds"}
        | {"unit": "record", "steps": 2000},
        wrong=lambda: wrong.poisson(0.01, 1.0, 100, 1e-5),
        lower_bound=lambda: bounds.sampled_gaussian(0.01, 1.0, 2000, 1e-5),
    ),
    Definition(
        name="tuning_runs",
        question="50 runs of one round with all clients, each with z = 3.73064, of which the one "
        "with the highest score on the clients' data is released (runs = 50).",
        mistake="The epsilon of the released run alone, 1.",
        proof="The score is the noisy sum itself: the highest of 50 exceeds a threshold.",
        source="Papernot and Steinke, arXiv:2110.03620; Liu and Talwar, arXiv:1811.07971",
        seen="Papernot and Steinke, abstract: few studies count them. The experiments of this "
        "project do not either, and say so",
        inputs=FULL | {"noise_multiplier": 3.73064, "runs": 50},
        wrong=lambda: wrong.full(3.73064, 1, 1e-5),
        lower_bound=lambda: bounds.best_of(50, 1 / 3.73064, 1e-5),
    ),
    Definition(
        name="epsilon_by_proportion",
        question="1000 rounds at rate 0.01 with half of the noise: z = 0.5.",
        mistake="Half of the noise is taken for twice the epsilon: 2 epsilon(z = 1).",
        proof=KNOWN_SUM,
        source="Abadi et al., arXiv:1607.00133, theorem 1, whose epsilon = O(q sqrt(T) / z) holds "
        "for small epsilon and large enough z only",
        seen="No public instance is known",
        inputs=BASE | {"noise_multiplier": 0.5},
        wrong=lambda: 2 * wrong.poisson(0.01, 1.0, 1000, 1e-5),
        lower_bound=lambda: bounds.sampled_gaussian(0.01, 0.5, 1000, 1e-5),
    ),
)
