"""How long accounting takes: `./run python benchmarks/accounting.py`.

Medians of fresh computations (caches cleared), in milliseconds, beside dp-accounting called by hand for
the same number where it has a call for it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import dp_accounting
from dp_accounting import pld

from tff_dp import GaussianMechanism, PrivacyPlan
from tff_dp.accounting import accountants

REPEATS = 5


def median_ms(function: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        accountants._spend.cache_clear()
        accountants._rdp_curve.cache_clear()
        accountants._round_pld.cache_clear()
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def make_plan(rate: float, z: float, rounds: int) -> PrivacyPlan:
    return PrivacyPlan(
        mechanism=GaussianMechanism(clip_norm=1.0, noise_multiplier=z),
        population=10_000, cohort=rate * 10_000, rounds=rounds, delta=1e-5,
    )  # fmt: skip


def main() -> None:
    print(f"{'plan':34}{'epsilon':>10}{'RDP only':>10}{'by hand':>10}{'calibrated':>12}   (ms)")
    for rate, z, rounds in [
        (0.0025, 1.3, 6000),
        (0.01, 1.0, 1000),
        (0.1, 1.0, 100),
        (0.25, 1.0, 30),
    ]:
        plan = make_plan(rate, z, rounds)
        event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(z))

        def by_hand(event: object = event, rounds: int = rounds) -> float:
            return float(pld.PLDAccountant().compose(event, rounds).get_epsilon(1e-5))

        columns = [
            median_ms(plan.epsilon),
            median_ms(lambda plan=plan, rounds=rounds: plan.quick_epsilon(rounds)),
            median_ms(by_hand),
            median_ms(lambda plan=plan: plan.calibrated(2.0)),
        ]
        print(f"q={rate:<8g} z={z:<6g} T={rounds:<12d}" + "".join(f"{c:>10.0f}" for c in columns))


if __name__ == "__main__":
    main()
