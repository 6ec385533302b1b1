"""The names of Ray that tff_dp uses, and how a Ray of our own is started and joined.

Ray runs the clients of large cohorts in other processes (`tff_dp.cluster`) and nothing else. This module
imports it inside of its functions, so that whoever uses no cluster needs no Ray.
"""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import os
import pathlib
import secrets
import socket
from collections.abc import Iterator
from typing import Any

from tff_dp.errors import StackError

OLDEST = (2, 60)
"""The version of Ray that the tests run; older ones were not tried."""
LOOPBACK = "127.0.0.1"
# Ray forks this process to start another one, which now and then comes to nothing where many threads run.
_ATTEMPTS = 3
_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def load() -> Any:
    """Imports Ray.

    Returns:
      The module `ray`.

    Raises:
      StackError: Ray is missing or older than `OLDEST`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise StackError(
            "The argument cluster needs Ray, which is missing: pip install 'tff_dp[ray]'. Or leave the "
            "argument out."
        ) from error
    version = tuple(int(part) for part in ray.__version__.split(".")[:2])
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise StackError(f"Ray {ray.__version__} is too old: pip install 'ray>={oldest}'.")
    return ray


def running() -> str | None:
    """Returns the address of the Ray that Ray's own rules would join on this machine; None for none.

    That is the environment variable RAY_ADDRESS, or the cluster that was last started here, if it
    still listens.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named:
        return named
    from ray._private import utils

    found = utils.read_ray_address()
    if not found:
        return None
    host, _, port = found.rpartition(":")
    with contextlib.suppress(OSError, ValueError), socket.create_connection((host, int(port)), 2):
        return str(found)
    return None


def has_token() -> bool:
    """Returns whether there is a token for a cluster's authentication, where Ray looks for one."""
    if os.environ.get(_TOKEN):
        return True
    path = os.environ.get(_TOKEN_PATH) or pathlib.Path.home() / ".ray" / "auth_token"
    return pathlib.Path(path).is_file()


def authentication() -> str | None:
    """Returns the mode of authentication that the environment names: "token", "disabled" or None."""
    return os.environ.get(_MODE, "").lower() or None


def require_tokens(*, fresh: bool) -> None:
    """Switches the authentication by tokens on, in this process and in those that it starts.

    Args:
      fresh: Whether to make a token where there is none. It is the same for all clusters of this
        process, since Ray reads a token once: one in the user's file is that of other clusters, which
        this process may have to join later.
    """
    os.environ[_MODE] = "token"
    if fresh and not os.environ.get(_TOKEN_PATH) and not has_token():
        os.environ[_TOKEN] = secrets.token_hex(32)
    _raylet: Any = importlib.import_module("ray._raylet")  # compiled, and without types
    _raylet.Config.initialize("")  # Ray read the mode when it was imported


def is_loopback(address: str) -> bool:
    """Tells whether an address is one of this machine alone.

    Args:
      address: "host:port", or a host.

    Returns:
      Whether it is.
    """
    host = address.rpartition("://")[2]
    host = host.rpartition(":")[0] or host
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def start(ray: Any, cpus: int | None) -> None:
    """Starts a Ray that listens on loopback alone and ends with this process.

    Args:
      ray: The module.
      cpus: The number of its CPUs; None for those of the machine.

    Raises:
      RuntimeError: It did not come up.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with _loopback():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    _node_ip_address=LOOPBACK,
                    **_QUIET,
                )
        except Exception as error:  # a plain one, if a node does not come up
            ray.shutdown()
            if attempt + 1 == _ATTEMPTS:
                raise RuntimeError(str(error)) from error
        else:
            return


def join(ray: Any, address: str) -> None:
    """Connects this process to a Ray that runs.

    Args:
      ray: The module.
      address: "host:port" of its head.
    """
    with _loopback() if is_loopback(address) else contextlib.nullcontext():
        ray.init(address=address, **_QUIET)


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Keeps Ray from replacing loopback by an address that others can reach, which it does on Linux."""
    from ray._private import ray_constants

    kept = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = kept


_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
