"""Errors that name whose computation failed."""

from __future__ import annotations

from collections.abc import Sequence

from tff_dp.errors import ComputationError
from tff_dp.execution.round import secure_sums


def client_name(position: int, clients: int) -> str:
    """Returns a client's name."""
    return f"client {position} (of {clients} in the cohort, from 0)"


def summary(message: str) -> str:
    """Returns the telling line of one of TensorFlow's errors, which begin with where they are from."""
    lines = [line.strip() for line in message.splitlines()]
    dull = ("Graph execution error", "Detected at node", "<stack traces", "[[{{", "Stack trace")
    return next((line for line in lines if line and not line.startswith(dull)), message)[:300]


def raise_if_failed(status: Sequence[int], checks: Sequence[str], clients: int) -> None:
    """Raises the error of a check that failed.

    Args:
      status: Who failed (a position, or `programs.SERVER_FAILED`), and the number of the check; 0
        for none.
      checks: What the checks say, by number from 1.
      clients: How many there are.
    """
    who, check = status
    if not check:
        return
    message = (
        "client value larger than the maximum of a secure sum"
        if check == secure_sums.EXCEEDED
        else checks[check - 1]
    )
    whose = f"computation of {client_name(who, clients)}" if who >= 0 else "server's computation"
    raise ComputationError(f"The {whose} failed a check: {message}")
