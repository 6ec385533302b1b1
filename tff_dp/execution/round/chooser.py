"""Which way each cohort of one computation runs in, by what has been found out so far."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_dp.execution.round import probe, strategies
from tff_dp.execution.round.programs import RoundPrograms
from tff_dp.execution.settings import Settings


class Chooser:
    """Chooses ways to run a computation's cohorts.

    Args:
      parts: The computation's programs.
      state_specs: Of the server's part of the argument.
      common_specs: Of what clients get from the server.

    Attributes:
      tried: What has been found out by trying: the one place where that is kept.
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
        """Returns how a cohort of unknown data runs, and what was found out by writing its graphs.

        What fails to trace may not have been tried yet. Nothing is remembered.
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
        """Finds out what keeps the server's parts from XLA, and remembers it."""
        self.tried = self._with_server(self.tried)

    def _with_server(self, tried: strategies.Tried) -> strategies.Tried:
        found = tried.server_xla or probe.server_obstacle(self._parts, self._state_specs)
        return tried.with_server_xla(found) if found else tried

    def choose(
        self, settings: Settings, obstacle: str | None, tried: strategies.Tried
    ) -> strategies.Choice:
        """Returns how a cohort runs.

        Args:
          settings: The context's.
          obstacle: What in the cohort's data stands in the way of one graph, or None.
          tried: What has been found out by trying.
        """
        on_gpu = settings.places.on_gpu
        key = (settings.strategy, settings.xla, on_gpu, obstacle)
        found = self._choices.get(key)
        if found is None or found[0] is not tried:
            found = tried, strategies.choose(self._parts, *key, tried.failed)
            self._choices[key] = found
        return found[1]

    def way(self, settings: Settings, data: Any) -> strategies.Way:
        """Returns how a cohort runs, as far as is known before it does.

        Args:
          settings: The context's.
          data: The cohort's data.
        """
        obstacle = strategies.data_obstacle(self._parts, data)
        return self.choose(settings, obstacle, self.tried).way
