"""With the noise off: that sums and norms in floating point hold what the analysis over the reals says.

Each client here is made for the arithmetic that it would deceive. Nothing is left to chance.
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

MANY_LOG, MANY_LOG_THOROUGH = (
    10,
    13,
)  # of the clients whose sum comes before the one that is left out
LARGE_LOG, LARGE_LOG_THOROUGH = 22, 25  # of a model's weights
_WIDTH = 4  # coordinates of a tensor, where their number does not matter
_OF_RESULTS = 1e-6  # float32's roundoff in a result of many coordinates
_FIRST = 64  # weights of a large update that come first, and are large
_ACCUMULATORS = (4, 64, 256)  # of float32, that a compiler may sum with
_ORDERS = 4
_OF_UNIT = "of what is allowed"


@dataclasses.dataclass(frozen=True)
class Format:
    """A floating-point format of updates.

    Attributes:
      name: Of its dtype.
      precision: Bits of its significand.
      many_log: As `MANY_LOG`, for this format.
      smallest: The smallest clip norm for which its range is enough.
      largest: The largest one.
    """

    name: str
    precision: int
    many_log: int
    smallest: float
    largest: float

    @property
    def dtype(self) -> np.dtype:
        """Its type in numpy."""
        return np.dtype(getattr(ml_dtypes, self.name, None) or self.name)


# Where a format's range ends, its numbers are zero or infinite: there is nothing to clip.
FLOAT32 = Format("float32", 24, MANY_LOG, 0.0, math.inf)
FORMATS = (
    Format("float16", 11, 5, 0.1, 100.0),
    Format("bfloat16", 8, 3, 0.0, math.inf),
    Format("float64", 53, 3, 0.0, math.inf),
)


def order_check(paths: Sequence[Path]) -> Check:
    """Returns the check that a round's result is the same to the bit in whatever order clients come.

    Args:
      paths: The processes and the aggregator, without noise.
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
    """Returns numbers that come before and after one, and by how much rounded results exceed the move.

    The sum of those before comes to just below a power of two.

    Args:
      allowed: The number between them; > 0.
      form: The format in which they would be summed.

    Returns:
      Those before; those after; and the slack, in units of `allowed`: both results are rounded to the
      format once their sum is done, and so is the number itself.
    """
    step = 2.0 ** math.floor(math.log2(0.9 * allowed))
    before = 2**form.many_log
    power = before * step
    apart = power * 2.0**-form.precision  # of numbers just below the power
    wobble = [apart * (1 + 2.0**-5), -apart * (1 - 2.0**-5)]
    slack = (3 * power / allowed + 1) * 2.0**-form.precision + _OF_RESULTS
    return [step] * (before - 1) + [step / 2], wobble * before, slack


def many_check(
    aggregator: Aggregator, law: Law, mechanism: Mechanism, m: float, form: Format = FLOAT32
) -> Check:
    """Returns the check of what one client moves that is not the last one of many.

    Sums of the clients before it come to just below a power of two. Those after it add and take off a
    little, so that below that power rounding undoes it, and above it, where numbers are twice as far
    apart, rounding adds it up: a sum in floating point is moved by every one of them.

    Args:
      aggregator: Without noise, of that format.
      law: The mechanism's.
      mechanism: The mechanism.
      m: The public expected number of clients a round.
      form: The format of updates and results.
    """
    one = np.zeros([TENSORS, _WIDTH])
    one[0, 0] = 1.0
    allowed = 1 / law.size(mechanism, one)  # of this coordinate
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
    """Yields the checks of hostile clients whose updates are in another format than float32.

    Args:
      plan: The plan, without noise.
      law: The mechanism's.
      mechanism: Its mechanism for updates.
    """
    for form in FORMATS:
        if holds(form, mechanism):
            aggregator = Aggregator(plan, {}, [_WIDTH] * TENSORS, form.dtype)
            yield _format_check(aggregator, law, mechanism, plan.clients_per_round, form)
            if form.precision < FLOAT32.precision:
                yield many_check(aggregator, law, mechanism, plan.clients_per_round, form)


def holds(form: Format, mechanism: Mechanism) -> bool:
    """Returns whether a format's range is enough for a mechanism's clip norms."""
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
        high=1 + 2.0**-form.precision + _OF_RESULTS,  # the result's own rounding
        unit=_OF_UNIT,
        where=where,
    )


def large_check(plan: PrivacyPlan, law: Law, mechanism: Mechanism, log: int = LARGE_LOG) -> Check:
    """Returns the check that the update of a large model is clipped, with XLA and without.

    The first weights of each tensor are large, and each of the others is so small that it vanishes beside
    them in a float32 accumulator, though all of them together do not.

    Args:
      plan: The plan, without noise.
      law: The mechanism's.
      mechanism: Its mechanism for updates.
      log: The logarithm to base 2 of the number of weights.
    """
    m, size = plan.clients_per_round, 2**log // TENSORS
    one = np.zeros([TENSORS, 1])
    one[0, 0] = 1.0
    # Far beyond the bound; a power of two leaves the numbers' roundoff as it is.
    factor = 2.0 ** math.ceil(math.log2(1e3 / law.size(mechanism, one)))
    found: dict[str, float] = {}
    aggregator = Aggregator(plan, {}, [size] * TENSORS)
    for xla in (True, False):
        with execution.fast(xla=xla):
            state = aggregator.start()
            for accumulators in _ACCUMULATORS:
                for power in (1, 2):  # of the magnitudes that a norm sums
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
