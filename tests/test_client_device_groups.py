"""Which devices train which stage."""

import pytest

from client.device_groups import device_groups, in_words, num_processes
from common.recipe import Recipe, TrainingConfig

GPUS = tuple(f"cuda:{number}" for number in range(8))
CASCADE = Recipe()
ALONE = Recipe(stage2=None)


def sizes(recipe: Recipe, num_devices: int, batch_size: int = 1, accumulation: int = 2) -> list[int]:
    training = TrainingConfig(batch_size=batch_size, accumulation=accumulation)
    groups = device_groups(recipe.model_copy(update={"training": training}), GPUS[:num_devices])
    used = [device for group in groups.values() for device in group]
    assert len({*used}) == len(used)
    return [len(group) for group in groups.values()]


@pytest.mark.parametrize(
    ("num_devices", "expected"), [(1, []), (2, [1, 1]), (3, [2, 1]), (4, [2, 2]), (5, [2, 2]), (8, [2, 2])]
)
def test_the_paper_s_cascade_has_updates_of_two_patches(num_devices: int, expected: list[int]) -> None:
    assert sizes(CASCADE, num_devices) == expected


@pytest.mark.parametrize(("num_devices", "expected"), [(1, []), (2, [2]), (3, [2]), (4, [4]), (8, [4])])
def test_a_stage_alone_has_all_that_part_its_updates_evenly(num_devices: int, expected: list[int]) -> None:
    assert sizes(ALONE, num_devices, batch_size=2) == expected


def test_what_one_device_would_do_alone_needs_no_group() -> None:
    assert sizes(ALONE, 4, accumulation=1) == []
    assert sizes(CASCADE, 4, accumulation=1) == [1, 1]


def test_devices_are_taken_in_their_order_and_told() -> None:
    groups = device_groups(CASCADE, ("cuda:3", "cuda:1", "cuda:2"))
    assert groups == {"stage1": ("cuda:3", "cuda:1"), "stage2": ("cuda:2",)}
    assert in_words(groups) == "stage1 on cuda:3 and cuda:1, stage2 on cuda:2"
    assert (num_processes(groups), num_processes({})) == (3, 1)


def test_a_cpu_may_stand_for_several() -> None:
    assert device_groups(CASCADE, ("cpu", "cpu")) == {"stage1": ("cpu",), "stage2": ("cpu",)}
