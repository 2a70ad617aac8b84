"""A model's card for people: lines for a terminal, unknown facts said to be unknown."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from client.model_package import check_metadata
from common.card import Card, Result, TrainedOn, describe_recipe, read_card
from common.checkpoint import load_metadata
from common.recipe import Recipe
from common.settings import parse_yaml
from common.tasks import MetricSummary

UNKNOWN = "unknown"
WIDTH = 100
PER_CENT, MM = ("dsc", "ppv", "sen"), ("assd_mm", "hd95_mm")


def read_model_card(path: Path) -> tuple[Card, Recipe]:
    """Returns the card and the recipe in a model file, without reading its weights.

    A file without a card gets one that knows the model's name alone.

    Raises:
        CheckpointError: no model of this product, or the card is none.
    """
    metadata = load_metadata(path)
    check_metadata(metadata, path)
    card = read_card(metadata, str(path))
    if card is None:
        card = Card(model=metadata["model"])
    return card, parse_yaml(metadata["recipe"], Recipe, f"{path}: recipe")


def card_lines(card: Card, recipe: Recipe) -> Iterator[str]:
    """Gives the card as lines of at most `WIDTH` characters, all of them printable."""
    yield from _field("model", f"{card.model}, of experiment {card.experiment or UNKNOWN}")
    yield from _field("made by", f"coordinator {card.coordinator or UNKNOWN}, software {card.software or UNKNOWN}")
    yield from _field("came about", (card.origin or UNKNOWN) + (f"; begun from {card.initial}" if card.initial else ""))
    yield from _field("trained on", _sites(card.trained_on))
    if card.initial:
        yield from _field("before that", _sites(card.begun_on))
    yield from _field("training", _training(card))
    yield from _field("recipe", describe_recipe(recipe))
    yield from _field("measured", "" if card.results else "nowhere yet, or not known")
    for line in _results(card.results):
        yield from textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent=" " * 12)
    for note in card.notes:
        yield from _field("note", note)
    yield from _field("intended", card.intended_use)
    yield from _field("limits", card.limits)


def _field(name: str, text: str) -> list[str]:
    return textwrap.wrap(f"{name + ':':13}{text}", WIDTH, subsequent_indent=" " * 13)


def _sites(trained_on: tuple[TrainedOn, ...]) -> str:
    shown = (f"{each.site} ({UNKNOWN if each.num_cases is None else each.num_cases} cases)" for each in trained_on)
    return ", ".join(shown) or UNKNOWN


def _training(card: Card) -> str:
    if card.rounds is None or card.local_epochs is None:
        return UNKNOWN
    strategy = card.strategy or "no averaging"
    epochs = f"{card.rounds} x {card.local_epochs} = {card.rounds * card.local_epochs} epochs"
    rate = UNKNOWN if card.lr0 is None else f"{card.lr0:g}"
    kept = UNKNOWN if card.kept_round is None else f"{card.kept_round}"
    return f"{strategy}, rounds x local epochs: {epochs}, weights of round {kept}, first learning rate {rate}"


def _results(results: tuple[Result, ...]) -> Iterator[str]:
    for result in results:
        who = f"{result.site}, {result.part}"
        if result.withheld or result.num_cases is None:
            yield f"{who}: withheld ({result.withheld or UNKNOWN})"
            continue
        yield f"{who} (n = {result.num_cases}{_undefined(result)}): " + ", ".join(shown_metrics(result.metrics))


def _undefined(result: Result) -> str:
    """Says over how many cases the distances are, where that is not all: one of two masks is empty in the others."""
    if not result.num_undefined or result.num_cases is None:
        return ""
    over = result.num_cases - result.num_undefined
    return f"; ASSD and HD95 over {over}, undefined for {result.num_undefined} with an empty mask"


def shown_metrics(metrics: Mapping[str, MetricSummary]) -> Iterator[str]:
    """Gives means and SDs as `DSC 75.1 ± 10.0 %`, ratios in per cent, then distances in mm."""
    for keys, factor, unit in ((PER_CENT, 100, "%"), (MM, 1, "mm")):
        yield from (_metric(metrics, key, factor, unit) for key in keys)


def _metric(metrics: Mapping[str, MetricSummary], key: str, factor: float, unit: str) -> str:
    value = metrics.get(key, MetricSummary(mean=None, sd=None))
    title = key.removesuffix("_mm").upper()
    if value.mean is None:
        return f"{title} {UNKNOWN}"
    spread = "" if value.sd is None else f" ± {factor * value.sd:.1f}"
    return f"{title} {factor * value.mean:.1f}{spread} {unit}"
