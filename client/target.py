"""The target among a case's structures: chosen by the site's patterns, never by type, and listed with all others."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap
from operator import attrgetter

import numpy as np

from client.rivals import places, rivals_refusal
from common.errors import LabelError
from common.rtstruct import RtStruct, Structure, choose_structure, name_matches
from common.settings import fingerprint
from common.text import clean_text


@dataclass(frozen=True)
class Found:
    """What a case holds that could be its target; names are the export's own, so it stays on the site."""

    structures: tuple[str, ...] = ()
    """All of them, in the order of the files; those without contours say so."""
    chosen: str = ""
    """The target's name; empty where none could be chosen."""
    pattern: str = ""
    """Which entry of `ingest.structures` chose it."""
    structure_set: str = ""
    """The file name of the structure set that it is in."""
    number: int | None = None
    """The target's ROI number; None where none could be chosen, or for a NIfTI label."""

    @property
    def identity(self) -> str:
        """A hash that tells this target from any other in the same files; empty where none could be chosen."""
        return fingerprint(self.structure_set, self.chosen, self.number) if self.chosen else ""


def candidates(structures: Sequence[Structure], patterns: Sequence[str]) -> list[Structure]:
    """Returns the drawn structures whose name matches any pattern, in any case."""
    return [each for each in structures if each.contours and _first_match(each.name, patterns)]


def list_structures(sets: Sequence[RtStruct]) -> Found:
    """Returns what is there before anything is chosen."""
    return Found(
        tuple(_listed(each) for each_set in sets for each in each_set.structures),
        structure_set=sets[0].path.name if len(sets) == 1 else "",
    )


def without_copies(sets: Sequence[RtStruct]) -> tuple[tuple[RtStruct, ...], tuple[str, ...]]:
    """Returns each structure set once, and a warning for every copy of one: same instance, same contours."""
    kept: list[RtStruct] = []
    notes = []
    for each in sets:
        first = next((other for other in kept if _is_copy(each, other)), None)
        if first is None:
            kept.append(each)
        else:
            copy, original = places([each, first])
            notes.append(f"{copy} is a copy of {original} and counts once; leave it out of the export")
    return tuple(kept), tuple(notes)


def without_models(sets: Sequence[RtStruct], patterns: Sequence[str]) -> tuple[tuple[RtStruct, ...], tuple[str, ...]]:
    """Returns the structure sets without those that a model wrote, where others hold a candidate, and a line for each.

    Where none does, the model's stay, and are refused as targets by their name.
    """
    drawn = tuple(each for each in sets if not each.by_model)
    if not any(candidates(each.structures, patterns) for each in drawn):
        return tuple(sets), ()
    return drawn, tuple(
        f"{place} was written by fedgtv-site segment and counts for nothing beside what was drawn; leave it out "
        "of the export"
        for place, each in zip(places(sets), sets, strict=True)
        if each.by_model
    )


def second_choice(sets: Sequence[RtStruct], found: Found, patterns: Sequence[str]) -> tuple[str, ...]:
    """Returns a warning if the target that was found may be another than the one meant.

    That is where not the first pattern chose it, where another structure that could have come first is empty, or where
    one that a later pattern takes is drawn too: an old contour and its correction may lie in one structure set.
    """
    number = tuple(patterns).index(found.pattern)
    named = [each for each_set in sets for each in each_set.structures if each.name != found.chosen]
    empty = [each.name for each in named if not each.contours and _first_match(each.name, patterns[: number + 1])]
    why = [f"no drawn structure matches {' or '.join(map(repr, patterns[:number]))}"] if number else []
    why += [f"{clean_text(name, None)!r} is empty" for name in dict.fromkeys(empty)]
    later = [each.name for each in named if each.contours and _first_match(each.name, patterns[number + 1 :])]
    why += [f"{clean_text(name, None)!r} is drawn too and fits a later pattern" for name in dict.fromkeys(later)]
    if not why:
        return ()
    return (
        f"the target is {found.chosen!r} by pattern {number + 1} of ingest.structures: {', '.join(why)}; expected the "
        "primary tumour; look at it, then name the target exactly in the only pattern in site.yaml",
    )


def choose_target(
    sets: Sequence[RtStruct], patterns: Sequence[str], prefer_approved: bool = False
) -> tuple[Structure, Found]:
    """Returns the target, and how it was found.

    Of several structure sets that hold a candidate, the only approved one counts with `prefer_approved`.

    Raises:
        LabelError: as `choose_structure`, or several structure sets hold a candidate: which one is valid, the newer or
            the approved one, only the site can tell; or a model made them.
    """
    holding = [each for each in sets if candidates(each.structures, patterns)]
    approved = [each for each in holding if each.is_approved]
    if prefer_approved and len(approved) == 1:
        holding = approved
    if len(holding) > 1:
        raise LabelError(rivals_refusal([(each, candidates(each.structures, patterns)) for each in holding]))
    if holding and holding[0].by_model:
        raise LabelError(
            f"{places(holding)[0]} was written by fedgtv-site segment, and a model's output is no truth; expected "
            "contours that a physician drew or approved; export the structure set from the planning system"
        )
    structures = [each for each_set in holding or sets for each in each_set.structures]
    target = choose_structure(structures, patterns)
    listed = list_structures(sets).structures
    pattern = _first_match(target.name, patterns)
    return target, Found(listed, clean_text(target.name, None), pattern, holding[0].path.name, target.number)


def _first_match(name: str, patterns: Sequence[str]) -> str:
    return next((pattern for pattern in patterns if name_matches(pattern, name)), "")


def _listed(structure: Structure) -> str:
    return (clean_text(structure.name, None).strip() or "(no name)") + ("" if structure.contours else " (empty)")


def _is_copy(one: RtStruct, other: RtStruct) -> bool:
    return (
        bool(one.sop_uid)
        and one.sop_uid == other.sop_uid
        and len(one.structures) == len(other.structures)
        and all(starmap(_is_same, zip(one.structures, other.structures, strict=True)))
    )


def _is_same(one: Structure, other: Structure) -> bool:
    facts = attrgetter("number", "name", "exclusive", "num_left_out", "frame_uid")
    return facts(one) == facts(other) and (
        len(one.contours) == len(other.contours)
        and all(starmap(np.array_equal, zip(one.contours, other.contours, strict=True)))
    )
