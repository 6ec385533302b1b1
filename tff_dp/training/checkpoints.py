"""The observer that saves a run in its folder, while the next round runs."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tff_dp import _warnings
from tff_dp.errors import RunFolderError
from tff_dp.runs import codec
from tff_dp.runs.checkpoint import Checkpoint
from tff_dp.runs.store import Store
from tff_dp.training.callback_states import States
from tff_dp.training.interrupts import INTERRUPTED
from tff_dp.training.observers import Observer
from tff_dp.training.results import RoundRecord
from tff_dp.training.run import Run


class Checkpoints(Observer):
    """Saves the state of a run every few rounds, and at the end.

    The bytes of the state are taken when a step has ended; a thread writes them while the next step
    runs. There is one write at a time. Under a plan, where rounds that are lost are paid for again, a
    step that ends before the last write has ended waits for it; otherwise its state is not saved, but
    a later one. An error of a write ends the run at its next step.

    Args:
      store: The open run folder.
      folder: The identifier of the folder.
      like: The first state of the process.
      seed: As for `Checkpoint`.
      every: The number of rounds from one save to the next; >= 1.
      keep: The number of checkpoints to keep; >= 1.
      states: Returns what the callbacks of the run have counted.
    """

    def __init__(
        self,
        store: Store,
        *,
        folder: str,
        like: Any,
        seed: int | None,
        every: int,
        keep: int,
        states: Callable[[], States] = States,
    ) -> None:
        self.period = every
        self._store, self._folder, self._like = store, folder, like
        self._seed, self._keep, self._states = seed, keep, states
        self._saved: Any = None  # the state that was last passed on to be written
        self._writer: concurrent.futures.ThreadPoolExecutor | None = None
        self._writing: concurrent.futures.Future[None] | None = None
        self._taken = 0  # the round that was last passed on to be written

    def on_begin(self, run: Run) -> None:
        """Saves the state before the first round: nothing is charged unless that was possible.

        Args:
          run: The run.

        Raises:
          RunFolderError: The state cannot be saved.
        """
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "tff_dp-checkpoints")
        self._taken = run.round_number
        if self._store.last is None:
            self._save(run)
            self.wait()

    def before_step(self, run: Run) -> None:
        """Ends the run if an earlier write has failed.

        Args:
          run: The run.

        Raises:
          RunFolderError: A write has failed.
        """
        del run
        if self._writing is not None and self._writing.done():
            self.wait()

    def after_step(self, run: Run, records: Sequence[RoundRecord]) -> None:
        """Passes the state on to be written, if it is time.

        Args:
          run: The run.
          records: The records of the step.

        Raises:
          RunFolderError: The last write has failed, or the state cannot be stored.
        """
        del records
        every = self.period or 1
        is_due = run.round_number // every > self._taken // every
        if is_due and not self._may_skip(run):
            self._save(run)

    def wait(self) -> None:
        """Waits until the checkpoint that is being written is on the disk.

        Raises:
          RunFolderError: It could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def on_end(self, run: Run) -> None:
        """Saves the last state, and waits until it is on the disk.

        Args:
          run: The run.

        Raises:
          RunFolderError: The state cannot be saved. If the run has failed for another reason, this
            is a warning.
        """
        try:
            self._finish(run)
        except RunFolderError as error:
            if run.is_finished:
                raise
            _warnings.warn(f"The last rounds could not be saved: {error}", RuntimeWarning)
        finally:
            if self._writer is not None:
                self._writer.shutdown()

    def _may_skip(self, run: Run) -> bool:
        is_busy = self._writing is not None and not self._writing.done()
        return is_busy and run.account.plan is None

    def _finish(self, run: Run) -> None:
        failed: RunFolderError | None = None
        try:
            self.wait()
        except RunFolderError as error:
            failed = error  # once more: there may be room again
        if failed or self._taken != run.round_number or _ended(run):
            self._save(run)
            self.wait()

    def after_end(self, run: Run) -> None:
        """Saves once more what callbacks have made of a run that they have ended.

        `EarlyStopping` restores the best weights when training has ended. A run that has come to its last
        round can go on by more rounds, and its checkpoint stays what it was.

        Args:
          run: The run, whose observers have ended.

        Raises:
          RunFolderError: The state cannot be saved.
        """
        if _ended(run) and run.state is not self._saved:
            self._store.save(*self._contents(run))

    def _save(self, run: Run) -> None:
        self.wait()
        assert self._writer is not None
        contents = self._contents(run)
        self._taken = run.round_number
        self._writing = self._writer.submit(self._store.save, *contents)

    def _contents(self, run: Run) -> tuple[Any, ...]:
        """Returns the arguments of `Store.save`, which later steps do not change."""
        encoded = codec.encode(run.state, self._like)
        states = self._states()
        beside = codec.encode_arrays(states.arrays)
        history, number = run.history, run.round_number
        account = run.account
        facts = Checkpoint(
            folder=self._folder,
            round_number=number,
            records=number,
            history="",
            run=None if account.plan is None else account.run,
            first=account.first,
            root=account.root,
            seed=self._seed,
            ended=_ended(run),
            callbacks=tuple(states.numbers),
        )
        last = self._store.last
        new = [_fields(record) for record in history[last if last is not None else 0 :]]
        self._saved = run.state
        parts = [*encoded.parts, *beside.parts]
        return facts, encoded.leaves, parts, new, self._keep, beside.leaves


def _ended(run: Run) -> str | None:
    """Returns why a run was ended for good; None if it may go on."""
    return None if run.ended == INTERRUPTED else run.ended


def _fields(record: RoundRecord) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
