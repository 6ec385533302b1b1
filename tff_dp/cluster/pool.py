"""Runs tasks on the workers of a cluster: which of them are under way, and for how long."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tff_dp.cluster import worker
from tff_dp.cluster.messages import Done, Failed
from tff_dp.cluster.options import Cluster
from tff_dp.cluster.session import Session
from tff_dp.cluster.sharing import Shared
from tff_dp.errors import ClusterError

_HANDED_OUT = 2  # tasks for each that can run at once, so that no worker waits for the driver
_TASK_SECONDS = 0.01  # handing a task out and joining its sums takes a few milliseconds
_SMALL = 1 << 15  # bytes of a message that travels with a task
_SLOTS_EVERY = 10.0  # seconds between looks at the size of the cluster


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Consecutive parts of a block, and where what they need is.

    Attributes:
      block: The number of the block.
      first: The number of the first part in the block.
      count: The number of the parts.
      function: Of whose graph they are, for what is known of its time.
      arguments: What `worker.run_parts` takes, or references to it.
    """

    block: int
    first: int
    count: int
    function: Any
    arguments: tuple[Any, ...]


@dataclasses.dataclass
class Counts:
    """What a pool has done, for benchmarks and messages.

    Attributes:
      tasks: Tasks that were finished.
      parts: Parts of blocks that were finished, one or several a task.
      again: Tasks that were handed out again after they had run out of time.
      seconds: Seconds that workers took for the parts, without waiting.
      sent_bytes: Bytes that the driver put into the object store or sent with tasks.
      sum_bytes: Bytes of the sums that came back.
      workers: The most memory, in bytes, of each worker that has finished a task.
    """

    tasks: int = 0
    parts: int = 0
    again: int = 0
    seconds: float = 0.0
    sent_bytes: int = 0
    sum_bytes: int = 0
    workers: dict[str, int] = dataclasses.field(default_factory=dict)


class Pool:
    """Workers of a cluster.

    On CPUs, tasks are stateless: Ray starts a process for each CPU, gives it one task after another, and
    runs the task of a process that dies elsewhere. On GPUs there is an actor for each, since a process
    keeps the GPU that it was given; Ray starts an actor that dies again if there is a GPU for it, and
    its tasks go to those that are up.

    Args:
      options: Which cluster, and how.

    Raises:
      ArgumentError: The cluster is not the one that this process is connected to, or its
        authentication is not settled.
      ClusterError: The cluster cannot be reached, or has no room for a part.
      StackError: Ray is missing.

    Attributes:
      options: As given.
      counts: What has been done.
      shared: The client data that workers read.
    """

    def __init__(self, options: Cluster) -> None:
        self.options = options
        self.counts = Counts()
        self._session = Session(options)
        self._ray = self._session.ray
        self.shared = Shared(self.put)
        self._kept: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._quickest: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
        self._looked = 0.0
        self._room = 0
        try:
            self._runners: _Actors | _Tasks = _Actors(self) if options.gpus else _Tasks(self)
        except BaseException:
            self._session.close()
            raise

    @property
    def address(self) -> str:
        """The address of the cluster's head."""
        return self._session.address

    def slots(self) -> int:
        """Returns how many tasks can run at once.

        Raises:
          ClusterError: There is no room for any, or the connection was ended.
        """
        self._session.check()
        now = time.monotonic()
        if not self._room or now - self._looked > _SLOTS_EVERY:
            self._looked, self._room = now, self._fitting()
        return self._room

    def _fitting(self) -> int:
        """Counts the tasks that fit the nodes that are alive."""
        wanted = {"CPU": self.options.cpus, "GPU": self.options.gpus}
        room = 0
        for node in self._ray.nodes():
            have = node["Resources"] if node["Alive"] else {}
            room += min(int(have.get(k, 0) / n + 1e-9) for k, n in wanted.items() if n)
        if not room:
            raise ClusterError(
                f"cpus={self.options.cpus}, gpus={self.options.gpus}: no node of the cluster "
                f"{self.address} has as many. Ask for fewer, or add nodes."
            )
        return room

    def put(self, value: Any) -> Any:
        """Puts a value into the object store.

        Args:
          value: An array, or a message.

        Returns:
          The reference.

        Raises:
          ClusterError: The connection was ended.
        """
        self._session.check()
        self.counts.sent_bytes += _bytes(value)
        return self._ray.put(value)

    def sent(self, value: Any) -> Any:
        """Prepares a message that several tasks of a round have in common.

        Args:
          value: The message.

        Returns:
          The message itself if it is small, which travels with each task in less time than workers need
          to find it in the object store; otherwise a reference.
        """
        return value if _bytes(value) <= _SMALL else self.put(value)

    def kept(self, owner: Any, make: Callable[[], Any]) -> Any:
        """Returns a reference to a message, which is made and put into the object store once.

        Args:
          owner: What the message describes. It is kept there while this exists.
          make: Makes the message.

        Returns:
          The reference.
        """
        found = self._kept.get(owner)
        if found is None:
            found = self._kept[owner] = self.put(make())
        return found

    def parts_of_a_task(self, function: Any, parts: int) -> int:
        """Chooses how many parts of a block a task has, which changes no result.

        Small tasks keep all workers busy until the end of a round. A task has no more parts than that,
        unless they are known to take so little time that handing them out would take as long.

        Args:
          function: Of whose graph the parts are.
          parts: The parts of the block.

        Returns:
          The number, in [1, parts].
        """
        known = self._quickest.get(function)
        if known is None:
            return 1
        enough = math.ceil(_TASK_SECONDS / max(known, 1e-9))
        return max(1, min(enough, math.ceil(parts / self.slots())))

    def run(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Sequence[Sequence[Any]]]]:
        """Runs tasks, and hands out the next ones as the first are finished.

        Args:
          tasks: The tasks. Each is made when there is room for it.

        Yields:
          Each task with the sums of its parts, in the order in which they are finished.

        Raises:
          ClusterError: A task cannot be finished. No task runs on after that.
          tf.errors.OpError: TensorFlow could not run a task.
        """
        under_way: dict[Any, _Handed] = {}
        again: collections.deque[tuple[Task, int]] = collections.deque()
        coming = itertools.chain.from_iterable(((task, 1),) for task in tasks)
        try:
            while True:
                room = self._runners.room()
                while len(under_way) < room:
                    task, attempt = again.popleft() if again else next(coming, (None, 0))
                    if task is None:
                        break
                    self.counts.sent_bytes += _bytes(task.arguments)
                    reference, by = self._runners.submit(task)
                    due = time.monotonic() + self.options.time_limit
                    under_way[reference] = _Handed(task, attempt, due, by)
                if not under_way and room:
                    return
                for handed, value in self._finished(under_way, again):
                    yield handed.task, self._sums(handed.task, value)
        finally:
            if self._session.is_there:  # Ray ends the tasks of a connection with it
                for reference, handed in under_way.items():
                    self._runners.drop(reference, handed.by)

    def _finished(
        self, under_way: dict[Any, _Handed], again: collections.deque[tuple[Task, int]]
    ) -> Iterator[tuple[_Handed, Any]]:
        """Waits until a task is finished, is lost or has run out of time, or a worker has come up.

        Args:
          under_way: The tasks that were handed out, of which those that are no longer are taken.
          again: To which those are added that are to be handed out again.

        Yields:
          Those that are finished.
        """
        limit = self.options.time_limit
        left = min((h.due for h in under_way.values()), default=time.monotonic() + limit)
        left = max(left - time.monotonic(), 0.0)
        if under_way:  # where all nodes are gone, `slots` says so long before the tasks are late
            left = min(left, _SLOTS_EVERY)
        ready, _ = self._ray.wait([*under_way, *self._runners.coming()], timeout=left)
        if not ready and not under_way:
            raise ClusterError(_nobody(self.options))
        for reference in ready:
            handed = under_way.pop(reference, None)
            if handed is None:  # a worker has come up
                continue
            self._runners.done(handed.by)
            try:
                value = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                if handed.attempt > self.options.max_retries or not self._runners.is_gone(
                    handed.by, error
                ):
                    raise ClusterError(_lost(handed.task, self.options, error)) from error
                again.append((handed.task, handed.attempt + 1))
            else:
                yield handed, value
        now = time.monotonic()
        for reference, handed in list(under_way.items()):
            if handed.due > now:
                continue
            del under_way[reference]
            self._runners.kill(reference, handed.by)
            if handed.attempt > self.options.max_retries:
                raise ClusterError(_late(handed.task, self.options))
            self.counts.again += 1
            again.append((handed.task, handed.attempt + 1))

    def _sums(self, task: Task, value: Done | Failed) -> Sequence[Sequence[Any]]:
        if isinstance(value, Failed):
            raise _error(value)
        counts, least = self.counts, self._quickest.get(task.function, math.inf)
        self._quickest[task.function] = min(least, value.seconds / task.count)
        counts.tasks += 1
        counts.parts += task.count
        counts.seconds += value.seconds
        counts.sum_bytes += _bytes(value.sums)
        counts.workers[value.worker] = value.peak_bytes
        return value.sums

    def close(self) -> None:
        """Ends the workers that hold a GPU and the connection, and the cluster if it was started here."""
        if self._session.is_there:
            self._runners.close()
        self._session.close()


@dataclasses.dataclass(frozen=True)
class _Handed:
    """A task that is under way: the attempt, when it is due, and by whom."""

    task: Task
    attempt: int
    due: float
    by: Any


class _Tasks:
    """Runs tasks as what Ray calls stateless tasks."""

    def __init__(self, pool: Pool) -> None:
        options = pool.options
        pool.slots()  # raises if there is no room
        self._ray = pool._ray
        self._slots = pool.slots
        self._task = self._ray.remote(worker.run_parts).options(
            num_cpus=options.cpus, max_retries=options.max_retries
        )

    def room(self) -> int:
        return _HANDED_OUT * self._slots()

    def coming(self) -> list[Any]:
        return []

    def submit(self, task: Task) -> tuple[Any, Any]:
        return self._task.remote(*task.arguments), None

    def is_gone(self, by: Any, error: Exception) -> bool:
        return False  # Ray has run the task as often as it may

    def done(self, by: Any) -> None:
        pass

    def drop(self, reference: Any, by: Any) -> None:
        self._ray.cancel(reference)  # its worker goes on with other tasks

    def kill(self, reference: Any, by: Any) -> None:
        self._ray.cancel(reference, force=True)

    def close(self) -> None:
        pass


class _Actors:
    """Runs tasks in one actor for each GPU, or for each fraction of one."""

    def __init__(self, pool: Pool) -> None:
        options = pool.options
        self._ray = pool._ray
        self._slots = pool.slots
        kind = self._ray.remote(_Worker).options(
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            max_restarts=-1,
            # Ray would have a task wait for its own actor, for which there may never be a GPU again,
            # and run the tasks of a round that was given up.
            max_task_retries=0,
        )
        self._actors = [kind.remote() for _ in range(pool.slots())]
        self._busy: collections.Counter[int] = collections.Counter()
        # What the actors that are not known to be up will answer.
        self._asked = {number: actor.is_up.remote() for number, actor in enumerate(self._actors)}

    def room(self) -> int:
        """Returns how many tasks the actors that are up may have."""
        for number, answer in list(self._asked.items()):
            if not self._ray.wait([answer], timeout=0)[0]:
                continue
            try:
                self._ray.get(answer)
            except self._ray.exceptions.RayError:  # it is being started again
                self._ask(number)
            else:
                del self._asked[number]
        up = len(self._actors) - len(self._asked)
        # While others come up that have a GPU, none takes two of the tasks.
        return up if up < min(len(self._actors), self._slots()) else _HANDED_OUT * up

    def coming(self) -> list[Any]:
        """Returns what is ready when another actor is up."""
        return list(self._asked.values())

    def _ask(self, number: int) -> None:
        self._asked[number] = self._actors[number].is_up.options(max_task_retries=-1).remote()

    def submit(self, task: Task) -> tuple[Any, Any]:
        up = [number for number in range(len(self._actors)) if number not in self._asked]
        by = min(up, key=lambda number: self._busy[number])
        self._busy[by] += 1
        return self._actors[by].run_parts.remote(*task.arguments), by

    def is_gone(self, by: Any, error: Exception) -> bool:
        """Returns whether a task was lost because its actor or its node is gone."""
        if not isinstance(
            error,
            (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError),
        ):
            return False
        if by not in self._asked:
            self._ask(by)
        return True

    def done(self, by: Any) -> None:
        self._busy[by] -= 1

    def drop(self, reference: Any, by: Any) -> None:
        self._busy[by] -= 1
        self._ray.cancel(reference)

    def kill(self, reference: Any, by: Any) -> None:
        # An actor's task cannot be ended by force; the actor can, and Ray starts it again.
        self._busy[by] -= 1
        self._ray.kill(self._actors[by], no_restart=False)
        self._ask(by)

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)


class _Worker:
    """An actor that runs tasks."""

    def is_up(self) -> bool:
        return True

    def run_parts(self, *arguments: Any) -> Done | Failed:
        return worker.run_parts(*arguments)


def _error(failed: Failed) -> Exception:
    """Returns the exception of a part that failed on its worker."""
    if failed.code is None:
        return ClusterError(f"The worker {failed.worker} cannot run clients: {failed.message}")
    kind = tf.compat.v1.errors.exception_type_from_error_code(failed.code)
    raised: Exception = kind(None, None, failed.message)
    return raised


def _name(task: Task) -> str:
    last = task.first + task.count - 1
    parts = f"Part {last}" if task.count == 1 else f"Parts {task.first} to {last}"
    return f"{parts} of block {task.block}"


def _lost(task: Task, options: Cluster, error: Exception) -> str:
    return (
        f"{_name(task)} could not be finished, and was begun up to "
        f"{options.max_retries + 1} times (max_retries={options.max_retries}): {_brief(error)} The state "
        "is that of the last round, from which the run can go on."
    )


def _late(task: Task, options: Cluster) -> str:
    return (
        f"{_name(task)} could not be finished within time_limit="
        f"{options.time_limit:g} seconds, in {options.max_retries + 1} attempts (max_retries="
        f"{options.max_retries}). Raise the limit, or see in `ray status` whether the cluster has room. "
        "The state is that of the last round, from which the run can go on."
    )


def _nobody(options: Cluster) -> str:
    return (
        f"No worker with gpus={options.gpus:g} came up within time_limit={options.time_limit:g} seconds. "
        "See in `ray status` whether the GPUs are there and free. The state is that of the last round, "
        "from which the run can go on."
    )


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:400]}."


def _bytes(value: Any) -> int:
    """Counts the bytes of the arrays in a value, nested ones included."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if dataclasses.is_dataclass(value):
        return sum(_bytes(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, (list, tuple)):
        return sum(_bytes(entry) for entry in value)
    return 0
