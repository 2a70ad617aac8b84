"""What `rounds.py` tells the script that drives a federation, and what that script tells back."""

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

SITES = ("A", "B", "C")
SETUP, BEYOND, TOLD = "setup.json", "port", "told.json"


@dataclass(frozen=True)
class Setup:
    """One federation to be driven."""

    work: str
    """Folder of the federation."""
    model: str
    """Safetensors of the weights to begin with."""
    recipe: str
    """Of the model, as JSON."""
    rounds: int
    ways: Mapping[str, int]
    """By site, the port that it calls instead of the coordinator's."""
    transport: str = "fp32"
    """How the product's weights travel."""
    torch: bool = False
    """Whether a peer's client imports torch."""

    @classmethod
    def read(cls) -> Self:
        """Returns the setup in the folder that the command line names; from here on the script can be told to end."""
        interruptible()
        return cls(**json.loads((Path(sys.argv[1]) / SETUP).read_text()))

    def write(self) -> None:
        """Puts it where `read` looks."""
        (Path(self.work) / SETUP).write_text(json.dumps(asdict(self)))

    @property
    def folder(self) -> Path:
        return Path(self.work)

    def port_for(self, site: str, port: int) -> int:
        """Returns the port that a site calls, where the coordinator listens on `port`."""
        (self.folder / BEYOND).write_text(str(port))
        return self.ways.get(site, port)

    def client(self, source: str) -> str:
        """Returns the source of a peer's client with what it imports beside."""
        return f"import torch\n{source}" if self.torch else source

    def tell(self, began: float, marks: Sequence[float], parts: Sequence[Mapping[str, float]] = ()) -> None:
        """Tells when the first process was started, when the first round began and each one ended, by time of day.

        `parts`: for each round, seconds by what they went into, as far as the federation itself knows.
        """
        told: dict[str, Any] = {"began": began, "marks": list(marks), "parts": list(map(dict, parts))}
        (self.folder / TOLD).write_text(json.dumps(told))


def interruptible() -> None:
    """SIGINT and SIGTERM raise KeyboardInterrupt, also where a shell has a process in the background ignore them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
