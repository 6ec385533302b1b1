"""Error messages that name the client, or the server, whose computation failed."""

from __future__ import annotations

from collections.abc import Sequence

from tff_dp.errors import ComputationError
from tff_dp.execution.round import secure_sums


def client_name(position: int, clients: int) -> str:
    """Names a client in a message.

    Args:
      position: The position of the client in the cohort, from 0.
      clients: The number of clients in the cohort.

    Returns:
      A phrase such as "client 3 (of 10 in the cohort, from 0)".
    """
    return f"client {position} (of {clients} in the cohort, from 0)"


def summary(message: str) -> str:
    """Extracts the informative line of one of TensorFlow's errors, which begin with stack traces.

    Args:
      message: The message of the error.

    Returns:
      The first line that is neither empty nor part of a trace, or the whole message if there is
      none; at most 300 characters.
    """
    lines = [line.strip() for line in message.splitlines()]
    dull = (
        "Graph execution error",
        "Detected at node",
        "<stack traces",
        "[[{{",
        "Stack trace",
        'File "',
    )
    return next((line for line in lines if line and not line.startswith(dull)), message)[:300]


def raise_if_failed(status: Sequence[int], checks: Sequence[str], clients: int) -> None:
    """Raises an error if a status says that a check failed.

    Args:
      status: Two integers. The first says who failed: a client's position, or
        `programs.SERVER_FAILED`. The second is the number of the check, from 1;
        `secure_sums.EXCEEDED` for an input of a secure sum that was too large; 0 if none failed.
      checks: The messages of the checks, the first of which is number 1.
      clients: The number of clients in the cohort.

    Raises:
      ComputationError: A check failed.
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
