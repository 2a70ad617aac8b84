"""Which series is the second image: by description, in one frame of reference, never silent."""

from dataclasses import replace
from pathlib import Path

import pytest

from client.contrast import choose_images
from client.series import Series
from common.errors import ImageError

PATTERNS = ("^ce", "contrast")
PLAIN = Series("1", "p/plain", (Path("p/plain/1.dcm"),), "p", "p", "Head native", "1.9", frozenset(), None)


def beside(uid, description, **changes):
    return replace(PLAIN, uid=uid, name=f"p/{uid}", description=description, **changes)


CONTRAST = beside("2", "Head CONTRAST 70s")
ELSEWHERE = beside("3", "CE later", frame_uid="1.10")


def test_without_patterns_a_case_has_one_image():
    images = choose_images(PLAIN, [PLAIN, CONTRAST], ())
    assert (images.plain, images.contrast, images.warnings) == (PLAIN, None, ())


@pytest.mark.parametrize("others", [(CONTRAST,), (ELSEWHERE, CONTRAST), (beside("4", "scout"), CONTRAST)])
def test_the_only_match_in_the_frame_of_reference_is_taken(others):
    assert choose_images(PLAIN, [PLAIN, *others], PATTERNS).contrast is CONTRAST


def test_the_first_pattern_that_matches_one_wins():
    first = beside("5", "CE arterial")
    assert choose_images(PLAIN, [PLAIN, CONTRAST, first], PATTERNS).contrast is first


def test_two_matches_of_one_pattern_are_refused_by_name():
    with pytest.raises(ImageError, match=r"'contrast' matches 2 CT series: p/2 'Head CONTRAST 70s', p/5 'contrast'"):
        choose_images(PLAIN, [PLAIN, CONTRAST, beside("5", "contrast")], PATTERNS)


@pytest.mark.parametrize("frame", ["1.10", ""])
def test_another_frame_of_reference_is_refused_by_name(frame):
    other = replace(ELSEWHERE, frame_uid=frame)
    with pytest.raises(ImageError, match=r"contrast CT p/3 'CE later' lies in another frame .* than p/plain 'Head nat"):
        choose_images(PLAIN, [PLAIN, other], PATTERNS)


def test_another_patients_contrast_is_not_taken_and_the_lack_is_told():
    images = choose_images(PLAIN, [PLAIN, replace(CONTRAST, patient_key="q")], PATTERNS)
    assert images.contrast is None
    (warning,) = images.warnings
    assert warning.startswith("one image only: no CT series matches ingest.contrast; found none beside it; networks of")


def test_structures_on_the_contrast_ct_leave_the_plain_one_image_1():
    images = choose_images(CONTRAST, [PLAIN, CONTRAST, ELSEWHERE], PATTERNS)
    assert (images.plain, images.contrast) == (PLAIN, CONTRAST)


@pytest.mark.parametrize(("others", "number"), [((), 0), ((PLAIN, beside("6", "thin slices")), 2)])
def test_structures_on_the_contrast_ct_without_one_plain_ct_are_refused(others, number):
    with pytest.raises(ImageError, match=rf"drawn on the contrast CT p/2 .*, and {number} plain CT series share its"):
        choose_images(CONTRAST, [CONTRAST, *others], PATTERNS)
