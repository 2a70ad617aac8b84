"""Frozen, validated configuration: recipes, experiments and sites, read from YAML; unknown keys are refused.

Triples are (z, y, x). Every choice that the paper leaves open is a field here whose docstring says so ([C]);
what the paper fixes is a default ([P]).
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from common.errors import ConfigError

Triple = tuple[int, int, int]
Positive = Annotated[int, Field(gt=0)]
Sizes = tuple[Positive, Positive, Positive]
TripleMm = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
Fraction = Annotated[float, Field(ge=0, le=1)]
SHOWN = 120
"""Letters of a value in an error."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME)]
"""Names of sites, models and experiments: they become file names."""
FileName = Annotated[str, Field(pattern=r"^[^/*?\[\]]+$")]
"""A file's own name, without folders and wildcards."""


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error}); correct it") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_regular_expression)]


class Frozen(BaseModel):
    """Base of all configuration: immutable, no unknown keys, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    absent: ClassVar[str] = "give the path of a YAML file"
    """The remedy where a file of it cannot be read."""


Model = TypeVar("Model", bound=Frozen)


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


class SplitConfig(Frozen):
    """Patient-wise seeded split of a site's cases."""

    test_fraction: Fraction = 0.3
    """[P for transfer] Held out at every site."""
    validation_fraction: Fraction = 0.1
    """[C] Of the remaining cases; used to choose models, never the test cases."""
    seed: int = 0
    """Of the split alone; the experiment's own seed does not change who tests."""
    folds: int = Field(default=0, ge=0, le=100)
    """Cross-validation: into how many parts the patients are dealt, each of which tests once; 0: none."""
    fold: int = Field(default=0, ge=0)
    """Which of the parts tests, from 1; set by the coordinator for each fold, 0 in a file."""

    @model_validator(mode="after")
    def _fold_is_one_of_the_folds(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds: 1; expected 0 (none) or at least 2, for the others train while one tests")
        if self.fold > self.folds:
            raise ValueError(f"fold: {self.fold}; expected one of 1 to {self.folds}, or 0 for the plain split")
        return self


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


class StatisticsStep(Frozen):
    """Asks every site for its HU histogram and case counts."""

    kind: Literal["statistics"]


class _Training(Frozen):
    model: Name
    """Name of the result (`local` and `finetune` append `-SITE`)."""
    sites: tuple[Name, ...] = ()
    """Empty: all of the experiment's sites."""
    rounds: int = Field(default=1, ge=1)
    """How often weights are averaged (`local`, `finetune`, `pooled`: put on the coordinator's disk)."""
    local_epochs: int = Field(default=1, ge=1)
    """Epochs a round at each site."""
    lr0: float | None = Field(default=None, gt=0)
    """Instead of the recipe's."""
    select: Literal["last", "best"] = "last"
    """The last round's model, or the one with the best validation DSC."""
    recipe: Name | None = None
    """One of the experiment's `recipes`; none: that of `initial`, or the experiment's `recipe`."""
    folds: bool = False
    """Whether it is done once for each of the split's `folds`; from an `initial` that was, it always is."""

    @property
    def epochs(self) -> int:
        """Global epochs of the step: rounds times local epochs."""
        return self.rounds * self.local_epochs


class TrainStep(_Training):
    """Federated training over sites."""

    kind: Literal["train"]
    initial: Name | None = None
    """A model of an earlier step; none: fresh weights from the experiment's seed."""
    strategy: Literal[
        "fedavg",
        "fedavgm",
        "fedprox",
        "fedadam",
        "fedyogi",
        "fedbn",
        "cyclic",
        "trimmed-mean",
        "median",
        "krum",
        "multikrum",
    ] = "fedavg"
    """How the sites' weights become one model (`cyclic`: it goes from site to site); the last four withstand a few bad
    sites among many."""
    strategy_options: dict[str, float] = {}
    """What the strategy can be told, such as `proximal_mu` (FedProx) or `beta` (trimmed mean)."""


class LocalStep(_Training):
    """Every site trains alone from the same fresh weights: the comparison a federation has to beat."""

    kind: Literal["local"]


class FinetuneStep(_Training):
    """Every site fine-tunes `initial` alone on its own cases."""

    kind: Literal["finetune"]
    initial: Name
    """A model of an earlier step, the same for every site."""


class PooledStep(_Training):
    """Trains one model on the training cases of all its sites together: what a federation is measured against.

    For simulations alone. Every site's own split holds, so no case that tests at a site trains it.
    """

    kind: Literal["pooled"]
    initial: Name | None = None
    """A model of an earlier step; none: fresh weights from the experiment's seed."""


class EvaluateStep(Frozen):
    """Cross-site matrix: every model at every site's held-out cases."""

    kind: Literal["evaluate"]
    models: tuple[Name, ...] = Field(min_length=1)
    """Models of earlier steps; the base name of a `local` or `finetune` step stands for all its sites' models."""
    sites: tuple[Name, ...] = ()
    """Where they are measured; empty: all of the experiment's sites."""
    split: Literal["validation", "test"] = "test"
    """On which part of a site's cases."""
    models_per_message: int = Field(default=1, ge=1)
    """How many models travel together; more saves waits, fewer saves memory."""
    pictures: int = Field(default=0, ge=0)
    """Overlays asked of each site for the first model; a site sends them only if its policy allows."""
    compare: tuple[tuple[Name, Name], ...] = ()
    """Pairs of `models` that are compared case by case, the first less the second; none: the first with each other."""

    @model_validator(mode="after")
    def _pairs_are_two(self) -> Self:
        for first, second in self.compare:
            if first == second:
                raise ValueError(f"compare: {first!r} with itself; name two models")
        return self


What = Literal["planes", "features", "boundary"]
Rank = Literal["best", "median", "worst"]


class PicturesStep(Frozen):
    """Pictures of single test cases at the sites whose policy lets them go (paper, figures 3, 5 and 6)."""

    kind: Literal["pictures"]
    models: tuple[Name, ...] = Field(min_length=1)
    """Models of earlier steps, a row each; the first one's DSC chooses the cases."""
    what: tuple[What, ...] = Field(default=("planes", "features", "boundary"), min_length=1)
    """`planes`: contour and prediction; `features`: maps of the finest skip connection; `boundary`: probabilities."""
    sites: tuple[Name, ...] = ()
    """Whose cases are drawn; empty: all of the experiment's sites."""
    cases: tuple[Rank, ...] = Field(default=("best", "median", "worst"), min_length=1)
    """Which of a site's test cases are drawn."""
    fold: int = Field(default=0, ge=0)
    """Of models that are made for each fold, which fold's, on the cases that it tests; 0: models of the plain split."""


TrainingStep = TrainStep | LocalStep | FinetuneStep | PooledStep
Step = Annotated[StatisticsStep | TrainingStep | EvaluateStep | PicturesStep, Field(discriminator="kind")]


class RoundConfig(Frozen):
    """How the coordinator waits for the sites."""

    join_timeout_s: float = Field(default=120.0, gt=0)
    """Sites must be connected within this, all or the quorum; a run that goes on waits for the quorum up to
    `timeout_s`."""
    timeout_s: float = Field(default=43_200.0, gt=0, le=43_200.0)
    """A round's replies must be in within this; Flower 1.41 drops a message after 12 h."""
    quorum: int = Field(default=0, ge=0)
    """Sites whose replies must be good for a federated round to count; 0: all that the step names."""
    patience: float = Field(default=3.0, ge=1)
    """Once the quorum is in, the others have this many times the median of the last five rounds, from the round's
    start; in a model's first round, of the time that the quorum took."""
    grace_s: float = Field(default=60.0, ge=0)
    """They have at least this from when the quorum is in."""
    stragglers: Literal["drop", "next"] = "drop"
    """Who is later than that: `drop`: the work is lost, and the site takes part in the next round; `next`: it is let
    finish, and what it learnt is added in the round in which it comes."""
    max_norm_ratio: float | None = Field(default=10.0, gt=1)
    """An update this many times longer than the median of this and the last round is left out; null: any may be."""
    min_cosine: float | None = Field(default=-0.2, ge=-1, lt=0)
    """Of three sites or more, an update whose cosine with most of the others is below this is left out; null: none."""
    keep_rounds: Literal["last", "all"] = "last"
    """Whose weights stay on the coordinator's disk: the last two rounds' and the best's, or all."""
    transport: Literal["fp32", "fp16"] = "fp32"
    """Number format of weights on the wire; aggregation is always fp32."""


GTV_BUT_NODES = r"^gtv(?!(.*[^a-z])?[rpt]*l?n([^apx]|$))(?!.*(nod|lymph|neck|[^a-z]lk))"
"""Names that begin with GTV, but those of lymph nodes, such as GTVn, GTVnd, GTV-N, GTV_LN, GTVrpn or GTV node."""


class IngestConfig(Frozen):
    """How an export becomes cases."""

    structures: tuple[Pattern, ...] = Field(default=(r"^gtv[-_ ]?(nx|t|p)$", GTV_BUT_NODES), min_length=1)
    """Ordered, case-insensitive patterns of ROI names; the first that matches exactly one ROI is the target. Where it
    is not the very first, the case has a warning."""
    prefer_approved: bool = False
    """Whether, of several structure sets of one CT that hold a target, the only approved one is taken; otherwise the
    case is refused."""
    contrast: tuple[Pattern, ...] = ()
    """Ordered, case-insensitive patterns of series descriptions; the first that matches exactly one other CT series in
    the drawn one's frame of reference is the contrast-enhanced image. Empty: cases have one image."""
    image_name: FileName = "ct.nii.gz"
    """File name of the image in a NIfTI export's case folder."""
    contrast_name: FileName | Literal[""] = ""
    """File name of the contrast-enhanced image beside it, on any grid of the same patient coordinates; empty: cases
    have one image."""
    label_name: FileName = "gtv.nii.gz"
    """File name of the label beside it."""
    interpolate_gaps: bool = False
    """Whether slices of the target without a contour, such as every second, are filled between their neighbours."""


class SimulationConfig(Frozen):
    """Where `fedgtv-simulate` takes its sites' data from when nothing was imported yet."""

    source: Literal["phantoms", "folder"] = "phantoms"
    """`phantoms`: made on the spot; `folder`: one export a site, in folders named like the sites."""
    folder: str = ""
    """May begin with an environment variable, such as `$FEDGTV_DATA/openkbp`."""
    cases: dict[Name, int] = {}
    """Phantom cases a site."""
    scale: float = Field(default=1.0, gt=0, le=1)
    """In-plane and through-plane coarsening of the phantoms; 1 is 512 x 512 x 130."""
    contrast: float = Field(default=1.0, gt=0)
    """Factor on the phantom tumour's HU difference to muscle."""
    seed: int = Field(default=1, ge=0)
    """Of the phantoms; the experiment's own seed changes weights and sampling, not the patients."""
    ingest: IngestConfig = IngestConfig()
    """How every site's export becomes cases."""


class Experiment(Frozen):
    """A list of steps over named sites, with one recipe or several."""

    name: Name
    """Names the run too, unless the command is given another name."""
    seed: int = Field(default=1, ge=0, lt=2**31)
    """Of first weights and of sampling."""
    sites: tuple[Name, ...]
    """Who takes part, each once; over a federation, names that are enrolled."""
    recipe: Recipe = Recipe()
    """What a model is; in a file also the path of a recipe file."""
    recipes: dict[Name, Recipe] = {}
    """More of them, by the name that a training step gives; in a file each also a path. All share grid and images."""
    split: SplitConfig = SplitConfig()
    """How every site parts its cases."""
    rounds: RoundConfig = RoundConfig()
    """How the coordinator waits for the sites."""
    steps: tuple[Step, ...] = Field(min_length=1)
    """What is done, in order; a step may use only the models of steps before it."""
    simulation: SimulationConfig = SimulationConfig()
    """Where `fedgtv-simulate` takes cases from; a federation's sites have their own."""
    reuse: bool = True
    """Whether a model that was trained before in the same way, on the same data, in this run or one beside it, is
    copied instead of trained again."""
    notes: tuple[str, ...] = ()
    """Sentences that stand beside the tables, such as what the target really is."""
    reproduces: Literal["", "table2", "table3", "table4"] = ""
    """The paper's table in whose layout the report sets the results, its figures beside them; empty: none."""

    @field_validator("sites")
    @classmethod
    def _sites_once(cls, sites: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({site for site in sites if sites.count(site) > 1})
        if twice:
            raise ValueError(f"site {twice[0]!r} is named twice; name every site once")
        if not sites:
            raise ValueError("no site is named; expected at least one")
        return sites

    @model_validator(mode="after")
    def _sites_suffice(self) -> Self:
        if self.rounds.quorum > len(self.sites):
            raise ValueError(
                f"rounds.quorum: {self.rounds.quorum}; expected at most the number of sites, {len(self.sites)}"
            )
        for site in self.simulation.cases:
            if site not in self.sites:
                raise ValueError(f"simulation.cases names site {site!r}; expected one of {', '.join(self.sites)}")
        return self

    @model_validator(mode="after")
    def _steps_refer_to_what_exists(self) -> Self:
        known: set[str] = set()
        bases: set[str] = set()
        for number, step in enumerate(self.steps, 1):
            named = getattr(step, "sites", ())
            for site in named:
                if site not in self.sites:
                    raise ValueError(f"step {number} names site {site!r}; expected one of {', '.join(self.sites)}")
                if named.count(site) > 1:
                    raise ValueError(f"step {number} names site {site!r} twice; name every site once")
            wanted = step.models if isinstance(step, EvaluateStep | PicturesStep) else (_initial(step),)
            for model in wanted:
                if model is not None and model not in known:
                    raise ValueError(
                        f"step {number} needs model {model!r}, which no earlier step makes; "
                        f"made so far: {', '.join(sorted(known)) or 'none'}"
                    )
            initial = _initial(step)
            if initial in bases:
                raise ValueError(
                    f"step {number} starts from {initial!r}, which is one model a site; name one, such as "
                    f"'{initial}-{self.sites[0]}'"
                )
            if isinstance(step, PooledStep) and step.model in self.sites:
                raise ValueError(
                    f"step {number} calls its model {step.model!r}, which is a site's name; call it otherwise: where "
                    "it is trained goes by its name"
                )
            if isinstance(step, _Training):
                results = self.results_of(step)
                bases |= {step.model} - set(results)
                if known & {step.model, *results}:
                    raise ValueError(f"step {number} makes model {step.model!r}, which an earlier step makes already")
                known |= {step.model, *results}
        return self

    @model_validator(mode="after")
    def _recipes_fit(self) -> Self:
        for name, recipe in self.recipes.items():
            for what in ("preprocess", "num_images"):
                if getattr(recipe, what) != getattr(self.recipe, what):
                    raise ValueError(
                        f"recipes.{name}: {what} is not that of `recipe`; the models of an experiment share the grid, "
                        "the images and their statistics; make it the same, or write another experiment"
                    )
        for number, step in enumerate(self.steps, 1):
            named, initial = getattr(step, "recipe", None), _initial(step)
            if named is not None and named not in self.recipes:
                known = ", ".join(self.recipes) or "none"
                raise ValueError(f"step {number} names recipe {named!r}; expected one of `recipes`: {known}")
            if named and initial and self.recipes[named].stages != self.recipe_of(initial).stages:
                raise ValueError(
                    f"step {number} names recipe {named!r}, whose networks are not those of {initial!r}, which it "
                    "starts from; leave `recipe` out"
                )
        return self

    @model_validator(mode="after")
    def _folds_fit(self) -> Self:
        if self.split.fold:
            raise ValueError(f"split.fold: {self.split.fold}; expected 0, for steps go through the folds by themselves")
        for number, step in enumerate(self.steps, 1):
            if isinstance(step, PicturesStep):
                self._pictures_are_of_one_fold(number, step)
            if not isinstance(step, _Training):
                continue
            if FOLD_NAME.search(step.model):
                raise ValueError(f"step {number} makes model {step.model!r}; a fold's model ends so; name it otherwise")
            if step.folds and not self.split.folds:
                raise ValueError(f"step {number} has `folds: true`, but split.folds is 0; set it, such as to 5")
            initial = _initial(step)
            seen = self._trained_at(initial) & set(self.sites_of(step)) if initial else set()
            if step.folds and initial and not self.folds_of(initial) and seen:
                raise ValueError(
                    f"step {number} goes through the folds from {initial!r}, which has seen test cases of "
                    f"{', '.join(sorted(seen))} in training; train that by folds too, or leave `folds` out"
                )
        return self

    def _pictures_are_of_one_fold(self, number: int, step: PicturesStep) -> None:
        for model in step.models:
            folds = self.folds_of(model)
            if folds and step.fold not in folds:
                raise ValueError(
                    f"step {number} draws model {model!r}, which is made for each fold, with `fold: {step.fold}`; "
                    f"expected one from 1 to {len(folds)}, whose cases are drawn"
                )
            if step.fold and not folds:
                raise ValueError(
                    f"step {number} draws model {model!r} with `fold: {step.fold}`, which is made for the plain split "
                    "and may have been trained on cases that the fold tests; draw it in a step without `fold`"
                )

    @model_validator(mode="after")
    def _compared_models_are_measured(self) -> Self:
        for number, step in enumerate(self.steps, 1):
            if isinstance(step, EvaluateStep):
                measured = {*step.models, *(name for base in step.models for name in self.named(base))}
                odd = [name for pair in step.compare for name in pair if name not in measured]
                if odd:
                    raise ValueError(
                        f"step {number} compares model {odd[0]!r}, which it does not measure; add it to its models"
                    )
        return self

    def named(self, base: str) -> tuple[str, ...]:
        """The models that a name in a step's `models` stands for: itself, or those of a step, one a site."""
        for step in self.steps:
            if getattr(step, "model", None) == base:
                return self.results_of(step)
        return (base,)

    def sites_of(self, step: Any) -> tuple[str, ...]:
        """The sites a step runs on: its own list, or all."""
        return tuple(getattr(step, "sites", ()) or self.sites)

    def results_of(self, step: Any) -> tuple[str, ...]:
        """Names of the models a training step makes; of one that goes through the folds, without their endings."""
        if isinstance(step, LocalStep | FinetuneStep):
            return tuple(f"{step.model}-{site}" for site in self.sites_of(step))
        return (step.model,)

    def cohort_of(self, model: str) -> tuple[str, ...]:
        """The sites whose cases a model of `results_of`, or its fold, is trained on: its step's, or its own one."""
        step = self.maker_of(model)
        results, sites = self.results_of(step), self.sites_of(step)
        whole = FOLD_NAME.sub("", model)
        return sites if whole == step.model else (sites[results.index(whole)],)

    def maker_of(self, model: str) -> "_Training":
        """The step that makes a model, named as `results_of` does, as its step, or as one of its folds."""
        whole = FOLD_NAME.sub("", model)
        for step in self.steps:
            if isinstance(step, _Training) and whole in (step.model, *self.results_of(step)):
                return step
        raise ConfigError(f"{self.name}: no step makes model {model!r}; name one that a step makes")

    def recipe_of(self, model: str) -> Recipe:
        """What a model is: the recipe that its step names, else that of the model it starts from, else `recipe`."""
        step = self.maker_of(model)
        initial = _initial(step)
        if step.recipe is not None:
            return self.recipes[step.recipe]
        return self.recipe_of(initial) if initial else self.recipe

    def folds_of(self, model: str) -> tuple[int, ...]:
        """The folds that a model is made for, from 1; none for a model of the plain split."""
        step = self.maker_of(model)
        initial = _initial(step)
        folded = step.folds or (initial is not None and bool(self.folds_of(initial)))
        return tuple(range(1, self.split.folds + 1)) if folded else ()

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that any step goes through; none where none does."""
        made = (step.model for step in self.steps if isinstance(step, _Training))
        return next((folds for folds in map(self.folds_of, made) if folds), ())

    def split_of(self, fold: int) -> SplitConfig:
        """The split of a fold; fold 0 is the plain one."""
        return self.split.model_copy(update={"fold": fold})

    def files_of(self, model: str) -> tuple[str, ...]:
        """The names under which a model of `results_of` is kept: one a fold, or its own."""
        return tuple(fold_model(model, fold) for fold in self.folds_of(model)) or (model,)

    def _trained_at(self, model: str) -> set[str]:
        """The sites that a model, and what it starts from, was trained at."""
        step = self.maker_of(model)
        initial = _initial(step)
        return set(self.cohort_of(model)) | (self._trained_at(initial) if initial else set())


FOLD_NAME = re.compile(r"\.fold-\d+$")
"""How the name of a fold's model ends."""


def fold_model(model: str, fold: int) -> str:
    """Returns the name of a model's fold; fold 0 is the plain split's."""
    return f"{model}.fold-{fold}" if fold else model


def fold_of(model: str) -> int:
    """Returns the fold in the name of a fold's model; 0 of any other."""
    found = FOLD_NAME.search(model)
    return int(found[0].rpartition("-")[2]) if found else 0


def _initial(step: Any) -> str | None:
    return getattr(step, "initial", None)


_HOURS = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"


class PolicyConfig(Frozen):
    """What a site does, and what may leave it; client/border.py holds it."""

    tasks: tuple[Literal["statistics", "train", "evaluate"], ...] = ("statistics", "train", "evaluate")
    """Kinds of task that the site does."""
    max_rounds: int | None = Field(default=None, ge=1)
    """Training rounds that the site does in one run; null: any number."""
    max_epochs: int | None = Field(default=None, ge=1)
    """Epochs that the site trains in one run; null: any number."""
    min_cases: int = Field(default=3, ge=1)
    """Statistics and metrics over fewer cases are not sent."""
    share_pictures: bool = False
    """Pictures of single cases; only for phantoms or with the patients' consent."""
    share_case_metrics: bool = False
    """Metrics of single cases: the DSC beside a picture or in it; medians and quartiles of few cases."""
    clip_norm: float | None = Field(default=None, gt=0)
    """L2 norm to which an update (trained less received weights) is scaled down; null: not clipped."""
    noise_multiplier: float = Field(default=0.0, ge=0)
    """SD of the Gaussian noise on every number of an update, as a multiple of `clip_norm`; 0: none."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """Of the (epsilon, delta) that is told for the noise."""
    max_epsilon: float | None = Field(default=None, gt=0)
    """No update is sent that would raise epsilon above this; null: it is told only."""
    local_layers: tuple[str, ...] = ()
    """Weights that never leave: patterns of names such as `stage1.encoder.*`; `norm` is all normalisation layers."""
    quiet_hours: tuple[Annotated[str, Field(pattern=_HOURS)], ...] = ()
    """Local times such as `07:00-18:00` or `22:00-06:00` at which no task is begun."""
    max_disk_gb: float | None = Field(default=None, gt=0)
    """No task is begun while the site's `work` and `state` folders take more; null: no limit."""

    @model_validator(mode="after")
    def _noise_needs_clipping(self) -> Self:
        if self.noise_multiplier and self.clip_norm is None:
            raise ValueError("noise_multiplier needs clip_norm, of which it is a multiple; set clip_norm")
        if self.max_epsilon is not None and not self.noise_multiplier:
            raise ValueError("max_epsilon needs noise_multiplier; without noise epsilon is infinite")
        return self


class WorkerConfig(Frozen):
    """The account that trains, apart from the one that holds the key; it runs `fedgtv-site work`."""

    group: str
    """Name or number of a group that both accounts are in; `cases` and `work` are shared with it."""
    address: str = Field(default="127.0.0.1:9094", pattern=r"^[^\s:]+:[0-9]{1,5}$")
    """host:port where the node waits for it; no other machine may reach it."""


class SiteConfig(Frozen):
    """A hospital's `site.yaml`; relative paths start at the file's folder."""

    absent: ClassVar[str] = "make one with `fedgtv-site init SITE`, or name yours with --config"

    site: Name
    """The name under which the coordinator enrols it."""
    cases: Path = Path("cases")
    """Where imported cases lie."""
    work: Path = Path("work")
    """What the training code writes: prepared cases, the split, momentum, layers that stay."""
    state: Path = Path("state")
    """What the node keeps: the audit log, approvals, its log; and the check's page."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    num_threads: int = Field(default=0, ge=0)
    """Of the training process on a CPU; 0: all cores."""
    checkpoint_s: float = Field(default=60.0, ge=0)
    """Least seconds between two epochs after which the work is kept, for a round that is cut short; 0: every epoch."""
    worker: WorkerConfig | None = None
    """null: the node starts the training code under its own account."""
    ingest: IngestConfig = IngestConfig()
    """How its export becomes cases."""
    policy: PolicyConfig = PolicyConfig()
    """What it does, and what may leave it."""
    trusted_keys: tuple[str, ...] = ()
    """Ed25519 public keys (PEM or an OpenSSH line) of coordinators whose signature on a bundle `approve` recognises."""


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Returns the validated configuration in `path`.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or a key is unknown, missing or out of range; the
            message names the file, the key, its value and what was expected.
    """
    return parse_yaml(_read(path, model.absent), model, str(path))


def load_experiment(path: Path) -> Experiment:
    """Returns the experiment in `path`; its recipes may be paths of recipe files, relative to it.

    Raises:
        ConfigError: as `load_yaml`.
    """
    data = load_mapping(path)

    def read(recipe: Any) -> Any:
        if not isinstance(recipe, str):
            return recipe
        return load_yaml(Path(path).parent / recipe, Recipe).model_dump(mode="json")

    if "recipe" in data:
        data["recipe"] = read(data["recipe"])
    if isinstance(data.get("recipes"), dict):
        data["recipes"] = {name: read(recipe) for name, recipe in data["recipes"].items()}
    return validate(data, Experiment, str(path))


def load_mapping(path: Path) -> dict[str, Any]:
    """Returns the YAML mapping in `path` as it stands (ConfigError: missing, or no mapping)."""
    return _mapping(_read(path), str(path))


def parse_yaml(text: str, model: type[Model], origin: str) -> Model:
    """Returns the validated configuration in `text`; `origin` names it in errors (see `load_yaml`)."""
    return validate(_mapping(text, origin), model, origin)


def _read(path: Path, remedy: str = Frozen.absent) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        remedy = "let your account read it, then do it again" if isinstance(error, PermissionError) else remedy
        raise ConfigError(f"{path}: cannot be read ({reason}); {remedy}") from error


class _KeysOnce(yaml.SafeLoader):
    """YAML that refuses a key given twice, such as a site; plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"key {twice[0]!r} is given twice in the mapping at line {line}; give it once")
        return super().construct_mapping(node, deep)


def _mapping(text: str, origin: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, _KeysOnce)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{origin}: holds {type(data).__name__}; expected a mapping of keys to values")
    return data


def validate(data: Any, model: type[Model], origin: str) -> Model:
    """Returns `data` as a `model`, or raises a one-line ConfigError naming the first key at fault."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_first_fault(error, model)}") from error


def _first_fault(error: ValidationError, model: type[Frozen]) -> str:
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"]) or model.__name__
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key!r}; remove it or correct its spelling{more}"
    if fault["type"] == "missing":
        return f"key {key!r} is missing; add it{more}"
    message = _in_words(fault["type"], fault.get("ctx", {})) or fault["msg"].removeprefix("Value error, ")
    value = fault.get("input")
    shown = "" if isinstance(value, dict | BaseModel) else f" (given: {shorten(repr(value), SHOWN)})"
    return f"{key}: {message}{shown}{more}"


def _in_words(kind: str, context: Mapping[str, Any]) -> str:
    """Says what pydantic says in Python's or regular expressions' terms; empty for other faults."""
    if kind in ("tuple_type", "list_type"):
        return "expected a list, such as [one, two]"
    if kind == "too_short":
        return f"expected a list of at least {context['min_length']}"
    if kind == "string_pattern_mismatch" and context.get("pattern") == NAME:
        return "expected up to 63 letters, digits, _, . and -, the first a letter or digit"
    return ""


def fingerprint(*parts: Frozen | Mapping[str, Any] | Sequence[str] | str | int | float | None) -> str:
    """Returns 16 hex digits that change whenever any part does: the key of caches and ledgers."""
    plain = [part.model_dump(mode="json") if isinstance(part, Frozen) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
