"""Draws docs/augmentation.png: a phantom's stage-1 patch before and after each random change.

Run: .venv/bin/python docs/augmentation.py
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from common.augment import augment
from common.phantom import make_phantom
from common.preprocess import prepare
from common.recipe import AugmentationConfig, PreprocessConfig
from common.volume import Volume

PATCH = (64, 128, 128)
MESH_SLICES, MESH_VOXELS = 4, 12  # about 12 mm
AIR_HU, MEAN_HU, SD_HU = -1000.0, 0.0, 200.0
WINDOW_HU = (-160.0, 240.0)
NOTHING = {
    "scale_range": (1.0, 1.0), "rotation_deg": 0.0, "elastic_rms_mm": 0.0, "noise_sd": 0.0, "uniform_noise": 0.0,
    "flip_left_right": False,
}  # fmt: skip
EVERYTHING = AugmentationConfig(probability=1.0)
CHANGES = {
    "before": EVERYTHING.model_copy(update=NOTHING),
    "scale 0.7 to 1.3,\nrotation 10 degrees": EVERYTHING.model_copy(
        update=NOTHING | {"scale_range": EVERYTHING.scale_range, "rotation_deg": EVERYTHING.rotation_deg}
    ),
    "elastic, RMS 2 mm": EVERYTHING.model_copy(update=NOTHING | {"elastic_rms_mm": EVERYTHING.elastic_rms_mm}),
    "all, with flip and noise": EVERYTHING,
    "all, another seed": EVERYTHING,
}


def phantom_patch():
    """Returns image (3, z, y, x), the last two channels an axial and a sagittal mesh, label, and spacing in mm."""
    phantom = make_phantom("A", 3)
    label = Volume(phantom.truth, phantom.image.geometry)
    case = prepare([phantom.image], label, PreprocessConfig())
    centre = np.argwhere(case.label).mean(0).round().astype(int)
    starts = [int(np.clip(c - p // 2, 0, n - p)) for c, p, n in zip(centre, PATCH, case.label.shape, strict=True)]
    box = tuple(slice(start, start + p) for start, p in zip(starts, PATCH, strict=True))
    hu = torch.from_numpy(case.image[0][box].copy())
    meshes = torch.zeros(2, *PATCH)
    meshes[0, :, ::MESH_VOXELS] = meshes[0, :, :, ::MESH_VOXELS] = 1
    meshes[1, ::MESH_SLICES] = meshes[1, :, ::MESH_VOXELS] = 1
    image = torch.cat([(hu[None] - MEAN_HU) / SD_HU, meshes])
    return image, torch.from_numpy(case.label[box].copy())[None].float(), case.record.spacing_mm


def draw(axes, hu, mesh, label, spacing_mm, extent):
    """Draws one plane: image, mesh and the target's contour."""
    aspect = spacing_mm[0] / spacing_mm[1]
    axes.imshow(hu, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], aspect=aspect, **extent)
    axes.imshow(np.ones_like(mesh), cmap="autumn", alpha=0.35 * np.clip(mesh, 0, 1), aspect=aspect, **extent)
    if label.any():
        axes.contour(label, [0.5], colors="#00c8ff", linewidths=1.2)
    axes.set_axis_off()


def main():
    """Writes the picture."""
    image, label, spacing_mm = phantom_patch()
    z, _, x = np.argwhere(label[0].numpy()).mean(0).round().astype(int)
    air = (AIR_HU - MEAN_HU) / SD_HU
    figure = Figure(figsize=(2.6 * len(CHANGES), 6.2), layout="constrained")
    panels = figure.subplots(2, len(CHANGES), height_ratios=(1, 1.6))
    for column, (title, config) in enumerate(CHANGES.items()):
        changed, moved = augment(image[:1], label, spacing_mm, config, np.random.default_rng(column), air)
        silent = config.model_copy(update={"noise_sd": 0.0, "uniform_noise": 0.0})
        meshes, _ = augment(image[1:], label, spacing_mm, silent, np.random.default_rng(column), 0.0)
        hu, meshes, target = changed[0].numpy() * SD_HU + MEAN_HU, meshes.numpy(), moved[0].numpy()
        axial, sagittal = panels[:, column]
        draw(axial, hu[z], meshes[0, z], target[z], (1.0, 1.0), {})
        draw(sagittal, hu[:, :, x], meshes[1, :, :, x], target[:, :, x], spacing_mm, {"origin": "lower"})
        axial.set_title(title, fontsize=10)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=80, metadata={"Software": None})


if __name__ == "__main__":
    main()
