"""Drives the product: its SuperLink behind its gateway, three of its nodes, its own round loop, and no training.

`python _product_rounds.py FOLDER`, where PYTHONPATH begins with a copy of the release whose training does nothing.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from _driven import SITES, Setup
from federation.running import Federation, starting
from tiny_site import make_site

from common.experiment import Experiment, RoundConfig
from common.recipe import Recipe
from common.split import SplitConfig
from common.steps import StatisticsStep, TrainStep
from deploy.repeated import Repeated
from server.launch import launch
from server.ledger_file import LEDGER, LedgerTail

MODEL = "federated"
LOOK_S = 0.01


class Diary(Repeated):
    """Looks at the files of a run while it goes on, for the ledger's times are whole seconds."""

    def __init__(self, folder: Path) -> None:
        super().__init__("diary", self._write)
        self.marks: list[float] = []
        self.parts: list[dict[str, float]] = []
        self._spool, self._rounds = folder / "spool" / MODEL, folder / "rounds" / MODEL
        self._tail = LedgerTail(folder / LEDGER)
        self._spooled = self._combined = 0.0

    def _write(self) -> float:
        self._look_at_files()
        for record in self._tail.new():
            if record["kind"] == "statistics":
                self.marks.append(time.time())
            elif record["kind"] == "round":
                self._end_round(time.time())
        return LOOK_S

    def _look_at_files(self) -> None:
        """The last reply's note is younger than the numbers; the round's file is written beside its place."""
        with contextlib.suppress(FileNotFoundError):
            for path in self._spool.glob("*.json"):
                self._spooled = max(self._spooled, path.stat().st_mtime)
        if self._combined < self._spooled and next(self._rounds.glob(".*.part"), None):
            self._combined = time.time()

    def _end_round(self, now: float) -> None:
        combined = self._combined if self._combined > self._spooled else now
        self.parts.append(
            {
                "until the last reply is on disk": self._spooled - self.marks[-1],
                "aggregation": combined - self._spooled,
                "checkpoint": now - combined,
            }
        )
        self.marks.append(now)


def experiment(recipe: Recipe, num_rounds: int, transport: str) -> Experiment:
    """All cases train and none validates, for that would be work of a network."""
    return Experiment(
        name="rounds",
        sites=SITES,
        recipe=recipe,
        split=SplitConfig(test_fraction=0.0, validation_fraction=0.0),
        steps=(StatisticsStep(kind="statistics"), TrainStep(kind="train", model=MODEL, rounds=num_rounds)),
        rounds=RoundConfig(transport=transport),
        reuse=False,
    )


@contextlib.contextmanager
def enrolled(setup: Setup) -> Iterator[Federation]:
    """A federation whose sites have been let in, all of it stopped."""
    configs = {site: make_site(setup.folder / f"hospital-{site}", site) for site in SITES}
    ways = {site: lambda port, site=site: setup.port_for(site, port) for site in SITES}
    with starting(setup.folder / "federation") as start:
        federation = start(configs, gateway=None, ways=ways)
        for part in reversed(_parts(federation)):
            part.stop()
        yield federation


def _parts(federation: Federation) -> list:
    return [federation.superlink, *filter(None, [federation.gateway]), *federation.nodes.values()]


def main() -> None:
    """Starts all, runs the experiment, and tells its times."""
    setup = Setup.read()
    recipe = Recipe.model_validate_json(Path(setup.recipe).read_text())
    with enrolled(setup) as federation:
        began = time.time()
        for part in _parts(federation):
            part.start()
        for node in federation.nodes.values():
            node.wait_online(90.0)
        superlink = federation.superlink
        wanted = experiment(recipe, setup.rounds, setup.transport)
        with Diary(superlink.runs_folder / "rounds") as diary:
            launch(superlink.control, superlink.folder, wanted, "rounds", lambda _: None)
        setup.tell(began, diary.marks, diary.parts)


if __name__ == "__main__":
    main()
