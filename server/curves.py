"""Learning curves and the time line of rounds, as SVG data URIs for the report.

One figure a training step: each stage's loss by global epoch, and the validation DSC by round, one line a site. Drawn
with a bare Figure, text as outlines (no fonts to fetch), no date and fixed ids: the same ledger gives the same bytes.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from common.split import fold_of
from server.run_record import RoundLine, RunRecord, concurrent_rounds, in_order

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette without yellow, which white paper swallows."""
DASHES = ("solid", "dashed", "dotted", "dashdot")
STAGES = ("stage1", "stage2")
GREY = "#444444"
SVG = {"svg.fonttype": "path", "svg.hashsalt": "fedgtv", "font.size": 9}
"""Text as outlines and fixed ids."""
STEP_NAMES = {
    "statistics": "statistics",
    "train": "training",
    "local": "local-only training",
    "finetune": "fine-tuning",
    "pooled": "pooled training",
    "evaluate": "evaluation",
    "pictures": "pictures of single cases",
}


@dataclass(frozen=True)
class Curves:
    """One figure and the words for whoever cannot see it."""

    title: str
    uri: str
    description: str


Points = list[tuple[float, float]]


def site_style(sites: Sequence[str], site: str) -> dict[str, Any]:
    """Returns the colour and dash of a site's lines, the same in every figure and distinct for 28 sites."""
    place = list(sites).index(site) if site in sites else len(sites)
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place // len(COLOURS) % len(DASHES)]}


def learning_curves(record: RunRecord) -> tuple[Curves, ...]:
    """Returns one figure for each training step, and fold of one, that has a finished round; in their order."""
    figures = []
    for number in range(len(record.experiment.steps)):
        rounds = record.rounds_of(number)
        for fold in sorted({fold_of(line.model) for line in rounds}):
            title = step_title(record, number) + (f", fold {fold}" if fold else "")
            figures.append(_step_curves(title, [line for line in rounds if fold_of(line.model) == fold], record))
    return tuple(figures)


def step_title(record: RunRecord, number: int) -> str:
    """Returns how figures and tables call the step with this index, such as `step 4: fine-tuning, tuned`."""
    step = record.experiment.steps[number]
    model = getattr(step, "model", None)
    return f"step {number + 1}: {STEP_NAMES[step.kind]}" + (f", {model}" if model else "")


def losses(rounds: Sequence[RoundLine], site: str, stage: str) -> Points:
    """Returns (epochs done, mean loss) of one site and stage, over all rounds, folds averaged; undefined left out."""
    epochs = [epoch for line in rounds if site in line.sites for epoch in line.sites[site].epochs]
    values = [(epoch.epoch + 1.0, getattr(epoch, stage)) for epoch in epochs]
    return _mean_by_x(values)


def validation(rounds: Sequence[RoundLine], site: str) -> Points:
    """Returns (rounds done, DSC in per cent) of one site: a round reports the model that it started from."""
    reports = [(line.round - 1.0, line.sites[site].validation_dsc) for line in rounds if site in line.sites]
    return _mean_by_x([(x, None if y is None else 100 * y) for x, y in reports])


def _mean_by_x(values: Sequence[tuple[float, float | None]]) -> Points:
    """One point an x: a model that is trained once a fold has several."""
    by_x: dict[float, list[float]] = {}
    for x, y in values:
        if y is not None:
            by_x.setdefault(x, []).append(y)
    return [(x, fmean(by_x[x])) for x in sorted(by_x)]


def _step_curves(title: str, rounds: Sequence[RoundLine], record: RunRecord) -> Curves:
    sites = in_order((site for line in rounds for site in line.sites), record.experiment.sites)
    by_stage = {stage: {site: losses(rounds, site, stage) for site in sites} for stage in STAGES}
    stages = [stage for stage in STAGES if any(by_stage[stage].values())]
    scores = {site: validation(rounds, site) for site in sites}
    panels = len(stages) + any(len(points) > 1 for points in scores.values())  # one point is no curve
    with rc_context(SVG):
        figure = Figure(figsize=(3.6 * panels, 2.7))
        set_margins(figure, left=0.5, right=0.75 + 0.08 * max(map(len, sites)), bottom=0.5, top=0.3, between=0.22)
        axes = figure.subplots(1, panels, squeeze=False)[0]
        for axis, stage in zip(axes, stages, strict=False):
            name = f"{stage[:5]} {stage[5:]}: training loss"
            draw_lines(axis, name, "global epoch", by_stage[stage], record.experiment.sites)
        if panels > len(stages):
            draw_lines(axes[-1], "validation DSC, %", "rounds done", scores, record.experiment.sites)
        _site_legend(figure, sites, record.experiment.sites)
        return Curves(title, svg_uri(figure), _describe(by_stage, scores))


def set_margins(figure: Any, left: float, right: float, bottom: float, top: float, between: float = 0.0) -> None:
    """Sets the margins in inches; half the time of matplotlib's own layout, which draws everything twice."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, wspace=between)


def draw_lines(axis: Any, title: str, label: str, lines: dict[str, Points], order: Sequence[str]) -> None:
    """Draws one line a name, coloured by its place in `order`."""
    for site, points in lines.items():
        axis.plot([x for x, _ in points], [y for _, y in points], linewidth=1.4, label=site,
                  marker="o" if len(points) < 20 else None, markersize=3, **site_style(order, site))  # fmt: skip
    axis.set_title(title, fontsize=9.5, loc="left")
    axis.set_xlabel(label)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    quiet(axis)
    if not any(lines.values()):
        axis.text(0.5, 0.5, "none reported", transform=axis.transAxes, ha="center", va="center", color=GREY)
        axis.set_yticks([])


def quiet(axis: Any, along: str = "y") -> None:
    """Leaves thin lines along one axis, and no frame at the top and the right."""
    axis.grid(axis=along, color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=GREY)


def _site_legend(figure: Any, sites: Sequence[str], order: Sequence[str]) -> None:
    handles = [Line2D([], [], label=site, linewidth=1.4, **site_style(order, site)) for site in sites]
    figure.legend(handles=handles, loc="center right", frameon=False, title="site")


def _describe(by_stage: dict[str, dict[str, Points]], scores: dict[str, Points]) -> str:
    """First and last value of every line, for readers without the picture."""
    lines = [(f"{stage} loss {site}", points) for stage, named in by_stage.items() for site, points in named.items()]
    lines += [(f"validation DSC {site}", points) for site, points in scores.items()]
    return "; ".join(f"{name} {points[0][1]:.3f} to {points[-1][1]:.3f}" for name, points in lines if points)


@dataclass(frozen=True)
class Span:
    """One site's work in one round, in seconds of working time since the run began."""

    site: str
    start_s: float
    work_s: float
    round_s: float
    dropped: bool


def spans(rounds: Sequence[RoundLine]) -> tuple[list[Span], list[tuple[int, float]]]:
    """Returns every site's work, rounds laid end to end in the ledger's order, and when each step begins.

    The models of a `local` or `finetune` step do the same round at the same time. Pauses between rounds do not show.
    """
    work: list[Span] = []
    begins: list[tuple[int, float]] = []
    now = 0.0
    for together in concurrent_rounds(rounds):
        length = max(line.duration_s for line in together)
        if not begins or begins[-1][0] != together[0].step:
            begins.append((together[0].step, now))
        for line in together:
            spent = {site: report.seconds or 0.0 for site, report in line.sites.items()}
            work += [Span(site, now, seconds, length, False) for site, seconds in spent.items()]
            work += [Span(site, now, 0.0, length, True) for site in line.dropped if site not in spent]
        now += length
    return work, begins


def timeline(record: RunRecord) -> Curves | None:
    """Returns each site's training and waiting over all rounds; None before the first round."""
    work, begins = spans(record.rounds)
    end_s = max((span.start_s + span.round_s for span in work), default=0.0)
    if not end_s:
        return None
    unit_s, unit = next((pair for pair in ((3600.0, "hours"), (60.0, "minutes")) if end_s > 2 * pair[0]), (1.0, "s"))
    sites = in_order((span.site for span in work), record.experiment.sites)
    with rc_context(SVG):
        figure = Figure(figsize=(10.8, 1.0 + 0.34 * len(sites)))
        set_margins(figure, left=0.15 + 0.08 * max(map(len, sites)), right=0.45, bottom=0.45, top=0.4)
        axis = figure.subplots()
        for row, site in enumerate(sites):
            _draw_site(axis, row, [span for span in work if span.site == site], unit_s, record.experiment.sites)
        labels = [(f"step {step + 1}", start_s / unit_s) for step, start_s in begins]
        _frame(axis, sites, labels, end_s / unit_s)
        axis.set_xlabel(f"working time, {unit}")
        return Curves("Time line of rounds", svg_uri(figure), _describe_work(sites, work))


def _draw_site(axis: Any, row: int, own: list[Span], unit_s: float, order: Sequence[str]) -> None:
    """Waiting in grey over the whole round, training in the site's colour upon it, a cross where it was dropped."""
    waits = [(span.start_s / unit_s, span.round_s / unit_s) for span in own]
    works = [(span.start_s / unit_s, span.work_s / unit_s) for span in own]
    axis.broken_barh(waits, (row - 0.3, 0.6), facecolors="#e4e4e4", edgecolors="white", linewidth=0.5)
    axis.broken_barh(works, (row - 0.3, 0.6), facecolors=site_style(order, own[0].site)["color"],
                     edgecolors="white", linewidth=0.5)  # fmt: skip
    crosses = [(span.start_s + span.round_s / 2) / unit_s for span in own if span.dropped]
    axis.plot(crosses, [row] * len(crosses), linestyle="none", marker="x", color="black", markersize=6)


def _frame(axis: Any, sites: Sequence[str], begins: list[tuple[str, float]], end: float) -> None:
    axis.set_yticks(range(len(sites)), labels=sites, parse_math=False)
    axis.set_ylim(len(sites) - 0.5, -0.5)
    axis.set_xlim(0, end)
    for title, start in begins:
        axis.axvline(start, color=GREY, linewidth=0.8)
        axis.text(start, -0.55, title, fontsize=7.5, color=GREY, ha="left", va="bottom", rotation=20,
                  parse_math=False)  # fmt: skip
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _describe_work(sites: Sequence[str], work: Sequence[Span]) -> str:
    parts = []
    for site in sites:
        own = [span for span in work if span.site == site]
        trained_s, waited_s = sum(span.work_s for span in own), sum(span.round_s - span.work_s for span in own)
        parts.append(f"{site}: {trained_s:.0f} s training, {waited_s:.0f} s waiting")
    return "; ".join(parts)


def svg_uri(figure: Any) -> str:
    """Returns the figure as a data URI, the same bytes for the same drawing."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
