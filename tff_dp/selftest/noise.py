"""With the noise on: its distribution, that none of it is used twice, and that nothing goes without it.

Every bound here holds for finite samples, so that the stated false-positive rates are no approximations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special, stats

from tff_dp.mechanisms import AdaptiveGaussianMechanism, Mechanism
from tff_dp.selftest.influence import count_of
from tff_dp.selftest.laws import Law, Leaves
from tff_dp.selftest.probes import HONEST, Aggregator, Process
from tff_dp.selftest.report import Check

FALSE_POSITIVE = 1e-7  # of each check
_ROUNDS = 3  # in a row, each from the state that the one before has left
_COUNTS = 256  # rounds whose noised counts are looked at
_BEYOND = 1e9  # the score of what is no number, or too far off for floats

Cells = Mapping[str, np.ndarray]  # samples of N(0, 1), all of one length, by where they are from


def values_cells(
    processes: Sequence[Process], law: Law, mechanism: Mechanism, m: float, planned: int
) -> Cells:
    """Returns the updates' noise, which the law makes N(0, 1), by algorithm, run, round and tensor.

    One run has rounds of clients without an update; another, from a fresh state, a round without clients.
    Where clients add the noise, a round has one of them.

    Args:
      processes: The processes.
      law: The mechanism's.
      mechanism: The mechanism.
      m: The public expected number of clients a round.
      planned: The plan's rounds.
    """
    found: dict[str, np.ndarray] = {}

    def run(process: Process, label: str, cohorts: Sequence[Sequence[str]]) -> None:
        state = process.start()
        leaves = process.leaves(state)
        laws, sums = [], []
        for cohort in cohorts:
            laws.append(law.noise(mechanism, m, law.clip(mechanism, leaves)))
            done = process.round(state, cohort)
            state, leaves = done.state, done.leaves
            sums.append(m * np.array(done.mean))
        factor = np.linalg.cholesky(law.covariance(mechanism, len(cohorts), planned))
        fresh = np.linalg.solve(factor, np.reshape(sums, [len(cohorts), -1])).reshape(
            np.shape(sums)
        )
        for number, (noise, parts) in enumerate(zip(laws, fresh, strict=True), 1):
            for tensor, part in enumerate(parts, 1):
                where = f"{process.name}, {label.format(number)}, tensor {tensor}"
                found[where] = normal_scores(noise, part)

    for process in processes:
        run(process, "round {}", [["zero"] * (1 if law.by_clients else 3)] * _ROUNDS)
        if not law.by_clients:
            run(process, "a round without clients", [[]])
    return found


def count_cells(
    aggregator: Aggregator, law: Law, mechanism: AdaptiveGaussianMechanism, m: float
) -> Cells:
    """Returns the noise on the count of unclipped clients, made N(0, 1), and some of the updates'."""
    state = aggregator.start()
    clip = law.clip(mechanism, aggregator.leaves(state))
    rounds = [aggregator.round(state, ()) for _ in range(_COUNTS)]
    counts = [count_of(mechanism, m, clip, law.clip(mechanism, done.leaves)) for done in rounds]
    noise = stats.norm(scale=mechanism.count_stddev(m))
    # A share outside [0, 1] is cut off; what was cut off, or is too near to it for float32, is drawn
    # again from that tail, which leaves a right sample right.
    edge = m / 2 * (1 - 1e-4)
    tail = noise.sf(edge)
    drawn = noise.isf(np.random.default_rng().uniform(0, max(tail, 1e-300), size=_COUNTS))
    whole = [
        math.copysign(extra, count) if abs(count) >= edge else count
        for count, extra in zip(counts, drawn, strict=True)
    ]
    law_of_values = law.noise(mechanism, m, clip)
    found = {"the count": normal_scores(noise, np.array(whole))}
    for tensor in range(len(rounds[0].mean)):
        first = np.array([m * done.mean[tensor][0] for done in rounds])
        found[f"tensor {tensor + 1}"] = normal_scores(law_of_values, first)
    return found


def normal_scores(noise: Any, sample: np.ndarray) -> np.ndarray:
    """Returns a sample of a continuous distribution as one of N(0, 1).

    Args:
      noise: The frozen distribution, symmetric about 0.
      sample: Any shape.
    """
    scores = -special.ndtri_exp(noise.logsf(np.abs(sample)))  # which the farthest tails survive
    scores = np.nan_to_num(scores, nan=_BEYOND, posinf=_BEYOND)
    return np.asarray(np.copysign(scores, sample))


def size_check(name: str, cells: Cells) -> Check:
    """Returns the chi-squared test of the variance, two-sided, over all cells."""
    n, each = _length(cells), FALSE_POSITIVE / len(cells) / 2
    found = {where: float(np.mean(np.square(scores))) for where, scores in cells.items()}
    low, high = float(stats.chi2.ppf(each, n)) / n, float(stats.chi2.isf(each, n)) / n
    where = max(found, key=lambda key: max(found[key] / high, low / max(found[key], 1e-300)))
    return Check(
        name=name,
        measured=math.sqrt(found[where]),
        low=math.sqrt(low),
        high=math.sqrt(high),
        unit="of the plan's (chi-squared)",
        where=where,
        false_positive=FALSE_POSITIVE,
    )


def shape_check(name: str, cells: Cells) -> Check:
    """Returns the Kolmogorov-Smirnov test against the law, over all cells."""
    found = {
        where: float(stats.kstest(scores, "norm").statistic) for where, scores in cells.items()
    }
    where = max(found, key=lambda key: found[key])
    return Check(
        name=name,
        measured=found[where],
        low=-math.inf,
        high=float(stats.kstwo.isf(FALSE_POSITIVE / len(cells), _length(cells))),
        unit="(Kolmogorov-Smirnov)",
        where=where,
        false_positive=FALSE_POSITIVE,
    )


def reuse_check(name: str, cells: Cells) -> Check:
    """Returns the test that no noise occurs twice: correlations within and between cells, at all lags.

    A sum of n products of independent N(0, 1), however shifted, is a quadratic form whose tails Laurent
    and Massart bound ("Adaptive estimation of a quadratic functional by model selection", lemma 1).
    """
    n, names = _length(cells), list(cells)
    spectra = np.fft.rfft([cells[key] for key in names])
    norms = [_norm(cells[key]) for key in names]
    worst, where = 0.0, ""
    for i, first in enumerate(names):
        for j, second in enumerate(names[: i + 1]):
            correlations = np.abs(np.fft.irfft(spectra[i] * np.conj(spectra[j]), n))
            largest = float(np.max(correlations[1:] if i == j else correlations))
            largest /= norms[i] * norms[j]
            if largest > worst:
                worst, where = largest, f"{second}; {first}"
    pairs = len(names) * (len(names) + 1) // 2
    # Half of the rate for the norms below, half for the sums of products.
    shortest = float(stats.chi2.ppf(FALSE_POSITIVE / 2 / len(names), n))
    t = math.log(2 * pairs * n / (FALSE_POSITIVE / 2))
    return Check(
        name=name,
        measured=worst,
        low=-math.inf,
        high=(math.sqrt(2 * n * t) + 2 * t) / shortest,
        unit="of correlation",
        where=where,
        false_positive=FALSE_POSITIVE,
    )


def apart_check(name: str, cells: Cells) -> Check:
    """Returns the test that the first cell has no correlation with itself a round later, or others."""
    (name_of_first, first), *others = cells.items()
    pairs = {key: (first, other) for key, other in others}
    pairs[f"{name_of_first}, a round later"] = (first[0::2], first[1::2])  # disjoint: independent
    found = {key: abs(float(a @ b)) / (_norm(a) * _norm(b)) for key, (a, b) in pairs.items()}
    n = len(first) // 2  # the fewest products, hence the widest bound
    t = float(stats.t.isf(FALSE_POSITIVE / len(pairs) / 2, n - 1))
    where = max(found, key=lambda key: found[key])
    return Check(
        name=name,
        measured=found[where],
        low=-math.inf,
        high=t / math.sqrt(n - 1 + t * t),
        unit="of correlation",
        where=where,
        false_positive=FALSE_POSITIVE,
    )


def release_check(processes: Sequence[Process], law: Law, mechanism: Mechanism, m: float) -> Check:
    """Returns the check that no more than the law says depends on clients.

    Rounds of neighbouring cohorts, from one state, are compared bit by bit in all that they return beside
    the weights. What the law derives from a noised clip norm may differ, and must be what it derives.
    """
    found: dict[str, str] = {}
    for process in processes:
        state = process.start()
        cohorts = [HONEST, (*HONEST, "norm 1e9"), (*HONEST, "zero"), (*HONEST, "NaN"), ()]
        reference, *others = (process.round(state, cohort).leaves for cohort in cohorts)
        for leaves in others:
            for path in _unexplained(reference, leaves, law, mechanism, m):
                found.setdefault(path, process.name)
    shown = [f"{path} ({algorithm})" for path, algorithm in found.items()]
    return Check(
        name="state and measurements: only what is noised depends on clients",
        measured=float(len(found)),
        low=-math.inf,
        high=0.0,
        unit="values",
        where=", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else ""),
    )


def _unexplained(
    one: Leaves, other: Leaves, law: Law, mechanism: Mechanism, m: float
) -> Iterator[str]:
    derived = [law.derived(mechanism, m, law.clip(mechanism, leaves)) for leaves in (one, other)]
    for path in sorted(one.keys() | other.keys()):
        if any(part in f"{path}/" for part in law.kept):
            continue
        if path not in one or path not in other:
            yield path
            continue
        ends = [end for end in derived[0] if path.endswith("/" + end)]
        if ends:
            values = [values[ends[0]] for values in derived]
            if not np.allclose([one[path], other[path]], values, rtol=1e-5, atol=0):
                yield path
        elif np.asarray(one[path]).tobytes() != np.asarray(other[path]).tobytes():
            yield path


def _norm(scores: np.ndarray) -> float:
    return math.sqrt(float(scores @ scores)) or 1.0  # without noise, no correlation either


def _length(cells: Cells) -> int:
    return len(next(iter(cells.values())))
