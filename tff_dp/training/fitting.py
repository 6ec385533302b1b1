"""`fit`: from a Keras model and clients' data to a trained model and what it has cost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from tff_dp import _checks
from tff_dp.algorithms import Algorithm
from tff_dp.charges import Charges
from tff_dp.data import Clients
from tff_dp.execution import current_or_fast, expecting
from tff_dp.plan import NoPrivacy, PrivacyPlan
from tff_dp.training.budget import open_account
from tff_dp.training.outcome import attach_result, result_of
from tff_dp.training.progress import progress_bar
from tff_dp.training.results import FitResult
from tff_dp.training.run import Run
from tff_dp.training.setup import prepare


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
    progress = _checks.flag("progress", progress)
    setup = prepare(
        model,
        clients,
        privacy=privacy,
        rounds=rounds,
        loss=loss,
        metrics=metrics,
        algorithm=algorithm,
        batch_size=batch_size,
        epochs=epochs,
        shuffle=shuffle,
        seed=seed,
        release_metrics=release_metrics,
        ledger=ledger,
        max_epsilon=max_epsilon,
        spent_before=spent_before,
        disjoint_data=disjoint_data,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(current_or_fast())
        account = stack.enter_context(open_account(setup))
        run = Run(setup, account, fuse=not progress)
        stack.enter_context(expecting(account.rounds))
        return _trained(run, progress)


def _trained(run: Run, progress: bool) -> FitResult:
    """Runs all rounds of a run that are left, and makes the result."""
    account = run.account
    try:
        with progress_bar(account.rounds, account.total, progress) as show:
            while not run.is_finished:
                for record in run.step():
                    show(record)
    except KeyboardInterrupt:
        if not run.round_number:
            raise  # nothing has been trained
        return result_of(run, "was interrupted")
    except Exception as error:
        attach_result(run, error)
        raise
    return result_of(run)
