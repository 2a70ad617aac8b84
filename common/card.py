"""A model's card: what it was trained on, by whom, with which recipe, how it did where, and what it is for.

It travels in the weights file's metadata under `card`. Whoever opens the file has it from somebody else, so everything
in it is bounded, and what is shown on a terminal is printable. Keys of later releases are passed over.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.errors import CheckpointError
from common.recipe import Recipe
from common.settings import Name
from common.tasks import Count, MetricSummary
from common.text import clean_text

CARD = "card"
"""The metadata key."""
NO_COORDINATOR = "none (a simulation)"
"""In place of a coordinator's address."""
MAX_NOTES, MAX_NOTE = 100, 2000
"""Of an experiment's notes on a card; characters of one, and of any other text."""
MAX_BYTES = 1_000_000
"""Of a card's JSON: 1000 results at 1000 sites would not fit, and no federation has them."""
INTENDED_USE = (
    "Research on the automatic segmentation of gross tumour volumes on planning CT. Not for clinical use: no medical "
    "device, and every contour needs a physician's eye."
)
LIMITS = (
    "Measured at the sites and on the cases that this card names, nowhere else. Scanners, protocols, tumour sites and "
    "contouring habits that are not among them may give worse results, without a sign of it in the output."
)
Text = Annotated[str, Field(max_length=MAX_NOTE), AfterValidator(lambda text: clean_text(text, MAX_NOTE))]
Key = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]


class _Part(BaseModel):
    """Base of a card and its parts: immutable, later releases' keys ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True)


class TrainedOn(_Part):
    """One site that the model was trained at."""

    site: Name
    num_cases: Count | None = None
    """Training cases; None: not known."""


class Result(_Part):
    """How the model did on one part of one site's cases: means that the site's policy let go."""

    site: Name
    part: Literal["test", "validation"]
    num_cases: Count | None = None
    """None: withheld."""
    num_undefined: Count | None = None
    """Cases without distances, because prediction or contour is empty; None: withheld, or not known."""
    metrics: Annotated[dict[Key, MetricSummary], Field(max_length=20)] = {}
    withheld: Text | None = None
    """Why the site told nothing."""


class Card(_Part):
    """What is known of a model; None and empty: not known."""

    model: Name
    experiment: Name | None = None
    coordinator: Text | None = None
    """Where the federation's coordinator is reached; `NO_COORDINATOR` for a simulation."""
    origin: Text = ""
    """How it came about, such as `fedavg over A, B, C`."""
    initial: Name | None = None
    """The model that it was begun from; None: fresh weights."""
    trained_on: Annotated[tuple[TrainedOn, ...], Field(max_length=1000)] = ()
    """The sites of its own training step."""
    begun_on: Annotated[tuple[TrainedOn, ...], Field(max_length=1000)] = ()
    """The sites of the steps before: those that `initial`, and what that was begun from, were trained at."""
    rounds: Count | None = None
    local_epochs: Count | None = None
    """Epochs a round at each site."""
    kept_round: Count | None = None
    """Whose weights these are."""
    strategy: Name | None = None
    """How the sites' weights became one; None where one site trained alone."""
    lr0: float | None = None
    """First learning rate."""
    software: Text = ""
    """The release that made it."""
    results: Annotated[tuple[Result, ...], Field(max_length=1000)] = ()
    notes: Annotated[tuple[Text, ...], Field(max_length=MAX_NOTES)] = ()
    """The experiment's own sentences, such as what the target really is."""
    intended_use: Text = INTENDED_USE
    limits: Text = LIMITS


def read_card(metadata: dict[str, str], origin: str) -> Card | None:
    """Returns the card in a weights file's metadata, None where it has none.

    Args:
        metadata: as `load_weights` and `load_metadata` give it.
        origin: names the file in errors.

    Raises:
        CheckpointError: what stands there is no card, or too large.
    """
    text = metadata.get(CARD)
    if text is None:
        return None
    if len(text) > MAX_BYTES:
        raise CheckpointError(f"{origin}: its card has {len(text)} characters; expected at most {MAX_BYTES}")
    try:
        return Card.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"]) or "card"
        raise CheckpointError(
            f"{origin}: its card cannot be read ({clean_text(key)}: {fault['msg']}); "
            "ask whoever sent the model for it anew"
        ) from error


def describe_recipe(recipe: Recipe) -> str:
    """Returns the recipe in a line: stages, widths, patches and grid."""
    stages = ", ".join(
        f"{name} of widths {'-'.join(map(str, stage.network.widths))} on patches of {_times(stage.patch_size)}"
        for name, stage in recipe.stages.items()
    )
    return f"{stages}; voxels of {_times(recipe.preprocess.spacing_mm)} mm; cut at {recipe.inference.threshold:g}"


def _times(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
