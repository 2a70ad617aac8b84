"""The phantom's outline and soft tissues: skin, fat, muscle, brain, glands, vessels, nodes.

Positions are in the anatomical millimetres of `phantom_shapes`; sizes follow textbook anatomy of an adult.
"""

import numpy as np

from common.phantom_canvas import Canvas, SmoothNoise, span
from common.phantom_patient import Patient
from common.phantom_shapes import Box, Capsule, Column, Ellipsoid, Field, Shape, both_sides

FAT, MUSCLE, SKIN = -95.0, 55.0, 25.0
SKIN_MM = 2.0
SEPTA = -70.0
"""HU of the thin fat between bundles of muscle."""
OUTSIDE = np.float32(-60)
"""Level that stands for "far outside the body"."""

CRANIUM = Ellipsoid((0, 8, 52), (84, 98, 84))
FACE = Column(
    (
        (-93, 0, -38, 26, 30),
        (-80, 0, -34, 42, 48),
        (-60, 0, -28, 56, 61),
        (-30, 0, -25, 63, 65),
        (0, 0, -20, 69, 68),
        (30, 0, -10, 74, 78),
        (58, 0, 0, 76, 84),
    )
)
NOSE = Ellipsoid((0, -92, -3), (13, 17, 19))
EARS = both_sides(Ellipsoid((80, 18, 4), (6, 15, 29)))


def neck_and_shoulders(patient: Patient) -> Column:
    """Returns the neck, 125-150 mm wide, opening into shoulders of 440 mm."""
    half = patient.neck_half_mm
    return Column(
        (
            (-340, 0, 36, 222, 110),
            (-195, 0, 34, 220, 98),
            (-172, 0, 32, 196, 88),
            (-147, 0, 30, 128, 75),
            (-120, 0, 28, half + 10, 63),
            (-97, 0, 26, half, 57),
            (-40, 0, 27, half, 60),
            (0, 0, 30, 64, 62),
            (40, 0, 34, 60, 60),
        )
    )


def body_level(canvas: Canvas, patient: Patient) -> Field:
    """Returns the level of the whole body (z, y, x): parts melt into one another; -60 far outside."""
    level = np.full(canvas.geometry.size, OUTSIDE, np.float32)
    parts: list[tuple[Shape, float]] = [(neck_and_shoulders(patient), 1), (CRANIUM, 18), (FACE, 16), (NOSE, 8)]
    for shape, blend in [*parts, *((ear, 5.0) for ear in EARS)]:
        window = canvas.window(shape, 25.0)
        if window is not None:
            level[window] = _smooth_maximum(level[window], canvas.level(shape, window), blend)
    return level


def paint_body(canvas: Canvas, level: Field, rng: np.random.Generator) -> None:
    """Paints skin, subcutaneous fat of varying thickness, and muscle with fat between its bundles."""
    fat_mm = 6.0 + rng.uniform(-1.0, 2.5)
    thickness, bundles = SmoothNoise(rng, 45.0), SmoothNoise(rng, 17.0)
    inside = level.max(axis=0) > 0
    rows, columns = span(inside.max(axis=1)), span(inside.max(axis=0))
    for k in range(len(level)):  # slice by slice: the cache holds one, and the whole body is most of the grid
        window = slice(k, k + 1), rows, columns
        depth = level[window]
        canvas.blend(window, canvas.coverage(depth), SKIN)
        canvas.blend(window, canvas.coverage(depth - np.float32(SKIN_MM)), FAT)
        depth = depth - np.float32(fat_mm) - np.float32(1.2) * canvas.noise(thickness, window)
        muscle = np.clip(np.abs(canvas.noise(bundles, window)) * np.float32(7) - np.float32(0.25), 0, 1)
        canvas.blend(window, canvas.coverage(depth), muscle * np.float32(MUSCLE - SEPTA) + np.float32(SEPTA))


def paint_brain(canvas: Canvas, cavity: Shape, rng: np.random.Generator) -> None:
    """Fills the cranial cavity with fluid, brain with sulci, ventricles and the brain stem."""
    window = canvas.window(cavity)
    if window is None:
        return
    depth = canvas.level(cavity, window) - np.float32(2)
    folds = np.abs(canvas.noise(SmoothNoise(rng, 13.0), window))
    white = canvas.noise(SmoothNoise(rng, 26.0), window)
    brain = np.float32(31) + np.float32(2.5) * np.clip(white, -1, 1)
    sulci = np.clip(1 - folds * 9, 0, 1) * np.clip(1.6 - depth / 14, 0, 1)
    target = canvas.hu[window]
    target += canvas.coverage(depth + 2) * (8 - target)
    target += canvas.coverage(depth) * (brain - 20 * sulci - target)
    canvas.paint_all(both_sides(Ellipsoid((9, 6, 66), (6, 30, 9)), Ellipsoid((26, 22, 46), (5, 16, 7))), 8.0, 2.0)
    canvas.paint(Box((0, 8, 95), (0.8, 84, 28)), 48.0)
    canvas.paint(Capsule((0, 20, 40), (0, 44, 0), 17), 8.0, 2.0)
    canvas.paint(Capsule((0, 26, 40), (0, 45, -4), 11), 32.0, 2.0)


def paint_soft_tissue(canvas: Canvas, patient: Patient) -> None:
    """Paints the deep face and the neck: fat spaces, muscles, glands, vessels and lymph nodes."""
    gain = 1.0 if patient.enhanced else 0.0
    for shapes, plain, uptake in _SOFT_TISSUE:
        canvas.paint_all(shapes, plain + gain * uptake, 1.5)


_SCM = Capsule((56, 42, -18), (20, -8, -140), 9)
_MASSETER = Ellipsoid((58, -16, -32), (7, 15, 26))
_SOFT_TISSUE: tuple[tuple[tuple[Shape, ...], float, float], ...] = (
    # Shapes, HU on a plain scan, and what contrast medium adds.
    ((Ellipsoid((0, -2, -8), (46, 34, 44)),), -70, 0),  # masticator and parapharyngeal fat
    (both_sides(Ellipsoid((42, -52, -18), (11, 15, 18)), Ellipsoid((46, -40, 20), (9, 18, 16))), FAT, 0),
    (both_sides(Ellipsoid((61, -14, -32), (8, 22, 30))), FAT, 0),
    (both_sides(_MASSETER, Ellipsoid((56, -32, 26), (7, 24, 24))), 60, 8),
    (both_sides(Ellipsoid((33, -17, 2), (12, 14, 13)), Ellipsoid((35, -10, -30), (8, 14, 22))), 58, 8),  # pterygoids
    ((Ellipsoid((0, 2, -6), (22, 19, 32)),), 52, 14),  # pharyngeal wall and mucosa
    ((Ellipsoid((0, -42, -42), (23, 36, 19)), Ellipsoid((0, -40, -64), (18, 32, 9))), 58, 10),  # tongue, floor
    (both_sides(Ellipsoid((9, 18, -24), (9, 6, 44))), 58, 8),  # longus muscles
    (
        (
            Column(
                (
                    (-345, 0, 28, 34, 34),
                    (-200, 0, 10, 32, 26),
                    (-118, 0, -4, 34, 26),
                    (-78, 0, -6, 38, 27),
                    (-60, 0, -4, 36, 20),
                )
            ),
        ),
        -60,
        0,
    ),
    ((Column(((-125, 0, -6, 20, 17), (-95, 0, -8, 22, 18), (-70, 0, -4, 18, 12))),), 55, 10),  # larynx
    (both_sides(Capsule((56, 42, -18), (20, -8, -140), 11.5)), FAT, 0),
    (both_sides(_SCM), 60, 8),
    (both_sides(Ellipsoid((54, 10, -24), (12, 19, 26))), -5, 25),  # parotids
    (both_sides(Ellipsoid((17, 0, -122), (8, 11, 21))), 105, 60),  # thyroid
    (both_sides(Column(((-340, 27, 22, 5, 5), (-125, 25, 8, 4, 4), (-62, 27, 6, 5, 5), (6, 23, 12, 3, 3)))), 45, 125),
    (both_sides(Column(((-340, 38, 22, 7, 7), (-125, 35, 10, 6, 6), (-62, 35, 12, 7, 6), (6, 28, 20, 5, 4)))), 45, 110),
    (both_sides(Ellipsoid((42, 18, -58), (6, 6, 12)), Ellipsoid((41, 32, -88), (5, 4, 9))), 48, 35),  # neck nodes
)


def _smooth_maximum(first: Field, second: Field, blend: float) -> Field:
    """Maximum with a fillet of `blend` mm where both are alike."""
    overlap = np.clip(np.float32(blend) - np.abs(first - second), 0, None)
    return np.asarray(np.maximum(first, second) + overlap * overlap * np.float32(0.25 / blend))
