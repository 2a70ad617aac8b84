"""The `statistics` step: every site's exact HU histogram, added up (common/statistics.py says why)."""

import time
from collections.abc import Mapping
from typing import Any

from flwr.app import Message

from common import wire
from common.errors import WorkError
from common.statistics import HuHistogram, Normalisation
from common.tasks import SiteStatistics, StatisticsTask
from server.run import Run
from server.sites import read_result


def gather_statistics(run: Run, number: int) -> None:
    """Records case counts by site, and mean and SD over the training cases of all sites as if they were in one place.

    Of the plain split, and where steps go through its folds, of each fold: a fold's test cases are in no statistics
    that its models are made with.

    Raises:
        WorkError: a site fails or sends what is no histogram, or no site may send one.
        InputError: all voxels have one value.
    """
    started = time.monotonic()
    plain = _gather(run, 0)
    folds = {str(fold): _gather(run, fold) for fold in run.experiment.folds}
    run.ledger.append(
        {
            "kind": "statistics",
            "step": number,
            "sites": plain["sites"],
            "mean": plain["mean"],
            "sd": plain["sd"],
            "folds": folds,
            "seconds": round(time.monotonic() - started, 1),
        }
    )


def _gather(run: Run, fold: int) -> dict[str, Any]:
    experiment = run.experiment
    task = StatisticsTask(experiment=experiment.name, recipe=experiment.recipe, split=experiment.split_of(fold))
    messages = {site: run.sites.message(site, wire.STATISTICS, task) for site in experiment.sites}
    told = run.sites.ask(messages, _read)
    normalisation = _pooled({site: histogram for site, (_, histogram) in told.items()})
    sites = {site: _told(result, histogram) for site, (result, histogram) in told.items()}
    return {"sites": sites, "mean": normalisation.mean, "sd": normalisation.sd}


def _read(site: str, reply: Message) -> tuple[SiteStatistics, HuHistogram | None]:
    return read_result(site, reply, SiteStatistics), _read_histogram(site, reply)


def _read_histogram(site: str, reply: Message) -> HuHistogram | None:
    """Returns a site's histogram; None when its policy withheld it."""
    try:
        counts = wire.read_histogram(reply)
        return None if counts is None else HuHistogram.from_array(counts)
    except wire.UNREADABLE as error:
        raise WorkError(f"site {site}: sent no usable histogram; let it run the coordinator's release") from error


def _pooled(histograms: Mapping[str, HuHistogram | None]) -> Normalisation:
    total = sum((each for each in histograms.values() if each is not None), HuHistogram.empty())
    if not total.num_voxels:
        raise WorkError("statistics: no site may send its histogram (fewer cases than its min_cases); add cases")
    return Normalisation.from_histogram(total)


def _told(result: SiteStatistics, histogram: HuHistogram | None) -> dict[str, Any]:
    voxels = None if histogram is None else histogram.num_voxels
    return {**result.model_dump(exclude={"seconds"}), "voxels": voxels}
