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

    Raises:
        WorkError: a site fails or sends what is no histogram, or no site may send one.
        InputError: all voxels have one value.
    """
    started = time.monotonic()
    experiment = run.experiment
    task = StatisticsTask(experiment=experiment.name, recipe=experiment.recipe, split=experiment.split)
    messages = {site: run.sites.message(site, wire.STATISTICS, task) for site in experiment.sites}
    told = run.sites.ask(messages, _read)
    normalisation = _pooled({site: histogram for site, (_, histogram) in told.items()})
    run.ledger.append(
        {
            "kind": "statistics",
            "step": number,
            "sites": {site: _told(result, histogram) for site, (result, histogram) in told.items()},
            "mean": normalisation.mean,
            "sd": normalisation.sd,
            "seconds": round(time.monotonic() - started, 1),
        }
    )


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
