"""Checks without noise that floating-point sums and norms satisfy the analysis over the real numbers.

Each client here is designed to exploit a particular kind of arithmetic. All checks are
deterministic.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import ml_dtypes  # which TensorFlow needs
import numpy as np

from tff_dp import execution
from tff_dp.mechanisms import Mechanism
from tff_dp.plan import PrivacyPlan
from tff_dp.selftest.laws import Law, law_of
from tff_dp.selftest.probes import Aggregator, Path
from tff_dp.selftest.report import Check
from tff_dp.selftest.testable import TENSORS

# Logarithms of the number of clients that are summed before the one whose influence is measured.
MANY_LOG, MANY_LOG_THOROUGH = 10, 13
LARGE_LOG, LARGE_LOG_THOROUGH = 22, 25  # logarithms of the number of weights of a large model
_WIDTH = 4  # coordinates of a tensor if their number does not matter
_OF_RESULTS = 1e-6  # roundoff of float32 in a result of many coordinates
_FIRST = 64  # the first weights of a large update, which are large
_ACCUMULATORS = (4, 64, 256)  # numbers of float32 accumulators that a compiler may use for a sum
_ORDERS = 4
_OF_UNIT = "of what is allowed"


@dataclasses.dataclass(frozen=True)
class Format:
    """A floating-point format of updates.

    Attributes:
      name: The name of its dtype.
      precision: The number of bits of its significand.
      many_log: The value of `MANY_LOG` for this format.
      smallest: The smallest clip norm for which its range is large enough.
      largest: The largest clip norm for which its range is large enough.
    """

    name: str
    precision: int
    many_log: int
    smallest: float
    largest: float

    @property
    def dtype(self) -> np.dtype:
        """Its numpy type."""
        return np.dtype(getattr(ml_dtypes, self.name, None) or self.name)


# Outside of the range of a format, its numbers are zero or infinite, and there is nothing to clip.
FLOAT32 = Format("float32", 24, MANY_LOG, 0.0, math.inf)
FORMATS = (
    Format("float16", 11, 5, 0.1, 100.0),
    Format("bfloat16", 8, 3, 0.0, math.inf),
    Format("float64", 53, 3, 0.0, math.inf),
)


def order_check(paths: Sequence[Path]) -> Check:
    """Checks that the result of a round has the same bits for every order of the clients.

    Args:
      paths: The processes and the aggregator, without noise.

    Returns:
      The check.
    """
    rng = np.random.default_rng(20241)
    found: dict[str, int] = {}
    for path in paths:
        state = path.start()
        names = list(path.clients)
        results = [
            np.concatenate([np.ravel(part) for part in path.round(state, order).mean])
            for order in (names, *(rng.permutation(names).tolist() for _ in range(_ORDERS)))
        ]
        differing = np.any([result != results[0] for result in results[1:]], axis=0)
        found[path.name] = int(np.sum(differing))
    where = max(found, key=lambda name: found[name])
    return Check(
        name="sums: the order of clients changes nothing",
        measured=float(found[where]),
        low=-math.inf,
        high=0.0,
        unit="coordinates",
        where=where,
    )


def crowd(allowed: float, form: Format) -> tuple[list[float], list[float], float]:
    """Returns numbers to be summed before and after one number, such that float sums go wrong.

    The sum of the numbers before it is just below a power of two.

    Args:
      allowed: The number between them; > 0.
      form: The format in which they would be summed.

    Returns:
      The numbers before; the numbers after; and the slack, in units of `allowed`, which is due to
      the rounding of both results to the format after their sums are done, and of the number
      itself.
    """
    step = 2.0 ** math.floor(math.log2(0.9 * allowed))
    before = 2**form.many_log
    power = before * step
    apart = power * 2.0**-form.precision  # distance of adjacent numbers just below the power
    wobble = [apart * (1 + 2.0**-5), -apart * (1 - 2.0**-5)]
    slack = (3 * power / allowed + 1) * 2.0**-form.precision + _OF_RESULTS
    return [step] * (before - 1) + [step / 2], wobble * before, slack


def many_check(
    aggregator: Aggregator, law: Law, mechanism: Mechanism, m: float, form: Format = FLOAT32
) -> Check:
    """Checks the influence of one client that is followed by many others.

    The sum of the clients before it is just below a power of two. The clients after it add and
    subtract a small number in turn. Below the power of two, rounding cancels these; above it, where
    adjacent numbers are twice as far apart, rounding accumulates them. In floating point, the one
    client would thus change the effect of every client after it.

    Args:
      aggregator: The aggregator without noise, for updates of the format.
      law: The law of the mechanism.
      mechanism: The mechanism.
      m: The public expected number of clients in a round.
      form: The format of updates and results.

    Returns:
      The check.
    """
    one = np.zeros([TENSORS, _WIDTH])
    one[0, 0] = 1.0
    allowed = 1 / law.size(mechanism, one)  # the largest value of this coordinate
    values, after, slack = crowd(allowed, form)

    def update(value: float) -> list[np.ndarray]:
        return [(value * part).astype(form.dtype) for part in one]

    others = [update(value) for value in values], [update(value) for value in after]
    state = aggregator.start()

    def total(clients: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        return m * np.array(aggregator.round_of(state, clients).mean)

    moved = total([*others[0], update(allowed), *others[1]]) - total([*others[0], *others[1]])
    return Check(
        name=f"sums: one of {len(values) + len(after) + 1} clients, in {form.name}",
        measured=law.size(mechanism, moved),
        low=-math.inf,
        high=1 + slack,
        unit=_OF_UNIT,
    )


def format_checks(plan: PrivacyPlan, law: Law, mechanism: Mechanism) -> Iterator[Check]:
    """Checks hostile clients whose updates are in another format than float32.

    Args:
      plan: The plan, without noise.
      law: The law of the mechanism.
      mechanism: The plan's mechanism for updates.

    Yields:
      The checks.
    """
    for form in FORMATS:
        if holds(form, mechanism):
            aggregator = Aggregator(plan, {}, [_WIDTH] * TENSORS, form.dtype)
            yield _format_check(aggregator, law, mechanism, plan.clients_per_round, form)
            if form.precision < FLOAT32.precision:
                yield many_check(aggregator, law, mechanism, plan.clients_per_round, form)


def holds(form: Format, mechanism: Mechanism) -> bool:
    """Says whether the range of a format is large enough for the clip norms of a mechanism.

    Args:
      form: The format.
      mechanism: The mechanism.

    Returns:
      True if it is.
    """
    return all(
        form.smallest <= norm <= form.largest for norm in law_of(mechanism).clip_norms(mechanism)
    )


def _format_check(
    aggregator: Aggregator, law: Law, mechanism: Mechanism, m: float, form: Format
) -> Check:
    largest = float(ml_dtypes.finfo(form.dtype).max)  # type: ignore[no-untyped-call]
    shape = [TENSORS, _WIDTH]
    single = np.zeros(shape)
    single[-1, 0] = 1.0
    even = np.ones(shape)
    hostile = {
        "the largest numbers": np.full(shape, largest),
        "the largest number": largest * single,
        "a NaN": np.where(single, np.nan, 1.0),
        "an infinity": np.where(single, np.inf, 1.0),
        "at the bound": even / law.size(mechanism, even),
        "twice the bound": 2 * even / law.size(mechanism, even),
    }
    state = aggregator.start()
    alone = np.array(aggregator.round_of(state, []).mean)
    found = {
        name: law.size(
            mechanism,
            m * (np.array(aggregator.round_of(state, [list(x.astype(form.dtype))]).mean) - alone),
        )
        for name, x in hostile.items()
    }
    where = max(found, key=lambda name: math.inf if math.isnan(found[name]) else found[name])
    return Check(
        name=f"sensitivity: hostile clients in {form.name}",
        measured=found[where],
        low=-math.inf,
        high=1 + 2.0**-form.precision + _OF_RESULTS,  # the rounding of the result itself
        unit=_OF_UNIT,
        where=where,
    )


def large_check(plan: PrivacyPlan, law: Law, mechanism: Mechanism, log: int = LARGE_LOG) -> Check:
    """Checks that the update of a large model is clipped, with XLA and without.

    The first weights of each tensor are large. Each of the others is so small that a float32
    accumulator which holds the large ones does not change by it, although all of them together
    matter.

    Args:
      plan: The plan, without noise.
      law: The law of the mechanism.
      mechanism: The plan's mechanism for updates.
      log: The logarithm to base 2 of the number of weights.

    Returns:
      The check.
    """
    m, size = plan.clients_per_round, 2**log // TENSORS
    one = np.zeros([TENSORS, 1])
    one[0, 0] = 1.0
    # Far above the bound; a factor that is a power of two does not change the roundoff.
    factor = 2.0 ** math.ceil(math.log2(1e3 / law.size(mechanism, one)))
    found: dict[str, float] = {}
    aggregator = Aggregator(plan, {}, [size] * TENSORS)
    for xla in (True, False):
        with execution.fast(xla=xla):
            state = aggregator.start()
            for accumulators in _ACCUMULATORS:
                for power in (1, 2):  # the power of the magnitudes that the norm sums
                    vanishing = 0.9 * _FIRST / accumulators * 2.0**-FLOAT32.precision
                    part = np.full(size, factor * vanishing ** (1 / power), np.float32)
                    part[:_FIRST] = factor
                    moved = m * law.size(
                        mechanism, aggregator.round_of(state, [[part] * TENSORS]).mean
                    )
                    where = f"{'with' if xla else 'without'} XLA, against {accumulators} "
                    found[f"{where}accumulators of L{power} norms"] = moved
    where = max(found, key=lambda name: found[name])
    return Check(
        name=f"sensitivity: an update of 2^{log} weights, with XLA and without",
        measured=found[where],
        low=-math.inf,
        high=1 + _OF_RESULTS,
        unit=_OF_UNIT,
        where=where,
    )
