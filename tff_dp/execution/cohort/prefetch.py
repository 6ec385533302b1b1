"""Prepares the next item of an iteration while the present one is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def of(items: Iterator[T], wanted: bool = True) -> Iterator[T]:
    """Yields the items of an iterator, which a thread advances one item ahead.

    The thread ends with the iteration, however that ends. An error of the iterator is raised here.

    Args:
      items: The iterator; nobody else may advance it.
      wanted: Whether to look ahead; otherwise there is no thread.
    """
    if not wanted:
        yield from items
        return
    with ThreadPoolExecutor(1, thread_name_prefix="tff_dp-ahead") as pool:
        coming = pool.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, items, _END)
            yield item  # type: ignore[misc]
