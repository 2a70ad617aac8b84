"""The loss against sums done by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.losses import segmentation_loss, soft_dice_loss

torch.set_num_threads(1)


def volume(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, 1, 1, -1)


def test_two_voxels_by_hand() -> None:
    """Logits 0 and ln 3 are probabilities 1/2 and 3/4."""
    loss = segmentation_loss(volume(0.0, math.log(3)), volume(0, 1))
    cross_entropy = (math.log(2) + math.log(4 / 3)) / 2
    dice = 1 - (2 * 0.75 + 1) / (1.25 + 1 + 1)
    assert float(loss) == pytest.approx(cross_entropy + dice, abs=1e-6)


def test_perfect_wrong_and_empty() -> None:
    right, wrong = volume(100.0, -100.0), volume(-100.0, 100.0)
    assert float(segmentation_loss(right, volume(1, 0))) == pytest.approx(0, abs=1e-6)
    assert float(segmentation_loss(wrong, volume(1, 0))) == pytest.approx(100 + 1 - 1 / 3, abs=1e-4)
    assert float(segmentation_loss(volume(-100.0, -100.0), volume(0, 0))) == pytest.approx(0, abs=1e-6)


def test_dice_is_of_each_sample() -> None:
    """One sample right, one empty but filled: pooled over the batch the ratio would be another."""
    p = torch.tensor([[1.0, 1.0], [1.0, 1.0]]).reshape(2, 1, 1, 1, 2)
    t = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).reshape(2, 1, 1, 1, 2)
    assert float(soft_dice_loss(p, t)) == pytest.approx((0 + 1 - 1 / 3) / 2)


def test_an_empty_patch_has_a_gradient() -> None:
    p = torch.full((1, 1, 1, 1, 4), 0.5, requires_grad=True)
    soft_dice_loss(p, torch.zeros_like(p)).backward()
    assert p.grad is not None
    assert torch.allclose(p.grad, torch.tensor(1 / 9))  # d/dp (1 - 1 / (sum p + 1)) = 1 / (2 + 1)^2


def test_fp32_inside_autocast_and_from_bf16() -> None:
    logits, target = torch.linspace(-3, 3, 512).reshape(1, 1, 8, 8, 8), torch.ones(1, 1, 8, 8, 8, dtype=torch.uint8)
    expected = segmentation_loss(logits, target)
    with torch.autocast("cpu", torch.bfloat16):
        inside = segmentation_loss(logits, target)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, expected)
    assert torch.equal(
        segmentation_loss(logits.bfloat16(), target), segmentation_loss(logits.bfloat16().float(), target)
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=1, max_size=20))
def test_matches_a_plain_loop(voxels: list[tuple[float, bool]]) -> None:
    p = [1 / (1 + math.exp(-logit)) for logit, _ in voxels]
    cross_entropy = sum(max(x, 0) - x * t + math.log1p(math.exp(-abs(x))) for x, t in voxels) / len(voxels)
    overlap = sum(q for q, (_, t) in zip(p, voxels, strict=True) if t)
    dice = 1 - (2 * overlap + 1) / (sum(p) + sum(t for _, t in voxels) + 1)
    loss = segmentation_loss(volume(*[x for x, _ in voxels]), volume(*[float(t) for _, t in voxels]))
    assert float(loss) == pytest.approx(cross_entropy + dice, rel=1e-5, abs=1e-5)
