"""Items made one ahead: the same, in order, with their errors, and no more of them than are wanted."""

import threading
from collections.abc import Iterator

import pytest

from common.prefetch import prefetched


def test_items_come_in_order_none_among_them() -> None:
    assert list(prefetched(iter([3, None, 1, 2]))) == [3, None, 1, 2]
    assert list(prefetched(iter([]))) == []


def test_the_next_item_is_made_while_one_is_in_use_and_only_that() -> None:
    """Item 1 is made before item 0 is given back; item 2 only after item 1 was asked for."""
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    ahead = prefetched(items())
    assert next(ahead) == 0
    assert made[1].wait(10)
    assert not made[2].is_set()
    assert next(ahead) == 1
    assert made[2].wait(10)
    assert list(ahead) == [2]


def test_an_error_comes_where_its_item_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("second item")

    ahead = prefetched(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="second item"):
        next(ahead)


def test_who_stops_early_leaves_no_thread() -> None:
    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]

    ahead = prefetched(iter(range(5)))
    assert next(ahead) == 0
    assert names()
    ahead.close()  # type: ignore[attr-defined]
    assert not names()
