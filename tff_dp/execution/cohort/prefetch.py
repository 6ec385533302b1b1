"""Prepares the next item of an iteration while the current one is in use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yields the items of an iterable, computing one item ahead in a thread.

    The thread ends with the iteration, even if the iteration is abandoned or raises an exception.

    Args:
      items: The items. If they are an iterator, nothing else may advance it at the same time.

    Yields:
      The items, in order.

    Raises:
      Exception: Any exception of the iteration over the items.
    """
    advancing = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="tff_dp-prefetch") as pool:
        coming = pool.submit(next, advancing, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, advancing, _END)
            yield item  # type: ignore[misc]
