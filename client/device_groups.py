"""Which of a site's devices train which stage of a recipe, where it has several (`devices` in site.yaml)."""

from collections.abc import Mapping, Sequence

from common.recipe import Recipe
from common.shares import most_devices

Groups = Mapping[str, tuple[str, ...]]
"""Names of devices by stage; all stages train at the same time. Empty: one device trains one stage after another."""


def device_groups(recipe: Recipe, devices: Sequence[str]) -> Groups:
    """Returns as many devices for each stage, and one more for the first stages where they do not come out even.

    A stage uses as many of its own as part the patches of an update evenly, so that they change the weights as one
    would; the others stay idle. A device that would train all stages alone makes no group.
    """
    groups: dict[str, tuple[str, ...]] = {}
    free = list(devices)
    for number, stage in enumerate(recipe.stages):
        given = -(-len(free) // (len(recipe.stages) - number))
        mine, free = free[:given], free[given:]
        groups[stage] = tuple(mine[: most_devices(recipe.training, given)]) if mine else ()
    return groups if all(groups.values()) and num_processes(groups) > 1 else {}


def num_processes(groups: Groups) -> int:
    """Returns how many processes train at the same time, each on its device."""
    return sum(map(len, groups.values())) or 1


def in_words(groups: Groups) -> str:
    """Returns such as `stage1 on cuda:0 and cuda:1, stage2 on cuda:2`."""
    return ", ".join(f"{stage} on {' and '.join(devices)}" for stage, devices in groups.items())
