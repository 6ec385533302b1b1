"""Describes how a computation over clients runs, and why."""

from __future__ import annotations

from tff_dp.execution.round import compile_policy, noise_source
from tff_dp.execution.round.runner import RoundRunner
from tff_dp.execution.settings import Settings


def account_of(runner: RoundRunner, settings: Settings) -> str:
    """Describes how a computation runs, for clients whose data are arrays or batched data sets.

    Args:
      runner: The runner of the computation.
      settings: The settings of the context.

    Returns:
      A text of several lines: how the clients and the server run, where random bits come from, and
      how many tensors are summed as secure sums.
    """
    choice, tried = runner.chooser.probed(settings)
    way = choice.way
    lines = [
        choice.account(),
        "server: with the clients in one graph, where a cohort is one block of clients; otherwise a "
        "graph before them and one after",
    ]
    if settings.pool is not None:
        lines.append(
            f"cluster: clients of cohorts of several parts run on Ray at {settings.pool.address}, up to "
            f"{settings.pool.slots()} parts at a time; the rest runs in this process"
        )
    if way.xla and tried.server_xla:
        lines.append(f"server: without XLA, because {tried.server_xla}")
    if way.xla and way.strategy == "scan" and not settings.compiles_at_once:
        lines.append(
            "XLA: from when clients whose last batches have one size have trained on "
            f"{compile_policy.USED_FROM} batches in this context; compiled beside the rounds before"
        )
    lines += noise_source.account_of_round(runner.parts, settings, imported=way.imported)
    secure = runner.parts.secure_count
    if secure:
        lines.append(
            f"secure sums: {secure} tensors, summed exactly in this process; no cryptography hides the "
            "terms"
        )
    return "\n".join(lines)
