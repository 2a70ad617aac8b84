"""`fedgtv-simulate EXPERIMENT.yaml`: the same experiment and ClientApp over an in-process grid."""

from pathlib import Path
from typing import Annotated

import typer

from common.command import command_line
from common.config import load_experiment
from common.errors import ConfigError


def simulate(
    experiment: Annotated[Path, typer.Argument(help="An experiment file, such as configs/experiments/demo.yaml.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/NAME.")] = None,
    seeds: Annotated[str, typer.Option(help="Run once a seed, such as 1,2,3; default: the experiment's own.")] = "",
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
) -> None:
    """Run an experiment with all its sites on this machine, in one process; a stopped run goes on when run again."""
    from deploy.seeds import write_seeds
    from deploy.simulation import run_simulation

    config = load_experiment(experiment)
    folder = out or Path("runs") / config.name
    if not seeds:
        run_simulation(config, folder, folder / "sites")
        return
    runs = {seed: folder / f"seed-{seed}" for seed in parse_seeds(seeds)}
    for seed, run in runs.items():
        run_simulation(config.model_copy(update={"seed": seed}), run, folder / "sites")
    typer.echo(write_seeds(config, runs, folder))
    typer.echo(f"seeds: {folder / 'seeds.md'}")


def parse_seeds(text: str) -> list[int]:
    """Returns the seeds in `1,2,3`.

    Raises:
        ConfigError: a part is no whole number, or one is given twice.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds: {text!r} is no list of whole numbers; write them like 1,2,3") from error
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"--seeds: {text!r} names a seed twice; name every seed once")
    return seeds


def main() -> None:
    """Entry point of `fedgtv-simulate`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(simulate)
    command_line(app)
