"""`fedgtv-site`: what a hospital types. Heavy imports stay inside the commands, so that --help answers at once."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common.command import command_line

if TYPE_CHECKING:
    from client.ingest import ImportReport
    from client.quality import Finding
    from common.tasks import EvaluateResult

app = typer.Typer(
    help="Join a federation with this hospital's own cases; images never leave.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ConfigOption = Annotated[Path, typer.Option("--config", help="The site's configuration.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
SITE_YAML = Path("site.yaml")


@app.command()
def init(
    site: Annotated[str | None, typer.Argument(help="The site's name, such as A.")] = None,
    kit: Annotated[Path | None, typer.Option(help="The SITE.kit.json that the coordinator sent, once it has.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the site's files go.")] = Path(),
    debug: DebugOption = False,
) -> None:
    """Make the key pair (it never leaves) and the join request; with --kit: put the coordinator's answer in place."""
    if site is None and kit is None:
        raise typer.BadParameter("give the site's name, or --kit", param_hint="SITE")
    if site is not None:
        _make_site(site, folder)
    if kit is not None:
        _place(kit, folder / SITE_YAML)


def _make_site(site: str, folder: Path) -> None:
    import yaml

    from client.keys import make_key
    from common.atomic import write_text_atomically
    from common.config import SiteConfig, validate
    from common.enrolment import read_join_request

    config = validate({"site": site}, SiteConfig, f"site {site!r}")
    files = make_key(site, folder / "keys")
    path = folder / SITE_YAML
    if not path.exists():
        write_text_atomically(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    typer.echo(f"configuration: {path}")
    typer.echo(f"private key:   {files.private} (stays here)")
    typer.echo(f"join request:  {files.request} (send it to the coordinator)")
    typer.echo(f"fingerprint:   {read_join_request(files.request).fingerprint} (read it out by telephone)")


def _place(kit: Path, config: Path) -> None:
    from client.kit_place import own_kit, place_kit

    path = place_kit(kit, config)
    typer.echo(f"kit: {path}, for the coordinator at {own_kit(config).coordinator}")
    typer.echo("next: `fedgtv-site check`, then `fedgtv-site join`")


@app.command("import")
def import_cases(
    source: Annotated[Path, typer.Argument(help="An export: DICOM CT + RTSTRUCT, or NIfTI case folders.")],
    config: ConfigOption = SITE_YAML,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Import an export's cases under pseudonyms; run again, only what is new or changed is done.

    A refused case does not stop the others; exit code 2 if none could be imported. Cases and state are closed to other
    users of this machine.
    """
    from rich.console import Console
    from rich.progress import Progress

    from client.ingest import import_folder
    from common.config import SiteConfig, load_yaml
    from common.private import close_to_others

    site = load_yaml(config, SiteConfig)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("import")
        report = import_folder(
            source,
            config.parent / site.cases,
            site.ingest,
            site.site,
            lambda done, total, name: progress.update(bar, completed=done, total=total, description=name or "import"),
        )
    still_open = [path for each in (site.cases, site.state) for path in close_to_others(config.parent / each)]
    _print_import(report, still_open, as_json)
    if report.refused and not (report.imported or report.skipped):
        raise typer.Exit(2)


def _print_import(report: "ImportReport", still_open: list[Path], as_json: bool) -> None:
    warnings = [*report.warnings, *_open_warning(still_open)]
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    for name, reason in report.refused:
        typer.echo(f"refused: {name}: {reason}", err=True)
    if as_json:
        typer.echo(json.dumps(vars(report) | {"warnings": warnings}))
    else:
        typer.echo(f"{len(report.imported)} imported, {len(report.skipped)} unchanged, {len(report.refused)} refused")


def _open_warning(still_open: list[Path]) -> list[str]:
    if not still_open:
        return []
    return [
        f"{still_open[0]}: other users of this machine can reach it, and {len(still_open) - 1} more; expected modes "
        "0700 and 0600; let their owner run chmod -R go= on the folder, or use a disk that keeps modes"
    ]


@app.command()
def check(
    config: ConfigOption = SITE_YAML,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check data, device and disk; exit code 2 if something keeps the site from training."""
    from common.config import SiteConfig, SplitConfig, load_yaml

    load_yaml(config, SiteConfig)  # a wrong file is told at once, before torch is loaded

    from client.contact_check import check_contact
    from client.quality import check_site
    from client.site import Site

    findings = [*check_site(Site.open(config), SplitConfig()), *check_contact(config)]
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings]))
    else:
        _print_findings(findings)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(2)


def _print_findings(findings: "list[Finding]") -> None:
    from rich.console import Console
    from rich.table import Table

    colours = {"error": "red", "warning": "yellow", "ok": "green"}
    table = Table("", "subject", "finding", "remedy")
    for finding in findings:
        mark = f"[{colours[finding.severity]}]{finding.severity}[/]"
        table.add_row(mark, finding.subject, finding.what, finding.remedy)
    Console().print(table)


@app.command()
def join(
    kit: Annotated[
        Path | None, typer.Option(help="A new SITE.kit.json, put in place first; default: the one that is there.")
    ] = None,
    config: ConfigOption = SITE_YAML,
    debug: DebugOption = False,
) -> None:
    """Connect to the coordinator and work for it until Ctrl-C; reconnects by itself."""
    import threading

    from client.contact import contact
    from client.keys import check_key, key_files
    from client.kit_place import own_kit, place_kit
    from client.node import SiteNode
    from common.atomic import write_text_atomically
    from common.config import SiteConfig, load_yaml
    from common.private import private_files, private_folder

    site = load_yaml(config, SiteConfig)
    key = key_files(site.site, config.parent / "keys").private
    check_key(key)
    if kit is not None:
        place_kit(kit, config)
    pass_on = own_kit(config)
    for line in contact(pass_on).warnings:
        typer.echo(f"warning: {line}", err=True)
    with private_files():
        state = private_folder(config.parent / site.state)
        authority = state / "authority.crt"
        write_text_atomically(authority, pass_on.authority)
        node = SiteNode(
            site.site, state / "node", pass_on.coordinator, authority, key, config.resolve(), report=typer.echo
        )
        node.run(threading.Event())


@app.command()
def segment(
    scan: Annotated[Path, typer.Argument(help="A DICOM CT folder or a NIfTI file.")],
    model: Annotated[Path, typer.Option(help="A model file of a run (models/NAME.safetensors).")],
    out: Annotated[Path, typer.Option(file_okay=False, help="The folder for RTSTRUCT, mask and picture.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Segment one patient: RTSTRUCT (for DICOM), NIfTI mask, PNG. Not for clinical use."""
    from client.segment import read_model, segment_scan

    outcome = segment_scan(scan, read_model(model), out, device)
    if as_json:
        files = [str(path) for path in outcome.files]
        typer.echo(json.dumps({"volume_ml": outcome.volume_ml, "flags": outcome.flags, "files": files}))
        return
    typer.echo(f"{outcome.volume_ml:.1f} ml; not for clinical use")
    for flag in outcome.flags:
        typer.echo(f"flag: {flag}")
    for path in outcome.files:
        typer.echo(f"  {path}")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="A model file of a run (models/NAME.safetensors).")],
    config: ConfigOption = SITE_YAML,
    part: Annotated[Literal["test", "validation"], typer.Option(help="Which held-out cases.")] = "test",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure a model on this site's own held-out cases; the result stays here."""
    from client.segment import read_model
    from client.site import Site
    from common.config import validate
    from common.device import choose_device
    from common.tasks import EvaluateTask, NormalisationRecord

    package, site = read_model(model), Site.open(config)
    site = site.for_own_eyes()
    package.networks(choose_device("cpu"))  # weights that do not fit are refused before any case is prepared
    normalisation = NormalisationRecord(mean=package.normalisation.mean, sd=package.normalisation.sd)
    fields = {"experiment": "local", "recipe": package.recipe, "split": package.split, "models": [package.name]}
    task = validate({**fields, "part": part, "normalisation": normalisation}, EvaluateTask, "evaluate")
    result, _ = site.evaluate(task, {package.name: package.weights})
    if as_json:
        typer.echo(result.model_dump_json())
    else:
        _print_summary(package.name, part, result)


def _print_summary(name: str, part: str, result: "EvaluateResult") -> None:
    if result.withheld:
        typer.echo(f"no summary: {result.withheld}")
        return
    summary = result.summaries[name]
    typer.echo(f"{name} on {summary.n} {part} cases ({summary.num_undefined} with undefined distances)")
    for metric, value in summary.metrics.items():
        mean = "–" if value.mean is None else f"{value.mean:.3f}"
        spread = "" if value.sd is None else f" ± {value.sd:.3f}"
        typer.echo(f"  {metric:8} {mean}{spread}")


def main() -> None:
    """Entry point of `fedgtv-site`."""
    command_line(app)
