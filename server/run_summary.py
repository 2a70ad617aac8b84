"""What was run, in rows of text: the sites, the steps and the recipe."""

from collections.abc import Iterator, Sequence
from typing import Any

from common.experiment import Experiment
from common.networks import count_parameters
from common.recipe import Recipe, StageConfig
from common.steps import EvaluateStep, PicturesStep, PooledStep, StatisticsStep, TrainingStep, TrainStep
from server.conclusion import model_origins
from server.curves import step_title
from server.metric import METRIC, NONE
from server.run_record import ModelLine, RunRecord, training_s


def duration(seconds: float | None) -> str:
    """Returns `12 s`, `3 min 20 s` or `2 h 05 min`, not to be wrapped."""
    if seconds is None:
        return NONE
    whole = round(seconds)
    if whole < 60:
        text = f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    elif whole < 3600:
        text = f"{whole // 60} min {whole % 60:02d} s"
    else:
        text = f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def site_rows(record: RunRecord) -> list[list[str]]:
    """Returns a row a site: name, training, validation, test and refused cases, body voxels, time training."""
    counts = record.statistics.sites if record.statistics else {}
    rows = []
    for site in record.experiment.sites:
        reported = counts.get(site)
        numbers = [getattr(reported, key, None) for key in ("train", "validation", "test", "refused", "voxels")]
        worked = sum(line.sites[site].seconds or 0.0 for line in record.rounds if site in line.sites)
        rows.append([site, *map(_number, numbers), duration(worked)])
    return rows


def case_counts(record: RunRecord) -> str:
    """Returns `A 20 / 2 / 9, B 12 / 1 / 5`: training / validation / test cases; empty before the `statistics` step."""
    told = record.statistics.sites if record.statistics else {}
    parts = [
        f"{site} {_number(told[site].train)} / {_number(told[site].validation)} / {_number(told[site].test)}"
        for site in record.experiment.sites
        if site in told
    ]
    return ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)


def _number(count: int | None) -> str:
    return NONE if count is None else f"{count:,}"


def step_row(record: RunRecord, number: int) -> list[str]:
    """Returns one step's row: title, sites, rounds done, epochs, learning rate, strategy, time."""
    experiment = record.experiment
    step = experiment.steps[number]
    sites = ", ".join(experiment.sites_of(step))
    rounds = record.rounds_of(number)
    if isinstance(step, StatisticsStep):
        return [step_title(record, number), sites, *[NONE] * 4, duration(_seconds_of(record.statistics))]
    if isinstance(step, EvaluateStep):
        spent = [line.seconds for line in record.evaluations if line.step == number and line.seconds is not None]
        title = f"{step_title(record, number)} of {', '.join(step.models)} on {step.split} cases"
        return [title, sites, *[NONE] * 4, duration(sum(spent) if spent else None)]
    if isinstance(step, PicturesStep):
        took = [line.seconds for line in record.pictures if line.step == number and line.seconds is not None]
        title = f"{step_title(record, number)} ({', '.join(step.what)}) of {', '.join(step.models)}"
        return [title, sites, *[NONE] * 4, duration(sum(took) if took else None)]
    planned = step.rounds * sum(len(experiment.files_of(model)) for model in experiment.results_of(step))
    origin = getattr(step, "initial", None)
    initial = f", from {origin}" if origin else ""
    epochs = f"{step.rounds} × {step.local_epochs} = {step.epochs}"
    lr0 = step.lr0 if step.lr0 is not None else experiment.recipe_of(step.model).training.lr0
    title = step_title(record, number) + initial
    return [
        title,
        sites,
        f"{len(rounds)} of {planned}",
        epochs,
        f"{lr0:g}",
        _together(step),
        duration(training_s(rounds)),
    ]


def _together(step: TrainingStep) -> str:
    """How the sites' cases come to one model."""
    if isinstance(step, TrainStep):
        return step.strategy
    return "cases in one place" if isinstance(step, PooledStep) else "each site alone"


def _seconds_of(line: Any) -> float | None:
    return line.seconds if line is not None else None


def recipes_rows(experiment: Experiment) -> list[tuple[str, str]]:
    """Returns the rows of every recipe that a model is made by: once what they share, else after the recipes' names."""
    told = {name: dict(recipe_rows(recipe)) for name, recipe in _recipes(experiment).items()}
    longest = max(told.values(), key=len)
    return [row for title in longest for row in _row_of_recipes(title, {name: told[name].get(title) for name in told})]


def _row_of_recipes(title: str, told: dict[str, str | None]) -> Iterator[tuple[str, str]]:
    for text in dict.fromkeys(told.values()):
        names = ", ".join(name for name in told if told[name] == text)
        yield (title if len(set(told.values())) == 1 else f"{title}, {names}"), text or "none"


def _recipes(experiment: Experiment) -> dict[str, Recipe]:
    """By name in the experiment; one that has none is the default."""
    made = [step.model for step in experiment.steps if isinstance(step, TrainingStep)]
    used = [experiment.recipe_of(model) for model in made] or [experiment.recipe]
    names = {name: recipe for name, recipe in experiment.recipes.items() if recipe in used}
    return names if all(recipe in names.values() for recipe in used) else {"default": experiment.recipe} | names


def recipe_rows(recipe: Recipe) -> list[tuple[str, str]]:
    """Returns the recipe in a dozen lines: grid, networks, optimisation, augmentation, inference."""
    training, inference = recipe.training, recipe.inference
    augmentation = training.augmentation
    changes = (
        f"scale {_range(augmentation.scale_range)}, rotation ±{augmentation.rotation_deg:g}°, "
        f"elastic {augmentation.elastic_rms_mm:g} mm RMS, noise to {augmentation.noise_sd:g} SD"
        f"{', left-right flips' if augmentation.flip_left_right else ''}"
    )
    return [
        ("grid, mm (z, y, x)", _triple(recipe.preprocess.spacing_mm)),
        ("region", "head, cut at the neck" if recipe.preprocess.roi.crop_at_neck else "whole body mask"),
        *((stage.replace("stage", "stage "), _stage(config)) for stage, config in recipe.stages.items()),
        ("loss", "binary cross-entropy + soft Dice"),
        (
            "optimiser",
            f"SGD, momentum {training.momentum:g} ({training.momentum_across_rounds} across rounds), "
            f"learning rate × (1 − epoch / epochs)^{training.power:g}",
        ),
        (
            "batches",
            f"{training.batch_size}, an update every {training.accumulation}; "
            f"patches a case and epoch: {training.patches_per_case}",
        ),
        ("augmentation", changes if augmentation.enabled else "off"),
        (
            "inference",
            f"window overlap {inference.window_overlap:g}, threshold {inference.threshold:g}, "
            f"stage-2 weight {inference.stage2_weight:g}, fusion {inference.fusion}",
        ),
    ]


def _stage(config: StageConfig) -> str:
    widths = ", ".join(map(str, config.network.widths))
    aspp = f"ASPP {config.network.aspp.rates}" if config.network.aspp else "no ASPP"
    layers = aspp if config.network.kind == "mdr-unet" else config.network.kind
    parameters = f"{count_parameters(config.network, config.patch_size):,} parameters"
    return f"patch {_triple(config.patch_size)}; widths {widths}; {layers}; {parameters}"


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g}–{ends[1]:g}"


def _triple(values: Sequence[float]) -> str:
    return " × ".join(f"{value:g}" for value in values)


def model_rows(record: RunRecord) -> list[tuple[str, str]]:
    """Returns every model, and fold of one, with where it comes from and which round's weights were kept."""
    kept = {line.model: line for line in record.models}
    rows = []
    for model, origin in model_origins(record.experiment).items():
        for name in record.experiment.files_of(model):
            rows.append((name, f"{origin.description}; {_kept(kept.get(name))}"))
    return rows


def _kept(line: ModelLine | None) -> str:
    if line is None:
        return "not finished"
    score = METRIC["dsc"].show(line.validation_dsc, 1)
    copied = f"copied from {line.reused}, " if line.reused else ""
    return f"{copied}weights of round {line.round}" + (f", validation DSC {score} %" if score != NONE else "")
