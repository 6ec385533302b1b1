"""Reads a ledger from its file only, without locking it; it may be open elsewhere."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping

from tff_dp import _checks
from tff_dp.accounting import EpsilonReport
from tff_dp.charges import Charges
from tff_dp.errors import LedgerError
from tff_dp.ledger import lines
from tff_dp.ledger.verify import Found, verified
from tff_dp.plan import PrivacyPlan


@dataclasses.dataclass(frozen=True, kw_only=True)
class LedgerSummary:
    """The content of a ledger.

    Attributes:
      plans: The plans in the order of their lines, including plans without charges.
      charges: Every run under every plan.
      versions: The sets of package versions under which lines were written.
      torn: Whether the last line is torn. Nobody has acted on it, and it does not count.
      spent: The privacy that all charges have spent together.

    Raises:
      ArgumentError: `torn` is not a boolean.
    """

    plans: tuple[PrivacyPlan, ...]
    charges: Charges
    versions: tuple[Mapping[str, str], ...]
    torn: bool
    spent: EpsilonReport

    def __post_init__(self) -> None:
        _checks.flag("torn", self.torn)


def replay(path: str | os.PathLike[str], delta: float | None = None) -> EpsilonReport:
    """Computes what the charges of a ledger have spent together, from its file only.

    Args:
      path: The path of the ledger; it may be open elsewhere, and is not changed.
      delta: As for `Ledger.spent`.

    Returns:
      The same report as `Ledger.spent`, to the last bit.

    Raises:
      ArgumentError: delta is outside its bound, or `path` is not a path.
      LedgerError: There is no ledger, or lines are missing or edited. A torn last line, which
        nobody has acted on, does not count.
    """
    return _read(path)[0].spent(delta)


def summarize(path: str | os.PathLike[str], delta: float | None = None) -> LedgerSummary:
    """Reads a ledger: its plans, its charges, and what they have spent together.

    Args:
      path: As for `replay`.
      delta: As for `Ledger.spent`.

    Returns:
      The summary.

    Raises:
      ArgumentError: delta is outside its bound, or `path` is not a path.
      LedgerError: As for `replay`.
    """
    found, torn = _read(path)
    return LedgerSummary(
        plans=tuple(found.plans.values()),
        charges=found.all_charges(),
        versions=tuple(found.versions),
        torn=torn,
        spent=found.spent(delta),
    )


def _read(path: str | os.PathLike[str]) -> tuple[Found, bool]:
    _checks.instance("path", path, (str, os.PathLike), "Give the path of a ledger.")
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise LedgerError(f"The ledger {path} cannot be read: {error}.") from error
    whole = content[: content.rfind(b"\n") + 1]
    return verified(path, whole, lines.read_head(path)), whole != content
