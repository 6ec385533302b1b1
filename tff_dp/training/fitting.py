"""`fit`, which trains a Keras model on clients' data and reports the privacy spent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from tff_dp.algorithms import Algorithm
from tff_dp.charges import Charges
from tff_dp.data import Clients
from tff_dp.execution import current_or_fast, expecting
from tff_dp.plan import NoPrivacy, PrivacyPlan
from tff_dp.training.around import checked_verbose, needs_rates, observers_of, progress_of
from tff_dp.training.budget import open_account
from tff_dp.training.interrupts import INTERRUPTED, after_this_round, say_how_to_resume
from tff_dp.training.keeping import adjustable_rates, checked_keeping
from tff_dp.training.observers import Observer, common_period, observed, observed_step
from tff_dp.training.outcome import attach_result, result_of
from tff_dp.training.results import FitResult
from tff_dp.training.run import Run
from tff_dp.training.run_folder import RunFolder, open_run_folder
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
    verbose: int | None = None,
    callbacks: Sequence[Any] | None = None,
    validation_data: Any = None,
    validation_clients: Clients | None = None,
    validation_freq: int | Container[int] = 1,
    validation_privacy: PrivacyPlan | None = None,
    client_learning_rate: Callable[[int], float] | None = None,
    server_learning_rate: Callable[[int], float] | None = None,
    initial_weights: Any = None,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    save_every: int = 1,
    keep: int = 2,
    resume: bool = False,
) -> FitResult:
    """Trains a Keras model on clients' data by federated learning, under a privacy plan.

    The plan draws the cohort of each round, the process computes the round, and the epsilon spent
    so far is known after each round.

    Args:
      model: A `ModelSpec`, a Keras model, or a function that returns one. The loss, metrics and
        optimizer of a compiled model are used where the corresponding argument is left out.
      clients: The clients' data.
      privacy: A `PrivacyPlan`, or `NoPrivacy()` as an explicit choice.
      rounds: The number of rounds to train, at most that of the plan. By default, all
        remaining rounds of the plan; required without a plan.
      loss: As for `ModelSpec`; only with a bare model.
      metrics: As for `ModelSpec`; only with a bare model. Under a plan, each must be among the plan's
        `metrics`, unless `release_metrics` is given.
      algorithm: The algorithm. By default `FedAvg()`, whose clients use the optimizer with which
        the model was compiled: SGD with or without momentum, Adam or Adagrad, without other options
        (no schedule, clipping, weight decay or averages of weights). The state of a client's
        optimizer is new in each round.
      batch_size: The number of examples in a client's batch; the last batch may be smaller. None
        for 32, or for the expected batch size of the mechanism if the plan protects records.
      epochs: The number of passes of a client over its data in a round; 1 if the plan protects
        records, whose mechanism has local steps instead.
      shuffle: Whether a client's examples are permuted in each round and epoch.
      seed: Makes cohorts and the order of examples repeatable, but never the noise. None uses
        entropy of the operating system, which real use of differential privacy requires. If there
        are charges on the same clients, the cohorts also depend on their number, so that two runs
        with the same seed do not draw the same cohorts.
      release_metrics: Whether the history contains the clients' training metrics. Under a plan with
        `metrics`, these are released with noise, and released by default. Under a plan without,
        True releases plain sums that no epsilon covers, and the default is False. Without a plan,
        the default is True. If the plan protects records, True is refused, since clients would have
        to send the metrics.
      ledger: The path of a file in which each round is charged before it is run; see
        `tff_dp.Ledger`. Charges of earlier runs in the file count: those under this plan reduce the
        remaining rounds, and those under all plans count for the reported epsilon.
      max_epsilon: Training stops before the round with which this epsilon would be exceeded,
        including all earlier charges; `stopped` in the result says so. With more than 2000 rounds,
        it may stop too early by up to one round in a thousand.
      spent_before: Charges on these clients' data by runs that are not in the ledger: a result, or
        its `charges`. They count for the reported epsilon, and are added to the ledger.
      disjoint_data: States that the model was not trained on any of these clients before. Required
        if the model comes from `fit` and neither the ledger nor `spent_before` contains its
        charges. The statement cannot be checked.
      progress: Whether to show a progress bar: an older name of verbose=1.
      verbose: 0 for silence, which is the default; 1 for a progress bar; 2 for one line a round.
      callbacks: Keras callbacks of the model's Keras, for which a round is an epoch, and
        `tff_dp.EndOnNaN`. Their model has the weights of the round. Its `optimizer` stands for the
        server's and its `client_optimizer` for the clients': the learning rates that callbacks set
        on them are those of the next round. docs/keras.md lists the callbacks that are refused.
      validation_data: Public data on which the model is evaluated after rounds, by Keras's own
        `evaluate`: (x, y), (x, y, weights), or a finite `tf.data.Dataset` of batches. The epsilon
        says nothing about them.
      validation_clients: Held-out clients on which the model is evaluated after rounds, where their
        data are. The metrics are those of all their examples together. Without
        `validation_privacy` they are plain sums, which no epsilon covers, and neither does one cover
        what is chosen by them.
      validation_freq: After how many rounds to validate, or a list of the rounds, from 1.
      validation_privacy: A plan for the validation clients, which are not those of the training. Its
        `metrics` are released with noise in each evaluation, and nothing else; its `rounds` is the
        number of evaluations. What they have spent is `validation_spent` of the result.
      client_learning_rate: A function from the number of a round, from 1, to the clients' learning
        rate in this round; by default, that of the algorithm.
      server_learning_rate: The same for the server's learning rate.
      initial_weights: The weights to start from, in place of those of `model`: a trained Keras model
        of the same architecture, whose charges count like those of `model`; or a list of arrays, as
        its `get_weights()` returns them. A list carries no charges, unless a model of this process
        has exactly these weights: pass `spent_before` if it comes from private training.
      class_weight: The weight of an example's loss by its class, as of Keras's `fit`. Each weight
        changes its client's update before the update is clipped, so that the guarantee of a plan
        stays the same.
      sample_weight: The name of the field of y that has the weights of the examples, [examples]; the
        other fields are the labels. A weight multiplies its example's loss, as in Keras's `fit`, before
        the update (or the gradient of a record) is clipped, so that the guarantee of a plan stays the
        same. The weights are part of their client's data: epsilon does not cover weights that were
        computed from the data of several clients.
      run_dir: The path of a folder for this run, which is made if there is none: its configuration,
        history and checkpoints, and, under a plan and without `ledger`, its ledger. Under
        `TreeMechanism` and `BandedMechanism` it is as secret as the clients' data.
      save_every: The number of rounds from one checkpoint to the next. Rounds after the last one are
        run again when a run is resumed after a crash; under a plan, they are charged again.
      keep: The number of checkpoints to keep. With 2 or more, a damaged one can be passed over.
      resume: Whether the run in `run_dir` goes on from its last checkpoint. The arguments have to be
        those with which it was begun, except for `rounds` (the number that the run is to have in all),
        `max_epsilon`, `save_every`, `keep`, and what watches the run: `progress`, `verbose`,
        `callbacks` and validation. A run that is finished returns its result.

    Returns:
      The trained model, the history and the epsilon. The model is compiled with new copies of the
      loss and the metrics of the training, and with a new optimizer like that of the clients (Adam
      in place of Yogi, which Keras does not have; like that of the server for FedSGD): its
      `evaluate` and `fit` work immediately.

      Ctrl-C ends training after the current round (without a progress bar or a run folder, up to 64
      rounds). The result then contains the completed rounds, and `stopped` says so. A second Ctrl-C
      interrupts the round, which epsilon includes nevertheless. `KeyboardInterrupt` is raised if no
      round has been completed yet, and by one more Ctrl-C while the result is prepared.

    Raises:
      ArgumentError: An argument is outside its bound (its subclasses: `DataError`, `ModelError`, and
        `AccountingError` for more rounds than the plan covers, or none that the budget allows). Nothing
        has been trained then.
      ModelError: Also if the model was trained before and no argument says how to count that; if it
        has no trainable weights; or if it was compiled, or overrides steps of training, in a way
        that federated training does not support.
      LedgerError: The ledger is in use, is damaged, or contains plans that cannot be composed with
        this one; or its file cannot be created, for example in a folder that does not exist; or it
        can no longer be written, for example on a full disk.
      ComputationError: A client's computation fails; the message names its position in the cohort. Or the
        random bits of the noise could be guessed: in an execution context other than that of
        `tff_dp.execution.fast`, or because of an operation without a key, which the message names.
        In the second case, nothing has been trained or charged.
      RunFolderError: The run folder is open in another process, holds another run, has no good
        checkpoint, or cannot be written. If that happens during training, the last checkpoint is
        still there, and the error has the result so far.
      StackError: TFF cannot be imported.
    """
    shown_as = checked_verbose(verbose, progress)
    keeping = checked_keeping(run_dir, save_every, keep, resume)
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
        initial_weights=initial_weights,
        class_weight=class_weight,
        sample_weight=sample_weight,
        adjustable_rates=adjustable_rates(keeping, needs_rates(callbacks, client_learning_rate)),
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(current_or_fast())
        observers = observers_of(
            setup,
            callbacks=callbacks,
            validation_data=validation_data,
            validation_clients=validation_clients,
            validation_freq=validation_freq,
            validation_privacy=validation_privacy,
            client_learning_rate=client_learning_rate,
            server_learning_rate=server_learning_rate,
        )
        folder = None
        if keeping is not None:
            folder = stack.enter_context(open_run_folder(setup, keeping))
            setup = folder.setup
        standing = None if folder is None else folder.standing
        account = stack.enter_context(open_account(setup, standing))
        shown = progress_of(shown_as)
        if folder is None:
            run = Run(setup, account, period=common_period([*observers, *shown]))
        else:
            run, saver = folder.begin(account, [*observers, *shown])
            if saver is None:
                return result_of(run, run.ended)
            # What callbacks have changed is saved, and what is shown has been saved or is about to be.
            observers = [*observers, saver]
        observers = [*observers, *shown]
        stack.enter_context(expecting(account.rounds))
        return _trained(run, observers, folder)


def _trained(run: Run, observers: Sequence[Observer], folder: RunFolder | None) -> FitResult:
    """Runs the remaining rounds of a run, and makes the result."""
    try:
        with after_this_round() as is_interrupted, observed(run, observers):
            while not run.is_finished:
                observed_step(run, observers)
                if is_interrupted() and not run.is_finished:
                    run.end(INTERRUPTED)
        if folder is not None:
            folder.after_end(run)
    except KeyboardInterrupt:
        if not run.round_number:
            raise  # nothing has been trained
        return _left(run, INTERRUPTED, folder)
    except Exception as error:
        attach_result(run, error)
        if folder is not None:
            folder.note_failure(error)
        raise
    return _left(run, run.ended, folder)


def _left(run: Run, why: str | None, folder: RunFolder | None) -> FitResult:
    """Returns the result of a run, after noting it in its folder."""
    result = result_of(run, why)
    if folder is not None:
        folder.note(result, why)
        if why == INTERRUPTED:
            say_how_to_resume(run.round_number, run.account.asked, folder.path)
    return result
