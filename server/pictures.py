"""The `pictures` step: single cases that sites draw with the models they are sent, where their policy lets them go."""

import time
from collections.abc import Sequence
from typing import Any

from flwr.app import Message

from common import wire
from common.errors import WorkError
from common.split import fold_model
from common.steps import PicturesStep
from common.tasks import Drawing, PictureResult, PictureTask
from server.evaluation import NO_ANSWER, accept
from server.evaluation_reply import refuse_drawings
from server.run import Run


def draw(run: Run, number: int, step: PicturesStep) -> None:
    """Records the pictures that sites let go, and why the others sent none.

    Raises:
        WorkError: too many sites fail or keep silent, or one answers what cannot be.
    """
    started = time.monotonic()
    sites = run.experiment.sites_of(step)
    whole = dict.fromkeys(name for base in step.models for name in run.experiment.named(base))
    names = tuple(fold_model(name, step.fold) for name in whole)
    answers = _ask(run, sites, _task(run, step, names))
    withheld = {site: NO_ANSWER for site in sites if site not in answers}
    withheld |= {site: result.withheld for site, (result, _) in answers.items() if result.withheld}
    saved = [
        _saved(run, number, site, drawing, png, names)
        for site, (result, files) in answers.items()
        for drawing, png in zip(result.drawings, files, strict=True)
    ]
    seconds = round(time.monotonic() - started, 1)
    run.ledger.append({"kind": "pictures", "step": number, "pictures": saved, "withheld": withheld, "seconds": seconds})


def _task(run: Run, step: PicturesStep, names: tuple[str, ...]) -> PictureTask:
    experiment = run.experiment
    recipe = experiment.recipe_of(names[0])
    recipes = {name: experiment.recipe_of(name) for name in names}
    return PictureTask(
        experiment=experiment.name,
        recipe=recipe,
        recipes={name: each for name, each in recipes.items() if each != recipe},
        split=experiment.split_of(step.fold),
        models=names,
        normalisation=run.normalisation(step.fold),
        what=step.what,
        cases=step.cases,
    )


def _ask(run: Run, sites: Sequence[str], task: PictureTask) -> dict[str, tuple[PictureResult, list[bytes]]]:
    """By site; those beyond the quorum that fail or keep silent are not there."""
    transport = run.experiment.rounds.transport
    records = {name: wire.pack_weights(run.ledger.load_model(name), transport) for name in task.models}

    def read(site: str, reply: Message) -> tuple[PictureResult, list[bytes]]:
        try:
            result, files = wire.read_drawings(reply)
        except WorkError as error:
            raise WorkError(f"site {site}: {error}") from error
        accept(site, refuse_drawings(task, result, files))
        return result, files

    return run.sites.ask({site: run.sites.message(site, wire.DRAW, task, records) for site in sites}, read)


def _saved(run: Run, number: int, site: str, drawing: Drawing, png: bytes, names: Sequence[str]) -> dict[str, Any]:
    name = f"{site}-step{number + 1}-{drawing.what}-{drawing.rank}"  # steps count from 1 for people
    return {
        "file": run.ledger.save_picture(name, png),
        "site": site,
        "what": drawing.what,
        "models": list(names),
        "case": drawing.case,
        "rank": drawing.rank,
        "dsc": drawing.dsc,
    }
