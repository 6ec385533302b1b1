"""What a check of the installation has found."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
      name: What was looked at.
      state: "ok"; "note" for what may be of interest; "warning" for what may not work; "error" for
        what does not.
      text: What was found, in a sentence.
      remedy: What to do; empty if there is nothing to do.
    """

    name: str
    state: str
    text: str
    remedy: str = ""
