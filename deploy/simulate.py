"""`fedgtv-simulate EXPERIMENT.yaml`: the same experiment and ClientApp over an in-process grid."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.command import INTERRUPTED, command_line
from common.errors import ConfigError

if TYPE_CHECKING:
    from common.experiment import Experiment

MAX_SEED = 2**31
"""As `Experiment.seed` allows."""


def simulate(
    experiment: Annotated[Path, typer.Argument(help="An experiment file, such as configs/experiments/demo.yaml.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/NAME.")] = None,
    seeds: Annotated[str, typer.Option(help="Run once a seed, such as 1,2,3; default: the experiment's own.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps, rounds and expected time; begin nothing.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Run an experiment with all its sites on this machine, in one process; a stopped run goes on when run again."""
    from common.experiment import load_experiment

    config = load_experiment(experiment)
    numbers = parse_seeds(seeds) if seeds else []
    if numbers and not any(step.kind == "evaluate" for step in config.steps):
        raise ConfigError(f"--seeds: {experiment} has no `evaluate` step to compare seeds by; add one")
    folder = out or Path("runs") / config.name

    if dry_run:
        _print_plans(config, folder, numbers)
        return
    from deploy.seeds import write_seeds
    from deploy.simulation import run_simulation

    if not numbers:
        run_simulation(config, folder, folder / "sites")
        return
    runs = {seed: folder / f"seed-{seed}" for seed in numbers}
    for seed, run in runs.items():
        run_simulation(config.model_copy(update={"seed": seed}), run, folder / "sites")
    typer.echo(write_seeds(config, runs, folder))
    typer.echo(f"seeds: {folder / 'seeds.md'}")


def _print_plans(config: "Experiment", folder: Path, seeds: list[int]) -> None:
    from server.plan import plan_lines

    runs = {folder / f"seed-{seed}": config.model_copy(update={"seed": seed}) for seed in seeds} or {folder: config}
    for run, experiment in runs.items():
        for line in plan_lines(experiment, run):
            typer.echo(line)


def parse_seeds(text: str) -> list[int]:
    """Returns the seeds in `1,2,3`.

    Raises:
        ConfigError: a part is no whole number, out of range, or given twice.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds: {text!r} is no list of whole numbers; write them like 1,2,3") from error
    if not all(0 <= seed < MAX_SEED for seed in seeds):
        raise ConfigError(f"--seeds: {text!r} goes beyond 0 to {MAX_SEED - 1}; choose seeds in between")
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"--seeds: {text!r} names a seed twice; name every seed once")
    return seeds


def main() -> None:
    """Entry point of `fedgtv-simulate`.

    A stop does not wait for threads that train: what counts is on disk, whole rounds at a time.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(simulate)
    try:
        command_line(app)
    except SystemExit as ending:
        if ending.code != INTERRUPTED:
            raise
        sys.stdout.flush()
        os._exit(INTERRUPTED)
