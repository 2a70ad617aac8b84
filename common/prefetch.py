"""One item ahead: the next is made in a thread while this one is worked on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetched(items: Iterator[Item]) -> Iterator[Item]:
    """Yields what `items` yields, in its order and with its errors; each item is made while the one before is in use.

    One thread makes all items one after another, so a random generator that only `items` uses draws the same numbers as
    without it. If the caller stops early, the item under way is finished and dropped.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as worker:
        pending = worker.submit(_next, items)
        while (found := pending.result()) is not None:
            pending = worker.submit(_next, items)
            yield found[0]


def _next(items: Iterator[Item]) -> tuple[Item] | None:
    """Returns the next item, wrapped, or None at the end: a future cannot hold a StopIteration."""
    for item in items:
        return (item,)
    return None
