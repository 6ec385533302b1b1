"""The arguments of `fit`, checked against each other and prepared for a run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tff_dp import _checks, _seeds
from tff_dp.algorithms import Algorithm
from tff_dp.charges import Charges
from tff_dp.data import Clients, Cohort
from tff_dp.errors import ArgumentError
from tff_dp.ledger.lines import checked_path
from tff_dp.model import BoundModel
from tff_dp.model.weights import check_weights
from tff_dp.plan import NoPrivacy, PrivacyPlan, Unit
from tff_dp.process import explained, initialize_from
from tff_dp.provenance import groups_carried_by
from tff_dp.training.checks import (
    as_spec,
    check_batches,
    check_class_weight,
    check_indices,
    check_labels,
    check_privacy,
    checked_class_weight,
    checked_sample_weight,
)
from tff_dp.training.compiled_models import algorithm_of, check_released, compiler
from tff_dp.training.initial import start_from
from tff_dp.training.kept_processes import is_own, process_for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """The parts of a run that are constant from the first round to the last.

    Attributes:
      bound: The model, bound to the shape of the data.
      clients: The clients' data.
      privacy: The plan, or `NoPrivacy`.
      process: The learning process.
      with_noise: A function that sets the noise of the plan in the first state of the process; see
        `process_for`.
      algorithm: The algorithm.
      compile_model: A function that compiles a trained model with the loss, metrics and optimizer
        of its training.
      rounds: The number of rounds to run; None for all remaining rounds of the plan.
      batch_size: The number of examples in a client's batch.
      epochs: The number of passes of a client over its data in a round.
      shuffle: Whether a client's examples are permuted in each round.
      root: The root seed of all random numbers that are drawn in Python.
      seeded: Whether the caller gave the seed.
      release: Whether the history contains the clients' training metrics.
      covered: Whether the plan's epsilon covers these metrics.
      carried: The charges that the model had before the run, one entry for each data set.
      groups: The same charges, in groups whose data sets have no client in common; see
        `charged_before`.
      ledger: The path of the ledger, or None.
      max_epsilon: The largest epsilon of all rounds together; None for no limit besides the plan.
      spent_before: As for `fit`.
      disjoint_data: As for `fit`.
      for_evaluation: A function that returns the model without class weights, which Keras does not use
        for validation either.
      adjustable_rates: Whether the clients' learning rate is in the state of the process, if they have
        one.
      weights: The arguments `class_weight` and `sample_weight` of `fit`, checked.
      foreign_algorithm: The class of the algorithm if it is not part of tff_dp; otherwise None.
    """

    bound: BoundModel
    clients: Clients
    privacy: PrivacyPlan | NoPrivacy
    process: Any
    with_noise: Callable[[Any], Any]
    algorithm: Algorithm
    compile_model: Callable[[Any], None]
    rounds: int | None
    batch_size: int
    epochs: int
    shuffle: bool
    root: int
    seeded: bool
    release: bool
    covered: bool
    carried: Sequence[Charges]
    groups: Sequence[Sequence[Charges]]
    ledger: str | os.PathLike[str] | None
    max_epsilon: float | None
    spent_before: Any
    disjoint_data: bool
    for_evaluation: Callable[[], BoundModel]
    adjustable_rates: bool
    weights: Mapping[str, Any]
    foreign_algorithm: str | None

    @property
    def plan(self) -> PrivacyPlan | None:
        """The privacy plan, or None without one."""
        return self.privacy if isinstance(self.privacy, PrivacyPlan) else None

    def first_state(self) -> Any:
        """Makes the state of the process before the first round.

        Returns:
          A state with the initial weights of the model and the noise multiplier of the plan.
        """
        return self.with_noise(initialize_from(self.process, self.bound.initial_weights))

    def draw(self, round_number: int, root: int) -> Cohort:
        """Draws the data of one round.

        The result depends only on the arguments, and not on earlier draws.

        Args:
          round_number: The round, from 1.
          root: The root seed of the run.

        Returns:
          The data of the round's clients.
        """
        return self.clients.cohort(
            self.privacy.draw_cohort(round_number, population=self.clients.num_clients, seed=root),
            batch_size=self.batch_size,
            epochs=self.epochs,
            shuffle=self.shuffle,
            rng=_seeds.generator(root, "shuffle", round_number=round_number),
        )


def prepare(
    model: Any,
    clients: Clients,
    *,
    privacy: PrivacyPlan | NoPrivacy,
    rounds: int | None = None,
    loss: Any = None,
    metrics: Sequence[Any] | None = None,
    algorithm: Algorithm | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    shuffle: bool = True,
    seed: int | None = None,
    release_metrics: bool | None = None,
    ledger: str | os.PathLike[str] | None = None,
    max_epsilon: float | None = None,
    spent_before: Any = None,
    disjoint_data: bool = False,
    initial_weights: Any = None,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: str | None = None,
    adjustable_rates: bool = False,
) -> Setup:
    """Checks the arguments of `fit`, and prepares a run.

    Nothing is charged, drawn or trained. The checks that need the ledger are in `open_account`.

    Args:
      model: As for `fit`.
      clients: As for `fit`.
      privacy: As for `fit`.
      rounds: As for `fit`.
      loss: As for `fit`.
      metrics: As for `fit`.
      algorithm: As for `fit`.
      batch_size: As for `fit`.
      epochs: As for `fit`.
      shuffle: As for `fit`.
      seed: As for `fit`.
      release_metrics: As for `fit`.
      ledger: As for `fit`.
      max_epsilon: As for `fit`.
      spent_before: As for `fit`.
      disjoint_data: As for `fit`.
      initial_weights: As for `fit`.
      class_weight: As for `fit`.
      sample_weight: As for `fit`.
      adjustable_rates: Whether the clients' learning rate has to be in the state of the process.

    Returns:
      The prepared arguments.

    Raises:
      ArgumentError: As for `fit`.
      ModelError: As for `fit`.
      DataError: Labels or inputs are outside the range of the model or of its loss.
      StackError: TFF cannot be imported.
    """
    shuffle = _checks.flag("shuffle", shuffle)
    release_metrics = _checks.optional_flag("release_metrics", release_metrics)
    disjoint_data = _checks.flag("disjoint_data", disjoint_data)
    adjustable_rates = _checks.flag("adjustable_rates", adjustable_rates)
    spec = as_spec(model, loss, metrics)
    class_weight = checked_class_weight(class_weight)
    clients = _checks.instance(
        "clients", clients, Clients, "tff_dp.data.from_arrays({client: (x, y)}) makes one."
    )
    sample_weight = checked_sample_weight(sample_weight, clients)
    _check_one_weight(class_weight, sample_weight)
    wanted = check_privacy(privacy, clients, rounds)
    _check_needs_plan(privacy, ledger=ledger, max_epsilon=max_epsilon)
    batch_size = check_batches(privacy, clients, batch_size, epochs)
    root = _seeds.root(seed)
    of_records = isinstance(privacy, PrivacyPlan) and privacy.unit is Unit.RECORD
    release, covered = _released(privacy, release_metrics)

    def bound_with(classes: Any) -> BoundModel:
        return spec.bind(clients.element_spec(), class_weight=classes, sample_weight=sample_weight)

    bound = bound_with(class_weight)
    groups = (*groups_carried_by(bound.source), *start_from(bound, initial_weights))
    _check_model(bound, clients)
    check_class_weight(class_weight, bound, clients)
    check_released(bound, privacy, release_metrics, given=bool(spec.metrics))
    algorithm = algorithm_of(bound, algorithm)
    with explained(bound):
        process, with_noise = process_for(
            bound, algorithm=algorithm, privacy=privacy, adjustable=adjustable_rates
        )
    return Setup(
        bound=bound,
        clients=clients,
        privacy=privacy,
        process=process,
        with_noise=with_noise,
        algorithm=algorithm,
        compile_model=compiler(bound, algorithm),
        rounds=None if rounds is None else wanted,
        batch_size=batch_size,
        epochs=epochs,
        shuffle=shuffle and not of_records,  # clients draw Poisson batches of records themselves
        root=root,
        seeded=seed is not None,
        release=release,
        covered=covered,
        carried=[*dict.fromkeys(record for group in groups for record in group)],
        groups=[*dict.fromkeys(groups)],
        ledger=ledger,
        max_epsilon=max_epsilon,
        spent_before=spent_before,
        disjoint_data=disjoint_data,
        for_evaluation=lambda: bound if class_weight is None else bound_with(None),
        adjustable_rates=adjustable_rates,
        weights={"class_weight": class_weight, "sample_weight": sample_weight},
        foreign_algorithm=_foreign(algorithm),
    )


def _check_model(bound: BoundModel, clients: Clients) -> None:
    check_weights(bound)
    check_labels(bound, clients)
    check_indices(bound, clients)


def _check_one_weight(class_weight: Any, sample_weight: Any) -> None:
    if class_weight is not None and sample_weight is not None:
        raise ArgumentError(
            f"class_weight={class_weight!r} and sample_weight={sample_weight!r} are both given: expected "
            "one of them, as in Keras. Multiply the weights of the examples by those of their classes."
        )


def _check_needs_plan(privacy: PrivacyPlan | NoPrivacy, **given: Any) -> None:
    """Checks that a plan is given with arguments that require one, and that `ledger` is a path."""
    for name, value in given.items():
        if value is not None and not isinstance(privacy, PrivacyPlan):
            raise ArgumentError(
                f"{name}={value!r} needs a PrivacyPlan: without one, no epsilon is spent. Leave it out."
            )
    if given["ledger"] is not None:
        checked_path("ledger", given["ledger"])


def _released(privacy: PrivacyPlan | NoPrivacy, release_metrics: bool | None) -> tuple[bool, bool]:
    """Returns whether training metrics are released, and whether the plan's epsilon covers them."""
    if not isinstance(privacy, PrivacyPlan):
        return release_metrics is None or release_metrics, False
    if privacy.unit is Unit.RECORD and release_metrics:
        raise ArgumentError(
            "release_metrics=True would make clients send metrics that no noise covers, while the plan "
            "protects records from anyone who receives what clients send. Leave it out, and evaluate "
            "the trained model on data that may be used for it."
        )
    covered = bool(privacy.metrics)
    return covered if release_metrics is None else release_metrics, covered


def _foreign(algorithm: Algorithm) -> str | None:
    """Returns the class of an algorithm if it is not part of tff_dp, otherwise None."""
    kind = type(algorithm)
    return None if is_own(algorithm) else f"{kind.__module__}.{kind.__qualname__}"
