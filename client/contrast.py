"""A case's two images: the plain CT, and the contrast-enhanced one if the site's configuration asks for it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from client.series import Series
from common.errors import ImageError


@dataclass(frozen=True, eq=False)
class Images:
    """The series of a case by channel."""

    plain: Series
    """Image 1, whose grid the target gets."""
    contrast: Series | None = None
    """Image 2."""
    warnings: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[Series, ...]:
        """One or two, by channel."""
        return (self.plain, self.contrast) if self.contrast else (self.plain,)


def choose_images(drawn: Series, series: Iterable[Series], patterns: Sequence[str]) -> Images:
    """Returns the images of the case whose structures were drawn on the series `drawn`.

    Only series of its patient count. The first of `patterns` (`ingest.contrast`) whose description matches exactly one
    other series in the frame of reference gives image 2. Where `drawn` is the contrast-enhanced series itself, the only
    other series in its frame of reference that matches no pattern is image 1. Where no description matches, the case
    has one image and a warning.

    Raises:
        ImageError: several series match, or all that match lie in another frame of reference; or `drawn` is enhanced
            and there is not exactly one plain CT.
    """
    if not patterns:
        return Images(drawn)
    others = [each for each in series if each.uid != drawn.uid and each.patient_key == drawn.patient_key]
    if drawn.described_as(patterns):
        return Images(_plain(drawn, others, patterns), drawn)
    for pattern in patterns:
        matching = [each for each in others if each.described_as([pattern]) and _same_frame(each, drawn)]
        if len(matching) == 1:
            return Images(drawn, matching[0])
        if matching:
            raise ImageError(
                f"ingest.contrast {pattern!r} matches {len(matching)} CT series: {_named(matching)}; expected one; "
                "describe it exactly in site.yaml"
            )
    elsewhere = [each for each in others if each.described_as(patterns)]
    if elsewhere:
        raise ImageError(
            f"contrast CT {_named(elsewhere)} lies in another frame of reference than {_named([drawn])}; expected the "
            "same; register it in the planning system and export the result, or change ingest.contrast in site.yaml"
        )
    found = f"found {_named(others)}" if others else "found none beside it"
    return Images(
        drawn,
        warnings=(
            f"one image only: no CT series matches ingest.contrast; {found}; networks of two images will leave this "
            "case out; export the contrast CT, or describe it in site.yaml",
        ),
    )


def _plain(drawn: Series, others: Sequence[Series], patterns: Sequence[str]) -> Series:
    plain = [each for each in others if _same_frame(each, drawn) and not each.described_as(patterns)]
    if len(plain) != 1:
        raise ImageError(
            f"the structures are drawn on the contrast CT {_named([drawn])}, and {len(plain)} plain CT series share "
            "its frame of reference; expected one; export it beside this one"
        )
    return plain[0]


def _same_frame(one: Series, other: Series) -> bool:
    return bool(one.frame_uid) and one.frame_uid == other.frame_uid


def _named(series: Sequence[Series]) -> str:
    return ", ".join(f"{each.name} {each.description!r}" for each in series)
