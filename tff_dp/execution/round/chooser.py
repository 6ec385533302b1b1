"""Chooses how each cohort of one computation runs, and remembers which ways have failed."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_dp.execution.round import probe, strategies
from tff_dp.execution.round.programs import RoundPrograms
from tff_dp.execution.settings import Settings


class Chooser:
    """Chooses how the cohorts of a computation run.

    Args:
      parts: The programs of the computation.
      state_specs: The specifications of the tensors of the server's argument.
      common_specs: The specifications of the tensors that the server sends to all clients.

    Attributes:
      tried: What earlier attempts have shown. It is remembered here and nowhere else.
    """

    def __init__(
        self,
        parts: RoundPrograms,
        state_specs: list[tf.TensorSpec],
        common_specs: list[tf.TensorSpec],
    ) -> None:
        self._parts = parts
        self._state_specs, self._common_specs = state_specs, common_specs
        self.tried = strategies.Tried({}, parts.server_xla_obstacle)
        self._choices: dict[Any, tuple[strategies.Tried, strategies.Choice]] = {}

    def probed(self, settings: Settings) -> tuple[strategies.Choice, strategies.Tried]:
        """Finds out how a cohort runs whose data are not known yet, by writing graphs for it.

        The way that is chosen is written, and given up if that fails, until one can be written or
        clients run by a call each. `tried` itself is left as it is.

        Args:
          settings: The settings of the context.

        Returns:
          The choice, and what `tried` would be with the failures that were found.
        """
        tried = self.tried
        obstacle = strategies.data_obstacle(self._parts, None)
        while True:
            choice = self.choose(settings, obstacle, tried)
            way = choice.way
            if way.strategy == "call":
                return choice, tried
            reason = probe.clients_obstacle(self._parts, way, self._common_specs)
            if reason is None:
                return choice, self._with_server(tried) if way.xla else tried
            tried = tried.with_failed(way, reason)

    def probe_server(self) -> None:
        """Finds out what prevents XLA from compiling the server's parts, and remembers it."""
        self.tried = self._with_server(self.tried)

    def _with_server(self, tried: strategies.Tried) -> strategies.Tried:
        found = tried.server_xla or probe.server_obstacle(self._parts, self._state_specs)
        return tried.with_server_xla(found) if found else tried

    def choose(
        self, settings: Settings, obstacle: str | None, tried: strategies.Tried
    ) -> strategies.Choice:
        """Chooses how a cohort runs. The result is cached as long as `tried` is the same object.

        Args:
          settings: The settings of the context.
          obstacle: What prevents the cohort's data from being the input of one graph, or None.
          tried: What earlier attempts have shown.

        Returns:
          The way that is taken, with the ways before it and why they were given up.
        """
        on_gpu = settings.places.on_gpu
        key = (settings.strategy, settings.xla, on_gpu, obstacle)
        found = self._choices.get(key)
        if found is None or found[0] is not tried:
            found = tried, strategies.choose(self._parts, *key, tried.failed)
            self._choices[key] = found
        return found[1]

    def way(self, settings: Settings, data: Any) -> strategies.Way:
        """Chooses how a cohort runs, as far as that is known before it does.

        Args:
          settings: The settings of the context.
          data: The data of the cohort's clients.

        Returns:
          The way. When the cohort runs, that way may still fail and another one may be taken.
        """
        obstacle = strategies.data_obstacle(self._parts, data)
        return self.choose(settings, obstacle, self.tried).way
