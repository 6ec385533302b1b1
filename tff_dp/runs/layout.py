"""Where the files of a run folder are, and what its configuration says."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import stat
from collections.abc import Mapping
from typing import Any

from tff_dp import _checks, _disk
from tff_dp.errors import RunFolderError
from tff_dp.ledger import lines

FORMAT = 1
_KIND = "run"
_CHECKPOINT = re.compile(r"round-(\d{8,})\.checkpoint")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The paths of the files of a run folder.

    Attributes:
      folder: The path of the folder.
    """

    folder: pathlib.Path

    @property
    def lock(self) -> pathlib.Path:
        """An empty file that is locked while a process has the run open."""
        return self.folder / "run.lock"

    @property
    def config(self) -> pathlib.Path:
        """What the run was started with."""
        return self.folder / "config.json"

    @property
    def ledger(self) -> pathlib.Path:
        """The ledger, if it is in the folder."""
        return self.folder / "ledger.jsonl"

    @property
    def validation_ledger(self) -> pathlib.Path:
        """The ledger of a private validation, whose clients are others."""
        return self.folder / "validation.jsonl"

    @property
    def history(self) -> pathlib.Path:
        """The records of the rounds."""
        return self.folder / "history.jsonl"

    @property
    def result(self) -> pathlib.Path:
        """What the last call of `fit` has returned."""
        return self.folder / "result.json"

    @property
    def checkpoints(self) -> pathlib.Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def leftovers(self) -> list[pathlib.Path]:
        """Finds what writers of the files of the run have left when they died.

        Returns:
          The paths of these files, as `_disk.leftovers` finds them.
        """
        own = (self.config, self.history, self.result, *self._heads())
        return [left for path in (*own, self.checkpoints) for left in _disk.leftovers(path)]

    def _heads(self) -> list[pathlib.Path]:
        return [lines.head_path(path) for path in (self.ledger, self.validation_ledger)]

    def checkpoint(self, round_number: int) -> pathlib.Path:
        """Returns the path of the checkpoint of a round.

        Args:
          round_number: The last round that the checkpoint contains; >= 0.

        Returns:
          The path.
        """
        return self.checkpoints / f"round-{round_number:08}.checkpoint"

    def stored(self) -> dict[int, pathlib.Path]:
        """Finds the checkpoints.

        Returns:
          Their paths by their round, in ascending order; whole or damaged.
        """
        found = {}
        if self.checkpoints.is_dir():
            for path in self.checkpoints.iterdir():
                name = _CHECKPOINT.fullmatch(path.name)
                if name:
                    found[int(name[1])] = path
        return dict(sorted(found.items()))


def checked_folder(name: str, path: Any, *, exists: bool, write: bool = True) -> Layout:
    """Checks that there is a run folder at a path, or that one can be made there. Changes nothing.

    Args:
      name: The name of the argument, as the caller wrote it.
      path: The path to check.
      exists: Whether there has to be one.
      write: Whether the folder has to be writable.

    Returns:
      The layout of the folder.

    Raises:
      ArgumentError: The value is not a path.
      RunFolderError: There cannot be a run folder at this path, or there is none.
    """
    _checks.instance(
        name, path, (str, os.PathLike), "Give the path of a folder, as a string or a Path."
    )
    folder, where = pathlib.Path(path), f"{name}={os.fspath(path)!r}"
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        if exists:
            raise RunFolderError(
                f"{where} does not exist: expected the folder of a run. Give its path; "
                "tff_dp.fit(run_dir=...) without resume=True begins a run."
            ) from None
        if not folder.absolute().parent.is_dir():
            raise RunFolderError(
                f"{where} is in the folder {str(folder.parent)!r}, which does not exist. Make that "
                "folder, or give another path."
            ) from None
        writable, what = folder.absolute().parent, "the folder that it is in"
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{where} cannot be opened: {error}. Give another path.") from None
    else:
        if not stat.S_ISDIR(mode):
            raise RunFolderError(f"{where} is a file: expected a folder. Give another path.")
        writable, what = folder, "it"
    if write and not os.access(writable, os.W_OK | os.X_OK):
        raise RunFolderError(
            f"{where} cannot be written: there is no permission to write {what}. Change it, or give "
            "another path."
        )
    layout = Layout(folder)
    if exists and not layout.config.exists():
        raise RunFolderError(
            f"{where} has no {layout.config.name}: expected the folder of a run. Give its path; "
            "tff_dp.fit(run_dir=...) without resume=True begins a run."
        )
    return layout


def read_config(layout: Layout) -> dict[str, Any]:
    """Reads the configuration of a run folder.

    Args:
      layout: The layout of the folder.

    Returns:
      The configuration.

    Raises:
      RunFolderError: There is none, it is not one, or a newer version of tff_dp wrote it.
    """
    try:
        found = json.loads(layout.config.read_bytes())
    except OSError as error:
        raise RunFolderError(
            f"{layout.config} cannot be read: {error}. Give the folder of a run."
        ) from error
    except ValueError:
        found = None
    is_run = isinstance(found, Mapping) and found.get("tff_dp") == _KIND
    if not is_run or not isinstance(found.get("format"), int):
        raise RunFolderError(
            f"{layout.config} is not the configuration of a run. Restore it from a backup, or give the "
            "folder of a run."
        )
    if found["format"] > FORMAT:
        raise RunFolderError(
            f"{layout.config} has format {found['format']}: expected at most {FORMAT}. Resume the run "
            "with the version of tff_dp that wrote it."
        )
    return dict(found)


def config_bytes(values: Mapping[str, Any]) -> bytes:
    """Returns the content of a file of JSON, with the marks of a configuration where they are missing.

    Args:
      values: Plain values.

    Returns:
      The content.
    """
    marked = {"format": FORMAT, "tff_dp": _KIND, **values}
    return json.dumps(marked, indent=2, allow_nan=False).encode() + b"\n"
