"""Which strategy a round runs by, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tff_dp._arrays import arrays_of
from tff_dp.execution import values
from tff_dp.execution.cohort import datasets
from tff_dp.execution.round import programs

Rung = tuple[str, bool, bool]


@dataclasses.dataclass(frozen=True)
class How:
    """How the clients of a round run.

    Attributes:
      strategy: "scan" (one graph, clients one after another), "vmap" (one graph, clients side by side)
        or "call" (a graph call a client).
      xla: Whether XLA compiles the clients' part.
      why: The reasons, in words.
      imported: Whether the clients' part runs as it was imported, and is not written anew.
    """

    strategy: str
    xla: bool
    why: str
    imported: bool = False

    @property
    def rung(self) -> Rung:
        """What it is on the ladder of ways to run."""
        return self.strategy, self.xla, self.imported


def choose(
    parts: programs.RoundPrograms,
    strategy: str,
    xla: bool | None,
    on_gpu: bool,
    data_obstacle: str | None,
    failed: Mapping[Rung, str],
) -> How:
    """Returns how a round runs: the first way of those below that can be.

    Clients side by side with XLA, and without; one after another with XLA, and without; a graph call a
    client; the client's graph as it was imported. The rule of where to begin: what cannot be written as
    one graph runs by "call". Otherwise a CPU takes clients one after another, a GPU side by side, unless
    their part draws random numbers, which cannot be vectorized well. XLA compiles the clients' part
    unless something in it cannot be compiled, or, on a CPU, it has convolutions, which XLA makes slower
    there.

    Args:
      parts: The round's programs.
      strategy: See `fast`; another than "auto" overrides the rule where it is possible.
      xla: Overrides the rule where it is possible, unless None.
      on_gpu: Whether the device is a GPU.
      data_obstacle: What in the data stands in the way of one graph, or None.
      failed: The ways that have been tried in vain, and why they failed.
    """
    if strategy == "auto":
        order = _from_the_rule(parts, on_gpu)
        told = [
            f"the clients' part fits one graph, and the device is a {'GPU' if on_gpu else 'CPU'}"
        ]
    else:
        order = ["vmap", "scan"] if strategy == "vmap" else ["scan"]
        told = ["the strategy was given"]
    obstacle = parts.obstacle or data_obstacle
    if not obstacle and strategy != "call":
        for name in order:
            found = _on_step(parts, name, xla, on_gpu, failed)
            if isinstance(found, How):
                return dataclasses.replace(found, why="; ".join([*told, found.why]))
            if name == "vmap":
                told.append(f"clients cannot run side by side: {found}")
            obstacle = found
    why = f"a cohort cannot be one graph: {obstacle}" if obstacle else "; ".join(told)
    as_imported = failed.get(("call", False, False)) or parts.work.obstacle
    if as_imported and not obstacle:
        why = f"{why}; as it was imported: {as_imported}"
    # One that moves an iterator itself is written for batches by number, which a data set has not.
    return How("call", False, why, imported=bool(as_imported or parts.work.iterates))


def _from_the_rule(parts: programs.RoundPrograms, on_gpu: bool) -> list[str]:
    side_by_side = on_gpu and not (parts.work.is_random or parts.work.convolves)
    return ["vmap", "scan"] if side_by_side and not parts.vmap_obstacle else ["scan"]


def _on_step(
    parts: programs.RoundPrograms,
    strategy: str,
    xla: bool | None,
    on_gpu: bool,
    failed: Mapping[Rung, str],
) -> How | str:
    """Returns how clients run by a strategy of one graph, or why they cannot."""
    if strategy == "vmap" and parts.vmap_obstacle:
        return parts.vmap_obstacle
    compiled, plain = (strategy, True, False), (strategy, False, False)
    no_xla = xla_obstacle(parts)
    if no_xla:
        why = f"without XLA, because {no_xla}"
    elif xla is not None:
        why = f"{'with' if xla else 'without'} XLA, as was asked"
    elif parts.work.convolves and not on_gpu:
        why = "without XLA, which is slow for convolutions on a CPU"
    else:
        why = "with XLA"
    if why.startswith("with XLA"):
        if compiled not in failed:
            return How(strategy, True, why)
        why = f"without XLA, because {failed[compiled]}"
    return failed[plain] if plain in failed else How(strategy, False, why)


def xla_obstacle(parts: programs.RoundPrograms) -> str | None:
    """Returns why XLA cannot compile the clients' part, or None."""
    tff_types = [
        leaf
        for part in (parts.work, parts.programs["accumulate"])
        for side in (part.type_signature.parameter, part.type_signature.result)
        for leaf in values.leaves(side)
    ]
    for leaf in tff_types:
        for spec in tf.nest.flatten(values.tensor_specs(leaf)):
            if spec.dtype == tf.string:
                return "it has strings"
    if not all(shape.is_fully_defined() for shape in parts.carry_shapes):
        return "the sums over clients have no fixed shape"
    return parts.xla_obstacle


def data_obstacle(parts: programs.RoundPrograms, data: Any) -> str | None:
    """Returns what in a cohort's data stands in the way of one graph, or None.

    Args:
      parts: The round's programs.
      data: The data, or None if they are not known yet.
    """
    if parts.takes_sequence and (data is None or arrays_of(data) is not None):
        return None
    data_type = parts.work.type_signature.parameter[0]
    if not parts.takes_sequence:
        if any(values.is_one_sequence(leaf) for leaf in values.leaves(data_type)):
            return "a client's data has several sequences, or tensors beside one"
        if not all(
            tf.TensorShape(leaf.shape).is_fully_defined() for leaf in values.leaves(data_type)
        ):
            return "a client's data has no fixed shape"
        return None
    for client in data:
        if isinstance(client, tf.data.Dataset):
            found = datasets.obstacle(client.element_spec)
            if found:
                return found
        else:
            return "its clients' data are not all data sets"
    return None
