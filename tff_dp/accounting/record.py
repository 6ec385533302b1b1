"""What rounds of record-level privacy cost, silo by silo."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from tff_dp import _checks
from tff_dp.accounting.events import GaussianRound, IndependentRound, Round
from tff_dp.errors import ArgumentError
from tff_dp.sampling import Adjacency, FullParticipation, PoissonSampler, Sampler


def check_records(records: Any) -> tuple[int, ...]:
    """Returns the numbers of records, one a client, as a tuple.

    Raises:
      ArgumentError: They are no whole numbers >= 1, or there are none.
    """
    remedy = "Give each client's number of records, such as tuple(clients.sizes)."
    if isinstance(records, str) or not isinstance(records, Iterable):
        raise ArgumentError(
            f"records={records!r} is outside its bound: expected whole numbers >= 1, one a client. "
            f"{remedy}"
        )
    counts = tuple(_checks.integer("records", count, "[1, inf)", remedy) for count in records)
    if not counts:
        raise ArgumentError(f"records={records!r} is empty: expected at least one client. {remedy}")
    return counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordRound(Round):
    """One round in which each client takes DP-SGD steps on Poisson batches of its own records.

    A record is at one client, so that the clients' guarantees stand side by side: the epsilon of client k
    is that of its own steps, at its own rate q_k = batch_size / records[k]. `equivalent` gives the worst
    client's, which is the smallest's. Every round counts as if every client had taken part: the
    sampler says who takes part, and nothing is amplified by it.

    Neighbouring data sets differ in one record of one client, while the numbers of records, and with them
    the rates, are public constants. So under add-or-remove-one a record that is not there is one that
    contributes nothing, as under zero-out, and both have the same epsilon; under replace-one the
    numbers do not differ in the first place.

    Args:
      noise_multiplier: z of each step: the noise's standard deviation over the clip norm; >= 0.
      sampler: Which clients take part.
      population: Number of clients, that of `records`.
      adjacency: Of data sets of records: any.
      batch_size: Expected records of a batch; at most each client's number of records.
      local_steps: A client's steps in a round; >= 1.
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
            f"Client {self.records.index(fewest)} has {fewest} records, and no batch of them can be "
            "expected to have more: take a smaller batch_size, or leave this client out.",
        )
        _checks.integer("local_steps", self.local_steps, "[1, inf)")

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns all relations, whoever takes part: the amplification is that of Poisson batches."""
        del sampler
        return PoissonSampler.adjacencies

    def of_client(self, position: int) -> RecordRound:
        """Returns the round of one client alone.

        Args:
          position: In [0, population).
        """
        return dataclasses.replace(
            self, records=(self.records[position],), population=1, sampler=FullParticipation()
        )

    def equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Returns one step of the client with the fewest records, and the number of its steps."""
        fewest = min(self.records)
        batches = (
            FullParticipation()  # the same, with an exact formula
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
