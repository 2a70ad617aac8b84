"""What may not train a model is refused by name: bodies and targets of 4 mm voxels, made by hand."""

import numpy as np
import pytest

from common.errors import ImageError, LabelError
from common.fitness import no_hu, no_target, prepare_fit, share_outside
from common.preprocess import find_patient, prepare
from common.recipe import PreprocessConfig, RoiConfig
from common.volume import Geometry, Volume

CONFIG = PreprocessConfig(spacing_mm=(4.0, 4.0, 4.0), roi=RoiConfig(crop_at_neck=False))
GRID = Geometry((16, 24, 24), (4.0, 4.0, 4.0), (-46.0, -46.0, 0.0))


def volume(array):
    return Volume(array, GRID)


def test_a_good_case_is_what_preparation_makes(tiny_hu, tiny_label):
    one, other = (make([volume(tiny_hu)], volume(tiny_label), CONFIG) for make in (prepare_fit, prepare))
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.label, other.label)
    assert prepare_fit([volume(tiny_hu)], None, CONFIG).label is None


@pytest.mark.parametrize(
    ("low", "high", "fault"),
    [
        (-1000, 1000, ""),
        (-500, 200, ""),
        (0, 3459, "values 0 to 3459 are not HU"),
        (-499, 200, "values -499 to 200 are not HU"),
        (-1000, 199, "values -1000 to 199 are not HU"),
    ],
)
def test_hu_have_air_and_bone(low, high, fault):
    assert no_hu(np.array([low, 40, high])) == fault


def test_what_is_no_hu_is_refused_by_the_images_number(tiny_hu):
    raw = volume(tiny_hu + np.int16(1000))
    with pytest.raises(ImageError, match=r"^image 1: values 0 to 1400 are not HU; is it CT, and rescaled"):
        prepare_fit([raw], None, CONFIG)
    with pytest.raises(ImageError, match=r"^image 2: values 0 to 1400 are not HU; is it CT, and rescaled"):
        prepare_fit([volume(tiny_hu), raw], None, CONFIG)
    hard = volume(np.where(tiny_hu == 40, 600, tiny_hu).astype(np.int16))
    with pytest.raises(ImageError, match=r"^image 1: half of the body lies above 600 HU; soft tissue has -100 to 60; "):
        prepare_fit([hard], None, CONFIG)


def test_the_share_outside_is_counted(tiny_hu):
    """The body fills columns 4 to 19: of 8, 7 and 8 columns of a target, 4, 4 and none lie outside."""
    patient = find_patient(volume(tiny_hu), CONFIG.roi)
    shares = {}
    for start in (0, -1, 4):
        mask = np.zeros(GRID.size, bool)
        mask[8, 10, max(start, 0) : start + 8] = True
        shares[start] = share_outside(mask, patient)
        assert no_target(mask, patient) == ("57 % of the target lies outside the patient" if start == -1 else "")
    assert shares == {0: 0.5, -1: 4 / 7, 4: 0.0}


def test_a_target_that_is_none_is_refused(tiny_hu, tiny_label):
    with pytest.raises(LabelError, match=r"^label: the target is empty; export"):
        prepare_fit([volume(tiny_hu)], volume(np.zeros_like(tiny_label)), CONFIG)
    with pytest.raises(LabelError, match=r"^label: 75 % of the target lies outside the patient; export"):
        prepare_fit([volume(tiny_hu)], volume(np.roll(tiny_label, -5, 2)), CONFIG)
