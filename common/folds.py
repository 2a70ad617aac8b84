"""Cross-validation: a site's patients dealt into parts, each of which tests once while the others train."""

from collections.abc import Iterable, Mapping

from common.dataset import CaseEntry, Part, draw, part_size
from common.split import SplitConfig

NOT_DEALT: Mapping[str, int] = {}


def deal_patients(
    entries: Iterable[CaseEntry], config: SplitConfig, earlier: Mapping[str, int] = NOT_DEALT
) -> dict[str, int]:
    """Returns the part, from 1 to `folds`, of every patient with a labelled case; the same for any order of `entries`.

    Whoever has a part in `earlier` keeps it, also while their cases are away. New patients, in the order of the seeded
    draw, go where the fewest are of those who are there now, of equals to the first part. So a first deal gives parts
    that differ by one patient at most. With fewer patients than folds the last parts are empty.
    """
    present = {entry.patient_id for entry in entries if entry.label is not None}
    parts = dict(earlier)
    sizes = {part: sum(earlier.get(patient) == part for patient in present) for part in range(1, config.folds + 1)}
    for patient in sorted(present - earlier.keys(), key=lambda patient: draw(f"{config.seed}/folds", patient)):
        parts[patient] = min(sizes, key=lambda part: (sizes[part], part))
        sizes[parts[patient]] += 1
    return parts


def assign_fold(
    entries: Iterable[CaseEntry], config: SplitConfig, dealt: Mapping[str, int], earlier: Mapping[str, Part]
) -> dict[str, Part]:
    """Returns the part of every dealt patient in fold `config.fold`: its part tests, and of the others some validate.

    `earlier` is what the fold gave before: whoever trained or validated does so for good. New patients, in an order
    drawn for each fold, fill what validation lacks of `validation_fraction`; one at least trains.
    """
    tests = {patient for patient, part in dealt.items() if part == config.fold}
    present = {entry.patient_id for entry in entries if entry.label is not None} - tests
    known = [earlier[patient] for patient in present if patient in earlier]
    new = sorted(present - earlier.keys(), key=lambda patient: draw(f"{config.seed}/fold-{config.fold}", patient))
    wanted = part_size(len(present), config.validation_fraction, len(present) - 1) - known.count("validation")
    num_validation = max(0, min(wanted, len(new) - ("train" not in known)))
    parts: dict[str, Part] = dict.fromkeys(new, "train")
    parts |= dict.fromkeys(new[:num_validation], "validation")
    return dict(earlier) | parts | dict.fromkeys(tests, "test")
