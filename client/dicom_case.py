"""One case of a DICOM export: a CT series, the structure sets drawn on it, and a second series if there is one."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.completeness import check_drawn_on, check_where_drawn
from client.loaded_case import (
    GRID_TOLERANCE_MM,
    LoadedCase,
    Tell,
    bridged,
    check_overlap,
    grid_info,
    read_truth,
)
from client.scanner_names import known_kernel, known_manufacturer
from client.target import choose_target, list_structures, second_choice, without_copies, without_models
from common.alignment import described
from common.dicom import CtSeries, read_ct_series
from common.errors import InputError, LabelError
from common.rtstruct import Structure, draw_structure, read_rtstruct
from common.settings import fingerprint
from common.site_config import IngestConfig
from common.text import counted
from common.volume import Geometry, Volume


@dataclass(frozen=True)
class DicomCase:
    """A CT series, the structure sets drawn on it, and a second series if there is one."""

    name: str
    """For messages: the folder of the series drawn on, with the series where the folder holds several."""
    key: str
    """SeriesInstanceUID of the series drawn on, the plain CT's where both are."""
    patient_key: str
    """PatientID, or the study where that is empty."""
    ct_files: tuple[Path, ...]
    """Of the plain CT."""
    structure_sets: tuple[Path, ...]
    pairing: str = ""
    """How the structure sets were paired with the series."""
    contrast_files: tuple[Path, ...] = ()
    drawn_on_contrast: tuple[Path, ...] = ()
    """Those of the structure sets that were drawn on the second series."""
    other_key: str = ""
    """SeriesInstanceUID of its other series: a structure set drawn on that one may have made this case before."""
    truth: Path | None = None
    """A phantom's true mask, beside the folder of its slices."""
    frame_uid: str = ""
    """Frame of reference of the plain CT, or its study where it has none: scans of one session share it."""
    warnings: tuple[str, ...] = ()
    refusal: str = ""
    """Why it cannot be a case, found out before it was read; empty if it can."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the case is made of."""
        truth = [self.truth] if self.truth else []
        return (*self.ct_files, *self.contrast_files, *self.structure_sets, *truth)

    @property
    def origin(self) -> Path:
        """The folder that tells where the case came from."""
        return self.ct_files[0].parent

    @property
    def images(self) -> str:
        """The images in words."""
        return counted(len(self.ct_files), "slice") + (f" + {len(self.contrast_files)}" if self.contrast_files else "")

    def decided_by(self, config: IngestConfig) -> tuple[str, ...]:
        """What decides what becomes of the files, but for the choice of the target: their parts, and what is warned."""
        parts = (len(self.ct_files), len(self.contrast_files), len(self.structure_sets))
        on_contrast = (str(self.structure_sets.index(path)) for path in self.drawn_on_contrast)
        return (*map(str, parts), ",".join(on_contrast), str(config.interpolate_gaps), self.refusal, *self.warnings)

    def looked_for(self, config: IngestConfig) -> str:
        """Returns a hash of what is called the target."""
        return fingerprint(str(config.prefer_approved), *config.structures)

    def find_target(self, config: IngestConfig, tell: Tell) -> Structure:
        """Reads the structure sets and returns the target; LabelError."""
        return self._target(config, tell)[1]

    def load(self, config: IngestConfig, tell: Tell) -> LoadedCase:
        """Reads the target, then the images; ImageError or LabelError."""
        path, target, remarks = self._target(config, tell)
        if self.refusal:
            raise InputError(self.refusal)
        plain = read_ct_series(self.ct_files)
        geometry = plain.volume.geometry
        contrast = [read_ct_series(self.contrast_files)] if self.contrast_files else []
        for each in contrast:
            self._check_contrast(each.volume.geometry, geometry, path)
        drawn_on = contrast[0] if path in self.drawn_on_contrast else plain
        check_drawn_on(path, target, drawn_on.sop_uids)
        check_where_drawn(path, target, drawn_on)
        _check_same_frame(target, plain)
        drawn = draw_structure(target, geometry)
        mask, warnings = bridged(drawn.mask, geometry, config)
        return LoadedCase(
            images=tuple(each.volume for each in (plain, *contrast)),
            label=Volume(mask.astype(np.uint8), geometry),
            truth=read_truth(self.truth, geometry),
            info=grid_info(geometry) | _scanner(plain),
            warnings=(*self.warnings, *remarks, *drawn.remarks, *warnings),
        )

    def _target(self, config: IngestConfig, tell: Tell) -> tuple[Path, Structure, tuple[str, ...]]:
        """Returns the file that holds the target, the target, and warnings of how it was chosen."""
        sets, copies = without_copies([read_rtstruct(path) for path in self.structure_sets])
        tell(list_structures(sets))
        sets, models = without_models(sets, config.structures)
        target, found = choose_target(sets, config.structures, config.prefer_approved)
        tell(found)
        path = next(each.path for each in sets if target in each.structures)
        return path, target, (*copies, *models, *second_choice(sets, found, config.structures))

    def _check_contrast(self, contrast: Geometry, plain: Geometry, drawn: Path) -> None:
        """Raises if image 2 lies elsewhere, or the target, which is in the file `drawn`, on another grid of its."""
        if drawn in self.drawn_on_contrast and not contrast.matches(plain, GRID_TOLERANCE_MM):
            raise LabelError(
                f"the structures are drawn on the contrast CT ({described(contrast)}), whose grid is not the plain "
                f"CT's ({described(plain)}); expected them on the plain CT; copy them to it in the planning system"
            )
        check_overlap(plain, contrast)


def _check_same_frame(structure: Structure, series: CtSeries) -> None:
    """Raises if the target's points are in another frame of reference than the CT; without one nothing is known."""
    if structure.frame_uid and series.frame_uid and structure.frame_uid != series.frame_uid:
        raise LabelError(
            f"structure {structure.name!r} is in the frame of reference {structure.frame_uid}; expected the CT's, "
            f"{series.frame_uid}; export the CT that it was drawn on"
        )


def _scanner(series: CtSeries) -> dict[str, str]:
    """Returns manufacturer and kernel, as far as they are on our lists."""
    manufacturer = known_manufacturer(series.header.get("Manufacturer"))
    kernel = known_kernel(series.header.get("ConvolutionKernel"))
    return ({"manufacturer": manufacturer} if manufacturer else {}) | ({"kernel": kernel} if kernel else {})
