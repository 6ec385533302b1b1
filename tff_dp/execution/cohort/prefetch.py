"""Prepares the next item of an iteration while the present one is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yields the items of an iterable, which a thread advances one item ahead.

    The thread ends with the iteration, however that ends.

    Args:
      items: The items. Nobody else may advance them if they are an iterator.

    Yields:
      The items, in order.

    Raises:
      Exception: Whatever the iteration over the items raises.
    """
    advancing = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="tff_dp-prefetch") as pool:
        coming = pool.submit(next, advancing, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, advancing, _END)
            yield item  # type: ignore[misc]
