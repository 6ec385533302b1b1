"""The connection of this process to a Ray cluster."""

from __future__ import annotations

import warnings

from tff_dp._compat import ray as ray_compat
from tff_dp.cluster.options import Cluster
from tff_dp.errors import ArgumentError, ClusterError


class Session:
    """A connection to Ray, which is ended by whoever began it.

    A process has one connection at a time. If there is one already, it is used and left as it is.

    Args:
      options: Which cluster.

    Raises:
      ArgumentError: The cluster is another one than that to which this process is connected, or its
        authentication is not settled.
      ClusterError: The cluster cannot be reached.
      StackError: Ray is missing.

    Attributes:
      ray: The module.
    """

    def __init__(self, options: Cluster) -> None:
        self.ray = ray = ray_compat.load()
        self._joined = False
        self._job = ""
        if ray.is_initialized():
            self._check_same(options.address)
            self._job = self._current()
            return
        address = options.address
        if address == "auto":
            address = ray_compat.running() or "local"
            if "://" in address:
                raise ArgumentError(
                    f"address='auto': RAY_ADDRESS={address!r} is that of a server for clients. "
                    "Run this process on a node of the cluster, and pass 'host:port' of its head."
                )
        try:
            if address == "local":
                ray_compat.require_tokens(fresh=True)
                ray_compat.start(ray, options.local_cpus)
            else:
                _settle_authentication(address)
                ray_compat.join(ray, address)
        except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
            ray.shutdown()
            if isinstance(error, ArgumentError):
                raise
            raise ClusterError(
                f"address={address!r}: no Ray cluster can be reached or started: {error}. Start one with "
                "`ray start --head`, with the token and the Ray version of this process, or pass 'local'."
            ) from error
        self._joined = True
        self._job = self._current()

    @property
    def is_there(self) -> bool:
        """Whether the connection has not been ended."""
        return bool(self.ray.is_initialized()) and self._current() == self._job

    def check(self) -> None:
        """Makes sure that the connection is still there.

        Without one, Ray's own functions would join whatever cluster runs on this machine, or start one
        that others can reach.

        Raises:
          ClusterError: The connection was ended, by `ray.shutdown()` for instance.
        """
        if not self.is_there:
            raise ClusterError(
                "The connection to the Ray cluster was ended while the execution context was in use. "
                "Leave ray.shutdown() to the context, or call it after its block. Enter a new context."
            )

    def _current(self) -> str:
        """Returns what tells the current connection from all others of its cluster and of other ones."""
        context = self.ray.get_runtime_context()
        return f"{context.gcs_address} {context.get_job_id()} {context.get_worker_id()}"

    def _check_same(self, address: str) -> None:
        if address in ("auto", "local"):
            return
        current = self.ray.get_runtime_context().gcs_address
        if current != address:
            raise ArgumentError(
                f"address={address!r}: this process is connected to the Ray cluster {current}. Call "
                "ray.shutdown() first, or pass 'auto' to use that one."
            )

    @property
    def address(self) -> str:
        """The address of the cluster's head."""
        self.check()
        return str(self.ray.get_runtime_context().gcs_address)

    def close(self) -> None:
        """Ends the connection, and the cluster if it was started here."""
        if self._joined and self.is_there:
            self.ray.shutdown()
        self._joined = False


def _settle_authentication(address: str) -> None:
    """Makes sure that somebody has decided whether a cluster checks tokens."""
    mode = ray_compat.authentication()
    local = ray_compat.is_loopback(address)
    if mode == "disabled":
        if not local:
            warnings.warn(
                f"RAY_AUTH_MODE=disabled: whoever reaches {address} can run code on all of its nodes and "
                "read the clients' data. Start the cluster with RAY_AUTH_MODE=token.",
                RuntimeWarning,
                stacklevel=2,
            )
        return
    if not ray_compat.has_token():
        raise ArgumentError(
            f"address={address!r}: no token for this Ray cluster was found. Set RAY_AUTH_TOKEN_PATH to "
            "the file of its token, or RAY_AUTH_MODE=disabled if it checks none."
        )
    ray_compat.require_tokens(fresh=False)
