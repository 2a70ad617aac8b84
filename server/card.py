"""The card of a model that a run makes, from its experiment and its ledger alone (`common/card.py` says what it is)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from common.card import MAX_NOTE, MAX_NOTES, Card, Result, TrainedOn
from common.experiment import Experiment
from common.release import release
from common.split import FOLD_NAME, fold_model, fold_of
from common.steps import PooledStep, TrainStep
from server.conclusion import ModelOrigin, model_origins
from server.ledger import Ledger

if TYPE_CHECKING:
    from server.run import Run


def model_card(run: "Run", model: str, kept_round: int, sites: Sequence[str]) -> Card:
    """Returns what the run knows of a model whose weights are those of `kept_round` of its step over `sites`."""
    step = run.experiment.maker_of(model)
    fold = fold_of(model)
    origin = _origin(run.experiment, model)
    return Card(
        model=model,
        experiment=run.experiment.name,
        coordinator=run.coordinator,
        origin=origin.description + (f"; fold {fold} of {run.experiment.split.folds}" if fold else ""),
        initial=origin.initial,
        trained_on=tuple(_trained_on(run, model, kept_round, sites)),
        begun_on=tuple(_begun_on(run, origin.initial)),
        rounds=step.rounds,
        local_epochs=step.local_epochs,
        kept_round=kept_round,
        strategy=step.strategy if isinstance(step, TrainStep) else None,
        lr0=step.lr0 or run.experiment.recipe_of(model).training.lr0,
        software=release(),
        results=tuple(_results(run.ledger, model)),
        notes=tuple(note[:MAX_NOTE] for note in run.experiment.notes[:MAX_NOTES]),
    )


def refresh_cards(run: "Run", models: Iterable[str]) -> None:
    """Writes the files of finished models anew, with what has been measured of them by now on their cards."""
    for model in models:
        kept, sites = _finished(run, model)
        run.ledger.save_model(model, run.ledger.load_model(model), run.metadata(model, kept, sites))


def _finished(run: "Run", model: str) -> tuple[int, tuple[str, ...]]:
    """Returns the kept round of a finished model, and the sites of its step that were asked for it."""
    return run.ledger.find("model", model=model)[-1]["round"], run.experiment.cohort_of(model)


def _origin(experiment: Experiment, model: str) -> ModelOrigin:
    """Where a model, or the fold of one, comes from; what it was begun from is the same fold's where there is one."""
    origin = model_origins(experiment)[FOLD_NAME.sub("", model)]
    if origin.initial is None or not experiment.folds_of(origin.initial):
        return origin
    return replace(origin, initial=fold_model(origin.initial, fold_of(model)))


def _trained_on(run: "Run", model: str, kept_round: int, sites: Sequence[str]) -> Iterator[TrainedOn]:
    """Who sent good weights in a round up to the kept one; before the first is on record, whoever was asked.

    Of a pooled model, the sites whose cases lie together.
    """
    counts = run.num_cases(fold_of(model))
    lines = [line for line in run.ledger.find("round", model=model) if line["round"] <= kept_round]
    for line in lines:
        counts |= {site: told["cases"] for site, told in line["sites"].items()}
    took_part = {site for line in lines for site in line["sites"]}
    pooled = isinstance(run.experiment.maker_of(model), PooledStep)
    for site in sites:
        if pooled or not lines or site in took_part:
            yield TrainedOn(site=site, num_cases=counts.get(site))


def _begun_on(run: "Run", initial: str | None) -> Iterator[TrainedOn]:
    """The sites of a finished model and of all that it was begun from, each once, the latest first."""
    seen: set[str] = set()
    while initial is not None:
        for each in _trained_on(run, initial, *_finished(run, initial)):
            if each.site not in seen:
                seen.add(each.site)
                yield each
        initial = _origin(run.experiment, initial).initial


def _results(ledger: Ledger, model: str) -> Iterator[Result]:
    """The last measurement at each site, on each part."""
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for line in ledger.find("evaluation"):
        for site, cell in (line["matrix"] | line.get("folds", {})).get(model, {}).items():
            cells[line["split"], site] = cell
    for (part, site), cell in sorted(cells.items()):
        yield Result.model_validate(
            {
                "site": site,
                "part": part,
                "num_cases": cell["n"],
                "num_undefined": cell["num_undefined"],
                "metrics": {name: {"mean": each["mean"], "sd": each["sd"]} for name, each in cell["metrics"].items()},
                "withheld": cell.get("withheld"),
            }
        )
