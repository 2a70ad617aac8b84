"""Whether all images of a CT are there: lost ones at the target are refused, lost ones elsewhere are warned of."""

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from client.completeness import check_drawn_on, lost_images
from client.pairing import Pairing
from common.errors import LabelError
from common.rtstruct import read_rtstruct

SQUARE = np.array([[0.0, 0, 0], [9, 0, 0], [9, 9, 0], [0, 9, 0]])
UIDS = ("1.2.1", "1.2.2", "1.2.3")


def listed(num_there, num_lost=0):
    return Pairing("1.2", "series reference", num_there=num_there, num_lost=num_lost)


@pytest.mark.parametrize("pairings", [[listed(20)], [listed(20), listed(0)], [listed(0)]])
def test_a_whole_series_has_no_warning(pairings):
    assert lost_images(pairings, 0) == ()


def test_images_that_are_listed_and_lost_are_counted():
    assert lost_images([listed(18, 2)], 0) == (
        "its structure set lists 20 images of this CT, and 18 of them can be read: the CT is shorter than it was, "
        "though not at the target; expected all; if that matters, copy damaged files again, or export the series whole",
    )


def test_of_several_structure_sets_the_one_that_misses_most_is_told():
    (warning,) = lost_images([listed(18), listed(17, 3), listed(18, 1)], 2)
    assert "lists 20 images of this CT, and 17 of them" in warning
    assert "and 2 files beside its slices or structure set cannot be read" in warning


@pytest.mark.parametrize("pairings", [[listed(0)], [listed(20)], [listed(0), listed(20)]])
def test_a_damaged_file_may_be_a_slice_or_newer_structure_set_whatever_is_listed(pairings):
    (one,) = lost_images(pairings, 1)
    assert one == (
        "1 file beside its slices or structure set cannot be read: the first or last slices, or a newer structure set, "
        "may be missing; expected all; copy damaged files again, or export the series whole, or move elsewhere what is "
        "neither"
    )


@pytest.fixture
def drawn(tmp_path, write_ct, write_structures):
    """A function that writes two structures, each contour on one of these images; returns the file and the target."""

    def draw(target, other=()):
        slices = write_ct(tmp_path / "CT", np.zeros((4, 8, 9)))
        contours = {"GTV": [SQUARE] * len(target), "Cord": [SQUARE] * max(1, len(other))}
        path = write_structures(tmp_path / "rs.dcm", slices, contours)
        dataset = dcmread(path)
        for item, uids in zip(dataset.ROIContourSequence, (target, other), strict=True):
            for contour, uid in zip(item.ContourSequence, uids, strict=False):
                image = Dataset()
                image.ReferencedSOPInstanceUID = uid
                contour.ContourImageSequence = [image]
        dataset.save_as(path)
        return path, read_rtstruct(path).structures[0]

    return draw


def test_a_target_all_of_whose_images_are_there_is_good(drawn):
    check_drawn_on(*drawn(UIDS), (*UIDS, "1.2.4"))


def test_a_target_on_a_lost_image_is_refused_with_both_counts(drawn):
    told = (
        r"^rs.dcm draws 'GTV' on 3 images, and the 5 of this CT that can be read hold 2 of them; expected all; "
        r"copy damaged files again, or export the series whole$"
    )
    with pytest.raises(LabelError, match=told):
        check_drawn_on(*drawn(UIDS), (*UIDS[:2], "1.2.7", "1.2.8", "1.2.9"))


def test_contours_on_one_image_count_once(drawn):
    with pytest.raises(LabelError, match="on 2 images, and the 1 of this CT that can be read hold 1 of them"):
        check_drawn_on(*drawn(("1.2.1", "1.2.1", "1.2.2")), ("1.2.1",))


def test_a_lost_image_of_another_structure_alone_refuses_nothing(drawn):
    check_drawn_on(*drawn(UIDS[:1], other=UIDS[1:]), UIDS[:1])


@pytest.mark.parametrize("target", [UIDS, ("", "", "")], ids=["all wrong", "none"])
def test_references_of_which_none_leads_here_say_nothing(drawn, target):
    check_drawn_on(*drawn(target), ("9.9.1", "9.9.2"))
