"""The result of a run that was completed or interrupted, or has failed."""

from __future__ import annotations

import contextlib
import dataclasses
import math

from tff_dp.charges import Charges
from tff_dp.plan import Unit
from tff_dp.process import model_weights
from tff_dp.provenance import mark, remember_weights
from tff_dp.training.results import FitResult, RoundRecord
from tff_dp.training.run import Run
from tff_dp.training.warm_start import elsewhere


def result_of(run: Run, why: str | None = None) -> FitResult:
    """Makes the result of the completed rounds of a run.

    Args:
      run: The run.
      why: Why the run ended before all of its rounds were run, such as "was interrupted"; None if
        it did not.

    Returns:
      The result. Its epsilon includes rounds that were started and not completed.
    """
    setup, account, charges, history = run.setup, run.account, run.charges, run.history
    stopped = account.stopped if why is None else _stopped(run, charges, why)
    if account.noise_seeded:
        history = tuple(_without_guarantee(record) for record in history)
    others = _others(run, charges)
    trained = setup.bound.to_keras(model_weights(setup.process, run.state))
    setup.compile_model(trained)
    mark(trained, [*others, charges])
    remember_weights(trained)
    spent, spent_by_client = None, None
    if setup.plan is not None and charges.runs and not account.noise_seeded:
        spent = charges.spent()
        if setup.plan.unit is Unit.RECORD:
            spent_by_client = dict(zip(setup.clients.ids, charges.spent_by_unit(), strict=True))
    return FitResult(
        model=trained,
        history=history,
        epsilon=spent.epsilon if spent else math.inf,
        spent=spent,
        privacy=setup.privacy,
        charges=charges,
        other_data=others,
        seeded=setup.seeded,
        noise_seeded=account.noise_seeded,
        stopped=stopped,
        spent_by_client=spent_by_client,
        random_bits=account.random_bits,
        foreign_algorithm=setup.foreign_algorithm,
        runs=tuple(dict.fromkeys((*account.parts, account.run))),
        resumed=account.resumed,
        repeated_rounds=account.repeated,
        validation_charges=run.validation_charges,
    )


def records_of(run: Run) -> tuple[Charges, ...]:
    """Returns the charges that a model of the current weights carries.

    Args:
      run: The run.

    Returns:
      One entry for each data set on which it was trained.
    """
    charges = run.charges
    return *_others(run, charges), charges


def _others(run: Run, charges: Charges) -> tuple[Charges, ...]:
    setup = run.setup
    return elsewhere(
        setup.carried,
        charges,
        private=setup.plan is not None,
        disjoint_data=setup.disjoint_data,
    )


def attach_result(run: Run, error: Exception) -> None:
    """Attaches the result of the completed rounds to an error, as its attribute `result`.

    Nothing is attached if no round has been completed or charged, or if the result cannot be made.

    Args:
      run: The run.
      error: The error that has ended it. It is changed in place.
    """
    with contextlib.suppress(Exception):  # a second error must not hide the first one
        if not run.round_number and not run.charges.runs:
            return
        lines = [type(error).__name__, *str(error).splitlines()[:1]]
        why = f"failed ({': '.join(lines)[:200].rstrip('.')})"
        error.result = result_of(run, why)  # type: ignore[attr-defined]
        error.add_note(
            f"{run.round_number} of {_asked(run)} rounds had been run. The attribute `result` of "
            "this error holds their model, and what all rounds that were begun have spent."
        )


def _stopped(run: Run, charges: Charges, why: str) -> str:
    done = run.round_number
    here = done - run.account.first + 1
    more = max(charges.rounds - run.account.charged_before - here, 0)
    return f"Training {why} after {done} of {_asked(run)} rounds" + (
        f"; epsilon counts {more} more, which had been begun." if more else "."
    )


def _asked(run: Run) -> int:
    """Returns the number of rounds that were asked for, as every message counts them.

    A run that repeats lost rounds, or whose budget is small, may have fewer.
    """
    return run.account.asked or run.account.rounds


def _without_guarantee(record: RoundRecord) -> RoundRecord:
    """Returns the record of a round whose noise can be removed, since its seed is known."""
    return dataclasses.replace(
        record, epsilon=math.inf, metrics_private=False, validation_private=False
    )
