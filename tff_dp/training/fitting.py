"""The round loop: the one module that knows the whole flow."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from tff_dp import _checks, _seeds
from tff_dp.accounting import calibrate_rounds
from tff_dp.algorithms import Algorithm
from tff_dp.charges import Charges
from tff_dp.data import Clients, Cohort
from tff_dp.errors import AccountingError, ArgumentError, ComputationError
from tff_dp.execution import current_or_fast, expecting, is_seeded, iterate, noise_bits
from tff_dp.ledger import Ledger
from tff_dp.ledger.lines import checked_path
from tff_dp.model.weights import check_weights
from tff_dp.plan import NoPrivacy, PrivacyPlan, Unit
from tff_dp.process import explained, initialize_from
from tff_dp.provenance import carried_by, groups_carried_by
from tff_dp.sampling import FullParticipation
from tff_dp.training.checks import (
    as_spec,
    check_batches,
    check_indices,
    check_labels,
    check_privacy,
)
from tff_dp.training.compiled_models import algorithm_of, check_released, compiler
from tff_dp.training.kept_processes import process_for
from tff_dp.training.outcome import Run
from tff_dp.training.progress import progress_bar, round_record
from tff_dp.training.results import NO_NOISE, FitResult, RoundRecord
from tff_dp.training.warm_start import charged_before

_FUSED = 64  # rounds that one graph call holds
_FUSED_FROM = 256  # rounds of a run


def fit(
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
    spent_before: FitResult | Charges | None = None,
    disjoint_data: bool = False,
    progress: bool = False,
) -> FitResult:
    """Trains a Keras model on clients' data by federated learning, under a privacy plan.

    The plan draws each round's cohort, the process computes the round, and what the round has spent is
    known after it.

    Args:
      model: A `ModelSpec`; or a Keras model or a function that makes one. A compiled model brings its
        loss, metrics and optimizer along, each for where no argument takes its place.
      clients: The clients' data.
      privacy: A `PrivacyPlan`, or `NoPrivacy()` as an explicit choice.
      rounds: Rounds to train; at most the plan's, and by default all of them.
      loss: As for `ModelSpec`; only with a bare model.
      metrics: As for `ModelSpec`; only with a bare model. Under a plan, each must be among the plan's
        own, unless `release_metrics` is given.
      algorithm: What clients and server compute. By default `FedAvg()`, whose clients have the
        optimizer that the model was compiled with: SGD with or without momentum, Adam or Adagrad, with
        no options beyond (no schedule, clipping, weight decay or averages of weights). A client's
        optimizer is made anew in each round.
      batch_size: Examples in a client's batch; the last may be smaller. None for 32, or for the plan's
        expected size where it protects records.
      epochs: A client's passes over its data in a round; 1 where the plan protects records, whose
        mechanism has local steps instead.
      shuffle: Whether a client's examples are permuted anew in each round and epoch.
      seed: Makes cohorts and the order of examples repeatable; the noise never is. None draws from the
        operating system's entropy, as real use of differential privacy must. After charges on the same
        clients, the cohorts depend on their number as well: two runs may not share their coins.
      release_metrics: Whether the history holds the clients' training metrics. Under a plan these are
        the plan's own `metrics`, with noise, and by default they are released if it has some; where it
        has none, True releases plain sums outside any epsilon. True by default without a plan.
        Where the plan protects records there are none: clients would have to send them.
      ledger: The file in which each round is charged before it is run; see `tff_dp.Ledger`. What
        it has from earlier runs counts: of this plan for the rounds that are left, and of all
        plans for the epsilon that is reported.
      max_epsilon: Training stops before the round that would spend more, together with all that
        was spent before; the result says so. Above 2000 rounds, up to one in a thousand too early.
      spent_before: What was spent on these clients' data by runs that are not in the ledger: a
        result, or its `charges`. It counts for the epsilon that is reported, and is charged in the
        ledger.
      disjoint_data: Says that no client whose data are given here was among those that the model
        was trained on. Needed where the model comes from `fit`, and neither the ledger nor
        `spent_before` has what it cost; nothing can check it.
      progress: Whether to show a progress bar.

    Returns:
      The trained model, the history and the epsilon. The model is compiled with the loss and the metrics
      that it was trained with, and with the clients' optimizer (Adam for Yogi, which Keras lacks; the
      server's for FedSGD), all of them new: its `evaluate` and `fit` work at once.

      Ctrl-C ends training early: the result then has the rounds that have been run, `stopped` says so,
      and epsilon counts the round (without a progress bar up to 64 of them) that was interrupted, too.
      `KeyboardInterrupt` is raised where no round has been run yet, and by another Ctrl-C while the
      result is being made.

    Raises:
      ArgumentError: An argument is outside its bound (its subclasses: `DataError`, `ModelError`, and
        `AccountingError` for more rounds than the plan covers, or none that the budget allows). Nothing
        has been trained then.
      ModelError: Also where the model was trained before, and nothing says how that is to be counted;
        where nothing of it is trainable; and where it was compiled, or overrides steps of training, in a
        way that cannot be honored.
      LedgerError: The ledger is in use, damaged, or of plans that cannot be counted with this one; or no
        file can be made there, such as in a folder that does not exist; or it can no longer be written,
        as on a full disk.
      ComputationError: A client's computation fails; the message names its position in the cohort. Or the
        noise would have random bits that others can guess: in an execution context other than that of
        `tff_dp.execution.fast`, or by an operation, which is named, that cannot be keyed. Nothing has
        been trained or charged then.
      StackError: TFF cannot be imported.
    """
    shuffle = _checks.flag("shuffle", shuffle)
    release_metrics = _checks.optional_flag("release_metrics", release_metrics)
    disjoint_data = _checks.flag("disjoint_data", disjoint_data)
    progress = _checks.flag("progress", progress)
    spec = as_spec(model, loss, metrics)
    clients = _checks.instance(
        "clients", clients, Clients, "tff_dp.data.from_arrays({client: (x, y)}) makes one."
    )
    wanted = check_privacy(privacy, clients, rounds)
    for name, value in (("ledger", ledger), ("max_epsilon", max_epsilon)):
        if value is not None and not isinstance(privacy, PrivacyPlan):
            raise ArgumentError(
                f"{name}={value!r} needs a PrivacyPlan: without one, no epsilon is spent. Leave it out."
            )
    if ledger is not None:
        checked_path("ledger", ledger)
    batch_size = check_batches(privacy, clients, batch_size, epochs)
    root = _seeds.root(seed)
    of_records = isinstance(privacy, PrivacyPlan) and privacy.unit is Unit.RECORD
    release, covered = _released(privacy, release_metrics)

    bound = spec.bind(clients.element_spec())
    check_weights(bound)
    check_labels(bound, clients)
    check_indices(bound, clients)
    check_released(bound, privacy, release_metrics, given=bool(spec.metrics))
    algorithm = algorithm_of(bound, algorithm)
    with explained(bound):
        process, with_noise = process_for(bound, algorithm=algorithm, privacy=privacy)
    compile_model = compiler(bound, algorithm)
    carried, groups = carried_by(bound.source), groups_carried_by(bound.source)

    def draw(round_number: int) -> Cohort:
        return clients.cohort(
            privacy.draw_cohort(round_number, population=clients.num_clients, seed=root),
            batch_size=batch_size,
            epochs=epochs,
            shuffle=shuffle and not of_records,  # whose batches the clients draw
            rng=_seeds.generator(root, "shuffle", round_number=round_number),
        )

    with contextlib.ExitStack() as stack:
        stack.enter_context(current_or_fast())
        random_bits = _random_bits(process, privacy)  # before there is a ledger to charge
        book, stopped, coins, total = None, None, None, math.inf
        if ledger is not None and is_seeded():
            raise ArgumentError(
                f"ledger={ledger!r} cannot hold rounds whose noise comes from a seed: nothing bounds "
                "what they reveal, and a ledger would state a bound. Leave it out, or train in a context "
                "without a seed."
            )
        if ledger is not None and isinstance(privacy, PrivacyPlan):
            book = stack.enter_context(Ledger(ledger, privacy))
        before = charged_before(
            privacy,
            carried,
            in_ledger=book.all_charges if book else Charges(),
            spent_before=spent_before,
            disjoint_data=disjoint_data,
            groups=groups,
        )
        if isinstance(privacy, PrivacyPlan):
            left = privacy.rounds - _count(before.of(privacy))
            wanted, total, stopped = _within_budget(
                privacy, before, wanted if rounds is not None else left, max_epsilon
            )
            if book is not None:
                book.include(before)
            if seed is not None:  # coins of their own, should a run before have had the same seed
                root = _seeds.later(root, before.rounds)
            coins = _coins(privacy, seed, root)
            before.with_run(privacy, wanted, coins)  # refuses those of an earlier run
        run = Run(
            process=process,
            bound=bound,
            compile_model=compile_model,
            privacy=privacy,
            wanted=wanted,
            stopped=stopped,
            before=before,
            charged_before=book.charges if book is not None else before.rounds,
            book=book,
            coins=coins,
            carried=carried,
            disjoint_data=disjoint_data,
            ids=clients.ids if of_records else None,
            seeded=seed is not None,
            noise_seeded=is_seeded(),
            random_bits=random_bits,
        )
        history: list[RoundRecord] = []
        state = with_noise(initialize_from(process, bound.initial_weights))
        stack.enter_context(expecting(wanted))
        # What has been computed, in one value: an interrupt finds a state and a count that agree.
        reached, begun = (state, 0), 0
        try:
            bar = stack.enter_context(progress_bar(wanted, total, progress))
            for first, count in _chunks(wanted, fuse=not progress):
                begun = first + count - 1
                if book is not None:
                    # Before anything of these rounds can be seen.
                    book.charge(first, count, coins=coins)
                cohorts = [draw(number) for number in range(first, begun + 1)]
                if count == 1:
                    output = process.next(state, cohorts[0])
                    state, outputs = output.state, [output.metrics]
                else:
                    state, outputs = iterate(process.next, state, cohorts)
                history += [
                    round_record(
                        number,
                        privacy,
                        before,
                        measured if release else None,
                        covered=covered,
                        total=total,
                    )
                    for number, measured in enumerate(outputs, first)
                ]
                reached = state, begun
                for record in history[-count:]:
                    bar(record)
        except KeyboardInterrupt:
            state, done = reached
            if not done:
                raise  # nothing has been trained
            return run.result(state, history[:done], begun, "was interrupted")
        except Exception as error:
            state, done = reached
            run.attach_result(error, state, history[:done], begun)
            raise
        return run.result(state, history, wanted)


def _random_bits(process: Any, privacy: PrivacyPlan | NoPrivacy) -> str:
    """Returns where a plan's noise gets its random bits.

    Raises:
      ComputationError: Somebody could guess them, or there is no noise to be found.
    """
    if not isinstance(privacy, PrivacyPlan) or privacy.mechanism.noise_multiplier == 0:
        return NO_NOISE
    for computation in (process.initialize, process.next):
        found = noise_bits(computation)
        if found.obstacle:
            raise ComputationError(f"{found.obstacle} No round was charged.")
    if not found.marked:
        raise ComputationError(
            f"The process of {privacy.mechanism} holds no noise that stands under the name scope of "
            "tff_dp.noise, so that nothing vouches for its random bits. No round was charged. Draw "
            "the noise of a mechanism under that scope."
        )
    return found.source


def _released(privacy: PrivacyPlan | NoPrivacy, release_metrics: bool | None) -> tuple[bool, bool]:
    """Returns whether training metrics are released, and whether the plan's epsilon covers them."""
    if not isinstance(privacy, PrivacyPlan):
        return release_metrics is None or release_metrics, False
    if privacy.unit is Unit.RECORD and release_metrics:
        raise ArgumentError(
            "release_metrics=True would have clients send what no noise covers, while the plan protects "
            "records from whoever gets what clients send. Leave it out, and evaluate the trained model "
            "on data that may be used for it."
        )
    covered = bool(privacy.metrics)
    return covered if release_metrics is None else release_metrics, covered


def _within_budget(
    plan: PrivacyPlan, before: Charges, wanted: int, max_epsilon: float | None
) -> tuple[int, float, str | None]:
    """Returns how many rounds may be run, what all will have spent then, and why not all that are wanted.

    Args:
      plan: The plan.
      before: What has been spent on the data already.
      wanted: Rounds to run.
      max_epsilon: What all of them together may spend; None for what the plan's rounds do.

    Raises:
      ArgumentError: `max_epsilon` is outside its bound.
      AccountingError: No round may be run, the plan does not cover them, or no accountant covers
        them and what was spent before.
    """
    charged = _count(before.of(plan))
    if wanted < 1 or charged + wanted > plan.rounds:
        raise AccountingError(
            f"rounds={max(wanted, 0)}, and the ledger has {charged}: expected at most the "
            f"{plan.rounds} rounds that the privacy plan covers, those that were charged twice included. "
            "Run fewer rounds, or make a plan for more of them; its noise or its epsilon will be larger."
        )
    total = before.with_run(plan, wanted).spent().epsilon  # refuses what cannot be accounted for
    if max_epsilon is None:
        return wanted, total, None
    max_epsilon = _checks.real("max_epsilon", max_epsilon, "(0, 100]")
    if total <= max_epsilon:
        return wanted, total, None
    allowed = min(wanted, _most_rounds(plan, before, wanted, max_epsilon))
    if allowed < 1:
        raise AccountingError(
            f"max_epsilon={max_epsilon!r} allows no round: {before.rounds} are charged, and one "
            "more would exceed it. Take a larger budget, or a plan with more noise."
        )
    why = (
        f"Training stopped after {allowed} of {wanted} rounds: the next one would have spent more than "
        f"epsilon {max_epsilon:g}."
    )
    return allowed, before.with_run(plan, allowed).spent().epsilon, why


def _most_rounds(plan: PrivacyPlan, before: Charges, wanted: int, max_epsilon: float) -> int:
    """Returns the most rounds, fewer than those wanted, that keep within a budget; 0 for none."""
    if not before.unbounded and set(before.plans) <= {plan}:
        try:
            return calibrate_rounds(
                plan.one_round(),
                delta=plan.delta,
                target_epsilon=max_epsilon,
                earlier=before.of(plan),
                arithmetic=plan.arithmetic,
            )
        except AccountingError:  # a single round spends more
            return 0
    low, high = 0, wanted  # low is within the budget or none, high is not
    while high - low > 1:
        middle = (low + high) // 2
        if before.with_run(plan, middle).spent().epsilon <= max_epsilon:
            low = middle
        else:
            high = middle
    return low


def _coins(plan: PrivacyPlan, seed: int | None, root: int) -> str | None:
    """Returns by what a run is known whose cohorts, on which its epsilon relies, have a given seed."""
    if seed is None or plan.unit is Unit.RECORD or isinstance(plan.sampler, FullParticipation):
        return None
    return hashlib.sha256(f"tff_dp/coins/{root}".encode()).hexdigest()


def _count(runs: tuple[range, ...]) -> int:
    return sum(len(run) for run in runs)


def _chunks(rounds: int, fuse: bool) -> Iterator[tuple[int, int]]:
    """Yields the first round and the number of rounds of each call.

    Fused rounds cost a compilation once and save a millisecond each, which only many rounds repay.
    """
    size, done = _FUSED, rounds
    if fuse and rounds >= _FUSED_FROM:
        # XLA makes a graph for each size of call: one size, with next to nothing left over.
        size = min(range(_FUSED, _FUSED // 2, -1), key=lambda each: rounds % each)
        done = rounds % size
    yield from ((number, 1) for number in range(1, done + 1))
    yield from ((first, size) for first in range(done + 1, rounds + 1, size))
