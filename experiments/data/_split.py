"""Training clients, and what is held out of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from tff_dp import _checks, _seeds, data

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Training clients and held-out examples.

    Attributes:
      train: The clients, x [examples, ...] and y [examples] (of text, [examples, characters]).
      test_x: Held-out inputs, of the same type and shape but for their number.
      test_y: Held-out targets.
      test_ids: The client from whom each held-out example is, strings [held-out examples].
      held_out: "clients" if all examples of whole clients are held out, so that the test asks about
        clients whom training never saw; "examples" if a share of each client's is.
      features: Names of the last dimension of x; empty where it has none (images, text).
    """

    train: data.Clients
    test_x: np.ndarray
    test_y: np.ndarray
    test_ids: np.ndarray
    held_out: str
    features: tuple[str, ...] = ()


def by_examples(
    frame: pd.DataFrame, *, client: str, what: str, held_out: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Holds out a share of each client's rows, chosen at random.

    Args:
      frame: One example a row.
      client: The column of client ids.
      what: The name of the rows, such as "patients": a part of the stream of random numbers.
      held_out: Share, in (0, 1). Of n rows, round(held_out n) are held out.
      seed: Of the choice.

    Returns:
      The rows for training and the held-out rows, both in random order.

    Raises:
      ArgumentError: A value is outside its bound.
    """
    share = _share(held_out)
    rng = _seeds.generator(_seeds.root(seed), f"held-out {what}")
    order = frame.sample(frac=1.0, random_state=rng)
    rank = order.groupby(client).cumcount()
    size = order.groupby(client)[client].transform("size")
    test = rank < (share * size).round()
    return order[~test], order[test]


def by_clients(
    frame: pd.DataFrame, *, client: str, what: str, held_out: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Holds out all rows of a share of the clients, chosen at random.

    Args:
      frame: One example a row.
      client: The column of client ids.
      what: As for `chosen`.
      held_out: Share of the clients, in (0, 1).
      seed: Of the choice.

    Returns:
      The rows for training and the held-out rows, both in the order of the frame.

    Raises:
      ArgumentError: A value is outside its bound.
    """
    ids = sorted(frame[client].unique())
    test = frame[client].isin(chosen(ids, what=what, held_out=held_out, seed=seed))
    return frame[~test], frame[test]


def chosen(ids: Sequence[_T], *, what: str, held_out: float, seed: int) -> list[_T]:
    """Chooses the clients to hold out.

    Args:
      ids: All clients, in an order that does not depend on their data.
      what: The name of the clients, such as "subjects": a part of the stream of random numbers.
      held_out: Share, in (0, 1). At least one client is held out, and at least one is not.
      seed: Of the choice.

    Returns:
      The held-out ones.

    Raises:
      ArgumentError: A value is outside its bound.
    """
    count = min(max(round(_share(held_out) * len(ids)), 1), len(ids) - 1)
    rng = _seeds.generator(_seeds.root(seed), f"held-out {what}")
    return [ids[position] for position in sorted(rng.permutation(len(ids))[:count])]


def _share(held_out: float) -> float:
    return _checks.real("held_out", held_out, "(0, 1)", "It is a share, such as 0.2.")


def of_frames(
    train: pd.DataFrame,
    test: pd.DataFrame,
    *,
    client: str,
    features: Sequence[str],
    label: str,
    held_out: str,
) -> Split:
    """Makes a split of rows for training and held-out rows, all in float32.

    Args:
      train: The rows for training.
      test: The held-out rows.
      client: The column of client ids.
      features: The columns of x.
      label: The column of y.
      held_out: "clients" or "examples".

    Returns:
      The split; y has the shape [examples].
    """
    return Split(
        train=data.from_frame(
            train, client=client, features=list(features), label=label, label_dtype="float32"
        ),
        test_x=test[list(features)].to_numpy("float32"),
        test_y=test[label].to_numpy("float32"),
        test_ids=test[client].astype(str).to_numpy(str),
        held_out=held_out,
        features=tuple(features),
    )
