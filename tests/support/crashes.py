"""Images of a run folder at chosen moments, as a crash at that moment would leave it."""

from __future__ import annotations

import shutil
import warnings

import pytest

from tff_dp.training.budget import Account
from tff_dp.training.checkpoints import Checkpoints
from tff_dp.training.setup import Setup


class Crashes:
    """Copies a run folder while its run trains.

    Args:
      folder: The run folder.
      monkeypatch: Undoes what is replaced here.
      charged: Rounds at which to copy, after they are charged and before they are run.
      before: Rounds at which to copy before they are charged.

    Attributes:
      drawn: For each drawn cohort, its round and the root of its seed.
    """

    def __init__(self, folder, monkeypatch: pytest.MonkeyPatch, charged=(), before=()):
        self._folder = folder
        self.drawn: list[tuple[int, int]] = []
        draw, charge, after = Setup.draw, Account.charge, Checkpoints.after_step

        def draw_and_copy(setup, number, root):
            self.drawn.append((number, root))
            if number in charged:
                self._copy("charged", number)
            return draw(setup, number, root)

        def copy_and_charge(account, first, count):
            if first in before:
                self._copy("before", first)
            return charge(account, first, count)

        def save_at_once(saver, run, records):
            after(saver, run, records)
            saver.wait()  # no copy while a file is being written: the order of the two would be lost

        monkeypatch.setattr(Setup, "draw", draw_and_copy)
        monkeypatch.setattr(Account, "charge", copy_and_charge)
        monkeypatch.setattr(Checkpoints, "after_step", save_at_once)

    def image(self, kind: str, number: int):
        """Returns the path of a copy: kind is "charged" or "before"."""
        return self._folder.with_name(f"{self._folder.name}-{kind}-{number}")

    def _copy(self, kind: str, number: int) -> None:
        path = self.image(kind, number)
        if not path.exists():
            shutil.copytree(self._folder, path)


def silent():
    """Leaves out warnings, which a test does not look at."""
    return warnings.catch_warnings(action="ignore")
