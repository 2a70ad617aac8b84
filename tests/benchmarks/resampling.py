"""Times separable spline resampling against SimpleITK's sitkBSpline and nnU-Net's own resampling.

Run by hand: OMP_NUM_THREADS=1 .venv-bench/bin/python tests/benchmarks/resampling.py
"""

import argparse

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
import torch
from _peers import best_of, peer

from common.alignment import channel_onto
from common.preprocess import PreprocessRecord, restore
from common.resample import reached_spacing, resample_spline, target_shape
from common.volume import Geometry, Volume, to_sitk

nnunet = peer("nnunetv2.preprocessing.resampling.default_resampling").resample_data_or_seg_to_shape

TARGET_MM = (3.0, 0.952, 0.952)
GRIDS = {
    "whole scan, slices kept": ((130, 512, 512), (3.0, 0.976, 0.976)),
    "whole scan, every axis": ((130, 512, 512), (2.5, 0.9, 0.9)),
    "cropped, slices kept": ((74, 232, 196), (3.0, 0.976, 0.976)),
    "cropped, every axis": ((89, 240, 220), (2.5, 0.9, 0.9)),
}
EDGE = 12  # voxels: 0.27 ** 12 is 1.5e-7, which is what a spline still feels of a border that far away


def ct_like(shape):
    """Independent HU in every voxel: the hardest image for a spline."""
    return np.random.default_rng(0).uniform(-1000, 2000, shape).astype(np.float32)


def same_extent(shape, spacing_mm):
    """The target grid and where its first centre lies."""
    shape_to = target_shape(shape, spacing_mm, TARGET_MM)
    spacing_to = reached_spacing(shape, spacing_mm, shape_to)
    z, y, x = ((after - before) / 2 for before, after in zip(spacing_mm, spacing_to, strict=True))
    return Geometry(shape_to, spacing_to, (x, y, z))


def by_simpleitk(volume, grid, interpolator=sitk.sitkBSpline, fill=np.nan):
    """The same grid by SimpleITK."""
    size, spacing = grid.size[::-1], grid.spacing_mm[::-1]
    image = sitk.Resample(
        to_sitk(volume), size, sitk.Transform(), interpolator, grid.origin_mm, spacing, grid.direction, fill
    )
    return sitk.GetArrayFromImage(image)


def by_nnunet(volume, grid):
    """The same grid as nnU-Net's default plans ask: in-plane order 3, and order 0 along z if voxels are over 3 : 1."""
    spacing = volume.geometry.spacing_mm
    return nnunet(volume.array[None], grid.size, spacing, grid.spacing_mm, order=3, order_z=0, force_separate_z=None)[0]


def difference(mine, theirs):
    """The largest difference away from the edge."""
    inner = (slice(EDGE, -EDGE),) * 3
    return np.abs(mine[inner] - theirs[inner]).max()


def clipped_by_slice(array, grid):
    """The product's spline, each slice clipped to that slice's own range."""
    low, high = array.min(axis=(1, 2), keepdims=True), array.max(axis=(1, 2), keepdims=True)
    return np.clip(resample_spline(array, grid.size, clip=False), low, high)


def row(name, ours_s, peers):
    """One line of the table in docs/performance.md."""
    for peer_name, (seconds, error) in peers.items():
        print(
            f"| {name} | {peer_name} {seconds:.3g} s | {ours_s:.3g} s | {seconds / ours_s:.1f} | {error} |", flush=True
        )


def image_onto_the_network_grid(name, shape, spacing_mm):
    """Third-order spline, both peers; overshoot is clipped, as nnU-Net and the product do."""
    volume = Volume(ct_like(shape), Geometry(shape, spacing_mm))
    grid = same_extent(shape, spacing_mm)
    ours_s, mine = best_of(4, resample_spline, volume.array, grid.size)
    itk_s, by_itk = best_of(2, by_simpleitk, volume, grid)
    clipped = np.clip(by_itk, volume.array.min(), volume.array.max())
    nnunet_s, by_nn = best_of(2, by_nnunet, volume, grid)
    kept = "; along z it takes the nearest slice"
    if shape[0] == grid.size[0]:
        kept = f"; clipped slice by slice, as it does, {difference(clipped_by_slice(volume.array, grid), by_nn):.1e} HU"
    row(
        name,
        ours_s,
        {
            "SimpleITK": (itk_s, f"{difference(mine, clipped):.1e} HU"),
            "nnU-Net": (nnunet_s, f"{difference(mine, by_nn):.1e} HU{kept}"),
        },
    )


def second_channel(shape, spacing_mm):
    """A contrast-enhanced scan of another grid onto the plain one's crop; SimpleITK is the peer."""
    volume = Volume(ct_like(shape), Geometry(shape, (2.5, 0.9, 0.9), (-3.3, 1.7, 5.1)))
    grid = Geometry((74, 232, 196), spacing_mm, (60.0, 80.0, 90.0))
    ours_s, mine = best_of(4, channel_onto, volume, grid, 1)
    itk_s, by_itk = best_of(2, by_simpleitk, volume, grid)
    clipped = np.clip(by_itk, volume.array.min(), volume.array.max())
    row("second channel onto the crop", ours_s, {"SimpleITK": (itk_s, f"{np.abs(mine - clipped).max():.1e} HU")})


def scores_back(shape, spacing_mm):
    """Probabilities from the network's grid to the scan's, linear; SimpleITK is the peer."""
    scan, crop = Geometry(shape, spacing_mm), (74, 232, 196)
    grid = same_extent(crop, spacing_mm)
    scores = Volume(np.random.default_rng(0).random(grid.size, dtype=np.float32), grid)
    box = tuple((start, start + n) for start, n in zip((40, 150, 160), crop, strict=True))
    record = PreprocessRecord(scan, box, grid.size, grid.spacing_mm)
    origin = tuple(o + s * b[0] for o, s, b in zip(grid.origin_mm, spacing_mm[::-1], box[::-1], strict=True))
    placed = Volume(scores.array, Geometry(grid.size, grid.spacing_mm, origin))
    ours_s, mine = best_of(4, restore, scores.array, record)
    itk_s, by_itk = best_of(2, by_simpleitk, placed, scan, sitk.sitkLinear, 0.0)
    inner = tuple(slice(start + EDGE, stop - EDGE) for start, stop in box)
    row(
        "scores back to the scan", ours_s, {"SimpleITK": (itk_s, f"{np.abs(mine - by_itk)[inner].max():.1e} of 0 to 1")}
    )


def main():
    """Prints a line a grid and peer: times, ratio, the largest difference away from the edge."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    threads = torch.get_num_threads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    print(f"{threads} thread(s), SimpleITK {sitk.__version__}\n")
    print("| case | peer | product | ratio | largest difference |\n|---|---|---|---|---|")
    for name, (shape, spacing_mm) in GRIDS.items():
        image_onto_the_network_grid(name, shape, spacing_mm)
    second_channel((130, 512, 512), TARGET_MM)
    scores_back((130, 512, 512), (3.0, 0.976, 0.976))


if __name__ == "__main__":
    main()
