"""The metrics of the matrix: the ledger's keys and units, and how they are shown."""

from dataclasses import dataclass

from server.run_record import Spread

NONE = "–"


def signed(value: float, decimals: int) -> str:
    """Returns a difference with its sign; what rounds to nothing is `+0.0`."""
    return f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Metric:
    """How one metric is called and shown; `factor` turns the ledger's unit into the shown one."""

    key: str
    title: str
    unit: str
    factor: float
    meaning: str

    @property
    def is_distance(self) -> bool:
        """Distances are undefined where exactly one of the two masks is empty."""
        return self.unit == "mm"

    def show(self, value: float | None, decimals: int) -> str:
        """Returns the value in the shown unit, or an en dash."""
        return NONE if value is None else f"{value * self.factor:.{decimals}f}"

    def show_spread(self, spread: Spread | None, decimals: int) -> str:
        """Returns `mean ± SD`, or an en dash where there is no mean."""
        if spread is None or spread.mean is None:
            return NONE
        return f"{self.show(spread.mean, decimals)} ± {self.show(spread.sd, decimals)}"

    def show_interval(self, spread: Spread | None, decimals: int) -> str:
        """Returns `70.1 to 74.2`, or nothing where there is no interval."""
        if spread is None or spread.low is None or spread.high is None:
            return ""
        return f"{self.show(spread.low, decimals)} to {self.show(spread.high, decimals)}"

    @property
    def difference_unit(self) -> str:
        """In which a difference is told: per cent points, or the metric's own unit."""
        return self.unit if self.is_distance else "points"


METRICS = (
    Metric("dsc", "DSC", "%", 100.0, "Dice similarity of prediction and contour; 100 is identity"),
    Metric("ppv", "PPV", "%", 100.0, "share of the predicted volume that lies in the contour"),
    Metric("sen", "SEN", "%", 100.0, "share of the contoured volume that was found"),
    Metric("assd_mm", "ASSD", "mm", 1.0, "mean of the two directed mean surface distances; 0 is identity"),
    Metric("hd95_mm", "HD95", "mm", 1.0, "larger of the two directed 95th percentiles of surface distance"),
)
METRIC = {metric.key: metric for metric in METRICS}
