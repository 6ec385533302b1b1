"""Checks the source of the random bits of the noise, and its tail, in the graphs that run.

Twenty thousand draws show nothing about the tail beyond six standard deviations, and no number of
draws distinguishes bits of the operating system from bits of the clock. All checks here are
deterministic.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_dp.execution import is_seeded, noise_bits
from tff_dp.execution.graph import noise_draws
from tff_dp.mechanisms import Mechanism
from tff_dp.selftest.laws import Law
from tff_dp.selftest.probes import Aggregator, Path
from tff_dp.selftest.report import Check

# Words that all have the first value give the largest noise, and with the second value the
# smallest.
_FARTHEST = {1: 0, -1: -(2**62)}
_WHOLE_WORD = 63.0  # the random bits of a word of `tff_dp.noise.words`


def keyed_check(paths: Sequence[Path], *, by_clients: bool, alone: bool = True) -> Check:
    """Checks that nobody can know the random bits from which the noise is made.

    The check examines every random operation of the parts that draw noise: the server's part, and
    the clients' part if clients add the noise.

    Args:
      paths: The processes and the aggregator, with noise.
      by_clients: Whether clients add the noise.
      alone: Whether aggregators draw nothing but noise. Aggregators that round at random draw more.

    Returns:
      The check.
    """
    wrong: list[str] = []
    listed: list[str] = []
    for path in paths:
        bits = noise_bits(path.next)
        if bits.obstacle:
            wrong.append(f"{path.name}: {bits.obstacle}")
        elif not bits.marked:
            wrong.append(f"{path.name}: has no noise of tff_dp.noise, whose source is known")
        draws = _draws(path, by_clients=by_clients)
        if draws is None:
            wrong.append(f"{path.name}: cannot run in this process")
            continue
        # The model of a process may draw random numbers of its own, in dropout.
        if path.is_alone:
            wrong += [f"{path.name}: {name} has a known seed" for name in _known_seeds(path)]
        outside = [d for d in draws if not d.noise and (d.part != "work" or path.is_alone)]
        outside = outside if alone else []
        wrong += [f"{path.name}: {d.name} in {d.part} draws outside of the noise" for d in outside]
        counts = collections.Counter((d.part, d.name.split(" ")[0]) for d in draws if d.noise)
        what = ", ".join(f"{count} {name} in {part}" for (part, name), count in counts.items())
        listed.append(f"{path.name}: {what or 'no operation'}, from {bits.source}")
    return Check(
        name="provenance: the noise's random bits are known to nobody",
        measured=float(len(wrong)),
        low=-math.inf,
        high=0.0,
        unit="obstacles and operations",
        where="; ".join(wrong or listed),
    )


def words_check(paths: Sequence[Path], *, by_clients: bool) -> Check:
    """Checks that all noise is made of words of 63 random bits.

    Args:
      paths: As for `keyed_check`.
      by_clients: As for `keyed_check`.

    Returns:
      The check.
    """
    found = [
        (d.bits, f"{path.name}: {d.name} in {d.part}")
        for path in paths
        for d in _draws(path, by_clients=by_clients) or ()
        if d.noise or d.part != "work" or path.is_alone
    ]
    bits, where = min(
        found or [(0.0, "no random operation")],
        key=lambda item: -1.0 if math.isnan(item[0]) else item[0],
    )
    return Check(
        name="provenance: noise is made of whole words of 63 bits",
        measured=bits,
        low=_WHOLE_WORD,
        high=64.0,
        unit="bits",
        where=where,
    )


def reach_check(
    aggregator: Aggregator, law: Law, mechanism: Mechanism, m: float, planned: int
) -> Check:
    """Checks that the most extreme random words give the most extreme noise, on both sides.

    The graphs of the aggregator run with one value for all random words of the noise.

    Args:
      aggregator: The aggregator with noise.
      law: The law of the mechanism.
      mechanism: The mechanism.
      m: The public expected number of clients in a round.
      planned: The number of rounds of the plan.

    Returns:
      The check.
    """
    state = aggregator.start()
    noise = law.noise(mechanism, m, law.clip(mechanism, aggregator.leaves(state)))
    # The scale in the first round, which differs from the unit if rounds share noise.
    unit = law.unit(noise) * math.sqrt(float(law.covariance(mechanism, 1, planned)[0, 0]))
    clients = ["zero"] if law.by_clients else []
    found: dict[str, float] = {}
    for sign, word in _FARTHEST.items():
        parts = aggregator.round_of_words(state, clients, word)
        if parts is None:
            found["the aggregator cannot run in this process"] = -math.inf
            continue
        for tensor, part in enumerate(parts, 1):
            farthest = float(np.max(sign * m * part)) / unit
            found[f"tensor {tensor}, {'above' if sign > 0 else 'below'}"] = farthest
    where = min(found, key=lambda key: found[key])
    return Check(
        name="tail: the farthest words give the farthest noise",
        measured=found[where],
        low=law.reach,
        high=math.inf,
        unit="of the noise's scale",
        where=where,
    )


def _draws(path: Path, *, by_clients: bool) -> Any:
    draws = noise_draws.draws_of(path.next)
    return draws and [d for d in draws if by_clients or not d.by_client]


def _known_seeds(path: Path) -> list[str]:
    return noise_draws.constant_seeds(path.next)


def seed_check() -> Check:
    """Returns a check that the execution context has no seed."""
    return Check(
        name="noise: drawn from no known seed",
        measured=float(is_seeded()),
        low=-math.inf,
        high=0.0,
        unit="seeds",
    )
