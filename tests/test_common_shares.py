"""Shares of an update: what several devices see is what one sees, once, and their losses weigh as much."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.recipe import TrainingConfig
from common.shares import WHOLE, Part, Share, deal, most_devices

PAPER = TrainingConfig(batch_size=1, accumulation=2)


@st.composite
def dealt(draw: st.DrawFn) -> tuple[TrainingConfig, int, list[list[Part]]]:
    """A recipe, an epoch's number of patches, and the parts of each of as many devices as part an update evenly."""
    config = TrainingConfig(batch_size=draw(st.integers(1, 4)), accumulation=draw(st.integers(1, 4)))
    num_patches = draw(st.integers(1, 30))
    devices = most_devices(config, draw(st.integers(1, 8)))
    return config, num_patches, [[*deal(num_patches, config, Share(rank, devices))] for rank in range(devices)]


@given(dealt())
def test_every_patch_is_trained_once_and_weighs_as_on_one_device(
    made: tuple[TrainingConfig, int, list[list[Part]]],
) -> None:
    config, num_patches, shares = made
    sizes = [min(config.batch_size, num_patches - first) for first in range(0, num_patches, config.batch_size)]
    for size, parts in zip(sizes, zip(*shares, strict=True), strict=True):
        weighed = [part for part in parts if part.weight]
        assert [place for part in weighed for place in range(part.start, part.stop)] == list(range(size))
        assert {part.size for part in parts} == {size}
        for part in weighed:
            assert part.weight == (part.stop - part.start) / size
            assert 1 / part.divisor / len(shares) == pytest.approx(part.weight / config.accumulation)  # in their mean
        assert all(part.divisor == math.inf for part in parts if not part.weight)


@given(dealt())
def test_all_devices_end_every_update_with_a_pass_of_their_own(
    made: tuple[TrainingConfig, int, list[list[Part]]],
) -> None:
    config, num_patches, shares = made
    for parts in shares:
        updates = [parts[first : first + config.accumulation] for first in range(0, len(parts), config.accumulation)]
        assert len(updates) == math.ceil(num_patches / (config.batch_size * config.accumulation))
        for update in updates:
            passes = [part.ends_update for part in update if part.start < part.stop]
            assert passes == [False] * (len(passes) - 1) + [True]
            assert sum(part.ends_update for part in update) == 1


def test_a_device_alone_trains_whole_batches() -> None:
    assert [*deal(5, TrainingConfig(batch_size=2, accumulation=2), WHOLE)] == [
        Part(2, 0, 2, 1.0, 2.0, ends_update=False),
        Part(2, 0, 2, 1.0, 2.0, ends_update=True),
        Part(1, 0, 1, 1.0, 2.0, ends_update=True),
    ]


def test_two_devices_take_one_each_of_the_two_batches_of_the_paper_s_update() -> None:
    """Of an odd last update the first device gets nothing, and takes part all the same."""
    mine, for_nothing = Part(1, 0, 1, 1.0, 1.0, ends_update=True), Part(1, 0, 1, 0.0, math.inf, ends_update=True)
    before, after = Part(1, 1, 1, 0.0, math.inf, ends_update=False), Part(1, 0, 0, 0.0, math.inf, ends_update=False)
    assert [*deal(3, PAPER, Share(0, 2))] == [mine, after, for_nothing]
    assert [*deal(3, PAPER, Share(1, 2))] == [before, mine, mine]


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "available", "most"),
    [(1, 2, 1, 1), (1, 2, 2, 2), (1, 2, 7, 2), (2, 3, 2, 2), (2, 3, 5, 3), (2, 3, 6, 6), (1, 1, 4, 1), (5, 1, 4, 1)],
)
def test_as_many_devices_as_part_an_update_evenly(
    batch_size: int, accumulation: int, available: int, most: int
) -> None:
    config = TrainingConfig(batch_size=batch_size, accumulation=accumulation)
    assert most_devices(config, available) == most
