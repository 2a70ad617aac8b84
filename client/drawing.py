"""Pictures of a site's best, median and worst test case by several models (paper, figures 3, 5 and 6).

No patient is named: a case has its number among the site's test cases. The DSC stands in a picture only where the
site's policy tells metrics of single cases.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from client.cases import OpenCase
from client.kept_results import KeptResults
from client.measuring import LoadedModel, measure
from common.feature_maps import skip_maps
from common.feature_pictures import MapRow, features_figure
from common.metrics import case_metrics
from common.panels import as_png
from common.pictures import Row, rows_figure
from common.planes import target_centre
from common.preprocess import restore
from common.sampling import centred_patch, cut, inside
from common.statistics import AIR_HU
from common.steps import Rank, What
from common.tasks import Drawing, PictureTask
from common.volume import Volume, to_lps

Load = Callable[[str], LoadedModel]
"""Makes a model of a task ready; one is in memory at a time, for a full-size one is large."""
HEADINGS: dict[What, str] = {
    "planes": "contour and predictions",
    "features": "finest skip connection",
    "boundary": "probability near the boundary",
}


@dataclass(frozen=True, eq=False)
class _Outcome:
    """One model on one case, on the scan's LPS grid."""

    model: str
    mask: NDArray[np.bool_]
    scores: NDArray[np.float16]
    dsc: float


def draw(
    site: str,
    task: PictureTask,
    cases: Sequence[OpenCase],
    load: Load,
    kept: KeptResults | None,
    tells_dsc: bool,
) -> Iterator[tuple[Drawing, bytes]]:
    """Yields what is asked for, a PNG with what it shows; each case once, whatever it is to be called.

    `kept` are the first model's results; None: nothing is kept.
    """
    measured = [metrics.dsc for metrics in measure(partial(load, task.models[0]), cases, kept).metrics]
    for rank, index in ranked(measured, task.cases):
        where = f"{site}, test case {index + 1} ({rank} by {task.models[0]})"
        outcomes, map_rows = _outcomes(task, cases[index], load)
        told = {each.model: each.dsc for each in outcomes} if tells_dsc else {}
        for what in dict.fromkeys(task.what):
            heading = f"{where}: {HEADINGS[what]}"
            png = _png(what, cases[index], outcomes, map_rows, heading, told)
            if png is not None:
                yield Drawing(what=what, rank=rank, case=index + 1, dsc=told), png


def ranked(dsc: Sequence[float], ranks: Sequence[Rank]) -> list[tuple[Rank, int]]:
    """Returns the index of the case of each rank; of equals the first, and of an even number the better middle one.

    A case that is two of them, as with two cases or one, is named once: best before worst before median.
    """
    order = sorted(range(len(dsc)), key=lambda index: (-dsc[index], index))
    places: dict[Rank, int] = {"best": 0, "worst": -1, "median": (len(order) - 1) // 2}
    found: dict[int, Rank] = {}
    for rank, place in places.items():
        if rank in ranks and order:
            found.setdefault(order[place], rank)
    return [(rank, index) for wanted in dict.fromkeys(ranks) for index, rank in found.items() if rank == wanted]


def _outcomes(task: PictureTask, case: OpenCase, load: Load) -> tuple[list[_Outcome], list[MapRow]]:
    outcomes, rows = [], []
    for name in task.models:
        model = load(name)
        outcomes.append(_outcome(name, model, case))
        if "features" in task.what:
            rows += _map_rows(name, model, case)
    return outcomes, rows


def _outcome(name: str, model: LoadedModel, case: OpenCase) -> _Outcome:
    found, geometry = model.segmentation(case), case.cached.record.geometry
    dsc = case_metrics(found.mask, case.label(), geometry.spacing_mm).dsc
    scores = restore(found.scores, case.cached.record).astype(np.float16)
    turned = [to_lps(Volume(array, geometry)).array for array in (found.mask, scores)]
    return _Outcome(name, turned[0], turned[1], dsc)


def _png(
    what: What,
    case: OpenCase,
    outcomes: Sequence[_Outcome],
    map_rows: Sequence[MapRow],
    heading: str,
    told: dict[str, float],
) -> bytes | None:
    """None where there is nothing to draw: no network of the models has a skip connection."""
    if what == "features":
        spacing_mm = case.cached.record.spacing_mm
        return as_png(features_figure(map_rows, spacing_mm, heading)) if map_rows else None
    image = to_lps(case.image())
    truth = to_lps(Volume(case.label(), case.cached.record.geometry)).array
    rows = [
        Row(_with_dsc(each.model, told), each.mask, each.scores if what == "boundary" else None) for each in outcomes
    ]
    return as_png(rows_figure(image.array, image.geometry.spacing_mm, truth, rows, heading))


def _with_dsc(model: str, told: dict[str, float]) -> str:
    return f"{model}: DSC {100 * told[model]:.1f} %" if model in told else model


def _map_rows(name: str, model: LoadedModel, case: OpenCase) -> list[MapRow]:
    """The maps of the last stage, which draws the boundary, on the patch round the target's centre."""
    cached, label = case.cached, case.cached.label
    assert label is not None  # cases of a split have one
    stage, config = list(model.recipe.stages.items())[-1]
    centre = target_centre(cached.shape, label > 0, None)
    patch, truth = centred_patch(cached, config.patch_size, centre, model.normalisation)
    maps = skip_maps(model.networks[stage], patch, model.device)
    if maps is None:
        return []
    start = inside(
        [c - p // 2 for c, p in zip(centre, config.patch_size, strict=True)], config.patch_size, cached.shape
    )
    plane = centre[0] - start[0]
    image = cut(cached.image[0], start, config.patch_size, AIR_HU)[plane]
    steps = [("" if maps.after is None else ", before ASPP", maps.before)]
    steps += [] if maps.after is None else [(", after ASPP", maps.after)]
    told = f"{name}, {stage.replace('stage', 'stage ')}"
    return [MapRow(f"{told}{step}" if step else f"{told}, no ASPP", image, truth[0, plane] > 0, each[:, plane])
            for step, each in steps]  # fmt: skip
