"""Models measured at sites: the cross-site matrix of an `evaluate` step, and validation for choosing a round."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from flwr.app import Message

from common import wire
from common.checkpoint import Weights
from common.digest import model_digest
from common.errors import WorkError
from common.experiment import Experiment
from common.settings import fingerprint
from common.split import fold_of
from common.steps import EvaluateStep
from common.tasks import EvaluateResult, EvaluateTask, Picture
from server.card import refresh_cards
from server.comparison import compare, comparison_lines, fill, pairs_of
from server.evaluation_reply import refuse_picture, refuse_result
from server.fold_results import over_folds
from server.run import Run
from server.sites import read_result

Pictures = dict[str, list[Picture]]
"""By site."""
NO_ANSWER = "no answer while the quorum's were awaited"
"""Stands in the matrix for a site that was lost."""


def evaluate(run: Run, number: int, step: EvaluateStep) -> None:
    """Records how every model of the step does at every site, how they compare, and the pictures that sites let go.

    The models' cards tell it from then on.

    Raises:
        WorkError: a site fails, keeps silent, or answers what cannot be.
    """
    started = time.monotonic()
    expanded = {base: run.experiment.named(base) for base in step.models}
    names = [name for base in step.models for name in expanded[base]]
    sites = run.experiment.sites_of(step)
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    digests: dict[str, str] = {}
    answering = set(sites)
    saved: list[dict[str, Any]] = []
    for chunk in _messages(run.experiment, names, step.models_per_message):
        models = {name: run.ledger.load_model(name) for name in chunk}
        wanted = step.pictures if not cells else 0
        results, pictures = measure(run, models, sites, step.split, wanted)
        cells |= {name: {site: _cell(results.get(site), name) for site in sites} for name in chunk}
        digests |= {name: digest(run, name, weights) for name, weights in models.items()}
        answering &= {site for site, result in results.items() if fold_of(chunk[0]) or not result.withheld}
        saved += _save(run, chunk[0], pictures)
    files = {name: run.experiment.files_of(name) for name in names}
    rows = {name: tuple((digests[each], fold_of(each)) for each in files[name]) for name in names}
    if step.split != "test":  # where a patient is in several folds' parts
        rows = {name: parts for name, parts in rows.items() if len(parts) == 1}
    pairs = [pair for pair in pairs_of(step, expanded) if set(pair) <= set(rows)]
    compared = compare(run, rows, pairs, sorted(answering), step.split)
    run.ledger.append(
        {
            "kind": "evaluation",
            "step": number,
            "split": step.split,
            "matrix": {
                name: {
                    site: fill(over_folds([cells[each][site] for each in files[name]]), compared, site, name)
                    for site in sites
                }
                for name in names
            },
            "folds": {each: cells[each] for name in names for each in files[name] if each != name},
            "comparisons": comparison_lines(compared, pairs, sites),
            "pictures": saved,
            "seconds": round(time.monotonic() - started, 1),
        }
    )
    refresh_cards(run, cells)


def _messages(experiment: Experiment, names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Gives the models that travel together, in order: of one recipe and one fold, at most `size`.

    Those of a fold are measured on that fold's cases, so over its folds a model is measured on every case once.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        for each in experiment.files_of(name):
            groups.setdefault(fingerprint(experiment.recipe_of(name), fold_of(each)), []).append(each)
    for group in groups.values():
        yield from _chunks(group, size)


def measure(
    run: Run,
    models: Mapping[str, Weights],
    sites: Sequence[str],
    part: Literal["validation", "test"],
    num_pictures: int = 0,
) -> tuple[dict[str, EvaluateResult], Pictures]:
    """Returns each site's summaries of `models` on one part of its split, and its pictures of the first model.

    All are of one recipe and one fold.

    Sites beyond the quorum that fail or keep silent are not there.

    Raises:
        WorkError: too many sites fail or keep silent, or one answers what cannot be: other models, an unknown metric, a
            value out of range, a picture that is none.
    """
    experiment, first = run.experiment, next(iter(models))
    task = EvaluateTask(
        experiment=experiment.name,
        recipe=experiment.recipe_of(first),
        split=experiment.split_of(fold_of(first)),
        models=tuple(models),
        part=part,
        normalisation=run.normalisation(fold_of(first)),
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


def digest(run: Run, model: str, weights: Weights) -> str:
    """Returns what a site keeps its results of a model by, once its weights have come there."""
    received = wire.record_to_weights(wire.pack_weights(weights, run.experiment.rounds.transport))
    return model_digest(received, run.experiment.recipe_of(model), run.normalisation(fold_of(model)))


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
