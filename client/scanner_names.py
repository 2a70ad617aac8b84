"""Manufacturers and kernels that may stand in the case index: what is on these lists and nothing else.

In DICOM both are free text (PS3.3 C.7.5.1, C.8.2.1) and can hold anything, a name or a number of a patient too. The
lists hold what vendors write in them; a value that is not on them is left out.
"""

import re
from collections.abc import Sequence

MANUFACTURERS = {
    "Accuray": r"accuray( inc(orporated|\.)?)?|tomotherapy( incorporated)?",
    "Canon": r"canon( medical systems)?( corporation)?|canon_mec",
    "Elekta": r"elekta( ab| limited)?",
    "GE": r"ge( medical systems| healthcare)?",
    "Hitachi": r"hitachi(,? ltd\.?| medical( corporation)?)?",
    "Neusoft": r"neusoft( medical systems)?",
    "Philips": r"philips( medical systems| healthcare)?",
    "Picker": r"picker( international)?|marconi( medical systems)?",
    "Samsung": r"samsung( electronics)?|neurologica",
    "Siemens": r"siemens( healthineers| healthcare( gmbh)?)?",
    "Toshiba": r"toshiba( medical systems)?|toshiba_mec",
    "United Imaging": r"uih|united imaging( healthcare)?",
    "Varian": r"varian( medical systems)?(,? inc\.)?",
}
"""By the name that is kept: what headers may say, whole and in any case."""

KERNELS = (
    r"[BDHIJQSTU][a-z]?\d\d[a-z]?(/[1-5])?",  # Siemens: B31f, Br40d, I30f/3 (with the strength of the iteration)
    r"STANDARD|STND|SOFT|DETAIL|BONE|BONEPLUS|LUNG|CHEST|EDGE|ULTRA",  # GE
    r"[A-FL]|E[ABC]|U[A-D]|Y[A-D]|X?C[A-D]",  # Philips
    r"FC\d\d",  # Canon, Toshiba
    r"[BH]_(VSOFT|SOFT|STANDARD|SHARP|VSHARP)_[ABC]",  # United Imaging
)
"""Kernels as their vendors name them, whole and in this case."""


def known_manufacturer(value: object) -> str | None:
    """Returns the manufacturer's name on the list, or None."""
    text = str(value or "").strip()
    return next((name for name, said in MANUFACTURERS.items() if re.fullmatch(said, text, re.IGNORECASE)), None)


def known_kernel(value: str | Sequence[str] | None) -> str | None:
    """Returns a kernel that has a vendor's form, its parts joined by a slash, or None."""
    text = value if isinstance(value, str) or value is None else "/".join(map(str, value))
    text = (text or "").strip()
    return text if any(re.fullmatch(form, text) for form in KERNELS) else None
