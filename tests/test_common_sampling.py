"""Patches: where they lie, what fills them."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.errors import LabelError
from common.sampling import centred_patch, cut, inside, jittered_centre, random_patch
from common.statistics import Normalisation

UNIT = Normalisation(mean=0.0, sd=1.0)
sizes = st.tuples(*[st.integers(1, 9)] * 3)


@dataclass
class FakeCase:
    """A case whose voxel values are their own flat indices."""

    shape: tuple[int, int, int]
    voxel: tuple[int, int, int] | None
    case_id: str = "case-001"

    @property
    def image(self) -> NDArray[np.int16]:
        return np.arange(np.prod(self.shape), dtype=np.int16).reshape(1, *self.shape)

    @property
    def label(self) -> NDArray[np.uint8]:
        label = np.zeros(self.shape, np.uint8)
        if self.voxel is not None:
            label[self.voxel] = 1
        return label

    @property
    def foreground_voxels(self) -> NDArray[np.int32]:
        return np.argwhere(self.label).astype(np.int32)

    @property
    def centroid(self) -> tuple[float, ...]:
        return tuple(self.foreground_voxels.mean(axis=0).tolist())


@given(sizes, sizes, st.integers(0, 10**6), st.booleans())
def test_random_patches_stay_inside_and_hold_the_whole_of_a_short_axis(
    shape: tuple[int, int, int], patch: tuple[int, int, int], seed: int, foreground: bool
) -> None:
    case = FakeCase(shape, None)
    image, label = random_patch(case, patch, np.random.default_rng(seed), foreground, UNIT)  # type: ignore[arg-type]
    assert (image.shape, image.dtype, label.shape, label.dtype) == ((1, *patch), np.float32, (1, *patch), np.float32)
    seen = image[image != -1000]
    assert seen.size == np.prod(np.minimum(shape, patch))
    assert len(set(seen.tolist())) == seen.size


@given(sizes, sizes, st.data())
def test_a_forced_patch_holds_a_foreground_voxel(
    shape: tuple[int, int, int], patch: tuple[int, int, int], data: st.DataObject
) -> None:
    voxel = data.draw(st.tuples(*[st.integers(0, n - 1) for n in shape]))
    case, rng = FakeCase(shape, voxel), np.random.default_rng(data.draw(st.integers(0, 99)))
    image, label = random_patch(case, patch, rng, True, UNIT)  # type: ignore[arg-type]
    assert label.sum() == 1
    assert image[label == 1] == np.ravel_multi_index(voxel, shape)


def test_the_forced_voxel_lies_anywhere_in_the_patch() -> None:
    case, rng = FakeCase((9, 9, 9), (4, 4, 4)), np.random.default_rng(0)
    places = {
        tuple(np.argwhere(random_patch(case, (2, 2, 2), rng, True, UNIT)[1][0])[0].tolist())  # type: ignore[arg-type]
        for _ in range(100)
    }
    assert len(places) == 8


def test_padding_is_normalised_air_and_the_volume_lies_in_the_middle() -> None:
    case, normalisation = FakeCase((1, 1, 2), None), Normalisation(mean=-200.0, sd=100.0)
    image, _ = random_patch(case, (1, 1, 5), np.random.default_rng(0), False, normalisation)  # type: ignore[arg-type]
    np.testing.assert_allclose(image[0, 0, 0], [-8.0, 2.0, 2.01, -8.0, -8.0], rtol=1e-6)


def test_a_centred_patch_has_the_centre_in_its_middle_unless_the_border_is_near() -> None:
    case = FakeCase((9, 9, 9), (4, 0, 8))
    _, label = centred_patch(case, (4, 4, 4), case.centroid, UNIT)  # type: ignore[arg-type]
    assert np.argwhere(label[0]).tolist() == [[2, 0, 3]]


def test_jitter_moves_the_centre_by_each_amount_up_to_its_limit() -> None:
    case, rng = FakeCase((9, 9, 9), (4, 4, 4)), np.random.default_rng(1)
    centres = np.array([jittered_centre(case, 3, rng) for _ in range(200)])  # type: ignore[arg-type]
    for axis in range(3):
        assert set(centres[:, axis].tolist()) == set(range(1, 8))
    assert jittered_centre(case, 0, rng) == (4, 4, 4)  # type: ignore[arg-type]


def test_the_same_generator_gives_the_same_patch() -> None:
    case = FakeCase((9, 9, 9), (4, 4, 4))
    first, again = (
        random_patch(case, (3, 3, 3), np.random.default_rng(5), True, UNIT)[0]  # type: ignore[arg-type]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)


def test_a_case_without_a_label_is_refused_by_name() -> None:
    @dataclass
    class Unlabelled(FakeCase):
        label: None = None  # type: ignore[assignment]

        @property
        def foreground_voxels(self) -> NDArray[np.int32]:
            return np.empty((0, 3), np.int32)

    with pytest.raises(LabelError, match="case-001"):
        random_patch(Unlabelled((3, 3, 3), None), (2, 2, 2), np.random.default_rng(0), True, UNIT)  # type: ignore[arg-type]


@given(sizes, sizes, st.tuples(*[st.integers(-12, 12)] * 3))
def test_cut_is_a_window_on_an_endless_array(
    shape: tuple[int, int, int], size: tuple[int, int, int], start: tuple[int, int, int]
) -> None:
    array = np.arange(1, np.prod(shape) + 1).reshape(shape)
    endless = np.pad(array, 25)
    window = tuple(slice(s + 25, s + 25 + n) for s, n in zip(start, size, strict=True))
    np.testing.assert_array_equal(cut(array, start, size, 0), endless[window])


def test_inside() -> None:
    assert inside((-2, 3, 9), (4, 4, 4), (10, 10, 10)) == (0, 3, 6)
    assert inside((5, 5, 5), (4, 5, 6), (3, 3, 3)) == (0, -1, -1)
