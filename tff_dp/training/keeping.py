"""The arguments of `fit` that concern a run folder, checked before anything is prepared."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from tff_dp import _checks
from tff_dp.errors import ArgumentError, RunFolderError
from tff_dp.runs.layout import Layout, checked_folder, read_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keeping:
    """The arguments of `fit` that concern the run folder, checked.

    Attributes:
      layout: The layout of the folder.
      save_every: The number of rounds from one checkpoint to the next.
      keep: The number of checkpoints to keep.
      resume: Whether the folder has a run that goes on.
    """

    layout: Layout
    save_every: int
    keep: int
    resume: bool


def checked_keeping(run_dir: Any, save_every: Any, keep: Any, resume: Any) -> Keeping | None:
    """Checks the arguments of `fit` that concern the run folder. Changes nothing.

    Args:
      run_dir: As for `fit`.
      save_every: As for `fit`.
      keep: As for `fit`.
      resume: As for `fit`.

    Returns:
      The arguments; None without a run folder.

    Raises:
      ArgumentError: A value is outside its bound, or resume=True without `run_dir`.
      RunFolderError: There cannot be a run folder at the path, or there is nothing to resume.
    """
    resume = _checks.flag("resume", resume)
    save_every = _checks.integer("save_every", save_every, "[1, inf)", "It counts rounds.")
    keep = _checks.integer("keep", keep, "[1, inf)", "It counts checkpoints; 2 or more are safer.")
    if run_dir is None:
        if resume:
            raise ArgumentError(
                "run_dir=None with resume=True: expected the folder of the run that is to go on. "
                "Pass it, or leave out resume."
            )
        return None
    layout = checked_folder("run_dir", run_dir, exists=resume)
    return Keeping(layout=layout, save_every=save_every, keep=keep, resume=resume)


def adjustable_rates(keeping: Keeping | None, wanted: bool) -> bool:
    """Says whether the clients' learning rate is in the state of a run's process.

    Args:
      keeping: The arguments that concern the run folder, if there is one.
      wanted: Whether the arguments of this call need it.

    Returns:
      As it was when the run in the folder began, whose state has to fit; otherwise `wanted`.
    """
    if keeping is not None and keeping.resume:
        with contextlib.suppress(RunFolderError):  # which is reported when the folder is opened
            return bool(read_config(keeping.layout).get("adjustable_rates", wanted))
    return wanted
