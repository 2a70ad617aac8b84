"""Times surface metrics on a planning CT's own grid: ours, distance transforms of the whole grid, MONAI and MedPy.

Run by hand: OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/metrics.py (left out: peers not installed)
"""

import importlib.util
import time

import numpy as np

from common.metrics import case_metrics, surface_distances

SHAPE = (130, 512, 512)
SPACING_MM = (3.0, 0.976, 0.976)


def ellipsoid(centre, radii):
    """A mask with the paper's tumour extent: 64 x 43 x 15 voxels."""
    axes = np.ogrid[tuple(slice(n) for n in SHAPE)]
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1


def ours(prediction, truth):
    """Cropped to the masks."""
    metrics = case_metrics(prediction, truth, SPACING_MM)
    return metrics.assd_mm, metrics.hd95_mm


def whole_grid(prediction, truth):
    """The same definitions without the crop."""
    there, back = surface_distances(prediction, truth, SPACING_MM)
    return (there.mean() + back.mean()) / 2, max(np.percentile(there, 95), np.percentile(back, 95))


def by_monai(prediction, truth):
    """MONAI pools both directions in the ASSD."""
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
    assd = compute_average_surface_distance(*pair, include_background=True, symmetric=True, spacing=SPACING_MM)
    hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=SPACING_MM)
    return assd.item(), hd95.item()


def by_medpy(prediction, truth):
    """MedPy pools both directions in the HD95."""
    from medpy.metric.binary import assd, hd95

    return assd(prediction, truth, SPACING_MM), hd95(prediction, truth, SPACING_MM)


def main():
    """Prints seconds, the ratio to ours, and both distances."""
    truth = ellipsoid((80, 250, 256), (7.5, 21.5, 32))
    prediction = ellipsoid((81, 253, 251), (6, 23, 28))
    rivals = {"ours": ours, "whole grid": whole_grid}
    peers = {"monai": by_monai, "medpy": by_medpy}
    rivals |= {name: peer for name, peer in peers.items() if importlib.util.find_spec(name)}
    ours(prediction, truth)
    reference = 0.0
    for name, function in rivals.items():
        start = time.perf_counter()
        assd_mm, hd95_mm = function(prediction, truth)
        seconds = time.perf_counter() - start
        reference = reference or seconds
        print(
            f"{name:10} {seconds * 1000:10.1f} ms, ratio {seconds / reference:7.1f}, "
            f"ASSD {assd_mm:.4f}, HD95 {hd95_mm:.4f}"
        )


if __name__ == "__main__":
    main()
