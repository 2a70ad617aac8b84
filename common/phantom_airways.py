"""The phantom's air: nose, sinuses, nasopharynx with its fossae, throat, trachea, ear canals."""

from common.phantom_canvas import Canvas
from common.phantom_shapes import Box, Capsule, Column, Common, Cut, Ellipsoid, Grown, Shape, both_sides

NASOPHARYNX: tuple[Shape, ...] = (
    Cut(Ellipsoid((0, 0, 0), (12.5, 10, 17.5)), both_sides(Ellipsoid((13, -2, -1), (4.5, 4, 7)))),
    *both_sides(Ellipsoid((13, 7, 3), (5, 4, 9))),  # fossae of Rosenmueller
)
"""About 25 x 20 x 35 mm, notched by the tori."""
_TURBINATES = both_sides(
    Ellipsoid((9, -50, -8), (4.5, 27, 7)),
    Ellipsoid((9, -46, 6), (4, 23, 7.5)),
    Ellipsoid((9, -42, 17), (3.5, 16, 3.5)),
)
NOSE: tuple[Shape, ...] = (
    *(
        Cut(Common(half, Ellipsoid((0, -44, 2), (40, 42, 21))), _TURBINATES)
        for half in both_sides(Box((7, -46, 3), (5.3, 40, 18)))
    ),
    *both_sides(Capsule((6, -76, -9), (7, -101, -17), 4)),
)
THROAT: tuple[Shape, ...] = (
    Column(((-80, 0, 0, 11, 5), (-62, 0, 0, 12, 7), (-38, 0, 0, 13, 7), (-12, 0, 1, 11, 8))),
    Column(((-114, 0, -4, 7, 10), (-98, 0, -7, 5, 11), (-76, 0, -2, 11, 6))),
    Column(((-345, 0, 26, 9, 9), (-200, 0, 14, 9, 9), (-110, 0, -4, 8, 9.5))),
    Ellipsoid((0, -54, -24), (22, 24, 2.5)),  # between tongue and palate
)
_MAXILLARY = both_sides(Ellipsoid((29, -50, 2), (13.5, 18, 17)))
_SPHENOID = both_sides(Ellipsoid((8, -6, 31), (7, 12, 9)))
_ETHMOID = both_sides(
    Ellipsoid((6, -64, 28), (4, 5, 6)),
    Ellipsoid((7, -54, 31), (5, 4.5, 9)),
    Ellipsoid((6, -43, 28), (4.5, 5.5, 7)),
    Ellipsoid((7, -32, 31), (5, 5, 9)),
)
_FRONTAL = both_sides(Ellipsoid((10, -77, 57), (10, 5, 10)))
SINUSES: tuple[Shape, ...] = (*_MAXILLARY, *_SPHENOID, *_ETHMOID, *_FRONTAL)
"""Left maxillary sinus first."""
_EAR_CANALS = both_sides(Capsule((52, 16, 6), (86, 18, 4), 3.3))


def paint_walls(canvas: Canvas) -> None:
    """Paints the thin bone round sinuses and nose, and the mucosa that lines them."""
    canvas.paint_all((Grown(sinus, 2.2) for sinus in SINUSES), 700.0)
    canvas.paint(Box((0, -48, 6), (16, 38, 20)), 45.0)
    canvas.paint_all(both_sides(Box((14.5, -48, 4), (1.0, 36, 18))), 500.0)
    canvas.paint(Box((0, -48, 6), (0.9, 34, 18)), 350.0)


def air() -> tuple[Shape, ...]:
    """Returns every air space that opens to the outside or lies in bone."""
    return (*NASOPHARYNX, *NOSE, *THROAT, *SINUSES, *_EAR_CANALS)
