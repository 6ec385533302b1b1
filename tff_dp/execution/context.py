"""The context that runs TFF computations in this process's TensorFlow, without a worker process.

TFF's own compiler splits a round into its MapReduce form: `prepare` (server), `work` (a client),
`zero`, `accumulate`, `merge` and `report` (the sum over clients) and `update` (server), each of
them a TensorFlow graph. These are read once and written into graphs that hold a whole cohort.
Nothing is serialized, there is no second process, and graphs run on the device that TensorFlow
uses. Clipping is part of `work`, noise is part of the server's graphs, and the meaning of both is
unchanged.
"""

from __future__ import annotations

import atexit
import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from tff_dp import _caching, _checks, _compat
from tff_dp.cluster import Cluster
from tff_dp.cluster.options import as_cluster
from tff_dp.cluster.pool import Pool
from tff_dp.errors import ComputationError
from tff_dp.execution import compilation, devices, lock, marked_noise
from tff_dp.execution.round import noise_source
from tff_dp.execution.settings import Settings
from tff_dp.execution.stock import is_managed, stock

tff = _compat.tff.load()

_STRATEGIES = ("auto", "scan", "vmap", "call")
_RANDOM_BITS = ("auto", "philox", "aes-ctr")


@contextlib.contextmanager
def fast(
    strategy: str = "auto",
    device: str = "auto",
    *,
    xla: bool | None = None,
    strict: bool = False,
    seed: int | None = None,
    random_bits: str = "auto",
    workers: int | None = None,
    cluster: str | Cluster | None = None,
) -> Iterator[Any]:
    """Runs the TFF computations of a `with` block in this process.

    Computations without clients run here, and so do computations over clients that have a MapReduce
    form, or would have one if the server had a state: a missing state is supplied. Any other
    computation falls back to stock TFF, with one warning per computation that says why. `explain`
    describes how a computation runs.

    Federated programs (`tff.learning.programs.train_model`, and whatever else calls
    `tff.program.check_in_federated_context`) need a context whose calls return references. Here
    they raise "Expected the current context to be a `tff.program.FederatedContext`";
    `federated_context()` runs them.

    Args:
      strategy: How a cohort runs: "scan" (one graph, clients one after another), "vmap" (one graph,
        clients side by side), "call" (one graph call per client), or "auto" (docs/execution.md has
        the rule). What cannot run by "vmap" runs by "scan", and what cannot run by "scan" runs by
        "call".
      device: The kind of device that graphs run on: "auto", "cpu" or "gpu".
      xla: Whether XLA compiles the clients' part, from the first round on; None for the rule, by
        which rounds on a CPU start without it (docs/execution.md).
      strict: Whether to raise instead of falling back to stock TFF.
      seed: None for random numbers keyed from the operating system's entropy. A whole number in [0,
        2**128) makes every draw, noise included, repeatable: such a run is not private, and the
        context says so (`is_seeded`).
      random_bits: Where the noise of a privacy plan that a server draws gets its random words.
        "philox" draws them in the graph. "aes-ctr" takes them from AES-256 in counter mode, by the
        package `cryptography`, keyed by the operating system in each call, and passes them to the
        graph as an argument; a computation whose noise cannot be drawn from them, such as noise
        that clients draw, is refused. "auto" is "aes-ctr" where that is possible and the package is
        installed, and otherwise "philox". `explain` and the statement of a result say which one was
        used.
      workers: How many threads of a CPU, or how many devices if there are several, run parts of a
        cohort at the same time; in [1, inf), and at most the number of devices. None for as many
        threads as there are cores, or all devices. Results do not depend on it, not even in their
        last bits.
      cluster: The Ray cluster whose workers compute the sums over the parts of large cohorts, an
        address or a `Cluster`; "auto" for the one that Ray finds, or a new one on this machine. The
        connection lasts as long as the block. With equal processors and software, results are those of
        this process, to the last bit, but rounds are not fused (docs/cluster.md). None for this process
        alone.

    Yields:
      The execution context, a `tff.framework.SyncContext`.

    Raises:
      ArgumentError: An argument is outside its bound.
      ClusterError: The cluster cannot be reached, or has no room; or, raised by the call, its workers
        could not finish a round. The caller's state and data are what they were.
      StackError: TFF cannot be imported, or Ray for `cluster`, or "aes-ctr" lacks its package.
      ArgumentTypeError: A computation is called with an argument of another type. Raised by the
        call.
      ComputationError: A client's computation fails, with the client's position; or, with `strict`,
        a computation cannot run in this process; or the noise of a privacy plan would have random
        bits that others can guess. Raised by the call.
    """
    with contextlib.ExitStack() as stack:
        context = make_context(
            stack,
            strategy,
            device,
            xla=xla,
            strict=strict,
            seed=seed,
            random_bits=random_bits,
            workers=workers,
            cluster=cluster,
        )
        with tff.framework.get_context_stack().install(context):
            yield context


def install(
    strategy: str = "auto",
    device: str = "auto",
    *,
    xla: bool | None = None,
    strict: bool = False,
    seed: int | None = None,
    random_bits: str = "auto",
    workers: int | None = None,
    cluster: str | Cluster | None = None,
) -> Any:
    """Makes the context of `fast` TFF's default for the rest of the process.

    Federated programs, such as `tff.learning.programs.train_model`, need `federated_context()`
    instead.

    Args:
      strategy: See `fast`.
      device: See `fast`.
      xla: See `fast`.
      strict: See `fast`.
      seed: See `fast`.
      random_bits: See `fast`.
      workers: See `fast`.
      cluster: See `fast`.

    Returns:
      The execution context.

    Raises:
      ArgumentError: An argument is outside its bound.
      ClusterError: The cluster cannot be reached, or has no room.
      StackError: TFF cannot be imported, or Ray for `cluster`, or "aes-ctr" lacks its package.
    """
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    context = make_context(
        stack,
        strategy,
        device,
        xla=xla,
        strict=strict,
        seed=seed,
        random_bits=random_bits,
        workers=workers,
        cluster=cluster,
    )
    tff.framework.set_default_context(context)
    return context


def is_seeded() -> bool:
    """Returns whether the context in effect draws its random numbers from a seed.

    If it does, nothing that runs in it is private.
    """
    current = tff.framework.get_context_stack().current
    return bool(getattr(current, "is_seeded", False))


@contextlib.contextmanager
def current_or_fast(*, xla: bool | None = None) -> Iterator[Any]:
    """Keeps the execution context that is installed, or runs the block under `fast()`.

    The context that TFF installs when it is imported counts as none. Within the block of
    `federated_context`, whose calls return references, the same context is installed in the form
    whose calls return values.

    Args:
      xla: See `fast`. It applies only to a context that is made here.

    Yields:
      The execution context in effect.

    Raises:
      ArgumentError: `xla` is neither None nor a truth value.
      ComputationError: Calls in the context that is installed return no values, and it is not one
        of `federated_context`.
    """
    _checks.optional_flag("xla", xla)
    current = tff.framework.get_context_stack().current
    if isinstance(current, (tff.program.FederatedContext, tff.framework.AsyncContext)):
        context = getattr(current, "synchronous", None)
        if context is None:
            raise ComputationError(
                f"Calls in the context that is installed, {type(current).__name__}, return references or "
                "coroutines, but values are needed here. Put `with tff_dp.execution.fast():` around the "
                "call, or use tff_dp.execution.federated_context() for the program."
            )
        with tff.framework.get_context_stack().install(context):
            yield context
    elif is_managed(current) or not isinstance(current, tff.framework.SyncExecutionContext):
        yield current
    else:
        with fast(xla=xla) as context:
            yield context


@contextlib.contextmanager
def expecting(rounds: int) -> Iterator[None]:
    """Declares how many rounds will run in a block, which decides if XLA compiles early or never.

    What was trained before the block does not count in it, and the reverse (docs/execution.md).

    Args:
      rounds: The number of rounds that will run in the block, in the context in effect; >= 1.

    Yields:
      Nothing.

    Raises:
      ArgumentError: The number is outside its bound.
    """
    rounds = _checks.integer("rounds", rounds, "[1, inf)")
    settings = getattr(tff.framework.get_context_stack().current, "settings", None)
    if settings is None:  # a context that is not ours, such as stock TFF's
        yield
        return
    with settings.run_of(rounds):
        yield


def make_context(
    stack: contextlib.ExitStack,
    strategy: str,
    device: str,
    *,
    xla: bool | None,
    strict: bool,
    seed: int | None,
    random_bits: str,
    workers: int | None,
    cluster: str | Cluster | None,
) -> Any:
    """Makes the context of `fast`, without installing it.

    Args:
      stack: Whatever the context starts later, such as stock TFF's worker, is closed with this
        stack.
      strategy: See `fast`.
      device: See `fast`.
      xla: See `fast`.
      strict: See `fast`.
      seed: See `fast`.
      random_bits: See `fast`.
      workers: See `fast`.
      cluster: See `fast`.

    Returns:
      A `FastContext`.

    Raises:
      ArgumentError: An argument is outside its bound.
      ClusterError: The cluster cannot be reached, or has no room.
      StackError: "aes-ctr" lacks its package, or `cluster` lacks Ray.
    """
    xla = _checks.optional_flag("xla", xla)
    strict = _checks.flag("strict", strict)
    _checks.one_of("strategy", strategy, _STRATEGIES)
    _checks.one_of("device", device, ("auto", "cpu", "gpu"))
    if seed is not None:
        seed = _checks.integer("seed", seed, f"[0, {2**128})", "Pass a non-negative whole number.")
    _checks.one_of("random_bits", random_bits, _RANDOM_BITS)
    if workers is not None:
        workers = _checks.integer("workers", workers, "[1, inf)", "Leave it out for all there are.")
    noise_source.check(random_bits)
    options = None if cluster is None else as_cluster(cluster)
    _caching.prepare()
    places = devices.choose(device, workers)
    pool = None
    if options is not None:
        if options.gpus and not places.on_gpu:
            places = devices.of_workers_gpus(places)
        pool = Pool(options)
        stack.callback(pool.close)
    settings = Settings(
        strategy=strategy,
        xla=xla,
        seed=seed,
        random_bits=random_bits,
        places=places,
        pool=pool,
    )
    return FastContext(settings, stack, strict=strict)


class FastContext(tff.framework.SyncContext):  # type: ignore[misc, name-defined]
    """The context that `fast` yields.

    Args:
      settings: How it runs computations.
      stack: Stock TFF's worker, if one is started, is closed with this stack.
      strict: Whether to raise instead of falling back to stock TFF.
    """

    def __init__(self, settings: Settings, stack: contextlib.ExitStack, *, strict: bool) -> None:
        self._settings = settings
        self._stack = stack
        self._strict = strict
        self._fallback: Any = None

    @property
    def is_seeded(self) -> bool:
        """Whether random numbers are drawn from a seed."""
        return self._settings.seed is not None

    @property
    def settings(self) -> Settings:
        """The settings of the context: how it runs computations."""
        return self._settings

    def noise_bits(self, comp: Any) -> marked_noise.NoiseBits:
        """Tells where a computation's noise gets its random bits.

        Args:
          comp: A `tff.Computation`.

        Returns:
          The source of the bits, or the reason why the computation is refused.
        """
        with lock.lock:
            return compilation.noise_bits(comp, self._settings)

    def invoke(self, comp: Any, arg: Any) -> Any:
        """Runs a computation. Calls from several threads run one after another.

        Args:
          comp: A `tff.Computation`.
          arg: Its argument; None if it has none.

        Returns:
          The result, in the containers of its type.

        Raises:
          ArgumentError: The arguments that are placed at clients differ in the number of clients.
          ArgumentTypeError: The argument is not of the computation's type.
          ComputationError: The computation fails or is refused; see `fast`.
        """
        with lock.lock:
            return self._invoke(comp, arg)

    def _invoke(self, comp: Any, arg: Any) -> Any:
        found = compilation.runner_of(comp)
        if not isinstance(found, compilation.NoForm):
            with self._settings.places.scope():
                return found(arg, self._settings)
        what = f"A computation of type {str(comp.type_signature)[:100]}"
        if self._strict:
            raise ComputationError(
                f"{what} has no form that runs in this process: {found.reason}. strict=True "
                "refuses stock TFF; leave it out to allow it."
            )
        marked_noise.refuse(compilation.noise_bits(comp, self._settings))
        if not found.warned:
            found.warned = True
            warnings.warn(
                f"{what} runs on stock TFF, because it has no form that runs in this process: "
                f"{found.reason}. Its random numbers are seeded by TensorFlow, with 32 bits, or by "
                "the clock.",
                RuntimeWarning,
                stacklevel=4,
            )
        if self._fallback is None:  # the worker starts only if something needs it
            self._fallback = self._stack.enter_context(stock(install=False, secure_sums=True))
        return self._fallback.invoke(comp, arg)
