"""The sole source of random numbers that are drawn in Python: (seed, purpose, round, client)."""

from __future__ import annotations

import hashlib
import secrets

import numpy as np

from tff_dp import _checks


def root(seed: int | None) -> int:
    """Returns the root of a run's random numbers.

    Args:
      seed: A whole number in [0, 2**128) for a run whose draws in Python can be repeated, or None for
        128 bits from the operating system.

    Returns:
      A whole number in [0, 2**128).

    Raises:
      ArgumentError: The seed is outside its bound.
    """
    if seed is None:
        return secrets.randbits(128)
    return _checks.integer("seed", seed, f"[0, {2**128})", "Pass a non-negative whole number.")


def later(root_seed: int, charges: int) -> int:
    """Returns the root of a run on clients of whom earlier runs, maybe of the same seed, drew cohorts.

    Sampling amplifies privacy by coins that are tossed anew. Two runs that share a root share them.

    Args:
      root_seed: The seed that the run was given.
      charges: How many rounds were charged before the run.
    """
    words = generator(root_seed, "later", round_number=charges).integers(0, 2**32, 4)
    return int.from_bytes(words.astype("<u4").tobytes(), "little") if charges else root_seed


def generator(
    root_seed: int, purpose: str, *, round_number: int = 0, client: int = 0
) -> np.random.Generator:
    """Returns a generator whose stream is independent of that of every other set of arguments.

    A round's cohort must not share its stream with the order of a client's examples, nor round 1 of
    seed 2 with round 2 of seed 1: each argument is a word of the seed sequence, none is added to
    another (`numpy.random.SeedSequence` hashes them).

    Args:
      root_seed: The run's root, from `root`.
      purpose: What the numbers are for, such as "cohort".
      round_number: The round, from 1; 0 for what belongs to no round.
      client: The client's position in the data; 0 for what belongs to no client.

    Returns:
      A fresh `numpy.random.Generator`.
    """
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")
    return np.random.default_rng(
        np.random.SeedSequence(root_seed, spawn_key=(word, round_number, client))
    )
