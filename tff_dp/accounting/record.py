"""The privacy cost of rounds with record-level privacy, for each client separately."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from tff_dp import _checks
from tff_dp.accounting.events import GaussianRound, IndependentRound, Round
from tff_dp.errors import ArgumentError
from tff_dp.sampling import Adjacency, FullParticipation, PoissonSampler, Sampler


def check_records(records: Any) -> tuple[int, ...]:
    """Checks the numbers of records.

    Args:
      records: One whole number >= 1 for each client, in any iterable.

    Returns:
      The numbers, as a tuple of ints.

    Raises:
      ArgumentError: A value is not a whole number >= 1, or there are no values.
    """
    remedy = "Give each client's number of records, such as tuple(clients.sizes)."
    if isinstance(records, str) or not isinstance(records, Iterable):
        raise ArgumentError(
            f"records={records!r} is outside its bound: expected whole numbers >= 1, one for each "
            f"client. {remedy}"
        )
    counts = tuple(_checks.integer("records", count, "[1, inf)", remedy) for count in records)
    if not counts:
        raise ArgumentError(f"records={records!r} is empty: expected at least one client. {remedy}")
    return counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordRound(Round):
    """One round in which each client takes DP-SGD steps on Poisson batches of its own records.

    Each record belongs to one client, so that the guarantees of the clients hold in parallel: the
    epsilon of client k is that of its own steps, at its own rate q_k = batch_size / records[k].
    `equivalent` gives that of the worst client, which is the client with the fewest records. Every
    round counts as if every client had participated: the sampler of clients amplifies nothing.

    Neighboring data sets differ in one record of one client, while the numbers of records, and thus
    the rates, are public constants. Under add-or-remove-one, an absent record is therefore a record
    that contributes nothing, as under zero-out, and both relations have the same epsilon. Under
    replace-one the numbers are equal anyway.

    Args:
      noise_multiplier: z of each step, the standard deviation of the noise over the clip norm; >=
        0.
      sampler: The sampler of clients.
      population: Number of clients; the length of `records`.
      adjacency: The neighboring relation between data sets of records; any.
      batch_size: Expected number of records in a batch; at most each client's number of records.
      local_steps: Steps of a client in one round; >= 1.
      records: Each client's number of records.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    batch_size: int
    local_steps: int
    records: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "records", check_records(self.records))
        if len(self.records) != self.population:
            raise ArgumentError(
                f"records={_checks.brief(self.records)} does not fit population={self.population!r}: "
                "expected one number of records for each client. "
                "population=None takes as many clients as records has numbers."
            )
        fewest = min(self.records)
        _checks.integer(
            "batch_size",
            self.batch_size,
            f"[1, {fewest}]",
            f"Client {self.records.index(fewest)} has {fewest} records, and the expected size of a "
            "batch cannot exceed that: take a smaller batch_size, or leave this client out.",
        )
        _checks.integer("local_steps", self.local_steps, "[1, inf)")

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns all relations, whatever the sampler: amplification comes from Poisson batches only."""
        del sampler
        return PoissonSampler.adjacencies

    def of_client(self, position: int) -> RecordRound:
        """Returns the round of one client by itself.

        Args:
          position: The position of the client, in [0, population).

        Returns:
          A round with this client only.
        """
        return dataclasses.replace(
            self, records=(self.records[position],), population=1, sampler=FullParticipation()
        )

    def equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Returns one step of the client with the fewest records, and the number of such steps."""
        fewest = min(self.records)
        batches = (
            FullParticipation()  # equivalent to a rate of 1, and has an exact formula
            if self.batch_size == fewest
            else PoissonSampler(rate=self.batch_size / fewest)
        )
        step = GaussianRound(
            noise_multiplier=self.noise_multiplier,
            sampler=batches,
            population=fewest,
            adjacency=self.adjacency,
        )
        return step, self.local_steps * sum(len(run) for run in runs)
