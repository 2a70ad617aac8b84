"""What defines a model, as one key, and a finished model of the same key in this run or in one beside it.

The same key twice means the same training, so the second is a copy. Names and the places of steps are not in it. The
data must be known to be the same: a model has no key where a site has told no digest of its cases.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.bundle import bundle_files
from common.checkpoint import Weights, load_weights
from common.errors import CheckpointError, InputError
from common.settings import fingerprint
from common.split import fold_model, fold_of
from server.ledger_file import LEDGER, Record, read_lines

if TYPE_CHECKING:
    from server.run import Run

ALONE = {"local": "fedavg", "finetune": "fedavg"}
"""Steps in which every site trains alone: for each site the same as a federation of that site."""
STAYS_AT_SITES = frozenset({"fedbn"})
"""Strategies that keep a part of the model at the sites, under its name: a copy would lack it."""
ROUNDS = frozenset({"quorum", "stragglers", "max_norm_ratio", "min_cosine", "transport"})
"""Fields of `rounds` that can change a model."""


@dataclass(frozen=True)
class Earlier:
    """A finished model of the same key."""

    origin: str
    """Its name, after its run's where that is another."""
    line: Record
    path: Path

    def load(self) -> Weights | None:
        """Returns its weights; None where the file is gone or damaged."""
        try:
            return load_weights(self.path)[0]
        except CheckpointError:
            return None


def model_key(run: "Run", model: str) -> str | None:
    """Returns the key of a model or a fold's: of recipe, training, sites, their data, seed, split, start and release.

    None where it cannot be copied: a site has told no digest of its cases, keeps layers to itself, or was not in each
    round, which is a matter of time.

    Raises:
        WorkError: there are no statistics yet.
    """
    experiment, fold = run.experiment, fold_of(model)
    step, sites = experiment.maker_of(model), experiment.cohort_of(model)
    digests, start = run.digests(fold, sites), _start(run, step, fold)
    if None in digests or start is None or _strategy(step) in STAYS_AT_SITES or _keeps_layers(run, model):
        return None
    if _lacks_sites(run, model, sites):
        return None
    recipe = experiment.recipe_of(model)
    rounds = experiment.rounds.model_dump(mode="json", include=set(ROUNDS))
    parts = {
        **step.model_dump(mode="json", include={"rounds", "local_epochs", "select"}),
        "strategy": _strategy(step),
        "options": getattr(step, "strategy_options", {}),
        "lr0": step.lr0 or recipe.training.lr0,
        "waiting": rounds,
        "data": dict(zip(sites, digests, strict=True)),
        "order": sites if _strategy(step) == "cyclic" else (),
        "split": experiment.split_of(fold).model_dump(exclude=set() if fold else {"folds", "fold"}),
        "start": start,
    }
    return fingerprint(parts, recipe, run.normalisation(fold), experiment.seed, _code())


@cache
def _code() -> str:
    """Of what trains: the code of this release, down to the commit."""
    digest = hashlib.sha256()
    for name, path in bundle_files().items():
        digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _start(run: "Run", step: Any, fold: int) -> str | None:
    """The key of what the step starts from; empty: fresh weights; None: it has none."""
    initial = getattr(step, "initial", None)
    if initial is None:
        return ""
    return model_key(run, fold_model(initial, fold) if run.experiment.folds_of(initial) else initial)


def _strategy(step: Any) -> str:
    return ALONE.get(step.kind) or getattr(step, "strategy", step.kind)


def _keeps_layers(run: "Run", model: str) -> bool:
    lines = run.ledger.find("round", model=model)
    return any(told.get("local_layers") for line in lines for told in line["sites"].values())


def _lacks_sites(run: "Run", model: str, sites: tuple[str, ...]) -> bool:
    """Whether a round was made without a site; a pooled model's rounds are of one place."""
    if _strategy(run.experiment.maker_of(model)) == "pooled":
        return False
    return any(set(line["sites"]) != set(sites) for line in run.ledger.find("round", model=model))


def find_earlier(run: "Run", model: str, key: str | None) -> Earlier | None:
    """Returns a finished model of this key: of this run, else of one beside it; None: there is none, or no key."""
    if key is None or not run.experiment.reuse:
        return None
    return next((each for each in _candidates(run) if each.line.get("key") == key and each.origin != model), None)


def _candidates(run: "Run") -> Iterator[Earlier]:
    folder = run.ledger.folder
    yield from _finished(folder, run.ledger.records, "")
    for path in sorted(run.runs.glob(f"*/{LEDGER}")) if run.runs else ():
        if path.parent.resolve() != folder.resolve():
            yield from _finished(path.parent, _records(path), f"{path.parent.name}/")


def _records(path: Path) -> list[Record]:
    """A ledger beside this run's; none of a broken one, which is that run's own affair."""
    try:
        return read_lines(path)
    except (InputError, OSError):
        return []


def _finished(folder: Path, records: list[Record], prefix: str) -> Iterator[Earlier]:
    for line in records:
        if line["kind"] == "model" and line.get("key"):
            name = line["model"]
            yield Earlier(prefix + name, line, folder / "models" / f"{name}.safetensors")
