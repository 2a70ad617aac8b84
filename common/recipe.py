"""What a model is but for its data: grid, networks, training, inference.

Triples are (z, y, x). Every choice that the paper leaves open is a field here whose docstring says so ([C]);
what the paper fixes is a default ([P]).
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from common.settings import Fraction, Frozen, Sizes, Triple, TripleMm


class RoiConfig(Frozen):
    """How the region of interest is cut (paper, section 2.C)."""

    body_threshold_hu: float = -300.0
    """[C] Voxels above this may belong to the body."""
    crop_at_neck: bool = True
    """[P] Keep what lies above the neck. Off for cohorts whose target reaches below it."""
    neck_margin_mm: float = Field(default=15.0, ge=0)
    """[C] Kept below the neck's narrowest slice."""
    margin_mm: float = Field(default=10.0, ge=0)
    """[C] Kept round the mask's in-plane bounding box."""


class PreprocessConfig(Frozen):
    """From the planning CT to the network's grid (paper, section 2.C)."""

    spacing_mm: TripleMm = (3.0, 0.952, 0.952)
    """[P] Target grid (z, y, x)."""
    roi: RoiConfig = RoiConfig()
    """What of the scan is kept."""


class AsppConfig(Frozen):
    """Atrous spatial pyramid pooling in a skip connection (paper, section 2.D)."""

    rates: tuple[Annotated[int, Field(gt=0)], ...] = (6, 12, 18)
    """[C] Dilation rates; clamped per axis to (n - 1) // 2 so that no kernel degenerates."""
    min_width: int = Field(default=8, ge=1)
    """[C] Least channels of a branch, which is a quarter as wide as its input; CPUs convolve 8 as fast as 4."""
    image_pooling: bool = False
    """[P for stage 2] The v3+ variant adds a global pooling branch."""
    dropout: Fraction = 0.0
    """[C] Dropout after the projection (0.1 in stage 2)."""


TWICE: Triple = (2, 2, 2)
COMPARISON: dict[str, dict[str, Any]] = {
    "voxresnet": {"widths": (32, 64, 64, 64), "strides": (TWICE,) * 3},
    "attention-unet": {"widths": (32, 64, 128, 256, 512), "strides": ((1, 2, 2), *(TWICE,) * 3)},
    "unet++": {"widths": (32, 64, 128, 256, 512), "strides": (TWICE,) * 4},
}
"""[C] Levels of the networks that the MDR-UNet is compared with, where a file names none."""


class NetworkConfig(Frozen):
    """A network: a (M)DR-UNet of len(widths) encoder levels (paper, section 2.D), or one to compare it with."""

    kind: Literal["mdr-unet", "voxresnet", "attention-unet", "unet++"] = "mdr-unet"
    """The last three, of the paper's Table 2, know `widths` and `strides` alone, and have their own defaults."""
    in_channels: int = Field(default=1, ge=1, le=2)
    """[P] 1: plain CT; 2: plain and contrast-enhanced."""
    widths: tuple[Annotated[int, Field(gt=0)], ...] = (32, 64, 128, 256, 512, 512)
    """[P] Channels of each level; capped at 512 (stage 1) or 1024 (stage 2)."""
    strides: tuple[Sizes, ...] = ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    """[C] Downsampling between levels."""
    first_kernel: Sizes = (1, 3, 3)
    """[C] Kernel of the first level; 3 x 3 x 3 below it."""
    aspp: AsppConfig | None = AsppConfig()
    """None gives the Res-UNet."""
    encoder_dropout: Fraction = 0.0
    """[C] Dropout at the encoder's end (0.5 in stage 2)."""

    @model_validator(mode="before")
    @classmethod
    def _comparison_networks_have_their_own_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("kind") not in COMPARISON:
            return data
        return COMPARISON[data["kind"]] | {"first_kernel": (3, 3, 3), "aspp": None} | data

    @model_validator(mode="after")
    def _levels_match(self) -> Self:
        if len(self.widths) < 2 or len(self.strides) != len(self.widths) - 1:
            raise ValueError(
                f"strides: {len(self.strides)} given for {len(self.widths)} widths; expected one fewer than widths"
            )
        if any(size % 2 == 0 for size in self.first_kernel):
            raise ValueError(f"first_kernel: {self.first_kernel} has an even size; use odd ones, which have a middle")
        return self

    @model_validator(mode="after")
    def _the_network_has_what_is_asked(self) -> Self:
        if self.kind == "mdr-unet":
            return self
        expected: dict[str, Any] = {"first_kernel": (3, 3, 3), "aspp": None, "encoder_dropout": 0.0}
        for field, value in expected.items():
            if getattr(self, field) != value:
                raise ValueError(f"{field}: {self.kind} has none to choose; leave it out, or take kind mdr-unet")
        if self.kind == "unet++" and self.strides != (TWICE,) * 4:
            raise ValueError(
                f"strides: {self.strides}; expected four times (2, 2, 2), for a UNet++ has five levels, each of half "
                "the size; give five widths and no strides"
            )
        return self


class StageConfig(Frozen):
    """One stage of the cascade: a network and the patch it sees."""

    network: NetworkConfig = NetworkConfig()
    """Its levels, layers and dropout."""
    patch_size: Sizes = (64, 128, 128)
    """[P] Voxels (z, y, x) of the preprocessed grid."""

    @model_validator(mode="after")
    def _patch_divides(self) -> Self:
        for axis, name in enumerate("zyx"):
            factor = 1
            for stride in self.network.strides:
                factor *= stride[axis]
            if self.patch_size[axis] % factor:
                raise ValueError(
                    f"patch_size: {self.patch_size[axis]} along {name} is not a multiple of the network's "
                    f"downsampling {factor}; use a multiple of {factor}"
                )
        return self

    @model_validator(mode="after")
    def _instance_norms_have_more_than_one_voxel(self) -> Self:
        deepest = math.prod(self.patch_size) // math.prod(size for stride in self.network.strides for size in stride)
        if self.network.kind != "mdr-unet" and deepest == 1:
            raise ValueError(
                f"patch_size: {self.patch_size} leaves one voxel at the deepest level, which {self.network.kind} "
                "cannot normalise; use a larger patch, or fewer strides"
            )
        return self


class AugmentationConfig(Frozen):
    """Random changes of a training patch (paper, section 3.A.1)."""

    enabled: bool = True
    """Off: patches as they are."""
    scale_range: tuple[float, float] = (0.7, 1.3)
    """[P]"""
    rotation_deg: float = Field(default=10.0, ge=0)
    """[P] Uniform within +- this, about each axis [C]."""
    elastic_rms_mm: float = Field(default=2.0, ge=0)
    """[C] RMS of the in-plane elastic displacement; the paper's "34 / 10" taken literally moves voxels by 0.12."""
    elastic_grid_mm: float = Field(default=32.0, gt=0)
    """[C] Distance of the elastic field's control points."""
    noise_sd: float = Field(default=0.1, ge=0)
    """[P] Gaussian noise of SD uniform in 0..this, on normalised intensities [C]."""
    uniform_noise: float = Field(default=0.1, ge=0)
    """[P] Uniform noise within +- this, chosen instead of Gaussian in half of the patches [C]."""
    flip_left_right: bool = True
    """[C] Anatomy is near symmetric left to right only."""
    probability: Fraction = 0.5
    """[C] Share of patches that each transform touches."""

    @model_validator(mode="after")
    def _scales_are_ordered(self) -> Self:
        least, most = self.scale_range
        if not 0 < least <= most:
            raise ValueError(f"scale_range: [{least}, {most}]; expected two positive factors, the smaller first")
        return self


class TrainingConfig(Frozen):
    """Optimisation (paper, section 3.A.1)."""

    lr0: float = Field(default=0.01, gt=0)
    """[P] lr = lr0 (1 - epoch / epoch_max) ** power, over global epochs."""
    power: float = Field(default=0.9, ge=0)
    """[P]"""
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """[P]"""
    nesterov: bool = False
    """[C] Off: paper."""
    weight_decay: float = Field(default=0.0, ge=0)
    """[C] Off: paper."""
    gradient_clip: float = Field(default=0.0, ge=0)
    """[C] Largest norm of an update's gradient; 0: none, as in the paper."""
    batch_size: int = Field(default=1, ge=1)
    """[P] Patches a forward pass."""
    accumulation: int = Field(default=2, ge=1)
    """[P] Batches an update; the odd last batch is flushed at the epoch's end."""
    patches_per_case: int = Field(default=1, ge=1)
    """[C] Patches a case and epoch."""
    foreground_fraction: Fraction = 1 / 3
    """[C] Share of stage-1 patches forced to hold foreground."""
    jitter_voxels: int = Field(default=3, ge=0)
    """[P] Stage-2 crops lie round the true centroid, moved by up to this along each axis."""
    momentum_across_rounds: Literal["reset", "keep"] = "reset"
    """[C] Whether a site keeps its optimiser's momentum when the aggregated weights replace its own."""
    autocast: Literal["auto", "bf16", "off"] = "auto"
    """[C] bf16 autocast; auto turns it on for GPUs that compute in bf16 and CPUs with AMX."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """What is done to a patch before it is seen."""


class InferenceConfig(Frozen):
    """Two-stage inference (paper, section 2.E)."""

    window_overlap: float = Field(default=0.5, ge=0, lt=1)
    """[P] Stage 1 slides its patch at half its size."""
    windows_per_batch: int = Field(default=1, ge=1)
    """[C] Windows a forward pass; more is faster for small networks and needs more memory."""
    centroid_threshold: Fraction = 0.5
    """[C] The centroid is that of the largest component of stage 1 at or above this."""
    stage2_weight: Fraction = 0.5
    """[P] S = (1 - w) S1 + w S2."""
    threshold: Fraction = 0.6
    """[P] Applied on the original grid."""
    fusion: Literal["paper", "safe"] = "safe"
    """[C] `paper`: one stage-2 crop, so a larger tumour is cut; `safe`: stage 2 tiles what exceeds the crop."""


STAGE2 = StageConfig(
    network=NetworkConfig(
        widths=(32, 64, 128, 256, 512, 1024),
        aspp=AsppConfig(rates=(2, 4, 6), image_pooling=True, dropout=0.1),
        encoder_dropout=0.5,
    ),
    patch_size=(32, 64, 96),
)


class Recipe(Frozen):
    """Everything that defines a model but its data: grid, networks, training, inference."""

    preprocess: PreprocessConfig = PreprocessConfig()
    """From the scan to the grid that both stages see."""
    stage1: StageConfig = StageConfig()
    """Finds the tumour in the whole region of interest."""
    stage2: StageConfig | None = STAGE2
    """Looks again at a crop round it; None: no cascade."""
    training: TrainingConfig = TrainingConfig()
    """How both stages are trained."""
    inference: InferenceConfig = InferenceConfig()
    """How scores become a mask."""

    @property
    def stages(self) -> dict[str, StageConfig]:
        """The stages present, by the prefix of their weights: `stage1`, and `stage2` in a cascade."""
        return {"stage1": self.stage1} | ({"stage2": self.stage2} if self.stage2 else {})

    @property
    def num_images(self) -> int:
        """Images a case needs: 1 (plain CT), or 2 (contrast-enhanced CT too)."""
        return self.stage1.network.in_channels

    @model_validator(mode="after")
    def _stages_see_the_same_images(self) -> Self:
        for stage, config in self.stages.items():
            if config.network.in_channels != self.num_images:
                raise ValueError(
                    f"{stage}.network.in_channels: {config.network.in_channels}; expected {self.num_images} as in "
                    "stage1; both stages see the same images"
                )
        return self
