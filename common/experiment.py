"""An experiment: steps over named sites, and how the coordinator waits for them."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.errors import ConfigError
from common.recipe import Recipe
from common.settings import Frozen, Name, load_mapping, load_yaml, validate
from common.site_config import IngestConfig
from common.split import FOLD_NAME, SplitConfig, fold_model
from common.steps import EvaluateStep, FinetuneStep, LocalStep, PicturesStep, PooledStep, Step, Training, initial_of


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
    min_cosine: float | None = Field(default=None, ge=-1, lt=0)
    """Of three sites or more, an update whose cosine with most of the others is below this is left out; null: none.
    Honest sites that differ pull against each other too, towards the end of a training."""
    keep_rounds: Literal["last", "all"] = "last"
    """Whose weights stay on the coordinator's disk: the last two rounds' and the best's, or all."""
    transport: Literal["fp32", "fp16"] = "fp32"
    """Number format of weights on the wire; aggregation is always fp32."""


class SimulationConfig(Frozen):
    """Where `fedgtv-simulate` takes its sites' data from when nothing was imported yet."""

    source: Literal["phantoms", "folder"] = "phantoms"
    """`phantoms`: made on the spot; `folder`: one export a site, in folders named like the sites."""
    folder: str = ""
    """May begin with an environment variable, such as `$FEDGTV_DATA/openkbp`."""
    cases: dict[Name, int] = Field(default={})
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
    recipes: dict[Name, Recipe] = Field(default={})
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
            wanted = step.models if isinstance(step, EvaluateStep | PicturesStep) else (initial_of(step),)
            for model in wanted:
                if model is not None and model not in known:
                    raise ValueError(
                        f"step {number} needs model {model!r}, which no earlier step makes; "
                        f"made so far: {', '.join(sorted(known)) or 'none'}"
                    )
            initial = initial_of(step)
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
            if isinstance(step, Training):
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
            named, initial = getattr(step, "recipe", None), initial_of(step)
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
            if not isinstance(step, Training):
                continue
            if FOLD_NAME.search(step.model):
                raise ValueError(f"step {number} makes model {step.model!r}; a fold's model ends so; name it otherwise")
            if step.folds and not self.split.folds:
                raise ValueError(f"step {number} has `folds: true`, but split.folds is 0; set it, such as to 5")
            initial = initial_of(step)
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

    def maker_of(self, model: str) -> Training:
        """The step that makes a model, named as `results_of` does, as its step, or as one of its folds."""
        whole = FOLD_NAME.sub("", model)
        for step in self.steps:
            if isinstance(step, Training) and whole in (step.model, *self.results_of(step)):
                return step
        raise ConfigError(f"{self.name}: no step makes model {model!r}; name one that a step makes")

    def recipe_of(self, model: str) -> Recipe:
        """What a model is: the recipe that its step names, else that of the model it starts from, else `recipe`."""
        step = self.maker_of(model)
        initial = initial_of(step)
        if step.recipe is not None:
            return self.recipes[step.recipe]
        return self.recipe_of(initial) if initial else self.recipe

    def folds_of(self, model: str) -> tuple[int, ...]:
        """The folds that a model is made for, from 1; none for a model of the plain split."""
        step = self.maker_of(model)
        initial = initial_of(step)
        folded = step.folds or (initial is not None and bool(self.folds_of(initial)))
        return tuple(range(1, self.split.folds + 1)) if folded else ()

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that any step goes through; none where none does."""
        made = (step.model for step in self.steps if isinstance(step, Training))
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
        initial = initial_of(step)
        return set(self.cohort_of(model)) | (self._trained_at(initial) if initial else set())


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
