"""Which cluster runs the parts of cohorts, and how."""

from __future__ import annotations

import dataclasses

from tff_dp import _checks
from tff_dp.errors import ArgumentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray cluster, and what a part of a cohort may take of it.

    Args:
      address: "auto" for the cluster that Ray finds (the variable RAY_ADDRESS, or one that was started on
        this machine), or for a new one on this machine if there is none; "local" for a new one on this
        machine; or the address of a cluster's head, "host:port". A new one listens on loopback alone
        and ends with the context.
      cpus: The CPUs that a part claims (Ray's `num_cpus`), without unit; (0, inf).
      gpus: The GPUs that a worker claims (Ray's `num_gpus`), without unit; [0, inf). 0 runs the clients
        on CPUs. A whole number, or a fraction below 1 by which several workers share a GPU.
      max_retries: How many more times a part runs after its worker died, or took longer than
        `time_limit`; [0, inf).
      time_limit: Seconds in which a part must be finished, from when it is handed to Ray, its first
        compilation and the start of a worker included; (0, inf).
      local_cpus: The CPUs of a cluster that is started here, which is how many workers it has for
        `cpus=1`; [1, inf). None for the cores of this machine.

    Raises:
      ArgumentError: An argument is outside its bound.
    """

    address: str = "auto"
    cpus: float = 1.0
    gpus: float = 0.0
    max_retries: int = 3
    time_limit: float = 600.0
    local_cpus: int | None = None

    def __post_init__(self) -> None:
        address = _checks.instance("address", self.address, str)
        _, _, port = address.rpartition(":")
        if address not in ("auto", "local") and ("://" in address or not port.isdecimal()):
            raise ArgumentError(
                f"address={address!r}: expected 'auto', 'local' or 'host:port'. Pass the address that "
                "`ray start --head` prints: this process runs on a node of the cluster, not as a client."
            )
        _checks.real("cpus", self.cpus, "(0, inf)")
        gpus = _checks.real("gpus", self.gpus, "[0, inf)")
        if gpus > 1 and gpus != int(gpus):
            raise ArgumentError(
                f"gpus={gpus}: expected a whole number, or a fraction below 1. A worker of several GPUs "
                "has them to itself."
            )
        _checks.integer("max_retries", self.max_retries, "[0, inf)")
        _checks.real("time_limit", self.time_limit, "(0, inf)")
        if self.local_cpus is not None:
            _checks.integer("local_cpus", self.local_cpus, "[1, inf)")


def as_cluster(cluster: str | Cluster) -> Cluster:
    """Reads an argument `cluster`.

    Args:
      cluster: The options, or an address.

    Returns:
      The options.

    Raises:
      ArgumentError: It is neither.
    """
    if isinstance(cluster, Cluster):
        return cluster
    return Cluster(
        address=_checks.instance("cluster", cluster, str, "Pass an address or a Cluster.")
    )
