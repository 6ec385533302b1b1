"""How long accounting takes: `./run python benchmarks/accounting.py`.

Medians in milliseconds of wall-clock time, each followed by that of the process's CPU time, of this
project and of plain dp-accounting doing the same in the same run:

- cold: epsilon with every cache cleared;
- warm: epsilon after another number of rounds of the same plan, as a ledger or a budget asks for it;
- noise, cohort: what keeps all rounds within epsilon 2; rounds: how many stay within 4; caches cleared.
  By hand, noise is found by dp-accounting's own search in [.5, 4], to the same tolerance, once.

Ours has a lower bound of epsilon as well. Both ways must agree on every epsilon to 1e-6, and the
noise found must be safe by dp-accounting.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import dp_accounting
from dp_accounting import pld

from tff_dp import GaussianMechanism, PrivacyPlan
from tff_dp.accounting import accountants, calibrate_cohort, calibrate_rounds

REPEATS = 5
DELTA, TARGET = 1e-5, 2.0
POPULATION = 10_000
PLANS = [(0.0025, 1.3, 6000), (0.01, 1.0, 1000), (0.1, 1.0, 100), (0.25, 1.0, 30)]
COLUMNS = ["cold", "by hand", "warm", "by hand", "noise", "by hand", "rounds", "cohort"]


def clear_caches() -> None:
    accountants.clear_caches()


def median_ms(
    function: Callable[[int], object], *, is_cold: bool = True, repeats: int = REPEATS
) -> str:
    """Returns the median wall-clock and CPU time of calls with 1, 2, ..."""
    times = []
    for number in range(1, repeats + 1):
        if is_cold:
            clear_caches()
        start, cpu_start = time.perf_counter(), time.process_time()
        function(number)
        times.append((time.perf_counter() - start, time.process_time() - cpu_start))
    wall, cpu = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    return f"{wall:.0f}/{cpu:.0f}"


def make_plan(rate: float, z: float, rounds: int) -> PrivacyPlan:
    return PrivacyPlan(
        mechanism=GaussianMechanism(clip_norm=1.0, noise_multiplier=z),
        population=POPULATION, cohort=rate * POPULATION, rounds=rounds, delta=DELTA,
        max_dimension=1,  # next to nothing is charged for computed noise, which dp-accounting does not
    )  # fmt: skip


def check_equal(ours: float, theirs: float) -> None:
    if abs(ours - theirs) > 1e-6 * theirs:
        raise SystemExit(f"epsilon {ours} differs from dp-accounting's {theirs}")


def measure(rate: float, z: float, rounds: int) -> list[str]:
    plan = make_plan(rate, z, rounds)
    one_round = plan.one_round()

    def event(noise: float) -> dp_accounting.DpEvent:
        gaussian = dp_accounting.GaussianDpEvent(noise)
        return dp_accounting.SelfComposedDpEvent(
            dp_accounting.PoissonSampledDpEvent(rate, gaussian), rounds
        )

    def by_hand(noise: float) -> float:
        return float(pld.PLDAccountant().compose(event(noise)).get_epsilon(DELTA))

    held = pld.privacy_loss_distribution.from_gaussian_mechanism(z, sampling_prob=rate)

    def held_by_hand(fewer: int) -> float:
        return float(held.self_compose(rounds - fewer).get_epsilon_for_delta(DELTA))

    def noise_by_hand(_: int) -> float:
        bracket = dp_accounting.ExplicitBracketInterval(0.5, 4.0)
        found = dp_accounting.calibrate_dp_mechanism(
            pld.PLDAccountant, event, TARGET, DELTA, bracket, tol=1e-3 * z
        )
        return float(found)

    check_equal(plan.epsilon().values["pld"], by_hand(z))
    check_equal(plan.epsilon(rounds - 1).values["pld"], held_by_hand(1))
    calibrated = plan.calibrated(TARGET)
    if by_hand(calibrated.mechanism.noise_multiplier) > TARGET * (1 + 1e-6):
        raise SystemExit(f"{calibrated.mechanism} exceeds epsilon {TARGET}")
    return [
        median_ms(lambda _: plan.epsilon()),
        median_ms(lambda _: by_hand(z)),
        median_ms(lambda fewer: plan.epsilon(rounds - 1 - fewer), is_cold=False),
        median_ms(lambda fewer: held_by_hand(1 + fewer)),
        median_ms(lambda _: plan.calibrated(TARGET)),
        median_ms(noise_by_hand, repeats=1),
        # One round of the last two plans spends more than 2.
        median_ms(lambda _: calibrate_rounds(one_round, delta=DELTA, target_epsilon=2 * TARGET)),
        median_ms(
            lambda _: calibrate_cohort(one_round, rounds=rounds, delta=DELTA, target_epsilon=TARGET)
        ),
    ]


def main() -> None:
    print(f"{'wall/CPU ms':32}" + "".join(f"{column:>12}" for column in COLUMNS))
    for rate, z, rounds in PLANS:
        times = measure(rate, z, rounds)
        print(
            f"q={rate:<8g}z={z:<6g}T={rounds:<12d}" + "".join(f"{t:>12}" for t in times), flush=True
        )


if __name__ == "__main__":
    main()
