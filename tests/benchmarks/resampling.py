"""Times separable spline resampling against SimpleITK on one paper-sized region of interest.

Run by hand: OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/resampling.py
"""

import os
import time

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)

from common.resample import reached_spacing, resample_spline, target_shape

SHAPE = (80, 240, 220)
SPACING_MM = (2.5, 0.75, 0.75)
TARGET_MM = (3.0, 0.952, 0.952)


def by_simpleitk(array, shape_to, spacing_mm):
    """The same grid by SimpleITK's sitkBSpline."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    origin = [(after - before) / 2 for before, after in zip(SPACING_MM, spacing_mm, strict=True)]
    direction = image.GetDirection()
    size, spacing = list(shape_to[::-1]), list(spacing_mm[::-1])
    return sitk.GetArrayFromImage(
        sitk.Resample(image, size, sitk.Transform(), sitk.sitkBSpline, origin[::-1], spacing, direction)
    )


def best_of(repeats, function, *arguments):
    """Returns the least wall time in seconds, and the last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def main():
    """Prints times, their ratio and the largest difference."""
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    rng = np.random.default_rng(0)
    array = rng.uniform(-1000, 2000, SHAPE).astype(np.float32)
    shape_to = target_shape(SHAPE, SPACING_MM, TARGET_MM)
    spacing_mm = reached_spacing(SHAPE, SPACING_MM, shape_to)
    first, _ = best_of(1, resample_spline, array, shape_to, False)
    ours, mine = best_of(5, resample_spline, array, shape_to, False)
    theirs, reference = best_of(3, by_simpleitk, array, shape_to, spacing_mm)
    print(
        f"{SHAPE} at {SPACING_MM} mm -> {shape_to} at {tuple(round(s, 4) for s in spacing_mm)} mm, {threads} thread(s)"
    )
    print(f"ours      {ours * 1000:8.1f} ms (first call, weights made: {first * 1000:.1f} ms)")
    print(f"SimpleITK {theirs * 1000:8.1f} ms, ratio {theirs / ours:.1f}")
    print(f"largest difference {np.abs(mine - reference).max():.1e} HU, border included")


if __name__ == "__main__":
    main()
