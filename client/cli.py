"""`fedgtv-site`: what a hospital types. Heavy imports stay inside the commands, so that --help answers at once."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from client.cli_options import SITE_YAML, ConfigOption, DebugOption, JsonOption
from client.node_cli import approve, audit, health, join, work
from common.command import command_line
from common.text import clean_text

if TYPE_CHECKING:
    from rich.console import Console

    from client.import_report import ImportReport
    from client.quality import SiteCheck
    from client.segment_many import ScanReport
    from common.tasks import EvaluateResult

app = typer.Typer(
    help="Join a federation with this hospital's own cases; images never leave.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
CHECK_PAGE = "check.html"
"""In the site's state."""


@app.command()
def init(
    site: Annotated[str | None, typer.Argument(help="The site's name, such as A.")] = None,
    kit: Annotated[Path | None, typer.Option(help="The SITE.kit.json that the coordinator sent, once it has.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the site's files go.")] = Path(),
    worker_group: Annotated[
        str | None,
        typer.Option(
            envvar="FEDGTV_WORKER_GROUP", help="A group shared with the account that trains, if it is another."
        ),
    ] = None,
    worker_address: Annotated[
        str | None,
        typer.Option(envvar="FEDGTV_WORKER_ADDRESS", help="host:port where the node waits for that account."),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Make the key pair (it never leaves) and the join request; with --kit: put the coordinator's answer in place."""
    if site is None and kit is None:
        raise typer.BadParameter("give the site's name, or --kit", param_hint="SITE")
    if site is not None:
        named = {"group": worker_group, "address": worker_address} if worker_group else {}
        _make_site(site, folder, {key: value for key, value in named.items() if value})
    if kit is not None:
        _place(kit, folder / SITE_YAML)


def _make_site(site: str, folder: Path, worker: dict[str, str]) -> None:
    import yaml

    from client.keys import make_key
    from client.worker_account import make_folders
    from common.atomic import write_text_atomically
    from common.enrolment import read_join_request
    from common.errors import ConfigError
    from common.settings import load_yaml, validate
    from common.site_config import SiteConfig

    config = validate({"site": site, "worker": worker or None}, SiteConfig, f"site {site!r}")
    path = folder / SITE_YAML
    known = load_yaml(path, SiteConfig).site if path.exists() else site
    if known != site:
        raise ConfigError(f"{path}: is site {known!r}'s, not {site!r}'s; give that name, or another --folder")
    try:
        if worker:
            make_folders(config, folder)
        files = make_key(site, folder / "keys")
        if not path.exists():
            write_text_atomically(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    except PermissionError as error:
        told = f"{error.filename}: cannot be written (permission denied); give a folder of your own with --folder"
        raise ConfigError(told) from error
    typer.echo(f"configuration: {path}")
    typer.echo(f"private key:   {files.private} (stays here)")
    typer.echo(f"join request:  {files.request} (send it to the coordinator)")
    typer.echo(f"fingerprint:   {read_join_request(files.request).fingerprint} (read it out by telephone)")


def _place(kit: Path, config: Path) -> None:
    from client.kit_place import given_kit, place_kit

    given = given_kit(kit, config)
    typer.echo(f"kit: {place_kit(given, config)}, for the coordinator at {given.coordinator}")
    typer.echo("next: `fedgtv-site check`, then `fedgtv-site join`")


@app.command("import")
def import_cases(
    source: Annotated[
        Path, typer.Argument(readable=False, help="An export: DICOM CT + RTSTRUCT, or NIfTI case folders.")
    ],
    config: ConfigOption = SITE_YAML,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read all, show the plan, write nothing.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="Show what was found in every case.")] = False,
    stages: Annotated[Path | None, typer.Option(help="A CSV of the columns patient and stage (T1 to T4).")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Cases read at a time; 0: as cores and memory allow.")] = 0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Import an export's cases under pseudonyms; run again, only what is new or changed is done.

    A refused case does not stop the others; exit code 2 if none could be imported, 1 if a file or folder of the export
    may not be read. Cases and state are closed to other users of this machine.
    """
    from rich.console import Console
    from rich.progress import Progress

    from client.ingest import import_folder
    from client.stages import read_stages
    from client.worker_account import share_with_worker
    from common.private import close_to_others
    from common.settings import load_yaml
    from common.site_config import SiteConfig

    site = load_yaml(config, SiteConfig)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading headers", total=None)
        report = import_folder(
            source,
            config.parent / site.cases,
            site.ingest,
            site.site,
            lambda done, total, name: progress.update(
                bar, completed=done, total=total, description=_plain(name) or "import"
            ),
            num_processes=jobs,
            dry_run=dry_run,
            list_all=dry_run or list_all or as_json,
            stages=read_stages(stages) if stages else {},
        )
    folders = [] if dry_run else [config.parent / each for each in (site.cases, site.work, site.state)]
    report = report.with_warnings(_open_warning([path for each in folders for path in close_to_others(each)]))
    if report.cases and not dry_run:
        share_with_worker(site, config.parent)
    _print_import(report, as_json, dry_run or list_all, list_all)
    if report.refused and not report.num_usable:
        raise typer.Exit(2)
    if not (as_json or dry_run):
        shown = "" if config == SITE_YAML else f" --config {config}"
        typer.echo(f"look at them: fedgtv-site check{shown}")
    if any(line.unread == "denied" for line in report.unread):
        raise typer.Exit(1)


def _print_import(report: "ImportReport", as_json: bool, as_table: bool, in_full: bool) -> None:
    from client.import_table import plan_table, summary

    shown = (report if in_full else report.in_brief()).for_terminal()
    for warning in shown.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for line in shown.cases if as_json or not as_table else ():
        if line.action in ("refused", "removed"):
            typer.echo(f"{line.action}: {line.name}: {line.reason}", err=True)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
        return
    if as_table:
        _wide_console().print(plan_table(shown))
    typer.echo(summary(report))


def _plain(text: str) -> str:
    """A text of a file for a terminal that knows markup."""
    from rich.markup import escape

    return escape(clean_text(text, None))


def _wide_console() -> "Console":
    """A table that is sent to a file has room for its sentences."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def _open_warning(still_open: list[Path]) -> list[str]:
    if not still_open:
        return []
    more = f", and {len(still_open) - 1} more" if still_open[1:] else ""
    return [
        f"{still_open[0]}: other users of this machine can reach it{more}; expected modes "
        "0700 and 0600; let their owner run chmod -R go= on the folder, or use a disk that keeps modes"
    ]


@app.command()
def remove(
    cases: Annotated[list[str], typer.Argument(metavar="CASE...", help="Pseudonyms of cases, such as A-0002.")],
    config: ConfigOption = SITE_YAML,
    undo: Annotated[bool, typer.Option("--undo", help="Let the next import bring removed cases back.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    debug: DebugOption = False,
) -> None:
    """Take cases out of the data set; a later import does not bring them back.

    Images, contours, cache and index line are deleted here; the export they came from is not touched.
    """
    from client.removal import CasePlaces, check_removable, gone, readmit_cases, remove_cases
    from client.worker_account import share_with_worker
    from common.settings import load_yaml
    from common.site_config import SiteConfig

    site = load_yaml(config, SiteConfig)
    places = CasePlaces.of(site, config.parent, config.parent / site.state / CHECK_PAGE)
    named = list(dict.fromkeys(cases))
    if undo:
        readmit_cases(places, named)
        typer.echo(f"{', '.join(named)}: the next `fedgtv-site import` of their export brings them back")
        return
    check_removable(places, named)
    typer.echo(f"will be deleted: images, contours, cache and index line of {', '.join(named)}, and the check's page")
    if not yes and not typer.confirm("Remove them? A training round that is under way begins anew here, without them."):
        typer.echo("not removed; nothing changes")
        return
    before = gone(places, named)
    unknown = remove_cases(places, named)
    share_with_worker(site, config.parent)
    _print_removed(named, unknown, before)


def _print_removed(named: list[str], unknown: tuple[str, ...], before: tuple[str, ...]) -> None:
    for case_id in named:
        told = (
            "no import made it, so one may bring it in under a new name"
            if case_id in unknown
            else (f"to have it back: `fedgtv-site remove --undo {case_id}`, then import again")
        )
        typer.echo(f"removed{' already' if case_id in before else ''}: {case_id}; {told}")
    typer.echo("what `check --page` and `segment` wrote elsewhere, and the export, still show it: delete those by hand")


@app.command()
def check(
    config: ConfigOption = SITE_YAML,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe or experiment to check against; otherwise the paper's recipe.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Where the page of pictures goes; otherwise check.html in the site's state.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check data and machine, and draw every case on one page; exit code 2 if there is an error.

    An error keeps the site or a case from training, but for a duplicate, which trains until it is removed. The page
    shows patients and stays at the site.
    """
    from common.settings import load_yaml
    from common.site_config import SiteConfig

    load_yaml(config, SiteConfig)  # a wrong file is told at once, before torch is loaded

    from client.check_page import write_check_page
    from client.contact_check import check_contact
    from client.quality import check_against, check_site
    from client.result_place import check_file, writing
    from client.site import Site
    from client.trust_check import check_trust

    site, (against, split) = Site.open(config), check_against(recipe)
    path = page or site.state_folder / CHECK_PAGE
    check_file(path)
    with _progress("check") as tell:
        between = [*check_contact(config), *check_trust(site.config, config.parent)]
        found = check_site(site, split, against, between, tell)
    with writing(path):
        write_check_page(found, site.config.site, path)
    _print_check(found, path, as_json)
    if found.count("error"):
        raise typer.Exit(2)


def _print_check(found: "SiteCheck", page: Path, as_json: bool) -> None:
    from client.check_table import check_table

    num_errors, num_warnings = found.count("error"), found.count("warning")
    if as_json:
        findings = [vars(finding) for finding in found.findings]
        told = {"errors": num_errors, "warnings": num_warnings, "findings": findings, "page": str(page)}
        typer.echo(json.dumps(told))
        return
    console = _wide_console()
    console.print(check_table(found.findings, stacked=console.is_terminal))
    counts = f"{_count(num_errors, 'error')}, {_count(num_warnings, 'warning')}"
    typer.echo(f"{counts} in {_count(len(found.cases), 'case')} and the site itself")
    typer.echo(f"pictures of all cases, to stay at this site: {page}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that takes how much is done, of how much; its bar shows on a terminal and goes at the end."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


for command in (join, work, health, approve, audit):
    app.command()(command)


@app.command()
def segment(
    scan: Annotated[Path, typer.Argument(help="A DICOM CT folder, a NIfTI file, or a folder of many of them.")],
    model: Annotated[Path, typer.Option(help="A model file of a run (models/NAME.safetensors).")],
    out: Annotated[Path, typer.Option(help="The folder for RTSTRUCT, mask and picture.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    again: Annotated[bool, typer.Option("--again", help="Also what was done before with the same model.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Segment one scan, or each in a folder: RTSTRUCT (for DICOM), NIfTI mask, PNG. Not for clinical use.

    Of several scans each gets a folder of its own below --out; one that fails does not stop the others, and the exit
    code is then 1. What was done before with the same model is not done again.
    """
    from client.model_package import read_model
    from client.result_place import check_folder
    from client.scans import find_scans
    from client.segment import Segmenter
    from client.segment_many import segment_all, segment_one
    from client.unfinished import remove_unfinished

    scans = find_scans(scan)
    check_folder(out)
    remove_unfinished(out)
    segmenter = Segmenter(read_model(model), device)
    if len(scans) == 1:
        _print_report(segment_one(scans[0], segmenter, out, again), as_json)
        return
    with _progress("segment") as tell:
        reports = [_told(report, as_json) for report in segment_all(scans, segmenter, out, again, tell)]
    _print_reports(reports, as_json)
    if any(report.status == "failed" for report in reports):
        raise typer.Exit(1)


def _print_report(report: "ScanReport", as_json: bool) -> None:
    """Of the only scan, which did not fail."""
    if as_json:
        typer.echo(json.dumps([report.as_json()]))
        return
    typer.echo(f"{_volume(report)}; not for clinical use")
    for flag in report.flags:
        typer.echo(f"flag: {flag}")
    for path in report.files:
        typer.echo(clean_text(f"  {path}", None))


def _told(report: "ScanReport", as_json: bool) -> "ScanReport":
    """Prints a line of one scan of many, as soon as it is done."""
    if not as_json:
        text = f"failed: {report.reason}" if report.status == "failed" else "; ".join([_volume(report), *report.flags])
        typer.echo(clean_text(f"{report.scan}: {text}", None))
    return report


def _volume(report: "ScanReport") -> str:
    return f"{report.volume_ml:.1f} ml" + (" (unchanged)" if report.status == "unchanged" else "")


def _print_reports(reports: "list[ScanReport]", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([report.as_json() for report in reports]))
        return
    counts = {status: sum(report.status == status for report in reports) for status in ("done", "unchanged", "failed")}
    typer.echo(", ".join(f"{count} {status}" for status, count in counts.items()) + "; not for clinical use")


@app.command()
def card(
    model: Annotated[Path, typer.Argument(help="A model file of a run (models/NAME.safetensors).")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show a model's card: what it was trained on, by whom, with which recipe, how it did at each site."""
    from client.card import card_lines, read_model_card

    shown, recipe = read_model_card(model)
    if as_json:
        typer.echo(json.dumps({"card": shown.model_dump(mode="json"), "recipe": recipe.model_dump(mode="json")}))
        return
    for line in card_lines(shown, recipe):
        typer.echo(line)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="A model file of a run (models/NAME.safetensors).")],
    config: ConfigOption = SITE_YAML,
    part: Annotated[Literal["test", "validation"], typer.Option(help="Which held-out cases.")] = "test",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure a model on this site's own held-out cases; the result stays here."""
    from client.model_package import read_model
    from client.site import Site
    from common.device import choose_device
    from common.settings import validate
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
    from client.card import shown_metrics

    summary = result.summaries[name]
    typer.echo(f"{name} on {summary.n} {part} cases ({summary.num_undefined} with undefined distances)")
    for shown in shown_metrics(summary.metrics):
        typer.echo(f"  {shown}")


def main() -> None:
    """Entry point of `fedgtv-site`."""
    command_line(app)
