"""Times all five metrics on a planning CT's own grid against MedPy, MONAI and surface-distance, and compares values.

Where definitions agree the values must: on equal surfaces pooling both directions changes nothing. Where they do not,
the peers' values are made here from the product's distances, so that the definition is all that differs.
Run by hand: OMP_NUM_THREADS=1 PYTHONPATH=. .venv-bench/bin/python tests/benchmarks/metrics.py
"""

import argparse
import warnings

import numpy as np
import torch
from _peers import best_of, peer

from common.metrics import case_metrics

SHAPE = (130, 512, 512)
SPACING_MM = (3.0, 0.976, 0.976)


def ellipsoid(centre, radii):
    """Radii in voxels."""
    axes = np.ogrid[tuple(slice(n) for n in SHAPE)]
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1


def cases():
    """Pairs of prediction and truth; the paper's tumour is 64 x 43 x 15 voxels."""
    truth = ellipsoid((80, 250, 256), (7.5, 21.5, 32))
    found = ellipsoid((81, 253, 251), (6, 23, 28))
    stray = found.copy()
    stray[30:32, 100:104, 400:404] = True
    yield "equal surfaces", np.roll(truth, (1, 3, -5), (0, 1, 2)), truth
    yield "a tumour found", found, truth
    yield "a small part of it", ellipsoid((80, 250, 238), (2, 5, 7)), truth
    yield "a stray component", stray, truth


def product(prediction, truth):
    """All five metrics."""
    return case_metrics(prediction, truth, SPACING_MM)


def by_monai(prediction, truth):
    """Dice, precision, sensitivity and both distances."""
    metrics = peer("monai.metrics")
    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
    metrics.compute_dice(*pair, include_background=True)
    confusion = metrics.get_confusion_matrix(*pair, include_background=True)
    for name in ("precision", "sensitivity"):
        metrics.compute_confusion_matrix_metric(name, confusion)
    return monai_distances(prediction, truth)


def monai_distances(prediction, truth):
    """ASSD and HD95 alone."""
    metrics = peer("monai.metrics")
    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
    options = {"include_background": True, "spacing": SPACING_MM}
    assd = metrics.compute_average_surface_distance(*pair, symmetric=True, **options)
    return assd.item(), metrics.compute_hausdorff_distance(*pair, percentile=95, **options).item()


def by_medpy(prediction, truth):
    """Dice, precision, sensitivity and both distances."""
    binary = peer("medpy.metric.binary")
    for function in (binary.dc, binary.precision, binary.sensitivity):
        function(prediction, truth)
    return binary.assd(prediction, truth, SPACING_MM), binary.hd95(prediction, truth, SPACING_MM)


def by_surface_distance(prediction, truth):
    """Dice and both distances, of surface elements weighted by their area."""
    package = peer("surface_distance")
    package.compute_dice_coefficient(truth, prediction)
    distances = package.compute_surface_distances(truth, prediction, SPACING_MM)
    assd = np.mean(package.compute_average_surface_distance(distances))
    return float(assd), package.compute_robust_hausdorff(distances, 95)


def brute_force(prediction, truth):
    """Both directions' distances from every surface voxel to every other, 6-neighbours as in the paper."""
    ndimage, cdist = peer("scipy.ndimage"), peer("scipy.spatial.distance").cdist
    points = [np.argwhere(mask ^ ndimage.binary_erosion(mask)) * SPACING_MM for mask in (prediction, truth)]
    pairs = cdist(*points)
    return pairs.min(axis=1), pairs.min(axis=0)


def definitions(there, back):
    """ASSD and HD95 by the paper's words, MedPy's and MONAI's."""
    pooled = np.concatenate([there, back])
    larger = max(np.percentile(there, 95), np.percentile(back, 95))
    return {
        "product": ((there.mean() + back.mean()) / 2, larger),
        "MONAI": (pooled.mean(), larger),
        "MedPy": (pooled.mean(), np.percentile(pooled, 95)),
    }


def inside_their_box(function):
    """The same on the masks' bounding box and a margin: the values need no more, and MedPy takes half a minute else."""

    def boxed(prediction, truth):
        indices = np.argwhere(prediction | truth)
        box = tuple(slice(max(low - 1, 0), high + 2) for low, high in zip(indices.min(0), indices.max(0), strict=True))
        return function(prediction[box], truth[box])

    return boxed


def compare(name, prediction, truth, medpy):
    """Prints one line a package; raises AssertionError where a value is not that of its definition."""
    print(f"{name}: {prediction.sum()} voxels predicted, {truth.sum()} true")
    expected = definitions(*brute_force(prediction, truth))
    expected["MONAI, distances"] = expected["MONAI"]
    ours, metrics = best_of(7, product, prediction, truth)
    values = {"product": (ours, (metrics.assd_mm, metrics.hd95_mm))}
    peers = {"MONAI": by_monai, "MONAI, distances": monai_distances, "surface-distance": by_surface_distance}
    for package, function in peers.items():
        values[package] = best_of(2, function, prediction, truth)
    values["MedPy"] = best_of(1, medpy, prediction, truth)
    for package, (seconds, (assd_mm, hd95_mm)) in values.items():
        time = f"{seconds * 1000:9.1f} ms, ratio {seconds / ours:7.1f}"
        if package == "MedPy" and medpy is not by_medpy:
            time = f"{'not timed':>27}"
        off = ""
        if package in expected:
            difference = np.abs(np.subtract((assd_mm, hd95_mm), expected[package])).max()
            assert difference < 1e-4, f"{package}: {assd_mm}, {hd95_mm}; its definition gives {expected[package]}"
            off = f", off its definition by {difference:.0e} mm"
        print(f"  {package:16} {time}, ASSD {assd_mm:.4f}, HD95 {hd95_mm:.4f} mm{off}", flush=True)


def main():
    """Prints times, ratios to the product's time, values, and how far each is from its definition."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # MONAI's own
    for name, prediction, truth in cases():
        timed = name == "a tumour found"
        compare(name, prediction, truth, by_medpy if timed else inside_their_box(by_medpy))


if __name__ == "__main__":
    main()
