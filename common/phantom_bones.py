"""The phantom's skeleton: skull with diploe and base, facial bones, teeth, spine with its canal, shoulders."""

import numpy as np

from common.phantom_canvas import Canvas, SmoothNoise
from common.phantom_patient import Patient
from common.phantom_shapes import (
    Above,
    Arch,
    Box,
    Capsule,
    Column,
    Common,
    Cut,
    Either,
    Ellipsoid,
    Grown,
    Shape,
    both_sides,
)

CORTICAL, DIPLOE, SPONGY = 1250.0, 650.0, 330.0

_VAULT = Ellipsoid((0, 8, 52), (77, 91, 77))
_FLOOR = Either(
    (
        Above(42, 0.1),
        *both_sides(Ellipsoid((38, -8, 36), (25, 28, 21))),  # temporal lobes
        Ellipsoid((0, 54, 22), (57, 40, 31)),  # posterior fossa
        Capsule((0, 27, 44), (0, 44, 0), 14),  # brain stem
    )
)
CAVITY = Common(Grown(_VAULT, -7.5), _FLOOR)
"""The inside of the skull."""
CLIVUS = Box((0, 21, 16), (13, 5.5, 21), 0.42)
CENTRAL_BASE: tuple[Shape, ...] = (CLIVUS, Box((0, -2, 31), (18, 17, 11)))
"""Clivus and sphenoid body: what a T3 tumour erodes."""
LATERAL_BASE: tuple[Shape, ...] = both_sides(
    Capsule((21, 20, 16), (58, 28, 10), 8.5),  # petrous bone
    Capsule((20, -20, 18), (58, -30, 26), 4),  # greater wing
)
PTERYGOIDS: tuple[Shape, ...] = both_sides(Box((17, -20, -4), (1.3, 7, 14)), Box((25, -20, -2), (1.2, 8, 13), 0.1))
DENS = Capsule((0, 30, -24), (0, 30, -8), 5)
ATLAS: tuple[Shape, ...] = (
    Arch((0, 36, -13), (20, 13), 6, 10),
    *both_sides(Ellipsoid((22, 36, -13), (9, 9, 8)), Capsule((24, 40, -14), (38, 42, -14), 4.5)),
    Capsule((-16, 56, -14), (16, 56, -14), 4),
)
_SPINE = ((-30, 29), (-49, 28), (-66, 27), (-83, 28), (-100, 30), (-117, 34), (-136, 39))
VERTEBRAE = (*_SPINE, (-157, 45), (-179, 50), (-202, 55), (-226, 59), (-250, 62), (-275, 64), (-300, 65))
"""(z, y) of the vertebral bodies' centres, C2 downwards."""
CANAL = Column(
    ((-340, 0, 84, 10, 8), (-250, 0, 81, 10, 8), (-157, 0, 64, 11, 8), (-83, 0, 46, 12, 8), (2, 0, 45, 13, 10))
)
_LUNGS = both_sides(Ellipsoid((62, 40, -268), (46, 58, 62)))


def paint_skull(canvas: Canvas) -> None:
    """Paints vault and base: two cortical tables with diploe between them (the brain comes after)."""
    shell = Common(_VAULT, Grown(_FLOOR, 3.5))
    canvas.paint(shell, CORTICAL)
    canvas.paint(Common(Grown(_VAULT, -2.2), Grown(_FLOOR, 2.4)), DIPLOE)
    canvas.paint(Common(Grown(_VAULT, -5.3), Grown(_FLOOR, 1.2)), CORTICAL)


def paint_skull_base(canvas: Canvas) -> None:
    """Paints the central and lateral base, hard outside and spongy inside."""
    for shape in (*CENTRAL_BASE, *LATERAL_BASE, *PTERYGOIDS):
        canvas.paint(shape, 950.0)
    canvas.paint(Grown(CLIVUS, -2.0), SPONGY)


def paint_mastoids(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paints the mastoids: bone riddled with air cells."""
    cells = SmoothNoise(rng, 5.0)
    for shape in both_sides(Ellipsoid((56, 32, 0), (10, 14, 19))):
        canvas.paint(shape, 900.0)
        inside = Grown(shape, -2.0)
        window = canvas.window(inside)
        if window is not None:
            share = canvas.coverage(canvas.level(inside, window)) * np.clip(canvas.noise(cells, window) + 0.6, 0, 1)
            canvas.hu[window] += share * (-850 - canvas.hu[window])


def paint_face(canvas: Canvas, patient: Patient) -> None:
    """Paints jaws, teeth, orbits with the eyes, cheek bones."""
    for orbit in both_sides(Ellipsoid((31, -58, 30), (20, 27, 19))):
        canvas.paint(Cut(orbit, (Box((0, -90, 30), (90, 18, 40)),)), 800.0)  # open in front
        canvas.paint(Grown(orbit, -2.5), -90.0)
    canvas.paint_all(both_sides(Ellipsoid((31, -70, 30), (12, 12, 12))), 12.0)
    canvas.paint_all(both_sides(Ellipsoid((31, -80, 30), (4.5, 2, 4.5))), 80.0)
    canvas.paint_all(both_sides(Capsule((30, -58, 30), (12, -30, 36), 2.2)), 40.0)
    canvas.paint_all(
        both_sides(Capsule((45, -58, 30), (20, -34, 33), 2), Capsule((20, -62, 30), (14, -34, 33), 2)), 50.0
    )
    canvas.paint_all(both_sides(Ellipsoid((48, -62, 3), (8, 8, 9)), Capsule((50, -60, 4), (68, -14, 8), 3.2)), 900.0)
    canvas.paint(Arch((0, -26, -19), (25, 56), 11, 13), 700.0)
    canvas.paint(Box((0, -50, -15), (22, 28, 2.2)), 700.0)
    jaw = Arch((0, -18, -60), (45, 64), 11, 26)
    ramus = both_sides(Box((49, -10, -29), (4, 14, 34), 0.12), Ellipsoid((52, 3, 4), (8, 5, 6)))
    canvas.paint_all((jaw, *ramus), CORTICAL)
    canvas.paint_all((Grown(jaw, -2.5), *(Grown(part, -2.2) for part in ramus)), 400.0)
    canvas.paint_all(teeth(), 2900.0 if patient.metal else 2100.0)


def teeth() -> tuple[Shape, ...]:
    """Returns upper and lower teeth along the arch of the jaws."""
    angles = np.linspace(0.12, np.pi - 0.12, 14)
    places = [(25 * np.cos(angle), -27 - 55 * np.sin(angle)) for angle in angles]
    upper = [Capsule((x, y, -31), (x, y, -22), 3.3) for x, y in places]
    lower = [Capsule((x, y, -49), (x, y, -40), 3.1) for x, y in places]
    return (*upper, *lower)


def paint_spine(canvas: Canvas) -> None:
    """Paints the atlas, the dens, vertebrae with discs between them, and the canal with the cord."""
    for z, y in VERTEBRAE:
        body = Column(((z - 7.5, 0, y, 13.5, 10.5), (z + 7.5, 0, y, 13.5, 10.5)))
        canvas.paint(Column(((z - 11, 0, y, 12, 9), (z - 7, 0, y, 12, 9))), 85.0)
        arch = Column(((z - 6, 0, y + 17, 18, 13), (z + 5, 0, y + 17, 18, 13)))
        sides = both_sides(Capsule((12, y + 10, z), (27, y + 14, z - 2), 4))
        canvas.paint_all((arch, body, *sides, Capsule((0, y + 28, z - 2), (0, y + 43, z - 9), 3.2)), 750.0)
        canvas.paint(Grown(body, -1.8), SPONGY)
    canvas.paint_all((DENS, *ATLAS), 850.0)
    canvas.paint(Grown(DENS, -2.0), 450.0)
    canvas.paint(CANAL, 12.0)
    cord = tuple((z, x, y, 6.5, 5.0) for z, x, y, _, _ in CANAL.knots)
    canvas.paint(Column(cord), 36.0)


def paint_neck_and_chest(canvas: Canvas) -> None:
    """Paints hyoid and larynx, clavicles, shoulder blades, arms, ribs and lungs."""
    canvas.paint(Arch((0, -6, -73), (21, 24), 4.5, 5), 600.0)
    canvas.paint(Arch((0, 0, -95), (18, 25), 3.6, 22), 190.0)
    canvas.paint_all(both_sides(Capsule((18, -20, -196), (155, 8, -176), 6)), 900.0)
    canvas.paint_all(both_sides(Ellipsoid((180, 38, -212), (23, 23, 23))), 800.0)
    canvas.paint_all(both_sides(Ellipsoid((180, 38, -212), (20, 20, 20))), 280.0)
    canvas.paint_all(both_sides(Capsule((192, 40, -222), (198, 42, -345), 11)), 1100.0)
    canvas.paint_all(both_sides(Capsule((192, 40, -228), (198, 42, -345), 6)), 150.0)
    canvas.paint_all(both_sides(Capsule((160, 44, -190), (95, 100, -230), 5)), 800.0)
    for lung in _LUNGS:
        wall = Cut(Grown(lung, 9.0), (Grown(lung, 3.0),))
        for k in range(5):
            canvas.paint(Common(wall, Box((0, 40, -222 - 24 * k), (120, 80, 5), 0.45)), 700.0)
        canvas.paint(lung, -820.0, 2.0)
