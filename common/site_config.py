"""What a site is told by its own people: how exports become cases, its policy, its machine."""

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from common.settings import FileName, Frozen, Name, Pattern

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


def _several_of_a_kind(devices: tuple[str, ...]) -> tuple[str, ...]:
    odd = [name for name in devices if not re.fullmatch(r"cpu|cuda:(0|[1-9]\d?)", name)]
    if odd:
        raise ValueError(f"{odd[0]!r} is none of several; use GPUs by number, such as [cuda:0, cuda:1], or cpu")
    if len(devices) == 1:
        raise ValueError("expected two or more; name a single one as `device`")
    if len({name.partition(":")[0] for name in devices}) > 1:
        raise ValueError("GPUs and cpu; expected one of the two, for a CPU would keep the GPUs waiting")
    twice = [name for number, name in enumerate(devices) if name != "cpu" and name in devices[:number]]
    if twice:
        raise ValueError(f"{twice[0]!r} stands twice; name every GPU once")
    return devices


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
    devices: Annotated[tuple[str, ...], AfterValidator(_several_of_a_kind)] = ()
    """Several, such as `[cuda:0, cuda:1]`, on which stages train at the same time; empty: all is done on `device`."""
    num_threads: int = Field(default=0, ge=0)
    """Of each training process on a CPU; 0: all cores, in equal parts."""
    checkpoint_s: float = Field(default=60.0, ge=0)
    """Least seconds between two epochs of a stage after which its work is kept, for a round that is cut short; 0: every
    epoch."""
    keep_received_gb: float = Field(default=4.0, ge=0)
    """What coordinators sent stays in `state`, up to so much and to a quarter of `policy.max_disk_gb`, so that a model
    that the site has had is not sent again; 0: nothing stays."""
    worker: WorkerConfig | None = None
    """null: the node starts the training code under its own account."""
    ingest: IngestConfig = IngestConfig()
    """How its export becomes cases."""
    policy: PolicyConfig = PolicyConfig()
    """What it does, and what may leave it."""
    trusted_keys: tuple[str, ...] = ()
    """Ed25519 public keys (PEM or an OpenSSH line) of coordinators whose signature on a bundle `approve` recognises."""

    @property
    def device_names(self) -> tuple[str, ...]:
        """Of all devices; on the first is done what is not training."""
        return self.devices or (self.device,)

    @model_validator(mode="after")
    def _one_device_or_several(self) -> Self:
        if self.devices and self.device != "auto":
            raise ValueError(f"device is {self.device!r} beside devices; expected one of the two; leave one out")
        return self
