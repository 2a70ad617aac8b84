"""The phantom's gross tumour volume: nodules on the wall of the nasopharynx, what they respect, and their decoys."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.phantom_airways import NASOPHARYNX, air
from common.phantom_bones import ATLAS, CAVITY, CENTRAL_BASE, LATERAL_BASE
from common.phantom_canvas import Canvas, SmoothNoise, Window
from common.phantom_patient import Patient
from common.phantom_shapes import (
    Box,
    Capsule,
    Common,
    Cut,
    Either,
    Ellipsoid,
    Field,
    Grown,
    Mirrored,
    Shape,
    both_sides,
)

EXTENT_MM = ((61.0, 7.5), (39.0, 9.0), (39.5, 11.0))
"""Mean and SD along x, y, z before bone and air are cut out; what is left has about the paper's 61 x 41 x 45 mm."""
STAGE_SIZE = {"T1": 0.84, "T2": 0.97, "T3": 1.03, "T4": 1.08}
EDGE_MM = 2.5
"""Width of the tumour's blurred border."""
_CENTRE = (12.0, 3.0, 1.0)
# Centre and radii as shares of half the extent, the tumour on the left; the first two always grow.
_NODULES = (
    ((-0.15, 0.40, 0.00), (0.75, 0.55, 0.85)),  # posterior wall
    ((0.35, 0.10, 0.05), (0.60, 0.70, 0.80)),  # lateral wall and fossa
    ((0.62, -0.20, -0.10), (0.40, 0.52, 0.65)),  # parapharyngeal space
    ((0.00, 0.10, 0.50), (0.60, 0.60, 0.48)),  # roof
    ((0.25, -0.58, 0.10), (0.42, 0.42, 0.50)),  # towards the choana
    ((-0.62, 0.35, -0.05), (0.38, 0.42, 0.55)),  # across the midline
)


@dataclass(frozen=True)
class Tumour:
    """A tumour's shape before any grid exists."""

    mass: Shape
    """Everything it may reach."""
    bulge: Shape
    """The part that grows into the lumen and displaces its air."""
    obstacles: tuple[Shape, ...]
    """Bone and brain that its stage respects."""
    decoys: tuple[Shape, ...]
    """Other tissue of the same HU."""
    ripple: SmoothNoise
    difference_hu: float
    """Against muscle of the same scan, at contrast 1."""


def grow(patient: Patient, rng: np.random.Generator) -> Tumour:
    """Returns a tumour of the patient's side and stage; the same generator state gives the same tumour."""
    nodules = _scaled(_chosen_nodules(rng), _extent(patient, rng), rng)
    mass = Either((*nodules, *_spread(patient, rng)))
    bulge = Either((Grown(nodules[0], -5.0), Grown(nodules[1], -3.0)))
    if patient.side < 0:
        mass, bulge = Either((Mirrored(mass),)), Either((Mirrored(bulge),))
    difference = rng.uniform(20, 30) if patient.enhanced else rng.uniform(10, 15)
    return Tumour(
        mass=mass,
        bulge=bulge,
        obstacles=_obstacles(patient),
        decoys=_decoys(patient, rng),
        ripple=SmoothNoise(rng, 11.0, (90.0, 90.0, 90.0)),
        difference_hu=float(difference),
    )


def lumen(tumour: Tumour) -> tuple[Shape, ...]:
    """Returns the air spaces with the tumour bulging into the nasopharynx."""
    others = air()[len(NASOPHARYNX) :]
    return (*(Cut(part, (tumour.bulge,)) for part in NASOPHARYNX), *others)


def tumour_level(canvas: Canvas, tumour: Tumour) -> tuple[Window, Field]:
    """Returns a window and the tumour's level there: rippled, and cut where there is air or bone it respects."""
    window = canvas.window(tumour.mass, 12.0)
    assert window is not None, "every grid shows the nasopharynx"
    level = canvas.level(tumour.mass, window) + np.float32(1.2) * canvas.noise(tumour.ripple, window)
    for shape in (*lumen(tumour), *tumour.obstacles):
        near = canvas.window(shape)
        if near is not None:
            np.minimum(level, -canvas.level(shape, window), out=level)
    return window, _largest_piece(level)


def paint_tumour(canvas: Canvas, window: Window, level: Field, hu: float) -> None:
    """Blends the tumour in; bone that it invades is eroded, not replaced."""
    share = canvas.coverage(level, EDGE_MM)
    bone = np.clip((canvas.hu[window] - 150) / 100, 0, 1)
    share *= 1 - np.float32(0.35) * bone
    canvas.blend(window, share, hu)


def _extent(patient: Patient, rng: np.random.Generator) -> NDArray[np.float64]:
    mean, sd = np.array(EXTENT_MM).T
    return np.asarray(mean + sd * np.clip(rng.standard_normal(3), -2, 2)) * STAGE_SIZE[patient.stage]


def _chosen_nodules(rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns three to six nodules (n, 2, 3), each a little displaced."""
    more = rng.permutation(np.arange(2, 6))[: rng.integers(1, 5)]
    chosen = np.array(_NODULES)[[0, 1, *sorted(more)]]
    return chosen + rng.uniform(-0.08, 0.08, chosen.shape)


def _scaled(
    nodules: NDArray[np.float64], extent: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Ellipsoid, ...]:
    """Returns ellipsoids that together fill the extent."""
    low = (nodules[:, 0] - nodules[:, 1]).min(axis=0)
    high = (nodules[:, 0] + nodules[:, 1]).max(axis=0)
    scale = extent / (high - low)
    centre = np.array(_CENTRE) + rng.normal(0, (2.0, 1.5, 2.0))
    placed = (nodules[:, 0] - (low + high) / 2) * scale + centre
    return tuple(Ellipsoid(_point(p), _point(r)) for p, r in zip(placed, nodules[:, 1] * scale, strict=True))


def _spread(patient: Patient, rng: np.random.Generator) -> tuple[Shape, ...]:
    """Returns what a T3 adds (clivus, sphenoid floor) and a T4 (cavernous sinus, or the orbit's apex)."""
    if patient.stage in ("T1", "T2"):
        return ()
    x = float(rng.uniform(0, 6))
    clivus = Ellipsoid((x, 18, 15), (13, 9, 15))
    if patient.stage == "T3":
        return (clivus,)
    if rng.random() < 0.7:
        return clivus, Capsule((10, 8, 18), (15, 2, 40), 9)
    return clivus, Capsule((14, -8, 12), (22, -34, 26), 8)


def _obstacles(patient: Patient) -> tuple[Shape, ...]:
    spine = Box((0, 46, -27), (45, 19, 28))
    firm: tuple[Shape, ...] = (spine, *ATLAS, *LATERAL_BASE)
    if patient.stage in ("T1", "T2"):
        pterygoids = both_sides(Box((21, -20, -3), (5.5, 8, 14)))
        firm = (*firm, *CENTRAL_BASE, *pterygoids)
    return firm if patient.stage == "T4" else (*firm, Grown(CAVITY, 4.0))


def _decoys(patient: Patient, rng: np.random.Generator) -> tuple[Shape, ...]:
    """Returns mucosa on the other side, nodes, tonsils, submandibular glands and fluid in a sinus."""
    other = float(-patient.side)
    fluid_top = float(rng.uniform(-6, 4))
    sinus = float(rng.choice([-1.0, 1.0]))
    return (
        Ellipsoid((other * 17, 8, 2), (6, 6, 11)),
        Ellipsoid((16, 21, -22), (5, 4.5, 9)),
        Ellipsoid((-16, 21, -20), (4.5, 4, 8)),
        Ellipsoid((16, -2, -38), (5, 7, 11)),
        Ellipsoid((-16, -2, -38), (5, 7, 11)),
        *both_sides(Ellipsoid((30, -30, -70), (9, 14, 11))),  # submandibular glands
        Ellipsoid((0, -10, -50), (14, 6, 12)),  # lingual tonsil
        Ellipsoid((other * 42, 18, -62), (8, 8, 14)),
        Common(
            Ellipsoid((sinus * 29, -50, 2), (13.5, 18, 17)), Box((sinus * 29, -50 + 20 + fluid_top, 2), (15, 20, 20))
        ),
    )


def _largest_piece(level: Field) -> Field:
    """Returns the level with every piece but the largest pushed far outside."""
    pieces, num_pieces = ndimage.label(level > 0)
    if num_pieces > 1:
        largest = np.argmax(np.bincount(pieces.ravel())[1:]) + 1
        level[(pieces > 0) & (pieces != largest)] = -10
    return level


def _point(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
