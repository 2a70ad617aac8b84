"""Why a run's figures do not compare with the paper's, read off what was run."""

from collections.abc import Iterator, Sequence

from common.experiment import Experiment
from common.recipe import NetworkConfig, Recipe
from server.lineage import lineages
from server.matrix import Matrix
from server.paper import EPOCHS, FINETUNING_EPOCHS, FOLDS, NUM_CASES
from server.run_record import RunRecord

FEDERATION_FILE = "attempt.json"
"""A simulation leaves none (docs/experiments.md, the run's folder)."""


def why_not_comparable(record: RunRecord, matrix: Matrix, models: Sequence[str]) -> str:
    """Returns one sentence with everything that differs from the paper's experiment."""
    reasons = [
        _patients(record),
        _numbers(record, matrix),
        *_recipes(record.experiment, models),
        *_training(record.experiment, models),
        _folds(record.experiment, models),
    ]
    return f"Not to be compared one to one with the paper: {'; '.join(filter(None, reasons))}."


def _patients(record: RunRecord) -> str:
    """Never the paper's: its cases of A and B are private."""
    simulation = record.experiment.simulation
    if simulation.source == "phantoms" and not (record.folder / FEDERATION_FILE).exists():
        scale = f" at scale {simulation.scale:g}" if simulation.scale < 1 else ""
        return f"the cases are synthetic phantoms{scale}, the paper's are patients"
    return "the patients are another cohort, the paper's are private"


def _numbers(record: RunRecord, matrix: Matrix) -> str:
    counts = [f"{site} {matrix.num_cases(site)}" for site in matrix.sites if matrix.num_cases(site)]
    theirs = ", ".join(f"{site} {count}" for site, count in NUM_CASES.items())
    return f"tested on {', '.join(counts)} cases, the paper's cohorts hold {theirs}" if counts else ""


def _recipes(experiment: Experiment, models: Sequence[str]) -> list[str]:
    """Of all models' recipes, each reason once."""
    is_transfer = experiment.reproduces == "table4"
    told = [reason for model in models for reason in _recipe(experiment.recipe_of(model), is_transfer)]
    return list(dict.fromkeys(told))


def _recipe(recipe: Recipe, is_transfer: bool) -> Iterator[str]:
    full, network = Recipe(), recipe.stage1.network
    widths = NetworkConfig.model_validate(network.model_dump(include={"kind"})).widths
    if network.widths != widths or recipe.stage1.patch_size != full.stage1.patch_size:
        yield "networks or patches are smaller than the paper's"
    if recipe.preprocess.spacing_mm != full.preprocess.spacing_mm:
        ours = " × ".join(f"{value:g}" for value in recipe.preprocess.spacing_mm)
        theirs = " × ".join(f"{value:g}" for value in full.preprocess.spacing_mm)
        yield f"the grid is {ours} mm, not {theirs} mm (z, y, x)"
    if recipe.num_images == 1 and not is_transfer:
        yield "plain CT only, the paper's table has contrast-enhanced CT too"
    if recipe.num_images > 1 and is_transfer:
        yield "contrast-enhanced CT too, the paper's table has plain CT only"


def _training(experiment: Experiment, models: Sequence[str]) -> Iterator[str]:
    known = lineages(experiment)
    for wanted, what, tuned in ((EPOCHS, "epochs", False), (FINETUNING_EPOCHS, "epochs of fine-tuning", True)):
        own = sorted({known[model].epochs for model in models if bool(known[model].tuned) == tuned} - {wanted})
        if own:
            shown = f"{own[0]} to {own[-1]}" if len(own) > 1 else str(own[0])
            yield f"{shown} {what} for {wanted}"


def _folds(experiment: Experiment, models: Sequence[str]) -> str:
    """The paper's networks are tested by five folds, its transfer by other splits (its Table 4)."""
    folded = [model for model in models if experiment.folds_of(model)]
    is_transfer = experiment.reproduces == "table4"
    reasons = [_transfer_split(experiment)] if is_transfer else []
    if not folded:
        return "; ".join([*reasons, f"one split, not {FOLDS} folds"])
    if len(folded) < len(models) and not is_transfer:
        reasons.append(f"one split, not folds, but for {', '.join(folded)}")
    if experiment.split.folds != FOLDS:
        reasons.append(f"{experiment.split.folds} folds for {FOLDS}")
    return "; ".join(reasons)


def _transfer_split(experiment: Experiment) -> str:
    ours = f"{100 * experiment.split.test_fraction:g} % of each site's cases test every model"
    return f"{ours}, in the paper all of B and C test direct transfer and 30 % fine-tuning"
