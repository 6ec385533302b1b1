"""Reads a run folder without opening it; another process may be training in it."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tff_dp import _checks
from tff_dp.errors import RunFolderError
from tff_dp.runs import history
from tff_dp.runs.layout import checked_folder, read_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The content of a run folder, without the states.

    Attributes:
      config: The content of config.json; docs/runs.md has its fields.
      round_number: The round of the newest checkpoint; 0 if there is none.
      records: The fields of the record of each round up to that one.
      checkpoints: The paths of the checkpoints, by round in ascending order.
      ledger: The path of the ledger; None without a plan.
      result: The content of result.json; None while training has not ended.
      is_open: Whether a process has the run open.

    Raises:
      ArgumentError: `is_open` is not a boolean.
    """

    config: Mapping[str, Any]
    round_number: int
    records: tuple[Mapping[str, Any], ...]
    checkpoints: Mapping[int, pathlib.Path]
    ledger: pathlib.Path | None
    result: Mapping[str, Any] | None
    is_open: bool

    def __post_init__(self) -> None:
        _checks.flag("is_open", self.is_open)

    @property
    def times_resumed(self) -> int:
        """How often training went on in a new call of `fit`."""
        return max(len(self.config["openings"]) - 1, 0)


def read_run(run_dir: str | os.PathLike[str]) -> RunSummary:
    """Reads what a run folder says of a run. Checkpoints are found, and not read.

    Args:
      run_dir: The path of the folder; a process may have it open.

    Returns:
      The summary.

    Raises:
      ArgumentError: `run_dir` is not a path.
      RunFolderError: There is no run folder, or a newer version of tff_dp wrote it.
    """
    where = checked_folder("run_dir", run_dir, exists=True, write=False)
    config = read_config(where)
    stored = where.stored()
    number = max(stored, default=0)
    # Records are on the disk before the checkpoint that counts them.
    lines = history.read_lines(where.history)[:number]
    ledger = config.get("ledger")
    try:
        result = json.loads(where.result.read_bytes()) if where.result.exists() else None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{where.result} cannot be read: {error}. Resume the run.") from error
    return RunSummary(
        config=config,
        round_number=number,
        records=tuple(history.record_of(line) for line in lines),
        checkpoints=stored,
        ledger=None if ledger is None else where.folder / ledger,
        result=result,
        is_open=_is_locked(where.lock),
    )


def _is_locked(path: pathlib.Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
