"""Random numbers that are drawn in Python; each stream follows from (seed, purpose, round, client).

No other module of tff_dp makes a generator.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np

from tff_dp import _checks


def root(seed: int | None) -> int:
    """Returns the root from which all random numbers of a run derive.

    Args:
      seed: A whole number in [0, 2**128), which makes the run's draws in Python reproducible, or
        None for 128 bits from the operating system.

    Returns:
      A whole number in [0, 2**128).

    Raises:
      ArgumentError: The seed is outside its bound.
    """
    if seed is None:
        return secrets.randbits(128)
    return _checks.integer("seed", seed, f"[0, {2**128})", "Pass a non-negative whole number.")


def later(root_seed: int, charges: int) -> int:
    """Returns the root of a run on a data set from which earlier runs have drawn cohorts already.

    Amplification by sampling requires fresh randomness in every run. Two runs with the same root
    draw the same cohorts, so that a run with the seed of an earlier run needs another root.

    Args:
      root_seed: The root of the run's own seed, in [0, 2**128).
      charges: How many rounds were charged on this data set before the run; >= 0.

    Returns:
      A whole number in [0, 2**128); `root_seed` itself if no round was charged before.
    """
    words = generator(root_seed, "later", round_number=charges).integers(0, 2**32, 4)
    return int.from_bytes(words.astype("<u4").tobytes(), "little") if charges else root_seed


def generator(
    root_seed: int, purpose: str, *, round_number: int = 0, client: int = 0
) -> np.random.Generator:
    """Returns a generator whose stream is independent of the stream of any other arguments.

    The cohort of a round must not share its stream with the order of a client's examples, nor round
    1 of seed 2 with round 2 of seed 1. Each argument is therefore a word of the seed sequence by
    itself, and none is added to another (`numpy.random.SeedSequence` hashes them).

    Args:
      root_seed: The run's root, from `root`.
      purpose: What the numbers are for, such as "cohort".
      round_number: The round, counted from 1; 0 for draws that belong to no round.
      client: The client's position in the data; 0 for draws that belong to no client.

    Returns:
      A new `numpy.random.Generator`.
    """
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")
    return np.random.default_rng(
        np.random.SeedSequence(root_seed, spawn_key=(word, round_number, client))
    )
