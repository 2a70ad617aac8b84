"""What fine-tuning saves: validation DSC against epochs, from the pretrained model and from scratch at the same sites.

A round reports the validation DSC of the model that it started from, so the last round's own model is not in a curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib import rc_context
from matplotlib.figure import Figure

from server.curves import SVG, Curves, Points, draw_lines, set_margins, svg_uri
from server.lineage import Lineage, lineages
from server.run_record import RunRecord

WITHIN_POINTS = 1.0
"""[C] A model counts as trained from where its validation DSC comes within so many points of its best."""


@dataclass(frozen=True)
class Saving:
    """A fine-tuned model and one trained from scratch on the cases of the same sites; points are (epochs, DSC in %)."""

    sites: tuple[str, ...]
    tuned: str
    initial: str
    scratch: str
    tuned_points: Points
    scratch_points: Points


def validation_by_epoch(record: RunRecord, model: str) -> Points:
    """Returns (epochs done, validation DSC in per cent) of one model, the mean over its sites and folds."""
    own = [line for line in record.rounds if line.model == model or line.model.startswith(f"{model}.fold-")]
    by_epoch: dict[int, list[float]] = {}
    for line in own:
        epochs = getattr(record.experiment.steps[line.step], "local_epochs", 1)
        told = [report.validation_dsc for report in line.sites.values() if report.validation_dsc is not None]
        by_epoch.setdefault((line.round - 1) * epochs, []).extend(100 * dsc for dsc in told)
    return [(float(epoch), fmean(values)) for epoch, values in sorted(by_epoch.items()) if values]


def savings(record: RunRecord) -> tuple[Saving, ...]:
    """Returns every pair of a fine-tuned model and one from scratch on the same sites that both have a curve."""
    known = lineages(record.experiment)
    curves = {model: validation_by_epoch(record, model) for model in known}
    return tuple(
        Saving(_sorted(line.tuned, record), tuned, line.initial or "", scratch, curves[tuned], curves[scratch])
        for tuned, line in known.items()
        if line.tuned and len(curves[tuned]) > 1
        for scratch in _from_scratch(known, line)
        if len(curves[scratch]) > 1
    )


def _from_scratch(known: dict[str, Lineage], tuned: Lineage) -> list[str]:
    return [model for model, line in known.items() if not line.tuned and line.trained == tuned.tuned]


def _sorted(sites: frozenset[str], record: RunRecord) -> tuple[str, ...]:
    return tuple(site for site in record.experiment.sites if site in sites)


def epochs_until(points: Points, level: float) -> float | None:
    """Returns the first number of epochs at which the DSC is at least `level`; None if it never is."""
    return next((epochs for epochs, dsc in points if dsc >= level), None)


def sentence(saving: Saving) -> str:
    """Returns how many epochs each takes to its own best, and how long from scratch takes to the fine-tuned's."""
    best, other = (max(dsc for _, dsc in points) for points in (saving.tuned_points, saving.scratch_points))
    level = best - WITHIN_POINTS
    needed, alone = epochs_until(saving.tuned_points, level), epochs_until(saving.scratch_points, other - WITHIN_POINTS)
    reached = epochs_until(saving.scratch_points, level)
    to_level = f"never reaches {level:.1f} %" if reached is None else f"reaches {level:.1f} % after {reached:g} epochs"
    near = f"within {WITHIN_POINTS:g} point of its"
    return (
        f"At {', '.join(saving.sites)}, {saving.tuned} (from {saving.initial}) is {near} best validation DSC, "
        f"{best:.1f} %, after {needed:g} epochs; {saving.scratch}, from scratch, is {near} own best, {other:.1f} %, "
        f"after {alone:g}, and {to_level}."
    )


def saving_curves(found: Sequence[Saving]) -> Curves | None:
    """Returns one panel a pair; None where there is none."""
    if not found:
        return None
    with rc_context(SVG):
        figure = Figure(figsize=(0.4 + 3.4 * len(found), 2.7))
        set_margins(figure, left=0.5, right=0.15, bottom=0.5, top=0.3, between=0.22)
        panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
        for axis, saving in zip(panels, found, strict=True):
            names = (f"{saving.tuned}, fine-tuned", f"{saving.scratch}, from scratch")
            lines = dict(zip(names, (saving.tuned_points, saving.scratch_points), strict=True))
            draw_lines(axis, f"{', '.join(saving.sites)}: validation DSC, %", "epochs done", lines, names)
            axis.legend(loc="lower right", frameon=False, fontsize=8)
        title = "Validation DSC against epochs, fine-tuned and from scratch"
        return Curves(title, svg_uri(figure), " ".join(map(sentence, found)))
