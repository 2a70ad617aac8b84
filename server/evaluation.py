"""Models measured at sites: the cross-site matrix of an `evaluate` step, and validation for choosing a round."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from flwr.app import Message

from common import wire
from common.checkpoint import Weights
from common.config import EvaluateStep, Experiment
from common.errors import WorkError
from common.tasks import EvaluateResult, EvaluateTask, Picture
from server.card import refresh_cards
from server.evaluation_reply import refuse_picture, refuse_result
from server.run import Run
from server.sites import read_result

Pictures = dict[str, list[Picture]]
"""By site."""
NO_ANSWER = "no answer while the quorum's were awaited"
"""Stands in the matrix for a site that was lost."""


def evaluate(run: Run, number: int, step: EvaluateStep) -> None:
    """Records how every model of the step does at every site of the step, and the pictures that sites let go.

    The models' cards tell it from then on.

    Raises:
        WorkError: a site fails, keeps silent, or answers what cannot be.
    """
    started = time.monotonic()
    names = [name for base in step.models for name in expand(run.experiment, base)]
    sites = run.experiment.sites_of(step)
    matrix: dict[str, dict[str, Any]] = {name: {} for name in names}
    saved: list[dict[str, Any]] = []
    for chunk in _chunks(names, step.models_per_message):
        models = {name: run.ledger.load_model(name) for name in chunk}
        wanted = step.pictures if chunk[0] == names[0] else 0
        results, pictures = measure(run, models, sites, step.split, wanted)
        for name in chunk:
            matrix[name] = {site: _cell(results.get(site), name) for site in sites}
        saved += _save(run, chunk[0], pictures)
    run.ledger.append(
        {
            "kind": "evaluation",
            "step": number,
            "split": step.split,
            "matrix": matrix,
            "pictures": saved,
            "seconds": round(time.monotonic() - started, 1),
        }
    )
    refresh_cards(run, names)


def measure(
    run: Run,
    models: Mapping[str, Weights],
    sites: Sequence[str],
    part: Literal["validation", "test"],
    num_pictures: int = 0,
) -> tuple[dict[str, EvaluateResult], Pictures]:
    """Returns each site's summaries of `models` on one part of its split, and its pictures of the first model.

    Sites beyond the quorum that fail or keep silent are not there.

    Raises:
        WorkError: too many sites fail or keep silent, or one answers what cannot be: other models, an unknown metric, a
            value out of range, a picture that is none.
    """
    experiment = run.experiment
    task = EvaluateTask(
        experiment=experiment.name,
        recipe=experiment.recipe,
        split=experiment.split,
        models=tuple(models),
        part=part,
        normalisation=run.normalisation(),
        pictures=num_pictures,
    )
    transport = experiment.rounds.transport
    records = {name: wire.pack_weights(weights, transport) for name, weights in models.items()}

    def read(site: str, reply: Message) -> tuple[EvaluateResult, list[Picture]]:
        result = read_result(site, reply, EvaluateResult)
        accept(site, refuse_result(result, models))
        return result, _read_pictures(site, reply, num_pictures)

    told = run.sites.ask({site: run.sites.message(site, wire.EVALUATE, task, records) for site in sites}, read)
    return {site: result for site, (result, _) in told.items()}, {site: each for site, (_, each) in told.items()}


def accept(site: str, fault: str | None) -> None:
    """Returns if nothing is wrong with what a site sent (WorkError: the fault, with the site's name)."""
    if fault:
        raise WorkError(f"site {site}: {fault}; let it run the coordinator's release")


def _read_pictures(site: str, reply: Message, wanted: int) -> list[Picture]:
    """The pictures that were asked for; what a site sends beyond them is left out."""
    try:
        pictures = wire.read_pictures(reply)[:wanted]
    except WorkError as error:
        raise WorkError(f"site {site}: {error}") from error
    for number, picture in enumerate(pictures, 1):
        fault = refuse_picture(picture)
        accept(site, fault and f"picture {number} {fault}")
    return pictures


def expand(experiment: Experiment, base: str) -> tuple[str, ...]:
    """Returns the models that a name in a step stands for: itself, or those of an earlier step, one a site."""
    for step in experiment.steps:
        if getattr(step, "model", None) == base:
            return experiment.results_of(step)
    return (base,)


def _chunks(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (names[start : start + size] for start in range(0, len(names), size))


def _save(run: Run, model: str, pictures: Pictures) -> list[dict[str, Any]]:
    return [
        {
            "file": run.ledger.save_picture(f"{site}-{case}", picture.png),
            "site": site,
            "model": model,
            "case": case,
            "dsc": picture.dsc,
        }
        for site, many in pictures.items()
        for case, picture in enumerate(many, 1)
    ]


def _cell(result: EvaluateResult | None, model: str) -> dict[str, Any]:
    """Returns one cell of the matrix; what is withheld, or did not come, is null, as what is NaN."""
    withheld = NO_ANSWER if result is None else result.withheld
    if result is None or withheld:
        return {"n": None, "num_undefined": None, "metrics": {}, "withheld": withheld}
    cell: dict[str, Any] = json.loads(result.summaries[model].model_dump_json())
    if not cell["truth_metrics"]:
        del cell["truth_metrics"]
    return cell
