"""A picture without anything beside its pixels: a PNG has room for text, and for more after its end."""

import struct

import cv2
import numpy as np

from common.errors import PolicyError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 4_000_000
"""Several times a picture of ours; one that unpacks to gigabytes is not begun."""


def pixels_alone(png: bytes) -> bytes:
    """Returns a PNG made anew of the pixels (8-bit RGB) of another.

    Raises:
        PolicyError: it is no PNG, or one of more than `MAX_PIXELS`.
    """
    if png.startswith(SIGNATURE) and len(png) >= 24:
        width, height = struct.unpack(">II", png[16:24])  # of IHDR, which comes first (PNG, third edition, 11.2.1)
        if width * height <= MAX_PIXELS:
            pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
            if pixels is not None:
                return cv2.imencode(".png", pixels)[1].tobytes()
    raise PolicyError.of("policy-reply", f"reply: a picture is no PNG of at most {MAX_PIXELS} pixels")
