"""The paper's figures: Yang et al., Front. Oncol. 12:827991 (2022), doi 10.3389/fonc.2022.827991.

Means over cases as printed, without SDs; its institutions are A (257 cases), B (40) and C (50, StructSeg 2019).
Ratios in per cent, distances in mm. In Table 4 the network is the MDR-UNet on plain CT.
"""

from dataclasses import dataclass

SOURCE = "Yang et al., Front. Oncol. 12:827991 (2022)"
NUM_CASES = {"A": 257, "B": 40, "C": 50}
EPOCHS, FINETUNING_EPOCHS, FOLDS = 120, 60, 5
"""Sections 3.A.1 and 3.A.2."""


@dataclass(frozen=True)
class Network:
    """One row of Tables 2 and 3, tested at institution A."""

    models: tuple[str, ...]
    """Under which of these names an experiment's model is this network."""
    title: str
    dsc: float
    ppv: float
    sen: float
    assd_mm: float
    hd95_mm: float


VOXRESNET = Network(("voxresnet",), "3D CNN (VoxResNet)", 73.67, 76.74, 75.27, 1.84, 6.32)
ATTENTION_UNET = Network(("attention-unet",), "3D Attention-UNet", 73.54, 75.95, 76.04, 1.80, 6.74)
UNETPP = Network(("unetpp", "unet-plus-plus"), "3D UNet++", 73.87, 77.73, 74.82, 1.53, 5.17)
RES_UNET = Network(("res-unet",), "Res-UNet", 74.49, 79.97, 73.90, 1.49, 5.06)
MDR_UNET = Network(("mdr-unet",), "MDR-UNet", 75.16, 78.73, 75.81, 1.68, 5.82)
CMDR_UNET = Network(("cmdr-unet",), "CMDR-UNet", 76.23, 77.34, 79.14, 1.39, 4.72)
NETWORKS = {
    "table2": (VOXRESNET, ATTENTION_UNET, UNETPP, RES_UNET),
    "table3": (RES_UNET, MDR_UNET, CMDR_UNET),
}


@dataclass(frozen=True)
class Transfer:
    """One row of Table 4 and Supplementary Table 1: trained on, fine-tuned on (none: applied directly), tested on."""

    trained: str
    tuned: str
    tested: str
    dsc: float | None
    assd_mm: float | None
    """None: the paper has no such row."""


TRANSFERS = (
    Transfer("A", "", "A", 74.63, 1.58),
    Transfer("A", "", "B", 68.21, 2.09),
    Transfer("A", "", "C", 61.64, 2.13),
    Transfer("A", "", "BC", 64.26, 2.12),
    Transfer("A", "B", "B", 74.49, 1.87),
    Transfer("A", "C", "C", 69.64, 1.42),
    Transfer("A", "BC", "B", 73.95, 1.89),
    Transfer("A", "BC", "C", 67.43, 1.60),
    Transfer("B", "", "B", 72.84, 1.89),
    Transfer("C", "", "C", 65.77, 2.56),
    Transfer("B", "", "A", 61.23, 2.80),
    Transfer("C", "", "A", 58.88, 2.72),
    Transfer("BC", "", "A", None, None),
    Transfer("B", "A", "A", 74.81, 1.36),
    Transfer("C", "A", "A", 74.27, 1.40),
    Transfer("BC", "A", "A", 74.46, 1.61),
)
