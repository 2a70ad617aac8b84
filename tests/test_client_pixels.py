"""Pictures made anew: the same pixels, nothing that lay beside them, and nothing that is no picture."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from client.pixels import MAX_PIXELS, SIGNATURE, pixels_alone
from common.errors import PolicyError

NAME = b"Mustermann^Erika"
PIXELS = np.random.default_rng(1).integers(0, 256, (7, 5, 3), np.uint8)
PNG = cv2.imencode(".png", PIXELS)[1].tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "carrier",
    [PNG[:33] + chunk(b"tEXt", b"Title\0" + NAME) + PNG[33:], PNG[:33] + chunk(b"naMe", NAME) + PNG[33:], PNG + NAME],
    ids=["a text", "a chunk of one's own", "after the end"],
)
def test_the_pixels_stay_and_words_beside_them_go(carrier: bytes) -> None:
    assert NAME in carrier
    made = pixels_alone(carrier)
    assert NAME not in made
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_COLOR), PIXELS)


@pytest.mark.parametrize(
    "data",
    [b"", SIGNATURE, SIGNATURE + NAME * 4, PNG[:40], cv2.imencode(".jpg", PIXELS)[1].tobytes(),
     PNG[:16] + struct.pack(">II", 40_000, 40_000) + PNG[24:]],
    ids=["nothing", "a signature", "no chunks", "cut", "a JPEG", "huge"],
)  # fmt: skip
def test_what_is_no_picture_does_not_pass(data: bytes) -> None:
    with pytest.raises(PolicyError, match=f"no PNG of at most {MAX_PIXELS} pixels"):
        pixels_alone(data)
