"""The settings of `experiments.text`, and the candidates that they give."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tff_dp
from experiments import _cells
from experiments._correlated import Rounds
from experiments.data import Split, shakespeare
from tff_dp import _checks
from tff_dp.config import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings(Config):
    """The [text] section.

    Attributes:
      held_out: Share of the roles that training never sees.
      length: Characters of a sequence.
      most: The most sequences of a role.
      model: "ngram" or "lstm".
      context: Characters that the n-gram model sees, in [1, length].
      width: Width of the embedding.
      units: Units of the hidden layer or the LSTM.
      rounds: Rounds of each training.
      cohort: Roles in a round, or their expected number.
      batch_size: Sequences in a local batch.
      delta: Of each epsilon.
      target_epsilons: Each method is trained at each.
      restarts: See `experiments._correlated.Rounds`.
      cycles: The same.
      seeds: Of the held-out roles, the initial weights, the cohorts and the order of sequences.
      curve: Epsilons for which the noise is computed.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    held_out: float
    length: int
    most: int
    model: str
    context: int
    width: int
    units: int
    rounds: int
    cohort: int
    batch_size: int
    delta: float
    target_epsilons: Sequence[float]
    restarts: Sequence[int]
    cycles: Sequence[int]
    seeds: Sequence[int]
    curve: Sequence[float]

    def __post_init__(self) -> None:
        _cells.check_seeds(self.seeds)
        _checks.one_of("model", self.model, ("lstm", "ngram"))
        _checks.integer("context", self.context, f"[1, {self.length}]", "It is within a sequence.")
        for name in ("width", "units", "batch_size"):
            _checks.integer(name, getattr(self, name), "[1, inf)")
        for epsilon in (*self.target_epsilons, *self.curve):
            _checks.real("target_epsilons and curve", epsilon, "[1e-3, 1e3]")

    def load(self, seed: int) -> Split:
        """Loads the roles.

        Args:
          seed: Of the choice of those that are held out.
        """
        return shakespeare.load(
            held_out=self.held_out, seed=seed, length=self.length, most=self.most
        )

    def rounds_of(self, population: int) -> Rounds:
        """Returns the rounds that all methods share.

        Args:
          population: The number of training roles.
        """
        return Rounds(
            population=population,
            cohort=self.cohort,
            rounds=self.rounds,
            delta=self.delta,
            restarts=self.restarts,
            cycles=self.cycles,
        )

    def build(self) -> tff_dp.ModelSpec:
        """Returns the model, with initial weights that Keras's random seed determines."""
        from models import char_lstm, ngram  # which need Keras, and so TensorFlow

        size = {"vocabulary": shakespeare.CHARACTERS, "length": self.length, "width": self.width}
        if self.model == "lstm":
            return char_lstm.build(units=self.units, layers=1, **size)
        return ngram.build(context=self.context, units=self.units, **size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is tuned.

    Attributes:
      learning_rate: The clients'.
      momentum: The server's.
      clip_norm: L2, on a client's change of weights in one round; None without privacy.
    """

    learning_rate: float
    momentum: float
    clip_norm: float | None

    @property
    def setting(self) -> dict[str, Any]:
        """The candidate as columns of a table."""
        return {
            "clip norm": self.clip_norm,
            "learning rate": self.learning_rate,
            "momentum": self.momentum,
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Candidate:
        """Returns the candidate of a row that has the columns of `setting`.

        Args:
          row: The row.
        """
        return cls(
            learning_rate=row["learning rate"],
            momentum=row["momentum"],
            clip_norm=row["clip norm"],
        )

    def algorithm(self) -> tff_dp.FedAvg:
        """Returns federated averaging in which all clients count alike, as a plan requires it."""
        return tff_dp.FedAvg(
            client_optimizer=tff_dp.SGD(learning_rate=self.learning_rate),
            server_optimizer=tff_dp.SGD(learning_rate=1.0, momentum=self.momentum),
            weighting="uniform",
        )

    def clipped(self, plan: tff_dp.PrivacyPlan) -> tff_dp.PrivacyPlan:
        """Returns a plan with this clip norm, on which epsilon does not depend.

        Args:
          plan: With any clip norm.
        """
        mechanism: Any = plan.mechanism  # of a class with this field
        clipped = dataclasses.replace(mechanism, clip_norm=self.clip_norm)
        return dataclasses.replace(plan, mechanism=clipped)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningSettings(Config):
    """The [tuning] section.

    Attributes:
      seed: Of the split on which candidates are compared.
      learning_rate: The clients', of all private methods.
      steps: Candidates: clip_norm / (1 - momentum), how far one client can move the model in the long
        run. The clip norm follows.
      momenta: Candidates, of the server; each is tried with each step or learning rate.
      learning_rates: Candidates without privacy, as many as steps.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    seed: int
    learning_rate: float
    steps: Sequence[float]
    momenta: Sequence[float]
    learning_rates: Sequence[float]

    def __post_init__(self) -> None:
        _checks.integer("seed", self.seed, "[0, inf)")
        _checks.integer("momenta", len(self.momenta), "[1, inf)", "Give one or more.")
        for momentum in self.momenta:
            _checks.real("momenta", momentum, "[0, 1)")
        for step in self.steps:
            _checks.real("steps", step, "[1e-6, 1e6]")
        _checks.integer(
            "learning_rates",
            len(self.learning_rates),
            f"[{max(1, len(self.steps))}, {len(self.steps)}]",
            "Give as many of them as steps, so that all methods are tuned alike.",
        )

    def candidates(self, *, private: bool) -> list[Candidate]:
        """Returns the candidates of every private method, or of training without privacy.

        Args:
          private: Which of both.
        """
        if not private:
            return [
                Candidate(learning_rate=rate, momentum=momentum, clip_norm=None)
                for rate in self.learning_rates
                for momentum in self.momenta
            ]
        return [
            Candidate(
                learning_rate=self.learning_rate,
                momentum=momentum,
                clip_norm=round(step * (1 - momentum), 9),
            )
            for step in self.steps
            for momentum in self.momenta
        ]

    @property
    def every(self) -> list[Candidate]:
        """All candidates."""
        return [*self.candidates(private=True), *self.candidates(private=False)]
