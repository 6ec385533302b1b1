"""Which strategy a round runs by, and why."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tff_dp._arrays import arrays_of
from tff_dp.execution import datasets, rounds, values


@dataclasses.dataclass(frozen=True)
class How:
    """How the clients of a round run.

    Attributes:
      strategy: "scan" (one graph, clients one after another), "vmap" (one graph, clients side by side)
        or "call" (a graph call a client).
      xla: Whether XLA compiles the clients' part.
      why: The reasons, in words.
    """

    strategy: str
    xla: bool
    why: str


def choose(
    parts: rounds.RoundPrograms,
    strategy: str,
    xla: bool | None,
    on_gpu: bool,
    data_obstacle: str | None,
) -> How:
    """Returns how a round runs.

    The rule: what cannot be written as one graph runs by "call". Otherwise a CPU takes clients one after
    another, a GPU side by side, unless their part draws random numbers, which cannot be vectorised well.
    XLA compiles the clients' part unless something in it cannot be compiled, or, on a CPU, it has
    convolutions, which XLA makes slower there.

    Args:
      parts: The round's programs.
      strategy: See `fast`; another than "auto" overrides the rule where it is possible.
      xla: Overrides the rule where it is possible, unless None.
      on_gpu: Whether the device is a GPU.
      data_obstacle: What in the data stands in the way of one graph, or None.
    """
    obstacle = parts.obstacle or data_obstacle
    if obstacle:
        return How("call", False, f"a cohort cannot be one graph: {obstacle}")
    if strategy == "call":
        return How("call", False, "the strategy was given")
    no_xla = xla_obstacle(parts)
    if strategy == "vmap" and parts.vmap_obstacle:
        strategy = "scan"
    convolves = parts.work.convolves
    if strategy == "auto":
        side_by_side = on_gpu and not (parts.work.is_random or convolves or parts.vmap_obstacle)
        strategy = "vmap" if side_by_side else "scan"
        why = f"the clients' part fits one graph, and the device is a {'GPU' if on_gpu else 'CPU'}"
    else:
        why = "the strategy was given"
    if parts.vmap_obstacle:
        why = f"{why}; clients cannot run side by side: {parts.vmap_obstacle}"
    if no_xla:
        return How(strategy, False, f"{why}; without XLA, because {no_xla}")
    if xla is not None:
        return How(strategy, xla, f"{why}; {'with' if xla else 'without'} XLA, as was asked")
    if convolves and not on_gpu:
        return How(strategy, False, f"{why}; without XLA, which is slow for convolutions on a CPU")
    return How(strategy, True, f"{why}; with XLA")


def xla_obstacle(parts: rounds.RoundPrograms) -> str | None:
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
    if "Timestamp" in parts.work.operations:
        return "it reads the clock"
    return None


def data_obstacle(parts: rounds.RoundPrograms, data: Any) -> str | None:
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
