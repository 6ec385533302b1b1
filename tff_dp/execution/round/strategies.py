"""Chooses how a round runs, and records why: an ordered list of candidates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tff_dp._arrays import arrays_of
from tff_dp.execution import values
from tff_dp.execution.cohort import datasets
from tff_dp.execution.round import programs

_NAMES = {"vmap": "side by side", "scan": "one after another", "call": "by a call per client"}


class Way(NamedTuple):
    """A way to run the clients of a round.

    Attributes:
      strategy: "scan" (one graph, clients one after another), "vmap" (one graph, clients side by
        side) or "call" (one graph call per client).
      xla: Whether XLA compiles the clients' part.
      imported: Whether the clients' part runs as an imported graph instead of being rewritten.
    """

    strategy: str
    xla: bool = False
    imported: bool = False

    def __str__(self) -> str:
        if self.strategy == "call":
            return "strategy call, as imported" if self.imported else "strategy call"
        return f"strategy {self.strategy}, {'with' if self.xla else 'without'} XLA"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way that was considered.

    Attributes:
      way: The way.
      given_up: Why it is not taken; None for the way that is taken.
    """

    way: Way
    given_up: str | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """How the clients of a round run.

    Attributes:
      candidates: The ways that were considered, in order. All but the last were given up.
      basis: Why they were considered in this order, in words.
    """

    candidates: tuple[Candidate, ...]
    basis: str

    @property
    def way(self) -> Way:
        """The way that is taken."""
        return self.candidates[-1].way

    def account(self) -> str:
        """Returns a sentence that says which way is taken and why those before it are not."""
        reasons: dict[str, list[Way]] = {}  # in order
        for candidate in self.candidates:
            if candidate.given_up is not None:
                reasons.setdefault(candidate.given_up, []).append(candidate.way)
        told = [self.basis]
        told += [f"{_together(ways)} given up: {why}" for why, ways in reasons.items()]
        return f"clients: {self.way}: {'; '.join(told)}"


@dataclasses.dataclass(frozen=True)
class Tried:
    """What earlier attempts have shown.

    Attributes:
      failed: The ways that failed, each with the reason.
      server_xla: What prevents XLA from compiling the server's parts, or None.
    """

    failed: Mapping[Way, str]
    server_xla: str | None

    def with_failed(self, way: Way, why: str) -> Tried:
        """Adds a way that failed.

        Args:
          way: The way.
          why: The reason.

        Returns:
          A new object; this one does not change.
        """
        return dataclasses.replace(self, failed={**self.failed, way: why})

    def with_server_xla(self, why: str) -> Tried:
        """Adds what prevents XLA from compiling the server's parts.

        Args:
          why: The reason.

        Returns:
          A new object; this one does not change.
        """
        return dataclasses.replace(self, server_xla=why)


def choose(
    parts: programs.RoundPrograms,
    strategy: str,
    xla: bool | None,
    on_gpu: bool,
    data_obstacle: str | None,
    failed: Mapping[Way, str],
) -> Choice:
    """Chooses how a round runs: the first candidate that has no obstacle.

    The candidates, in order, are: clients side by side with XLA, and without; one after another
    with XLA, and without; one graph call per client; and the same with the clients' part as an
    imported graph. If a strategy is given, the list starts at its first candidate. Under "auto", a
    CPU runs clients one after another; so does a GPU if their part draws random numbers, has
    convolutions, or cannot be vectorized, and otherwise it runs them side by side. XLA compiles the
    clients' part unless something in it cannot be compiled, or it has convolutions and runs on a
    CPU, where XLA makes these slower.

    Args:
      parts: The programs of the round.
      strategy: See `fast`.
      xla: See `fast`.
      on_gpu: Whether the device is a GPU.
      data_obstacle: What prevents the data from being the input of one graph, or None.
      failed: The ways that have failed, each with the reason.

    Returns:
      The way that is taken, with the ways before it and why they were given up. The last candidate
      is taken even if it has failed before, so that its error is reported.
    """
    considered = []
    for way in _ways(parts, strategy, on_gpu):
        given_up = _obstacle(parts, way, xla, on_gpu, data_obstacle) or failed.get(way)
        considered.append(Candidate(way, given_up))
        if given_up is None:
            break
    else:  # the last way is tried in any case: its error is reported when it runs
        considered[-1] = dataclasses.replace(considered[-1], given_up=None)
    way = considered[-1].way
    if strategy != "auto":
        basis = "the strategy was given"
    elif way.strategy == "call":
        basis = "a cohort cannot be one graph"
    else:
        device = "GPU" if on_gpu else "CPU"
        basis = f"the clients' part fits one graph, and the device is a {device}"
    if way.xla and xla:
        basis = f"{basis}; with XLA, as was asked"
    return Choice(tuple(considered), basis)


def _ways(parts: programs.RoundPrograms, strategy: str, on_gpu: bool) -> Iterator[Way]:
    """Yields the ways to consider, in order."""
    vectorizes = not (parts.work.is_random or parts.work.convolves or parts.vmap_obstacle)
    if strategy == "vmap" or (strategy == "auto" and on_gpu and vectorizes):
        yield from (Way("vmap", xla=True), Way("vmap"))
    if strategy != "call":
        yield from (Way("scan", xla=True), Way("scan"))
    yield from (Way("call"), Way("call", imported=True))


def _obstacle(
    parts: programs.RoundPrograms,
    way: Way,
    xla: bool | None,
    on_gpu: bool,
    data_obstacle: str | None,
) -> str | None:
    """Returns what is known to prevent a way before it is tried, or None."""
    if way.strategy == "call":
        if way.imported:
            return None
        # A program that advances an iterator itself needs batches by number, which data sets lack.
        iterates = "it moves an iterator over its batches" if parts.work.iterates else None
        return parts.work.obstacle or iterates
    if parts.obstacle or data_obstacle:
        return parts.obstacle or data_obstacle
    if way.strategy == "vmap" and parts.vmap_obstacle:
        return parts.vmap_obstacle
    if not way.xla:
        return None
    cannot = xla_obstacle(parts)
    if cannot or xla:
        return cannot
    if xla is not None:
        return "xla=False was given"
    return "XLA is slow for convolutions on a CPU" if parts.work.convolves and not on_gpu else None


def _together(ways: list[Way]) -> str:
    """Returns a phrase for several ways that were given up for the same reason."""
    strategies: dict[str, list[Way]] = {}
    for way in ways:
        strategies.setdefault(way.strategy, []).append(way)
    told = []
    for strategy, own in strategies.items():
        only = len(own) == 1 and strategy != "call"
        how = f" {'with' if own[0].xla else 'without'} XLA" if only else ""
        told.append(f"{_NAMES[strategy]}{how}")
    return " and ".join(told)


def xla_obstacle(parts: programs.RoundPrograms) -> str | None:
    """Finds out why XLA cannot compile the clients' part.

    Args:
      parts: The programs of the round.

    Returns:
      The reason: strings, sums without a fixed shape, or an operation; None if there is none.
    """
    tff_types = [
        leaf
        for part in (parts.work, parts.programs["accumulate"])
        for side in (part.type_signature.parameter, part.type_signature.result)
        for leaf in values.leaves(side)
    ]
    for leaf in tff_types:
        for spec in tf.nest.flatten(values.tensor_specs(leaf)):
            if spec.dtype == tf.string:
                return "it has strings"
    if not all(shape.is_fully_defined() for shape in parts.carry_shapes):
        return "the sums over clients have no fixed shape"
    return parts.xla_obstacle


def data_obstacle(parts: programs.RoundPrograms, data: Any) -> str | None:
    """Finds out what in a cohort's data prevents it from being the input of one graph.

    Args:
      parts: The programs of the round.
      data: The data, as arrays or as a list with an entry for each client; None if they are not
        known yet.

    Returns:
      The reason, or None if there is none.
    """
    if parts.takes_sequence and (data is None or arrays_of(data) is not None):
        return None
    data_type = parts.work.type_signature.parameter[0]
    if not parts.takes_sequence:
        if any(values.is_one_sequence(leaf) for leaf in values.leaves(data_type)):
            return "a client's data has several sequences, or tensors beside one"
        if not all(
            tf.TensorShape(leaf.shape).is_fully_defined() for leaf in values.leaves(data_type)
        ):
            return "a client's data has no fixed shape"
        return None
    for client in data:
        if isinstance(client, tf.data.Dataset):
            found = datasets.obstacle(client.element_spec)
            if found:
                return found
        else:
            return "its clients' data are not all data sets"
    return None
