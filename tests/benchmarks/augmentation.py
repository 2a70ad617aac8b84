"""Times the fused augmentation of stage-1 and stage-2 patches against one transform after the other, and MONAI's.

Run by hand: OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/augmentation.py (MONAI is left out if not installed)
"""

import importlib.util
import os
import time

import numpy as np
import torch

from common.augment import augment
from common.config import AugmentationConfig

SPACING_MM = (3.0, 0.952, 0.952)
EVERYTHING = AugmentationConfig(probability=1.0)


def fused(image, label, rng):
    """Every transform, in one resampling."""
    return augment(image, label, SPACING_MM, EVERYTHING, rng, -4.0)


def one_by_one(image, label, rng):
    """The same transforms, each with its own resampling: scale, rotation, elastic, then flip and noise."""
    off = {"scale_range": (1.0, 1.0), "rotation_deg": 0.0, "elastic_rms_mm": 0.0, "noise_sd": 0.0, "uniform_noise": 0.0}
    for kept in ("scale_range", "rotation_deg", "elastic_rms_mm", "noise_sd"):
        config = EVERYTHING.model_copy(update={name: value for name, value in off.items() if name != kept})
        image, label = augment(image, label, SPACING_MM, config, rng, -4.0)
    return image, label


def by_monai():
    """MONAI's usual chain of dictionary transforms, as a function of the same signature."""
    from monai import transforms

    keys, modes = ["image", "label"], ["bilinear", "nearest"]
    turn = [np.deg2rad(10)] * 3
    chain = transforms.Compose(
        [
            transforms.RandZoomd(keys, prob=1.0, min_zoom=0.7, max_zoom=1.3, mode=["trilinear", "nearest"]),
            transforms.RandRotated(keys, *turn, prob=1.0, mode=modes),
            transforms.Rand3DElasticd(keys, (5, 8), (20, 40), prob=1.0, mode=modes),
            transforms.RandFlipd(keys, prob=1.0, spatial_axis=2),
            transforms.RandGaussianNoised(["image"], prob=1.0, std=0.1),
        ]
    )
    return lambda image, label, rng: chain({"image": image, "label": label})


def best_of(repeats, function, *arguments):
    """Returns the least wall time in seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main():
    """Prints milliseconds a patch and the ratio to the fused transform."""
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    torch.set_num_threads(threads)
    rivals = {"fused": fused, "one by one": one_by_one}
    if importlib.util.find_spec("monai"):
        rivals["monai"] = by_monai()
    for shape in ((64, 128, 128), (32, 64, 96)):
        image, label = torch.randn(1, *shape), (torch.rand(1, *shape) > 0.9).float()
        reference = 0.0
        for name, function in rivals.items():
            seconds = best_of(5, function, image, label, np.random.default_rng(0))
            reference = reference or seconds
            print(f"{shape} {threads} thread(s) {name:10} {seconds * 1000:8.1f} ms, ratio {seconds / reference:5.1f}")


if __name__ == "__main__":
    main()
