"""Times the fused augmentation of the paper's patches, elastic on, against MONAI, batchgeneratorsv2 and TorchIO.

Everyone scales, rotates, deforms, flips and adds noise to an image and its label, in every patch.
Run by hand: OMP_NUM_THREADS=1 .venv-bench/bin/python tests/benchmarks/augmentation.py
"""

import argparse

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
import torch
from _peers import best_of, peer

from common.augment import augment, draw_change, resample_patch, rotation_matrix, sampling_grid
from common.recipe import AugmentationConfig

monai = peer("monai.transforms")
spatial = peer("batchgeneratorsv2.transforms.spatial.spatial")
mirroring = peer("batchgeneratorsv2.transforms.spatial.mirroring")
gaussian_noise = peer("batchgeneratorsv2.transforms.intensity.gaussian_noise")
torchio = peer("torchio")

SPACING_MM = (3.0, 0.952, 0.952)
PATCHES = {"stage 1": (64, 128, 128), "stage 2": (32, 64, 96)}
EVERYTHING = AugmentationConfig(probability=1.0)
TEN_DEG = np.deg2rad(10)
REPEATS = 15


def by_product(shape):
    """One sampling grid for all of it."""
    rng = np.random.default_rng(0)

    def change(image, label):
        return augment(image, label, draw_change(image.shape, SPACING_MM, EVERYTHING, rng), SPACING_MM, -4.0)

    return change


def monai_rest():
    """Flip and noise, as a part of MONAI's chains."""
    return [
        monai.RandFlipd(["image", "label"], prob=1.0, spatial_axis=2),
        monai.RandGaussianNoised(["image"], prob=1.0, std=0.1),
    ]


def by_monai_elastic(shape):
    """Rand3DElastic deforms, rotates and scales in one go."""
    elastic = monai.Rand3DElasticd(
        ["image", "label"], sigma_range=(5, 8), magnitude_range=(20, 40), prob=1.0, rotate_range=[TEN_DEG] * 3,
        scale_range=[(-0.3, 0.3)] * 3, mode=["bilinear", "nearest"], padding_mode="zeros",
    )  # fmt: skip
    chain = monai.Compose([elastic, *monai_rest()])
    return lambda image, label: chain({"image": image, "label": label})


def by_monai_smooth_deform(shape):
    """RandAffine, then RandSmoothDeform: a coarse field as the product's, in a second resampling."""
    affine = monai.RandAffined(
        ["image", "label"], prob=1.0, rotate_range=[TEN_DEG] * 3, scale_range=[(-0.3, 0.3)] * 3,
        mode=["bilinear", "nearest"], padding_mode="zeros",
    )  # fmt: skip
    points = [max(round(n * s / EVERYTHING.elastic_grid_mm), 1) + 1 for n, s in zip(shape, SPACING_MM, strict=True)]
    deform = monai.RandSmoothDeformd(
        ["image", "label"], spatial_size=shape, rand_size=points, prob=1.0, def_range=0.05,
        grid_mode=["bilinear", "nearest"],
    )  # fmt: skip
    chain = monai.Compose([affine, deform, *monai_rest()])
    return lambda image, label: chain({"image": image, "label": label})


def by_batchgenerators(shape):
    """nnU-Net's own: fused too, the elastic field is noise that an FFT blurs."""
    chain = [
        spatial.SpatialTransform(
            shape, 0, random_crop=False, p_elastic_deform=1, p_rotation=1, rotation=(-TEN_DEG, TEN_DEG), p_scaling=1,
            scaling=(0.7, 1.3), p_synchronize_scaling_across_axes=1, elastic_deform_magnitude=(0, 4),
            mode_seg="nearest",
        ),
        mirroring.MirrorTransform((2,)),
        gaussian_noise.GaussianNoiseTransform((0, 0.1)),
    ]  # fmt: skip

    def run(image, label):
        data = {"image": image, "segmentation": label}
        for transform in chain:
            data = transform(**data)
        return data

    return run


def by_torchio(shape):
    """One transform after the other."""
    chain = torchio.Compose(
        [
            torchio.RandomAffine(scales=(0.7, 1.3), degrees=10, isotropic=True),
            torchio.RandomElasticDeformation(num_control_points=7, max_displacement=7.5),
            torchio.RandomFlip(axes=(2,), flip_probability=1.0),
            torchio.RandomNoise(std=(0, 0.1)),
        ]
    )
    affine = np.diag([*SPACING_MM, 1.0])

    def run(image, label):
        images = torchio.ScalarImage(tensor=image, affine=affine), torchio.LabelMap(tensor=label, affine=affine)
        return chain(torchio.Subject(image=images[0], label=images[1]))

    return run


PEERS = {
    "MONAI Rand3DElastic": by_monai_elastic,
    "MONAI RandAffine, RandSmoothDeform": by_monai_smooth_deform,
    "batchgeneratorsv2": by_batchgenerators,
    "TorchIO": by_torchio,
}


def agreement(image, label):
    """The largest difference to MONAI's Affine under one rotation and scale, on cubic voxels; and of the labels."""
    matrix = rotation_matrix((7.0, -5.0, 9.0)) / 1.2
    grid = sampling_grid(image.shape[1:], (1.0, 1.0, 1.0), matrix, None)
    mine, my_label = resample_patch(image, label, grid, 0.0)
    homogeneous = np.eye(4)
    homogeneous[:3, :3] = matrix
    affine = monai.Affine(affine=homogeneous, padding_mode="zeros", image_only=True)
    theirs, their_label = affine(image, mode="bilinear"), affine(label, mode="bilinear") >= 0.5
    return float((mine - theirs).abs().max()), int((my_label.bool() != their_label).sum())


def main():
    """Prints milliseconds a patch and the ratio to the product, then the agreement with MONAI's affine."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    threads = torch.get_num_threads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    torch.manual_seed(0)
    print(f"{threads} thread(s)\n\n| patch | peer | product | ratio |\n|---|---|---|---|")
    for stage, shape in PATCHES.items():
        image, label = torch.randn(1, *shape), (torch.rand(1, *shape) > 0.9).float()
        ours_s, _ = best_of(REPEATS, by_product(shape), image, label)
        for name, make in PEERS.items():
            seconds, _ = best_of(REPEATS, make(shape), image, label)
            patch = f"{stage}, {' x '.join(map(str, shape))}"
            print(f"| {patch} | {name} {seconds * 1e3:.0f} ms | {ours_s * 1e3:.1f} ms | {seconds / ours_s:.1f} |")
        difference, voxels = agreement(image, label)
        print(f"| {stage}, one affine | MONAI Affine | {difference:.1e} of SD 1, {voxels} label voxels | |", flush=True)


if __name__ == "__main__":
    main()
