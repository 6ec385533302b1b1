"""Several Ray nodes on this machine, each with an object store and workers of its own.

For the tests, the demonstration and the benchmark of clusters. The nodes listen on loopback and require
the token that is in the environment, and end with this process.
"""

from __future__ import annotations

from typing import Any

from tff_dp._compat import ray as ray_compat

_STORE_BYTES = 1 << 28
# Ray forks this process to start a node, which now and then comes to nothing where many threads run.
_ATTEMPTS = 3


class Nodes:
    """A head without CPUs, and nodes with them, as many raylets on loopback.

    Args:
      count: Nodes with CPUs.
      cpus: CPUs of each.
      gpus: GPUs of each, as far as Ray is told: there need not be any.

    Attributes:
      address: Of the head.
    """

    def __init__(self, count: int, cpus: int = 1, gpus: int = 0) -> None:
        ray_compat.require_tokens(fresh=True)
        from ray.cluster_utils import Cluster

        self._node: dict[str, Any] = {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "node_ip_address": ray_compat.LOOPBACK,
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
        }
        self._count = count
        self._working: list[Any] = []
        for attempt in range(_ATTEMPTS):
            self._cluster = Cluster()
            try:
                # Nodes with workers can be lost; that of the driver cannot.
                self._cluster.add_node(**{**self._node, "num_cpus": 0, "num_gpus": 0})
                self.mend()
            except Exception:  # Ray's, after half a minute in which a node has not come up
                self.close()
                self._working.clear()
                if attempt + 1 == _ATTEMPTS:
                    raise
            else:
                break
        self.address: str = self._cluster.address

    def lose(self) -> None:
        """Kills a node with workers, as a machine goes that loses its power."""
        self._cluster.remove_node(self._working.pop(), allow_graceful=False)

    def mend(self) -> None:
        """Starts new nodes for those that were lost."""
        failures = 0
        while len(self._working) < self._count:
            try:
                self._working.append(self._cluster.add_node(**self._node))
            except Exception:
                failures += 1
                if failures == _ATTEMPTS:
                    raise

    def close(self) -> None:
        """Ends all nodes."""
        self._cluster.shutdown()  # type: ignore[no-untyped-call]
