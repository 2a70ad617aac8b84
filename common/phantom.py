"""Synthetic planning CTs of nasopharyngeal carcinoma: three institutions, seeded, with the truth beside the contour.

The anatomy is drawn in millimetres (`phantom_body`, `phantom_bones`, `phantom_airways`), so that every scale shows the
same patient. The tumour (`phantom_tumour`) has the HU of nodes, tonsils and mucosa: no threshold finds it.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError
from common.phantom_airways import paint_walls
from common.phantom_body import MUSCLE, SKIN_MM, body_level, paint_body, paint_brain, paint_soft_tissue
from common.phantom_bones import (
    CAVITY,
    paint_face,
    paint_mastoids,
    paint_neck_and_chest,
    paint_skull,
    paint_skull_base,
    paint_spine,
)
from common.phantom_canvas import Canvas, Pose
from common.phantom_couch import couch_of, flatten_on_couch, paint_couch
from common.phantom_delineation import delineate
from common.phantom_institutions import Institution, InstitutionName, institution_named
from common.phantom_patient import Patient, draw_patient
from common.phantom_scanner import scan
from common.phantom_shapes import Cut, Field, Grown, Shape
from common.phantom_tumour import EDGE_MM, Tumour, grow, lumen, paint_tumour, tumour_level
from common.volume import Geometry, Volume

Mask = NDArray[np.bool_]
NUM_PIXELS = 512
VERTEX_MM, FIELD_CENTRE_Y_MM = 136.0, 25.0
"""Anatomical z of the top of the head, and y of the middle of the field of view."""
LOWEST_HU, HIGHEST_HU = -1024, 3071
AIR_BELOW_HU = -500.0
"""Half way between air and tissue: voxels below it hold more air than tissue."""
BULGE_MM = 20.0
"""Organs as drawn reach less far than this beyond the skin."""
NECK_MM = (-150.0, -50.0)
"""Anatomical z between which the neck is narrowest."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic case; arrays are (z, y, x) on the image's grid, whose axes are LPS."""

    image: Volume
    """HU as int16."""
    truth: Mask
    """The tumour as drawn."""
    delineated: Mask
    """The tumour as the institution's hand contours it: what the RTSTRUCT holds."""
    body: Mask
    """The patient with all air inside, without couch, head rest and mask shell."""
    couch: Mask
    """Couch, head rest and mask shell."""
    decoys: Mask
    """Tissue of the tumour's HU that is none."""
    neck_slice: int
    """Index z of the neck's smallest body area."""
    stage: str
    """T1 to T4."""
    institution: InstitutionName
    seed: int
    info: dict[str, Any] = field(default_factory=dict)
    """Facts of the drawing: side, enhanced, couch_touches, metal, tumour_hu, muscle_hu."""


def make_phantom(institution: str, seed: int, scale: float = 1.0, contrast: float = 1.0) -> Phantom:
    """Returns a synthetic case; the same arguments give the same bytes.

    Args:
        institution: "A", "B" or "C" (`phantom_institutions`).
        seed: of the patient; the same seed is another patient at another institution.
        scale: of the in-plane grid, 512 pixels at 1; slices coarsen by its square root (0.25: 128 pixels of four
            times the size, slices of 6 mm), since they are thick to begin with. The field of view stays.
        contrast: factor on the HU by which tumour and decoys differ from muscle.

    Raises:
        ConfigError: an unknown institution, a negative seed, or a scale or contrast out of range.
    """
    site = institution_named(institution)
    _check(seed, scale, contrast)
    patient_rng, tissue_rng, tumour_rng, hand_rng, scanner_rng = _generators(site, seed)
    patient = draw_patient(site, patient_rng)
    tumour = grow(patient, tumour_rng)
    geometry, pose = _grid(site, patient, scale, patient_rng)
    straight = Canvas(geometry, Pose((1.0, 1.0, 1.0), 0.0, pose.origin_mm))
    canvas = Canvas(geometry, pose, straight.hu)

    level = body_level(canvas, patient)
    flatten_on_couch(couch_of(site), straight, level)
    body = level > 0
    couch = paint_couch(straight, site, patient, level)
    _paint_anatomy(canvas, patient, tumour, level, tissue_rng)
    tumour_hu = muscle_hu(patient) + contrast * tumour.difference_hu
    truth, delineated, decoys = _paint_disease(canvas, site, tumour, tumour_hu, hand_rng)
    scan(canvas, site, patient, level, scanner_rng)
    return Phantom(
        image=Volume(np.clip(np.rint(canvas.hu), LOWEST_HU, HIGHEST_HU).astype(np.int16), geometry),
        truth=truth,
        delineated=delineated,
        body=body,
        couch=couch,
        decoys=decoys,
        neck_slice=_neck_slice(body, canvas),
        stage=patient.stage,
        institution=site.name,
        seed=seed,
        info={"tumour_hu": tumour_hu, "muscle_hu": muscle_hu(patient), **_facts(patient)},
    )


def muscle_hu(patient: Patient) -> float:
    """Returns the drawn HU of muscle near the nasopharynx."""
    return MUSCLE + (8.0 if patient.enhanced else 0.0)


def _check(seed: int, scale: float, contrast: float) -> None:
    if seed < 0:
        raise ConfigError(f"phantom seed is {seed}; expected 0 or more; give another seed")
    if not 0.1 <= scale <= 1:
        raise ConfigError(f"phantom scale is {scale}; expected 0.1 to 1; 0.25 makes 128 x 128 pixels")
    if not 0 <= contrast <= 100:
        raise ConfigError(f"phantom contrast is {contrast}; expected 0 to 100; 1 is as on real scans")


def _generators(site: Institution, seed: int) -> list[np.random.Generator]:
    """Returns one generator a purpose: the grid's size changes the noise, but never the patient."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence([seed, ord(site.name)]).spawn(5)]


def _grid(site: Institution, patient: Patient, scale: float, rng: np.random.Generator) -> tuple[Geometry, Pose]:
    """Returns the grid, its slices running from the shoulders to above the vertex, and where the patient lies."""
    num_pixels = round(NUM_PIXELS * scale)
    pixel_mm = site.pixel_mm * NUM_PIXELS / num_pixels
    num_slices = round(patient.num_slices * scale**0.5)
    slice_mm = patient.slice_mm * patient.num_slices / num_slices
    x, y, z = (float(value) for value in rng.normal(0, (6.0, 6.0, 120.0)).round(1))
    top = z + VERTEX_MM * patient.stretch[2] + patient.top_mm
    half_view = pixel_mm * (num_pixels - 1) / 2
    return (
        Geometry(
            size=(num_slices, num_pixels, num_pixels),
            spacing_mm=(slice_mm, pixel_mm, pixel_mm),
            origin_mm=(-half_view, FIELD_CENTRE_Y_MM - half_view, top - slice_mm * (num_slices - 1)),
        ),
        Pose(patient.stretch, patient.yaw, (x, y, z)),
    )


def _paint_anatomy(canvas: Canvas, patient: Patient, tumour: Tumour, level: Field, rng: np.random.Generator) -> None:
    """Paints from the skin inwards; what comes later lies on top, but no organ breaks through the skin."""
    paint_body(canvas, level, rng)
    rim = np.abs(level + np.float32(BULGE_MM / 2 - SKIN_MM)) < BULGE_MM / 2
    skin_and_air = canvas.hu[rim]
    paint_soft_tissue(canvas, patient)
    paint_skull(canvas)
    paint_face(canvas, patient)
    paint_walls(canvas)
    paint_skull_base(canvas)
    paint_mastoids(canvas, rng)
    paint_spine(canvas)
    paint_brain(canvas, CAVITY, rng)
    paint_neck_and_chest(canvas)
    canvas.hu[rim] = skin_and_air
    canvas.paint_all(lumen(tumour), -1000.0)


def _paint_disease(
    canvas: Canvas, site: Institution, tumour: Tumour, tumour_hu: float, rng: np.random.Generator
) -> tuple[Mask, Mask, Mask]:
    """Paints tumour and decoys; returns the masks of tumour, contour and decoys on the whole grid."""
    window, level = tumour_level(canvas, tumour)
    truth, delineated, decoys = (np.zeros(canvas.geometry.size, np.bool_) for _ in range(3))
    truth[window] = level > 0
    for shape in tumour.decoys:
        _paint_decoy(canvas, Cut(shape, (Grown(tumour.mass, 3.0),)), tumour_hu, decoys)
    decoys &= ~truth
    air = canvas.hu[window] < AIR_BELOW_HU
    paint_tumour(canvas, window, level, tumour_hu)
    delineated[window] = delineate(canvas, window, level, air, site, rng)
    return truth, delineated, decoys


def _paint_decoy(canvas: Canvas, shape: Shape, hu: float, mask: Mask) -> None:
    window = canvas.window(shape)
    if window is not None:
        level = canvas.level(shape, window)
        canvas.blend(window, canvas.coverage(level, EDGE_MM), hu)
        mask[window] |= level > 0


def _neck_slice(body: Mask, canvas: Canvas) -> int:
    """Returns the slice of the smallest body area between jaw and shoulders."""
    z_mm = canvas.coordinates(canvas.everywhere)[0].ravel()
    areas = np.where((z_mm > NECK_MM[0]) & (z_mm < NECK_MM[1]), body.sum(axis=(1, 2)), body[0].size)
    return int(np.argmin(areas))


def _facts(patient: Patient) -> dict[str, Any]:
    return {
        "side": "left" if patient.side > 0 else "right",
        "enhanced": patient.enhanced,
        "couch_touches": patient.couch_touches,
        "metal": patient.metal,
    }
