"""What the coordinator accepts of measured models and of pictures: known metrics in their ranges, PNGs it asked for."""

import math
from collections.abc import Collection, Sequence

from common.tasks import EvaluateResult, MetricSummary, ModelSummary, Picture, PictureResult, PictureTask
from common.text import clean_text
from server.metric import METRIC

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PICTURE_BYTES = 4 * 2**20
"""Twice what a site's picture of a thousand by five hundred pixels would take without any compression."""
NEEDED = "dsc"
"""The metric by which rounds are chosen and models compared."""


def refuse_result(result: EvaluateResult, models: Collection[str]) -> str | None:
    """Returns why a result may not stand in the matrix, or None when it may.

    Checked: exactly the models that were asked for; metrics that this release knows, DSC among them; shares from 0 to 1
    and distances of at least 0 (None: withheld or undefined); no more undefined cases than cases.
    """
    if result.withheld:
        return None
    if set(result.summaries) != set(models):
        return f"did not measure {', '.join(models)} but {clean_text(', '.join(result.summaries)) or 'nothing'}"
    faults = ((model, _refuse_summary(summary)) for model, summary in result.summaries.items())
    return next((f"{model}: {fault}" for model, fault in faults if fault), None)


def _refuse_summary(summary: ModelSummary) -> str | None:
    if summary.num_undefined > summary.n:
        return f"{summary.num_undefined} undefined of {summary.n} cases; expected no more than there are"
    unknown = sorted({*summary.metrics, *summary.truth_metrics} - set(METRIC))
    if unknown:
        return f"metric {unknown[0][:40]!r} is unknown; expected {', '.join(METRIC)}"
    if NEEDED not in summary.metrics:
        return f"metric {NEEDED!r} is missing"
    values = (*summary.metrics.items(), *summary.truth_metrics.items())
    faults = (_refuse_values(name, each) for name, each in values)
    return next((fault for fault in faults if fault), None)


def _refuse_values(name: str, values: MetricSummary) -> str | None:
    highest = math.inf if METRIC[name].is_distance else 1.0
    for part, value in (("mean", values.mean), ("SD", values.sd)):
        if value is not None and not 0 <= value <= highest:
            expected = "at least 0" if METRIC[name].is_distance else "0 to 1"
            return f"{part} of {name} is {value:g}; expected {expected}"
    return None


def refuse_picture(picture: Picture) -> str | None:
    """Returns why a picture may not be kept, or None: no PNG, too large, or a DSC outside 0 to 1."""
    fault = _refuse_file(picture.png)
    if fault:
        return fault
    if picture.dsc is not None and not 0 <= picture.dsc <= 1:
        return f"has a DSC of {picture.dsc:g}; expected 0 to 1"
    return None


def refuse_drawings(task: PictureTask, result: PictureResult, files: Sequence[bytes]) -> str | None:
    """Returns why what a site drew may not be kept, or None: not asked for, drawn twice, or a file that is no PNG."""
    asked = {(what, rank) for what in task.what for rank in task.cases}
    shown = [(each.what, each.rank) for each in result.drawings]
    for number, drawing in enumerate(result.drawings):
        name = f"picture {drawing.what} of the {drawing.rank} case"
        if shown[number] not in asked or shown[number] in shown[:number] or set(drawing.dsc) - set(task.models):
            return f"{name} was not asked for, or comes twice"
        if fault := _refuse_file(files[number]):
            return f"{name} {fault}"
    return None


def _refuse_file(png: bytes) -> str | None:
    if not png.startswith(PNG_SIGNATURE):
        return f"begins with {png[:8]!r}; expected a PNG"
    if len(png) > MAX_PICTURE_BYTES:
        return f"has {len(png):,} bytes; expected at most {MAX_PICTURE_BYTES:,}"
    return None
