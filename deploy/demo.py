"""`make demo`: three hospitals' phantoms through the whole product, over a real TLS federation on this machine."""

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from common.command import command_line

DONE = "finished"
"""Marks a folder whose demo came to its end; the next one starts anew there. Without it, it goes on."""


def demo(
    experiment: Annotated[Path, typer.Option(help="The experiment to run.")] = Path("configs/experiments/demo.yaml"),
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Phantoms to DICOM, import, check, keys, TLS federation, rounds, matrix, report, and a new patient's contour."""
    from rich.console import Console

    from common.experiment import load_experiment
    from deploy.showcase import Showcase

    started = time.monotonic()
    console = Console()
    config = load_experiment(experiment)
    _start_anew(folder)
    showcase = Showcase(config, folder, console)
    showcase.run()
    (folder / DONE).touch()
    console.print(
        f"\n[bold]{time.monotonic() - started:.0f} s in all[/]; peak memory of all processes together: "
        f"{showcase.peak_gb:.1f} GB (proportional set size)"
    )


def _start_anew(folder: Path) -> None:
    """Clears what an earlier, finished demo made; an interrupted one stays and goes on."""
    if (folder / DONE).exists():
        for name in ("federation", "sites", "exports", "new-patient", DONE):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def main() -> None:
    """Entry point of `python -m deploy.demo`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(demo)
    command_line(app)


if __name__ == "__main__":
    main()
