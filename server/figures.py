"""The report's figures: the pictures of single cases that a `pictures` step brought, each with what it shows."""

import base64
from pathlib import Path

from common.errors import InputError
from server.evaluation_reply import PNG_SIGNATURE
from server.run_record import DrawnLine, RunRecord

SHOWS = {
    "planes": "contour (blue, solid) and prediction (orange, dashed) in three planes through the contour's centre",
    "features": "the finest skip connection's channels that vary most, before and after the ASPP where there is one",
    "boundary": "the predicted probability over the image, with contour (blue) and prediction (orange, dashed)",
}


def figures(record: RunRecord) -> list[tuple[str, str]]:
    """Returns caption and data URI of every picture, in the order in which they came."""
    return [
        (_caption(picture), png_uri(record.folder / picture.file))
        for line in record.pictures
        for picture in line.pictures
    ]


def figures_withheld(record: RunRecord) -> list[str]:
    """Returns a sentence for each site that sent no pictures when it was asked."""
    return [f"No pictures of {site}: {why}." for line in record.pictures for site, why in sorted(line.withheld.items())]


def _caption(picture: DrawnLine) -> str:
    place = f"{picture.site}, test case {picture.case}, the {picture.rank} by {picture.models[0]}"
    shows = SHOWS.get(picture.what, picture.what)
    return f"{place}: {shows}; rows from above: {', '.join(picture.models)}"


def png_uri(path: Path) -> str:
    """Returns a picture as data URI (InputError: it is missing or no PNG)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); restore it, or run the experiment anew"
        ) from error
    if not data.startswith(PNG_SIGNATURE):
        raise InputError(f"{path}: begins with {data[:8]!r}; expected a PNG; remove the file and report again")
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
