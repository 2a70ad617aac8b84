"""How three planning systems write the same case: makers, kernels, numbers, names, and the liberties they take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """One institution's scanner and planning system, as their headers show them."""

    scanner: tuple[str, str, str]
    """Manufacturer, model and convolution kernel of the CT."""
    planner: tuple[str, str, str]
    """Manufacturer, model and software version in the RTSTRUCT."""
    structure_set_label: str
    intercept: int
    """RescaleIntercept: stored values are HU minus this."""
    head_first: bool
    """Whether instance numbers start at the head."""
    target: str
    """Name of the target structure."""
    body: str
    """Name of the body outline."""
    margin: str
    """Name of a ring round the target, or of the target with a margin."""
    target_type: str
    """RTROIInterpretedType of the target; not every system gives one."""
    keyholes: bool
    """Whether holes are joined to their border by a cut, in one polygon."""
    matching_references: bool
    """Whether contours refer to the SOP instances of this series."""


DIALECTS = {
    "A": Dialect(
        scanner=("SIEMENS", "SOMATOM Definition AS", "B31f"),
        planner=("Varian Medical Systems", "ARIA RadOnc", "15.6"),
        structure_set_label="NPX_1",
        intercept=-1024,
        head_first=False,
        target="GTVnx",
        body="BODY",
        margin="CTV_60",
        target_type="GTV",
        keyholes=False,
        matching_references=True,
    ),
    "B": Dialect(
        scanner=("Philips", "Brilliance Big Bore", "YC"),
        planner=("ADAC", "Pinnacle3", "9.10"),
        structure_set_label="POIandROI",
        intercept=-1000,
        head_first=True,
        target="GTV-T",
        body="External",
        margin="ring 10mm",
        target_type="",
        keyholes=True,
        matching_references=True,
    ),
    "C": Dialect(
        scanner=("GE MEDICAL SYSTEMS", "LightSpeed RT16", "STANDARD"),
        planner=("MIM Software Inc.", "MIM", "7.1.4"),
        structure_set_label="RTstruct_CT",
        intercept=0,
        head_first=True,
        target="gtv_p",
        body="Skin",
        margin="ctv_p",
        target_type="ORGAN",
        keyholes=False,
        matching_references=False,
    ),
}
"""A like Eclipse, B like Pinnacle, C like MIM after an anonymiser gave the slices new UIDs."""
