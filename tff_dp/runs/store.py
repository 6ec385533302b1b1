"""A run folder that is open: its lock, its checkpoints, and which of them are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tff_dp import _disk, _warnings
from tff_dp.errors import RunFolderError
from tff_dp.runs import checkpoint, history, layout
from tff_dp.runs.checkpoint import Checkpoint, DamagedError, Stored
from tff_dp.runs.history import History
from tff_dp.runs.layout import Layout

_WAITS = (
    0.01,
    0.03,
    0.1,
)  # seconds; `read_run` locks a folder for a moment to see whether it is open


class Store:
    """The files of one run, which only one process writes at a time.

    Args:
      where: The layout of the folder, which exists and is locked.

    Attributes:
      layout: The argument `where`.
      last: The round of the last checkpoint that was saved or found; None before any.
    """

    def __init__(self, where: Layout) -> None:
        self.layout = where
        self.last: int | None = None
        self._history: History | None = None

    def config(self) -> dict[str, Any] | None:
        """Reads the configuration.

        Returns:
          The configuration; None if the folder has none.

        Raises:
          RunFolderError: As for `read_config`.
        """
        return layout.read_config(self.layout) if self.layout.config.exists() else None

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Replaces the configuration.

        Args:
          values: Plain values.

        Raises:
          RunFolderError: It could not be written.
        """
        with self._writing(self.layout.config):
            _disk.replace(self.layout.config, layout.config_bytes(values))

    def write_result(self, values: Mapping[str, Any]) -> None:
        """Replaces the facts of the result.

        Args:
          values: Plain values.

        Raises:
          RunFolderError: They could not be written.
        """
        with self._writing(self.layout.result):
            content = layout.config_bytes({"format": layout.FORMAT, "tff_dp": "result", **values})
            _disk.replace(self.layout.result, content)

    def forget_result(self) -> None:
        """Removes the facts of an earlier result, which training will change.

        Raises:
          RunFolderError: The file could not be removed.
        """
        with self._writing(self.layout.result):
            self.layout.result.unlink(missing_ok=True)

    def begin(self) -> None:
        """Makes the files of a run that has no rounds yet.

        Raises:
          RunFolderError: They could not be written.
        """
        with self._writing(self.layout.folder):
            self.layout.checkpoints.mkdir(mode=0o700, exist_ok=True)
            self._history = History(self.layout.history)

    def newest(self, folder: str) -> tuple[Stored, Sequence[Mapping[str, Any]]] | None:
        """Finds the last good checkpoint, and prepares the files to go on from it.

        Damaged ones are passed over with a warning. They and everything later are put aside, with
        `.damaged` appended to their names, so that they are not taken for the run's.

        Args:
          folder: The identifier in the configuration.

        Returns:
          The checkpoint and the records of its history; None if there is no checkpoint at all.

        Raises:
          RunFolderError: No checkpoint is good, or a newer version of tff_dp wrote one.
        """
        stored = self.layout.stored()
        if not stored:
            return None
        passed: list[tuple[pathlib.Path, str]] = []
        lines = history.read_lines(self.layout.history)
        for number, path in reversed(stored.items()):
            try:
                found = checkpoint.read(path)
                _check_belongs(found.facts, number, folder, lines)
            except DamagedError as error:
                passed.append((path, str(error)))
                continue
            self._put_aside(passed, number)
            records = [history.record_of(line) for line in lines[:number]]
            with self._writing(self.layout.history):
                self._history = History(self.layout.history, number)
            self.last = number
            return found, records
        path, why = passed[0]
        raise RunFolderError(
            f"{self.layout.checkpoints} has no good checkpoint: {path.name} {why}. Restore the folder "
            "from a backup; or begin another run in another folder, and count what this one has spent "
            "by its ledger."
        )

    def save(
        self,
        facts: Checkpoint,
        leaves: Sequence[Mapping[str, Any]],
        parts: Sequence[bytes],
        records: Sequence[Mapping[str, Any]],
        keep: int,
        beside: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Saves a checkpoint, and removes those that are not to be kept any more.

        Args:
          facts: What is known of the run, without the hash of its history.
          leaves: As for `checkpoint.write`.
          parts: As for `checkpoint.write`.
          records: The records since the last checkpoint.
          keep: The number of checkpoints to keep; >= 1.
          beside: As for `checkpoint.write`.

        Raises:
          RunFolderError: It could not be saved. The last checkpoint is still there.
        """
        path = self.layout.checkpoint(facts.round_number)
        with self._writing(path):
            assert self._history is not None
            # A save that failed has left its records in the file, or in none.
            new = facts.records - self._history.records
            self._history.append(records[len(records) - new :])
            complete = dataclasses.replace(facts, history=self._history.sha256)
            checkpoint.write(path, complete, leaves, parts, beside)
            self.last = facts.round_number
            for old in list(self.layout.stored().values())[:-keep]:
                old.unlink(missing_ok=True)

    def _put_aside(self, passed: Sequence[tuple[pathlib.Path, str]], number: int) -> None:
        for path, why in passed:
            with self._writing(path):
                os.replace(path, path.with_name(path.name + ".damaged"))
            _warnings.warn(
                f"The checkpoint {path} {why}. The run goes on from that of round {number}, and rounds "
                "after it are run again. The file is kept with .damaged appended to its name.",
                RuntimeWarning,
            )

    @contextlib.contextmanager
    def _writing(self, path: pathlib.Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            last = "" if self.last is None else f" The checkpoint of round {self.last} is whole."
            raise RunFolderError(
                f"{path} could not be written: {error}.{last} Make room or repair the disk, and resume "
                "the run."
            ) from error


@contextlib.contextmanager
def opened(where: Layout, *, make: bool) -> Iterator[Store]:
    """Opens a run folder, and removes what writers that died have left.

    Args:
      where: The layout of the folder, as `checked_folder` returns it.
      make: Whether to make the folder if there is none.

    Yields:
      The store. The folder is locked until the block is left.

    Raises:
      RunFolderError: Another process has the folder open, or it cannot be written.
    """
    try:
        if make:
            where.folder.mkdir(mode=0o700, exist_ok=True)
        file = os.open(where.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RunFolderError(
            f"run_dir={str(where.folder)!r} cannot be written: {error}. Make room or change its "
            "permissions, or give another path."
        ) from error
    try:
        _lock(file, where)
        store = Store(where)
        with store._writing(where.folder):
            for left in where.leftovers():
                left.unlink()
        yield store
    finally:
        os.close(file)


def seed_in(where: Layout) -> int | None:
    """Finds the seed that was given to a run, which only its checkpoints hold.

    Args:
      where: The layout of the folder.

    Returns:
      The seed; None if there was none, or there is no whole checkpoint.

    Raises:
      RunFolderError: A newer version of tff_dp wrote a checkpoint.
    """
    for path in reversed(where.stored().values()):
        with contextlib.suppress(DamagedError):
            return checkpoint.read(path).facts.seed
    return None


def _lock(file: int, where: Layout) -> None:
    for wait in (*_WAITS, None):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if wait is not None:
                time.sleep(wait)
    raise RunFolderError(
        f"run_dir={str(where.folder)!r} is open in another process or in this one. Wait for the other "
        "run to end, or give this one a folder of its own."
    )


def _check_belongs(facts: Checkpoint, number: int, folder: str, lines: Sequence[bytes]) -> None:
    if facts.folder != folder:
        raise DamagedError("is of another run")
    if facts.round_number != number or facts.records != number:
        raise DamagedError(f"is that of round {facts.round_number}")
    if len(lines) < number or history.hash_of_lines(lines[:number]) != facts.history:
        raise DamagedError("does not fit the history of the run")
