"""`fedgtv-coordinator`: what a coordinator types. Heavy imports stay inside the commands."""

import contextlib
import json
import os
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.command import command_line
from common.errors import ConfigError

if TYPE_CHECKING:
    from server.federation import Federation
    from server.status import Status

app = typer.Typer(
    help="Run a federation: enrol hospitals, launch experiments, read results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
FolderOption = Annotated[Path, typer.Option("--folder", help="The federation's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
FEDERATION = Path("federation")
LEFT = b"no longer watched; `fedgtv-coordinator up` goes on with the run, `fedgtv-coordinator stop` ends it\n"


def _open(folder: Path) -> "Federation":
    from server.federation import Federation

    return Federation.open(folder)


def _warn(federation: "Federation") -> None:
    for line in federation.warnings():
        typer.echo(f"warning: {line}", err=True)


def _tell_validity(federation: "Federation") -> None:
    for what, until in federation.valid_until().items():
        typer.echo(f"{what}: valid until {until}")


def _outlive_the_terminal() -> None:
    """Lets a hang-up or an orderly kill, as of a machine that shuts down, end the watch at once and not the run."""
    import signal

    for leaving in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(leaving) != signal.SIG_IGN:  # as nohup has it
            signal.signal(leaving, _leave)


def _leave(number: int, _: FrameType | None) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, LEFT)
    sys.exit(128 + number)


@app.command()
def init(
    address: Annotated[str, typer.Argument(help="host:port at which sites reach this coordinator.")],
    name: Annotated[
        list[str] | None, typer.Option(help="A further name or IP address of it, for the certificate; repeatable.")
    ] = None,
    folder: FolderOption = FEDERATION,
    debug: DebugOption = False,
) -> None:
    """Make the authority and the server certificate."""
    from server.federation import Federation
    from server.provision import expiry

    federation = Federation.create(folder, address, name or ())
    typer.echo(f"federation: {folder} for {', '.join([address, *federation.config.names])}")
    typer.echo(f"server certificate: valid until {expiry(federation.certificates.certificate):%Y-%m-%d}")
    typer.echo(f"authority: valid until {expiry(federation.certificates.authority):%Y-%m-%d}")
    typer.echo("next: `fedgtv-coordinator up`, then `enrol` each site's join request")


@app.command()
def renew(
    authority: Annotated[
        bool, typer.Option("--authority", help="The authority too; every site gets a new kit.")
    ] = False,
    folder: FolderOption = FEDERATION,
    debug: DebugOption = False,
) -> None:
    """Renew the server certificate under the same authority; the sites stay enrolled and keep their kits."""
    from server.provision import expiry

    federation = _open(folder)
    kits = federation.renew_authority() if authority else []
    until = expiry(federation.certificates.certificate) if authority else federation.renew()
    typer.echo(f"server certificate: for {', '.join(federation.config.all_names)}, valid until {until:%Y-%m-%d}")
    if authority:
        typer.echo(f"authority: valid until {expiry(federation.certificates.authority):%Y-%m-%d}")
    for kit in kits:
        typer.echo(f"kit: {kit} (send it to the site, which puts it in place with `fedgtv-site init --kit`)")
    typer.echo("next: when no run is under way, stop `fedgtv-coordinator up` and start it again, to put it to use")


@app.command()
def up(
    gateway: Annotated[
        bool | None,
        typer.Option("--gateway/--no-gateway", help="Default: a gateway, unless sites are on this machine alone."),
    ] = None,
    folder: FolderOption = FEDERATION,
    debug: DebugOption = False,
) -> None:
    """Start the SuperLink on loopback, and the gateway (nginx) that sites call; keep both running until Ctrl-C."""
    import threading

    from server.coordinator import Coordinator

    Coordinator(_open(folder), gateway, typer.echo).run(threading.Event())


@app.command()
def enrol(
    request: Annotated[Path, typer.Argument(help="The SITE.join.json that the site sent.")],
    out: Annotated[Path | None, typer.Option(help="Where the kit goes; default SITE.kit.json.")] = None,
    folder: FolderOption = FEDERATION,
    debug: DebugOption = False,
) -> None:
    """Let a site in (compare the fingerprint by telephone first) and write its kit, which holds no secret."""
    from common.enrolment import read_join_request

    join = read_join_request(request)
    typer.echo(f"site {join.site}, fingerprint {join.fingerprint}")
    path = _open(folder).enrol(join, out)
    typer.echo("enrolled; if the site reads out another fingerprint, `revoke` it")
    typer.echo(f"kit: {path} (send it to the site)")


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The site's name.")],
    folder: FolderOption = FEDERATION,
    debug: DebugOption = False,
) -> None:
    """Shut a site out; nothing changes for the others."""
    _open(folder).superlink().revoke(site)
    typer.echo(f"site {site}: shut out; to come back it needs a new key")


@app.command()
def sites(
    folder: FolderOption = FEDERATION,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the enrolled sites and whether each is connected."""
    federation = _open(folder)
    listed = federation.connections()
    _warn(federation)
    if as_json:
        typer.echo(json.dumps(listed))
        return
    for site, state in listed.items():
        typer.echo(f"{site}: {state}")
    if not listed:
        typer.echo("no site is enrolled yet; `enrol` one")
    _tell_validity(federation)


@app.command()
def run(
    experiment: Annotated[Path, typer.Argument(help="An experiment file.")],
    name: Annotated[
        str | None, typer.Option(help="The run's name; the same name continues. Default: the experiment's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps, rounds and expected time; begin nothing.")
    ] = False,
    folder: FolderOption = FEDERATION,
    debug: DebugOption = False,
) -> None:
    """Run an experiment over the connected sites and write its report; a stopped run continues.

    Ctrl-C stops it. A closed terminal does not: `up` goes on with it, and the same command watches it again.
    """
    from rich.console import Console

    from common.experiment import load_experiment
    from server.federation import check_run_name
    from server.launch import launch
    from server.matrix_text import matrix_text
    from server.progress import describe
    from server.report import write_report

    console = Console()
    config = load_experiment(experiment)
    run_name = check_run_name(config.name if name is None else name)
    federation = _open(folder)
    superlink = federation.superlink()
    if dry_run:
        from server.experiment import refuse_pooled
        from server.plan import plan_lines

        refuse_pooled(config)
        for line in plan_lines(config, superlink.runs_folder / run_name):
            typer.echo(line)
        return
    _outlive_the_terminal()

    def tell(record: dict[str, Any]) -> None:
        line = describe(record)
        if line:
            console.print(line, highlight=False)

    with console.status(f"{config.name} over {', '.join(config.sites)}"):
        run_folder = launch(
            superlink.control, superlink.folder, config, run_name, tell, coordinator=federation.config.address
        )
    report = write_report(run_folder)
    console.print(matrix_text(run_folder))
    console.print(f"models: {run_folder / 'models'}\nreport: {report}")


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every 2 s until Ctrl-C.")] = False,
    folder: FolderOption = FEDERATION,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the sites, how far each run is, and what each site does for it; exit code 1 if the coordinator is not up."""
    from server.status import Status

    federation = _open(folder)
    _warn(federation)
    told = Status(federation)
    if watch:
        _watch(told)
        return
    told.ask()
    if as_json:
        typer.echo(json.dumps(told.as_json()))
    else:
        for line in told.lines():
            typer.echo(line)
        _tell_validity(federation)
    if told.fault:
        raise told.fault


def _watch(told: "Status") -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as screen:
        told.watch(lambda text: screen.update(Text(text), refresh=True))


@app.command()
def health(folder: FolderOption = FEDERATION, debug: DebugOption = False) -> None:
    """Say whether SuperLink and gateway answer; exit code 1 if not. Quicker than `status`, which asks Flower."""
    from server.health import daemon_health

    told = daemon_health(_open(folder))
    for each in told:
        typer.echo(each.told)
    if not all(each.good for each in told):
        raise typer.Exit(1)


@app.command()
def stop(
    name: Annotated[str | None, typer.Argument(help="The run's name. Default: every run.")] = None,
    folder: FolderOption = FEDERATION,
    debug: DebugOption = False,
) -> None:
    """Stop one run, or all that are running; `run` continues them after their last round."""
    from server.stopping import stop_runs

    superlink = _open(folder).superlink()
    stopped = stop_runs(superlink.control, superlink.runs_folder, name)
    for each in stopped:
        typer.echo(f"run {each}: stopped; the same `run` goes on with it")
    if not stopped:
        typer.echo("nothing is running" if name is None else f"run {name}: not running")


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(help="A run's folder.")],
    debug: DebugOption = False,
) -> None:
    """Write a run's HTML report and its tables anew."""
    from server.report import write_report

    if not (run_folder / "experiment.yaml").exists():
        raise ConfigError(f"{run_folder}: no run's folder; give one such as {FEDERATION}/superlink/runs/NAME")
    typer.echo(f"report: {write_report(run_folder)}")


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(help="A run's folder, of a federation or a simulation.")],
    tensorboard: Annotated[Path | None, typer.Option(help="A new folder for TensorBoard's files.")] = None,
    mlflow: Annotated[str | None, typer.Option(help="Address of an MLflow server, or of a store.")] = None,
    debug: DebugOption = False,
) -> None:
    """Give a run's curves to TensorBoard, or its parameters and metrics to MLflow."""
    from server.export import to_mlflow, to_tensorboard
    from server.run_record import read_run

    if tensorboard is None and mlflow is None:
        raise ConfigError("export: nowhere to export to; give --tensorboard DIR, --mlflow ADDRESS or both")
    record = read_run(run_folder)
    if tensorboard is not None:
        typer.echo(f"TensorBoard: {to_tensorboard(record, tensorboard)} points in {tensorboard}")
    if mlflow is not None:
        typer.echo(f"MLflow: run {to_mlflow(record, mlflow)}")


def main() -> None:
    """Entry point of `fedgtv-coordinator`."""
    command_line(app)
