"""A quick experiment, its unbroken result, and a federation of three sites that lasts for a file's tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from faults.runs import MODEL, NUM_ROUNDS, unbroken
from faults.standing import SITES, Standing, make_site
from federation.running import kept_up, starting

from common.experiment import Experiment, RoundConfig
from common.recipe import Recipe
from common.split import SplitConfig
from common.steps import StatisticsStep, TrainStep
from server.ledger import Ledger


@pytest.fixture(scope="session")
def quick(tiny_recipe: Recipe) -> Callable[..., Experiment]:
    """A function that returns the quick experiment under a name of its own; its bits do not depend on the name."""

    def make(name: str, num_rounds: int = NUM_ROUNDS, **rounds: object) -> Experiment:
        steps = (
            StatisticsStep(kind="statistics"),
            TrainStep(kind="train", model=MODEL, rounds=num_rounds, local_epochs=1),
        )
        split = SplitConfig(test_fraction=0.3, validation_fraction=0.2)
        config = RoundConfig(**rounds)
        return Experiment(
            reuse=False, name=name, sites=SITES, recipe=tiny_recipe, split=split, steps=steps, rounds=config
        )

    return make


@pytest.fixture(scope="session")
def unbroken_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_cases: Path, quick: Callable[..., Experiment]
) -> Callable[[int], Ledger]:
    """A function that returns the ledger of the quick experiment's unbroken run of so many rounds, done once."""
    done: dict[int, Ledger] = {}

    def of(num_rounds: int = NUM_ROUNDS) -> Ledger:
        if num_rounds not in done:
            folder = tmp_path_factory.mktemp("unbroken")
            configs = {site: make_site(folder / site, site, tiny_cases) for site in SITES}
            done[num_rounds] = unbroken(folder / "run", quick("unbroken", num_rounds), configs)
        return done[num_rounds]

    return of


@pytest.fixture(scope="module")
def start_standing(tmp_path_factory: pytest.TempPathFactory, tiny_cases: Path) -> Iterator[Callable[..., Standing]]:
    """Returns start(name, ...) -> Standing: as `start_federation`, of A, B and C, for all tests of a file.

    Several federations have names of their own.
    """
    with ExitStack() as stack:

        def start(name: str = "standing", site_fields: dict[str, object] | None = None, **options: object) -> Standing:
            folder = tmp_path_factory.mktemp(name)
            configs = {site: make_site(folder / site, site, tiny_cases, **(site_fields or {})) for site in SITES}
            return Standing(stack.enter_context(starting(folder))(configs, **options), configs)

        yield start


@pytest.fixture(scope="module")
def standing(start_standing: Callable[..., Standing]) -> Iterator[Standing]:
    """Three sites and a coordinator whose SuperLink is started again when it dies."""
    found = start_standing()
    with kept_up(found.federation):
        yield found
