"""Every round on disk: weights as safetensors, events as JSON lines, both before the next round starts.

The folder: `experiment.yaml`, `ledger.jsonl`, `models/<model>.safetensors`, `rounds/<model>/round-0001.safetensors`,
with `round-0001.state.safetensors` beside it where the strategy keeps state, `spool/` with the replies of the round
under way, `pictures/`. A run that is started again with the same experiment continues after the last line.
"""

import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import yaml
from numpy.typing import NDArray

from common.atomic import write_bytes_atomically, write_text_atomically
from common.checkpoint import Weights, load_weights, save_weights
from common.errors import CheckpointError, ConfigError, DiskFullError, WorkError
from common.experiment import Experiment
from common.settings import load_yaml
from common.text import counted
from server.ledger_file import LEDGER, RESERVE, Record, append_line, drop_half_line, read_lines
from server.run_lock import LOCK, HeldError, hold

EXPERIMENT = "experiment.yaml"
Reply = tuple[Path, int]
RESERVE_BYTES = 1 << 16
SPARE_BYTES = 64 << 20
"""For the report, the log, pictures."""
STATE = ".state.safetensors"
RESULTS = frozenset({"statistics", "round", "evaluation", "pictures", "done", "end"})
"""Records of something that would be lost."""


class Ledger:
    """One run's folder; `on_record` hears every new line."""

    def __init__(
        self,
        folder: Path,
        experiment: Experiment,
        on_record: Callable[[Record], None] | None = None,
        held: bool = False,
    ) -> None:
        """Opens or makes the folder; `held`: the caller holds the run's lock.

        Raises:
            ConfigError: the folder holds a run of another experiment.
            InputError: a whole line of the ledger is broken.
        """
        self.folder = folder
        self.experiment = experiment
        self._on_record = on_record or (lambda record: None)
        self._path = folder / LEDGER
        folder.mkdir(parents=True, exist_ok=True)
        self._claim(held)
        self.records = self._read()

    def _claim(self, held: bool) -> None:
        check_folder(self.folder, self.experiment)
        if not _is_of(self.folder, self.experiment):
            with nullcontext() if held else self.hold():
                self._path.unlink(missing_ok=True)
                text = yaml.safe_dump(self.experiment.model_dump(mode="json"), sort_keys=False)
                write_text_atomically(self.folder / EXPERIMENT, text)

    def _read(self) -> list[Record]:
        """Whole lines only: a line that a crash cut short is dropped and written again by its round."""
        drop_half_line(self._path)
        return read_lines(self._path)

    @contextmanager
    def hold(self, wait_s: float = 0.0) -> Iterator[None]:
        """Keeps every other writer off the run while the block lasts, in this process or another.

        Raises:
            WorkError: the run is under way already, and still is after `wait_s`.
        """
        with hold_run(self.folder, wait_s):
            yield

    def append(self, record: Record) -> None:
        """Writes one line, with the time of day, through to the disk."""
        written = append_line(self._path, record)
        self.records.append(written)
        self._on_record(written)

    def find(self, kind: str, **fields: Any) -> list[Record]:
        """Returns the lines of a kind whose fields have these values."""
        return [
            record
            for record in self.records
            if record["kind"] == kind and all(record.get(key) == value for key, value in fields.items())
        ]

    def check_space(self, models: Sequence[Mapping[str, NDArray[Any]]], num_sites: int) -> None:
        """Raises DiskFullError unless a round's files fit on the disk.

        Each model needs room for `num_sites` replies, here and with the SuperLink, the model on its way to the sites,
        the round's weights, the strategy's state (two more), and the finished model. What lies here of the round
        already needs none any more.
        """
        reserve = self.folder / RESERVE
        if not reserve.exists():
            write_bytes_atomically(reserve, bytes(RESERVE_BYTES))
        num_bytes = sum(array.nbytes for model in models for array in model.values())
        here = sum(path.stat().st_size for path in (self.folder / "spool").rglob("*") if path.is_file())
        needed, free = num_bytes * (2 * num_sites + 5) + SPARE_BYTES - here, shutil.disk_usage(self.folder).free
        if free < needed:
            raise DiskFullError(
                f"{self.folder}: {free / 1e9:.2f} GB free on the disk; expected {needed / 1e9:.2f} GB for a round of "
                f"{counted(num_sites, 'site')}; make room, then run the same command: it goes on after the last round"
            )

    def save_round(
        self,
        model: str,
        number: int,
        weights: Mapping[str, NDArray[Any]],
        metadata: dict[str, str],
        state: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Writes a round's weights, and the strategy's state where it has one.

        The ledger's line follows, so a line without weights cannot be.
        """
        path = self.round_path(model, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        if state:
            save_weights(path.with_suffix(STATE), state, metadata)
        save_weights(path, weights, metadata)

    def load_state(self, model: str, number: int) -> Weights:
        """Returns what the strategy kept after a round (CheckpointError: the file is missing or cut short)."""
        return load_weights(self.round_path(model, number).with_suffix(STATE))[0]

    def prune(self, model: str, kept: Collection[int]) -> None:
        """Removes the files of all of a model's rounds but these."""
        for path in (self.folder / "rounds" / model).glob("round-*.safetensors"):
            found = re.match(r"round-(\d+)\.", path.name)
            if found and int(found[1]) not in kept:
                path.unlink(missing_ok=True)

    def spool_folder(self, model: str) -> Path:
        """Where the replies of a model's round under way lie."""
        return self.folder / "spool" / model

    def load_round(self, model: str, number: int) -> Weights:
        """Returns a round's weights."""
        return load_weights(self.round_path(model, number))[0]

    def round_path(self, model: str, number: int) -> Path:
        """Where a round's weights lie."""
        return self.folder / "rounds" / model / f"round-{number:04d}.safetensors"

    def save_model(self, model: str, weights: Mapping[str, NDArray[Any]], metadata: dict[str, str]) -> None:
        """Writes a step's chosen model."""
        path = self.model_path(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(path, weights, metadata)

    def load_model(self, model: str) -> Weights:
        """Returns a model that an earlier step made; where its file is cut short, it is made anew from its round's.

        Raises:
            CheckpointError: neither file can be read.
        """
        try:
            return load_weights(self.model_path(model))[0]
        except CheckpointError:
            made = self.find("model", model=model)
            if not made:
                raise
            weights, metadata = load_weights(self.round_path(model, made[-1]["round"]))
            self.save_model(model, weights, metadata)
            return weights

    def model_path(self, model: str) -> Path:
        """Where a model lies."""
        return self.folder / "models" / f"{model}.safetensors"

    def save_picture(self, name: str, png: bytes) -> str:
        """Writes a picture that a site let go; returns its path relative to the run's folder."""
        name = f"pictures/{name}.png"
        (self.folder / "pictures").mkdir(exist_ok=True)
        write_bytes_atomically(self.folder / name, png)
        return name


@contextmanager
def hold_run(folder: Path, wait_s: float = 0.0) -> Iterator[None]:
    """As `Ledger.hold`, before anything of the run is read; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with hold(folder / LOCK, wait_s):
            yield
    except HeldError as error:
        raise WorkError(
            f"run {folder.name!r} is under way; see `fedgtv-coordinator status`, or `stop` it first"
        ) from error


def spooled(folder: Path) -> frozenset[Reply]:
    """Returns which replies lie on disk for the rounds under way, and since when: file and time in ns."""
    found = set()
    for path in folder.glob("spool/*/*.json"):
        with suppress(FileNotFoundError):  # its round has just ended
            found.add((path, path.stat().st_mtime_ns))
    return frozenset(found)


def check_folder(folder: Path, experiment: Experiment) -> None:
    """Raises ConfigError if `folder` holds another experiment's run that has got anything done.

    What was refused or stopped before its first result keeps nobody out, so that a mended file may have its name.
    """
    if (folder / EXPERIMENT).exists() and not _is_of(folder, experiment) and _has_results(folder / LEDGER):
        raise ConfigError(
            f"{folder}: holds a run of another experiment; choose another name or folder for this one, or remove that"
        )


def _is_of(folder: Path, experiment: Experiment) -> bool:
    path = folder / EXPERIMENT
    return path.exists() and load_yaml(path, Experiment) == experiment


def _has_results(ledger: Path) -> bool:
    return any(record["kind"] in RESULTS for record in read_lines(ledger))


def end_of_run(folder: Path, experiment: Experiment) -> Record | None:
    """Returns the `end` line of a run that came to its end in `folder`, or None. Nothing is written.

    Raises:
        ConfigError: the folder holds a run of another experiment.
        InputError: a whole line of the ledger is broken.
    """
    check_folder(folder, experiment)
    records = read_lines(folder / LEDGER) if _is_of(folder, experiment) else []
    return next((record for record in reversed(records) if record["kind"] == "end"), None)
