"""Few clients with many records each: guarantees for a record, beside those for a client.

Under a plan for records, every silo takes DP-SGD steps by itself, and what it sends is private already:
nobody else has to be trusted. Here each step uses all records of the smallest silo and as many of the
others on average, the largest batch that the smallest silo allows, since the noise of a step counts the
less the larger the batch is.

Under a plan for clients, the server adds noise that hides the whole of a silo. It has to be as large as
the most that one silo may change, and it is divided by the number of silos alone.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import tff_dp
from experiments import _cells, _training
from tff_dp.config import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodSettings(Config):
    """A section of an experiment's settings: how one method trains.

    Attributes:
      rounds: Rounds of each training, in which all silos take one step each.
      learning_rate: The clients' learning rate.
      momentum: The server's momentum.
      clip_norm: L2 norm of what is clipped: a record's gradient, or a silo's change of weights in one
        round. Without meaning where there is no privacy.
      delta: Of each epsilon. Without meaning where there is no privacy.
    """

    rounds: int
    learning_rate: float
    momentum: float
    clip_norm: float
    delta: float

    def algorithm(self, weighting: str) -> tff_dp.FedAvg:
        """Returns federated averaging.

        Args:
          weighting: As for `FedAvg`.
        """
        return tff_dp.FedAvg(
            client_optimizer=tff_dp.SGD(learning_rate=self.learning_rate),
            server_optimizer=tff_dp.SGD(learning_rate=1.0, momentum=self.momentum),
            weighting=weighting,
        )

    def record_plan(self, sizes: Sequence[int], epsilon: float) -> tff_dp.PrivacyPlan:
        """Returns the plan for records with the smallest noise that stays within a target.

        Args:
          sizes: Each silo's number of training records.
          epsilon: The target, for the silo with the fewest records; the others spend less.
        """
        mechanism = tff_dp.RecordGaussianMechanism(
            clip_norm=self.clip_norm, noise_multiplier=1.0, batch_size=int(min(sizes))
        )
        records = tuple(int(size) for size in sizes)
        plan = tff_dp.PrivacyPlan(
            mechanism=mechanism, records=records, rounds=self.rounds, delta=self.delta
        )
        return plan.calibrated(epsilon)

    def client_plan(self, population: int, epsilon: float) -> tff_dp.PrivacyPlan:
        """Returns the plan for clients with the smallest noise that stays within a target.

        Args:
          population: The number of silos.
          epsilon: The target.
        """
        plan = tff_dp.PrivacyPlan(
            mechanism=tff_dp.GaussianMechanism(clip_norm=self.clip_norm, noise_multiplier=1.0),
            population=population,
            sampler=tff_dp.FullParticipation(),
            rounds=self.rounds,
            delta=self.delta,
        )
        return plan.calibrated(epsilon)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridSettings(Config):
    """The [grid] section.

    Attributes:
      held_out: Share of each silo's records that training never sees.
      target_epsilons: One private training of each kind for each.
      seeds: Of the held-out records and the order of examples.

    Raises:
      ArgumentError: There is no seed, or one is there twice.
    """

    held_out: float
    target_epsilons: Sequence[float]
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        _cells.check_seeds(self.seeds)


def methods_of(settings: Mapping[str, Any]) -> dict[str, MethodSettings]:
    """Reads the sections of the three methods.

    Args:
      settings: The sections "federated", "record" and "client", each named for its method below.

    Returns:
      The settings of "federated", "record-level" and "client-level".
    """
    names = {"federated": "federated", "record-level": "record", "client-level": "client"}
    return {name: MethodSettings.from_dict(settings[key]) for name, key in names.items()}


def plans_of(
    methods: Mapping[str, MethodSettings], sizes: Sequence[int], epsilons: Sequence[float]
) -> dict[tuple[str, float], tff_dp.PrivacyPlan]:
    """Returns the plans by method and target.

    Args:
      methods: From `methods_of`.
      sizes: Each silo's number of training records.
      epsilons: The targets.
    """
    plans = {}
    for (
        method
    ) in methods.values():  # which shows what is wrong with them before TensorFlow is there
        method.algorithm("uniform")
    for epsilon in sorted(epsilons, reverse=True):
        plans["record-level", float(epsilon)] = methods["record-level"].record_plan(sizes, epsilon)
        plans["client-level", float(epsilon)] = methods["client-level"].client_plan(
            len(sizes), epsilon
        )
    return plans


def train(
    settings: MethodSettings,
    clients: tff_dp.Clients,
    plan: tff_dp.PrivacyPlan | None,
    *,
    seed: int,
    folder: pathlib.Path,
) -> tff_dp.FitResult:
    """Trains logistic regression on silos, one step of each silo a round.

    Args:
      settings: The section of the settings.
      clients: The silos; x [records, features], y 0 or 1.
      plan: For clients or for records; None without privacy.
      seed: Of the order of examples.
      folder: The folder of the cell.

    Returns:
      The result.
    """
    from models import logistic  # needs Keras, and so TensorFlow

    for_records = plan is not None and plan.records is not None
    client_level = plan is not None and plan.records is None
    batches: dict[str, Any] = {} if for_records else {"batch_size": int(clients.sizes.max())}
    x = clients.client(0)[0]
    return _training.train(
        logistic.build(features=np.asarray(x).shape[1]),
        clients,
        folder=folder,
        privacy=plan or tff_dp.NoPrivacy(),
        rounds=settings.rounds,
        algorithm=settings.algorithm("uniform" if client_level else "examples"),
        seed=seed,
        **batches,
    )


def spent(result: tff_dp.FitResult, plan: tff_dp.PrivacyPlan | None) -> dict[str, Any]:
    """Returns what a training has spent: epsilon, rounds, the noise multiplier, and epsilon by silo.

    Args:
      result: Of the training.
      plan: Its plan, if any.
    """
    if plan is None:
        return {"epsilon spent": math.inf, "rounds": len(result.history)}
    by_client = result.spent_by_client or {}
    return {
        "epsilon spent": result.epsilon,
        "rounds": len(result.history),
        "noise multiplier": plan.mechanism.noise_multiplier,
        "epsilon by client": {name: report.epsilon for name, report in by_client.items()},
    }
