"""What every step of an experiment works with: the experiment, its ledger and its sites."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from common.card import CARD
from common.errors import WorkError
from common.experiment import Experiment
from common.split import fold_of
from common.tasks import NormalisationRecord
from server.card import model_card
from server.ledger import Ledger
from server.ledger_file import Record
from server.sites import Sites


@dataclass(frozen=True)
class Run:
    """One experiment under way."""

    experiment: Experiment
    ledger: Ledger
    sites: Sites
    coordinator: str | None = None
    """Where the federation's coordinator is reached; None: not told, or a simulation."""
    runs: Path | None = None
    """The folder of the runs beside this one, whose models may be copied; None: no other run is looked at."""

    def normalisation(self, fold: int = 0) -> NormalisationRecord:
        """Returns the mean and SD that the last `statistics` step found (WorkError: there was none).

        `fold`: over the training cases of that fold; 0: of the plain split.
        """
        found = self._statistics(fold)
        return NormalisationRecord(mean=found["mean"], sd=found["sd"])

    def num_cases(self, fold: int = 0) -> dict[str, int]:
        """Returns each site's training cases as the last `statistics` step counted them."""
        return {site: told["train"] for site, told in self._statistics(fold)["sites"].items()}

    def digests(self, fold: int, sites: Sequence[str]) -> list[str | None]:
        """Returns what each site said of its cases as a whole; None: it said nothing, or was not heard."""
        told = self._statistics(fold)["sites"]
        return [told.get(site, {}).get("digest") for site in sites]

    def _statistics(self, fold: int) -> Record:
        found = self.ledger.find("statistics")
        if not found:
            raise WorkError("no statistics yet; put a `statistics` step before training and evaluation")
        return cast(Record, found[-1]["folds"][str(fold)]) if fold else found[-1]

    def metadata(self, model: str, number: int, sites: Sequence[str]) -> dict[str, str]:
        """Returns what stands in a weights file: all that using the weights of round `number` needs, and their card.

        Recipe, split and normalisation are the model's own; `model` may be that of a fold.
        """
        fold = fold_of(model)
        return {
            "experiment": self.experiment.name,
            "model": model,
            "round": str(number),
            "sites": ", ".join(sites),
            "recipe": self.experiment.recipe_of(model).model_dump_json(),
            "split": self.experiment.split_of(fold).model_dump_json(),
            "normalisation": self.normalisation(fold).model_dump_json(),
            CARD: model_card(self, model, number, sites).model_dump_json(),
        }
