"""Augmentation: what each transform does to voxels that a hand can follow."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.augment import (
    _random_control_points,
    augment,
    draw_change,
    resample_patch,
    rotation_matrix,
    sampling_grid,
)
from common.recipe import AugmentationConfig

AIR = -4.0
OFF = AugmentationConfig(
    scale_range=(1.0, 1.0),
    rotation_deg=0,
    elastic_rms_mm=0,
    noise_sd=0,
    uniform_noise=0,
    flip_left_right=False,
    probability=1.0,
)


def patch(shape: tuple[int, int, int] = (6, 8, 10), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(1, *shape)
    label[0, 2:4, 3:6, 2:7] = 1
    return torch.randn(2, *shape, generator=generator), label


def augmented(
    image: torch.Tensor, label: torch.Tensor, spacing_mm: tuple[float, float, float], config: AugmentationConfig,
    seed: int, air: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    change = draw_change(image.shape, spacing_mm, config, np.random.default_rng(seed))
    return augment(image, label, change, spacing_mm, air)


def changed(config: AugmentationConfig, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    image, label = patch()
    return augmented(image, label, (3.0, 1.0, 1.0), config, seed, AIR)


@pytest.mark.parametrize(
    "config",
    [
        OFF,
        AugmentationConfig(probability=0.0),
        AugmentationConfig(enabled=False, probability=1.0),
    ],
)
def test_nothing_asked_changes_nothing(config: AugmentationConfig) -> None:
    image, label = changed(config)
    torch.testing.assert_close(image, patch()[0], atol=1e-5, rtol=0)
    assert torch.equal(label, patch()[1])


def test_a_flip_exchanges_left_and_right_alone() -> None:
    image, label = changed(OFF.model_copy(update={"flip_left_right": True}))
    torch.testing.assert_close(image, patch()[0].flip(-1), atol=1e-5, rtol=0)
    assert torch.equal(label, patch()[1].flip(-1))


def read(
    image: torch.Tensor, label: torch.Tensor, spacing: tuple[float, float, float], matrix: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    return resample_patch(image, label, sampling_grid(image.shape[1:], spacing, matrix, None), AIR)


def test_a_quarter_turn_is_exact_in_voxels() -> None:
    image, label = patch((4, 8, 8))
    turned, turned_label = read(image, label, (3.0, 1.0, 1.0), rotation_matrix((90.0, 0.0, 0.0)))
    torch.testing.assert_close(turned, torch.rot90(image, -1, (2, 3)), atol=1e-4, rtol=0)
    assert torch.equal(turned_label, torch.rot90(label, -1, (2, 3)))


def test_a_quarter_turn_through_thick_slices_is_one_in_mm() -> None:
    image, label = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    label[0, 0:2, 2:6, 3:5] = 1  # along z from -6 to 0 mm, along y from -3 to 3 mm
    _, turned = read(image, label, (3.0, 1.5, 1.5), rotation_matrix((0.0, 0.0, 90.0)))
    expected = torch.zeros(1, 4, 8, 8)
    expected[0, 1:3, 4:8, 3:5] = 1  # along y from 0 to 6 mm, along z from -3 to 3 mm
    assert torch.equal(turned, expected)


@given(st.tuples(*[st.floats(-180, 180)] * 3))
def test_rotations_are_proper(angles: tuple[float, float, float]) -> None:
    matrix = rotation_matrix(angles)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)


def test_a_scale_above_one_enlarges() -> None:
    label = torch.zeros(1, 16, 16, 16)
    label[0, 6:10, 6:10, 6:10] = 1
    config = OFF.model_copy(update={"scale_range": (1.5, 1.5)})
    _, larger = augmented(label.clone(), label, (2.0, 1.0, 1.0), config, 0, 0.0)
    assert larger.sum() == 6**3


def test_what_comes_from_outside_is_air_and_background() -> None:
    image, label = torch.full((1, 8, 8, 8), 2.0), torch.ones(1, 8, 8, 8)
    config = OFF.model_copy(update={"scale_range": (0.5, 0.5)})
    small, small_label = augmented(image, label, (1.0, 1.0, 1.0), config, 0, AIR)
    assert small[0, 0, 0, 0] == pytest.approx(AIR)
    assert small[0, 4, 4, 4] == pytest.approx(2.0)
    assert small.min() >= AIR - 1e-5
    assert small.max() <= 2.0 + 1e-5
    assert small_label.sum() == 4**3


def test_an_elastic_displacement_is_read_in_mm_in_plane() -> None:
    image, label = patch((4, 8, 8))
    shift = np.zeros((2, 2, 2, 2), np.float32)
    shift[1] = 2.0  # everywhere 2 mm along x: one voxel of 2 mm
    grid = sampling_grid((4, 8, 8), (3.0, 1.0, 2.0), np.eye(3), shift)
    moved, moved_label = resample_patch(image, label, grid, AIR)
    torch.testing.assert_close(moved[..., :-1], image[..., 1:], atol=1e-4, rtol=0)
    assert torch.allclose(moved[..., -1], torch.tensor(AIR))
    assert torch.equal(moved_label[..., :-1], label[..., 1:])


def test_the_elastic_displacement_has_the_rms_that_is_asked() -> None:
    shape, spacing, config = (16, 32, 32), (6.0, 2.0, 2.0), AugmentationConfig(elastic_rms_mm=2.0, elastic_grid_mm=16.0)
    still, squares = sampling_grid(shape, spacing, np.eye(3), None), []
    for seed in range(20):
        points = _random_control_points((96.0, 64.0, 64.0), config, np.random.default_rng(seed))
        moved = sampling_grid(shape, spacing, np.eye(3), points) - still
        assert not moved[..., 2].any()
        squares.append(float(((moved[..., 0] * 32) ** 2 + (moved[..., 1] * 32) ** 2).mean()))
    assert np.sqrt(np.mean(squares)) == pytest.approx(2.0, rel=0.1)


PAPER_MM = (3.0, 0.952, 0.952)
STAGE_2 = (32, 64, 96)


def places_mm(shape: tuple[int, int, int]) -> torch.Tensor:
    """Three channels that hold each voxel's place (z, y, x) in mm from the patch's middle."""
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, PAPER_MM, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).float()


def read_places_mm(config: AugmentationConfig, seed: int) -> np.ndarray:
    """Where `augment` read each voxel, (3, z, y, x) in mm, NaN where that was outside the patch."""
    ones = torch.ones(1, *STAGE_2)
    channels = torch.cat([places_mm(STAGE_2), ones])
    read, _ = augmented(channels, ones, PAPER_MM, config, seed, 0.0)
    return np.where(read[3:] > 1 - 1e-5, read[:3], np.nan)


def test_the_rms_of_a_whole_augmentation_is_the_stated_one_in_mm() -> None:
    """What comes from outside is left out; 2 mm is two voxels in plane, and along z nothing moves."""
    config, squares = OFF.model_copy(update={"elastic_rms_mm": 2.0}), []
    for seed in range(40):
        moved = (read_places_mm(config, seed) - places_mm(STAGE_2).numpy())[:, 4:-4, 8:-8, 8:-8]
        assert np.nanmax(np.abs(moved[0])) < 1e-3
        squares.append(np.nanmean((moved**2).sum(0)))
    assert np.sqrt(np.mean(squares)) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_the_elastic_field_never_folds(seed: int) -> None:
    """The volume of what each voxel is read from stays positive: tissue is neither lost nor turned inside out."""
    places = read_places_mm(OFF.model_copy(update={"elastic_rms_mm": 2.0}), seed)
    gradients = np.array([np.gradient(part, *PAPER_MM) for part in places])
    matrices = np.moveaxis(gradients, (0, 1), (-2, -1)).reshape(-1, 3, 3)
    determinants = np.linalg.det(matrices[np.isfinite(matrices).all((1, 2))])
    assert determinants.min() > 0.2


@pytest.mark.parametrize("seed", range(5))
def test_scale_and_rotation_are_a_similarity_in_mm_on_anisotropic_voxels(seed: int) -> None:
    """The map fitted to where voxels were read: a proper rotation by at most 10 degrees an axis, times 1 / scale."""
    config = OFF.model_copy(update={"scale_range": (0.7, 1.3), "rotation_deg": 10.0})
    read, to = read_places_mm(config, seed).reshape(3, -1), places_mm(STAGE_2).numpy().reshape(3, -1)
    inside = np.isfinite(read).all(0)
    fitted, *_ = np.linalg.lstsq(to[:, inside].T.astype(float), read[:, inside].T.astype(float), rcond=None)
    scale = np.linalg.det(fitted) ** (-1 / 3)
    rotation = fitted.T * scale
    assert 0.7 <= scale <= 1.3
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    assert np.rad2deg(np.arccos((np.trace(rotation) - 1) / 2)) <= 10 * np.sqrt(3)
    np.testing.assert_allclose(fitted.T @ to[:, inside], read[:, inside], atol=1e-2)


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_image_and_label_move_together(seed: int) -> None:
    """An image that is its label stays it, through scale, rotation, elastic and flip."""
    label = torch.zeros(1, *STAGE_2)
    label[0, 10:22, 20:44, 30:60] = 1
    config = AugmentationConfig(probability=1.0, noise_sd=0, uniform_noise=0)
    image, moved = augmented(label.clone(), label, PAPER_MM, config, seed, 0.0)
    assert torch.equal((image >= 0.5).float(), moved)
    assert moved.sum() > 0
    assert not torch.equal(moved, label)


def test_noise_is_gaussian_or_uniform_and_never_on_the_label() -> None:
    config = OFF.model_copy(update={"noise_sd": 0.5, "uniform_noise": 0.1})
    bounded = []
    for seed in range(30):
        image, label = changed(config, seed)
        difference = image - patch()[0]
        assert torch.equal(label, patch()[1])
        assert 0 < float(difference.std()) < 0.55
        bounded.append(float(difference.abs().max()) <= 0.1 + 1e-5)
    assert 5 < sum(bounded) < 25


def test_the_generator_is_the_only_source_of_randomness() -> None:
    config = AugmentationConfig(probability=0.8)
    torch.manual_seed(1)
    first = changed(config, 3)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, changed(config, 3), strict=True))
    assert not torch.equal(first[0], changed(config, 4)[0])


def test_the_inputs_stay_as_they_are() -> None:
    image, label = patch()
    augmented(image, label, (3.0, 1.0, 1.0), AugmentationConfig(probability=1.0), 0, AIR)
    assert torch.equal(image, patch()[0])
    assert torch.equal(label, patch()[1])


@given(st.integers(0, 1000), st.tuples(*[st.integers(1, 6)] * 3))
def test_any_patch_keeps_its_size_and_stays_finite(seed: int, shape: tuple[int, int, int]) -> None:
    image, label = torch.zeros(1, *shape), torch.ones(1, *shape)
    config = AugmentationConfig(probability=0.9)
    result, mask = augmented(image, label, (3.0, 1.0, 1.0), config, seed, AIR)
    assert result.shape == image.shape
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
