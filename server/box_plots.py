"""DSC by model and site: a box where the site let the box's numbers go, else the mean, its interval and the SD."""

from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from server.curves import GREY, SVG, Curves, quiet, set_margins, site_style, svg_uri
from server.matrix import Matrix
from server.metric import METRIC, NONE
from server.run_record import Spread


def box_plots(matrix: Matrix) -> Curves | None:
    """Returns one panel a site with one row a model; None where no DSC is known."""
    sites = [site for site in matrix.sites if any(matrix.spread(model, site, "dsc") for model in matrix.models)]
    if not sites:
        return None
    longest = max(map(len, matrix.models))
    with rc_context(SVG):
        figure = Figure(figsize=(0.3 + 0.075 * longest + 3.0 * len(sites), 0.9 + 0.24 * len(matrix.models)))
        set_margins(figure, left=0.2 + 0.075 * longest, right=0.15, bottom=0.45, top=0.3, between=0.08)
        panels = figure.subplots(1, len(sites), squeeze=False, sharex=True, sharey=True)[0]
        for axis, site in zip(panels, sites, strict=True):
            _draw_site(axis, matrix, site)
        panels[0].set_yticks(range(len(matrix.models)), labels=matrix.models, parse_math=False)
        panels[0].set_ylim(len(matrix.models) - 0.5, -0.5)
        return Curves(_title(matrix, sites), svg_uri(figure), _describe(matrix, sites))


def has_box(spread: Spread) -> bool:
    """Returns whether the site told everything that a box is drawn from."""
    return None not in (spread.q1, spread.median, spread.q3, spread.whisker_low, spread.whisker_high)


def _draw_site(axis: Any, matrix: Matrix, site: str) -> None:
    colour = site_style(matrix.sites, site)["color"]
    for row, model in enumerate(matrix.models):
        spread = matrix.spread(model, site, "dsc")
        if spread and has_box(spread):
            _draw_box(axis, row, spread, colour)
        elif spread:
            _draw_mean(axis, row, spread, colour)
    axis.set_title(site, fontsize=9.5, loc="left", parse_math=False)
    axis.set_xlabel("DSC, %")
    quiet(axis, "x")
    axis.tick_params(axis="y", length=0)


def _draw_box(axis: Any, row: int, spread: Spread, colour: str) -> None:
    keys = {"q1": "q1", "med": "median", "q3": "q3", "whislo": "whisker_low", "whishi": "whisker_high", "mean": "mean"}
    numbers = {key: 100 * getattr(spread, name) for key, name in keys.items()}
    axis.bxp(
        [numbers], positions=[row], widths=0.55, orientation="horizontal", showfliers=False, showmeans=True,
        manage_ticks=False, patch_artist=True, boxprops={"facecolor": colour, "alpha": 0.35},
        medianprops={"color": "black"},
        meanprops={"marker": "D", "markersize": 3, "markerfacecolor": "white", "markeredgecolor": "black"},
    )  # fmt: skip


def _draw_mean(axis: Any, row: int, spread: Spread, colour: str) -> None:
    """A thin line over mean ± SD, a thick one over the mean's interval."""
    mean = 100 * (spread.mean or 0.0)
    if spread.sd is not None:
        axis.plot([mean - 100 * spread.sd, mean + 100 * spread.sd], [row, row], color=colour, linewidth=1)
    if spread.low is not None and spread.high is not None:
        axis.plot([100 * spread.low, 100 * spread.high], [row, row], color=colour, linewidth=4, alpha=0.6)
    axis.plot([mean], [row], marker="D", markersize=3, markerfacecolor="white", markeredgecolor=GREY)


def _title(matrix: Matrix, sites: list[str]) -> str:
    """Says which sites have no boxes."""
    cells = {site: [matrix.spread(model, site, "dsc") for model in matrix.models] for site in sites}
    without = [site for site in sites if any(spread and not has_box(spread) for spread in cells[site])]
    boxes = "Box: quartiles; bar: median; diamond: mean; whiskers as the site told them."
    if not without:
        return f"DSC, {matrix.split} cases. {boxes}"
    names = ", ".join(without)
    return (
        f"DSC, {matrix.split} cases. {boxes} {names} told no box for some models: there the diamond is the mean, the "
        "thick line its 95 % interval, the thin line one SD either way."
    )


def _describe(matrix: Matrix, sites: list[str]) -> str:
    told = [
        f"{model} at {site} {METRIC['dsc'].show_spread(matrix.spread(model, site, 'dsc'), matrix.decimals([site]))}"
        for site in sites
        for model in matrix.models
    ]
    return "; ".join(text for text in told if not text.endswith(NONE))
