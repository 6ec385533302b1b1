"""Checks with noise: its distribution, that none of it is used twice, and that nothing lacks it.

Every bound here holds for finite samples, so that the stated false-positive rates are not
approximations.
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

FALSE_POSITIVE = 1e-7  # the false-positive rate of each check
_ROUNDS = 3  # consecutive rounds, each from the state after the one before
_COUNTS = 256  # rounds whose noised counts are tested
_BEYOND = 1e9  # the score of a value that is NaN, or too far in the tail for floats

Cells = Mapping[str, np.ndarray]  # samples of N(0, 1), all of one length, by their origin


def values_cells(
    processes: Sequence[Process], law: Law, mechanism: Mechanism, m: float, planned: int
) -> Cells:
    """Returns the noise of updates, transformed to N(0, 1) by the law of the mechanism.

    One run has rounds of clients without an update; another run, from a fresh state, has a round
    without clients. If clients add the noise, each round has one client.

    Args:
      processes: The processes.
      law: The law of the mechanism.
      mechanism: The mechanism.
      m: The public expected number of clients in a round.
      planned: The number of rounds of the plan.

    Returns:
      Samples by algorithm, run, round and tensor.
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
    """Returns the noise of the count of unclipped clients, and some noise of updates, as N(0, 1).

    Args:
      aggregator: The aggregator with noise.
      law: The law of the mechanism.
      mechanism: The mechanism.
      m: The public expected number of clients in a round.

    Returns:
      Samples: "the count", and the first coordinate of each tensor; one number for each round.
    """
    state = aggregator.start()
    clip = law.clip(mechanism, aggregator.leaves(state))
    rounds = [aggregator.round(state, ()) for _ in range(_COUNTS)]
    counts = [count_of(mechanism, m, clip, law.clip(mechanism, done.leaves)) for done in rounds]
    noise = stats.norm(scale=mechanism.count_stddev(m))
    # A share outside [0, 1] is clipped. Counts that were clipped, or are too near to the edge for
    # float32, are drawn again from that tail, which does not change the law of a correct sample.
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
    """Transforms a sample of a continuous distribution to a sample of N(0, 1).

    Args:
      noise: A frozen distribution of scipy, symmetric about 0.
      sample: The sample, of any shape.

    Returns:
      The scores, of the same shape.
    """
    scores = -special.ndtri_exp(noise.logsf(np.abs(sample)))  # precise even in the far tails
    scores = np.nan_to_num(scores, nan=_BEYOND, posinf=_BEYOND)
    return np.asarray(np.copysign(scores, sample))


def size_check(name: str, cells: Cells) -> Check:
    """Checks the standard deviation of the noise, by a chi-squared test of each cell.

    Args:
      name: The name of the check.
      cells: The samples.

    Returns:
      The check, with the worst cell.
    """
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
    """Checks the distribution of the noise, by a Kolmogorov-Smirnov test of each cell.

    Args:
      name: The name of the check.
      cells: The samples.

    Returns:
      The check, with the worst cell.
    """
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
    """Checks that no noise is used twice, by correlations within and between cells at all lags.

    A sum of n products of independent N(0, 1) variables, with any shift, is a quadratic form, whose
    tails are bounded.

    Source: Laurent and Massart, "Adaptive estimation of a quadratic functional by model selection"
    (2000), lemma 1.

    Args:
      name: The name of the check.
      cells: The samples.

    Returns:
      The check, with the largest correlation.
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
    # Half of the false-positive rate is for the norms, and half for the sums of products.
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
    """Checks that the first cell is correlated neither with itself one round later nor with others.

    Args:
      name: The name of the check.
      cells: The samples; one number for each round.

    Returns:
      The check, with the largest correlation.
    """
    (name_of_first, first), *others = cells.items()
    pairs = {key: (first, other) for key, other in others}
    # Disjoint pairs of rounds, whose products are independent.
    pairs[f"{name_of_first}, a round later"] = (first[0::2], first[1::2])
    found = {key: abs(float(a @ b)) / (_norm(a) * _norm(b)) for key, (a, b) in pairs.items()}
    n = len(first) // 2  # the smallest number of products, which has the widest bound
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
    """Checks that state and measurements depend on clients only as the law allows.

    Rounds of neighboring cohorts from one state are compared bit by bit in everything that they
    return except the weights. Values that the law derives from a noised clip norm may differ, and
    must be equal to the derived values.

    Args:
      processes: The processes.
      law: The law of the mechanism.
      mechanism: The mechanism.
      m: The public expected number of clients in a round.

    Returns:
      The check.
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
    return math.sqrt(float(scores @ scores)) or 1.0  # avoids 0 / 0 if there is no noise


def _length(cells: Cells) -> int:
    return len(next(iter(cells.values())))
