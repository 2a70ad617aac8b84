"""The commands of a site that has joined: node, worker, approval, audit. Heavy imports stay inside them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_options import SITE_YAML, ConfigOption, DebugOption, JsonOption
from common.text import counted

if TYPE_CHECKING:
    from client.approval import Approvals
    from client.node import SiteNode
    from common.kit import Kit
    from common.site_config import SiteConfig

APPROVAL = "approval"
"""What the audit log calls it."""


def join(
    kit: Annotated[
        Path | None, typer.Option(help="A new SITE.kit.json, to replace the one in place; default: that one.")
    ] = None,
    config: ConfigOption = SITE_YAML,
    debug: DebugOption = False,
) -> None:
    """Connect to the coordinator and work for it until Ctrl-C; reconnects by itself."""
    import threading

    from client.audit import AuditLog
    from client.contact import contact
    from client.keys import check_key, key_files
    from client.kit_place import given_kit, own_kit, place_kit
    from common.private import private_files
    from common.settings import load_yaml
    from common.site_config import SiteConfig

    site = load_yaml(config, SiteConfig)
    key = key_files(site.site, config.parent / "keys").private
    check_key(key)
    AuditLog(config.parent / site.state).checked()
    theirs = own_kit(config) if kit is None else given_kit(kit, config)
    with private_files():
        node = _node(site, config, key, theirs)
        node.tree.claim()  # a node that runs here already keeps the kit and the authority that it works with
        try:
            for line in contact(theirs).warnings:
                typer.echo(f"warning: {line}", err=True)
            if kit is not None:
                place_kit(theirs, config)
            _equip(site, config, theirs, node)
            node.run(threading.Event())
        finally:
            node.tree.stop()


def _node(site: "SiteConfig", config: Path, key: Path, kit: "Kit") -> "SiteNode":
    from client.health import NODE
    from client.node import SiteNode, WorkerLink
    from client.worker_account import SECRET
    from common.private import closed_folder

    state = closed_folder(config.parent / site.state)
    worker = WorkerLink(site.worker.address, config.parent / site.work / SECRET) if site.worker else None
    return SiteNode(
        site.site, state / NODE, kit.coordinator, state / "authority.crt", key, config.resolve(), worker=worker,
        report=typer.echo,
    )  # fmt: skip


def _equip(site: "SiteConfig", config: Path, kit: "Kit", node: "SiteNode") -> None:
    from client.worker_account import make_secret, share_with_worker
    from common.atomic import write_text_atomically

    write_text_atomically(node.authority, kit.authority)
    share_with_worker(site, config.parent)
    if site.worker:
        make_secret(config.parent / site.work)


def approve(
    bundle: Annotated[
        str | None, typer.Argument(help="Digits of a waiting bundle's hash, or a .fab file; none: list what waits.")
    ] = None,
    config: ConfigOption = SITE_YAML,
    signature: Annotated[
        Path | None, typer.Option(help="A detached Ed25519 signature of the bundle by one of site.yaml's trusted_keys.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show a job's code and what it changes, and allow it to run here; nothing is allowed without a yes."""
    from client.approval import Approvals
    from common.settings import load_yaml
    from common.site_config import SiteConfig

    site = load_yaml(config, SiteConfig)
    state = config.parent / site.state
    approvals = Approvals(state)
    if bundle is None:
        _print_waiting(approvals)
        return
    data = approvals.find(bundle)
    _print_bundle(approvals, data)
    if signature is not None:
        typer.echo(f"signature:   good, by trusted key {_signer(data, signature, site.trusted_keys)}")
    if not yes and not typer.confirm("\nLet this code run on this site's cases?"):
        typer.echo("not approved; nothing changes")
        return
    _approve(approvals, data, state)


def _print_waiting(approvals: "Approvals") -> None:
    from client.archive import read_bundle

    for path in approvals.waiting():
        waiting = read_bundle(path.read_bytes())
        typer.echo(
            f"waiting:   {waiting.sha256[:12]}  {waiting.name} {waiting.version}, {counted(len(waiting.files), 'file')}"
        )
    for each in approvals.approved():
        typer.echo(f"approved:  {each.sha256[:12]}  {each.name} {each.version}, {each.time[:10]}")
    if not approvals.waiting():
        typer.echo("nothing waits for approval; this release's own code needs none")


def _print_bundle(approvals: "Approvals", data: bytes) -> None:
    from client.approval import changes
    from client.archive import read_bundle

    bundle, (title, before) = read_bundle(data), approvals.last_approved()
    found = changes(before, bundle)
    changed = {change.name: change.kind for change in found}
    typer.echo(f"name:        {bundle.name}\nversion:     {bundle.version}\nhash:        {bundle.sha256}")
    typer.echo(f"files:       {len(bundle.files)}")
    for name, content in sorted(bundle.files.items()):
        typer.echo(f"  {len(content):8}  {name}" + (f"  ({changed[name]})" if name in changed else ""))
    typer.echo(f"\ncompared with {title}: " + (_differ(len(found)) if found else "the same files"))
    for change in found:
        typer.echo(f"\n{change.kind}: {change.name}\n{change.text}")


def _differ(count: int) -> str:
    return "1 file differs" if count == 1 else f"{count} files differ"


def _signer(data: bytes, signature: Path, trusted: tuple[str, ...]) -> str:
    from client.approval import signer
    from common.errors import InputError

    try:
        return signer(data, signature.read_bytes(), trusted)
    except OSError as error:
        raise InputError(f"{signature}: cannot be read ({error.strerror}); give the signature's file") from error


def _approve(approvals: "Approvals", data: bytes, state: Path) -> None:
    from client.archive import read_bundle
    from client.audit import AuditLog

    bundle = read_bundle(data)
    AuditLog(state).append(APPROVAL, sha256=bundle.sha256, name=bundle.name, version=bundle.version)
    line = approvals.approve(data)
    typer.echo(f"approved: {line.name} {line.version} {line.sha256[:12]}; the coordinator can run it again now")


def audit(
    config: ConfigOption = SITE_YAML,
    since: Annotated[
        str | None, typer.Option(help="Only lines from this time on: 2026-11-30, or 2026-11-30T12:00 (UTC).")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what came in, what was decided and what went out, and verify it; exit code 1 if a line was tampered with."""
    from client.audit import AuditLog
    from client.audit_view import records_since, table
    from common.settings import load_yaml
    from common.site_config import SiteConfig

    site = load_yaml(config, SiteConfig)
    audited = AuditLog(config.parent / site.state).read()
    shown = records_since(audited.records, since)
    if as_json:
        verdict = {"head": audited.head, "faults": audited.faults, "notes": audited.notes}
        typer.echo(json.dumps({"records": shown, **verdict}))
    else:
        from rich.console import Console

        Console().print(table(shown))
        num = len(audited.records)
        typer.echo(f"{num} line{'' if num == 1 else 's'}; the last one's hash is {audited.head}")
        for note in audited.notes:
            typer.echo(f"note: {note}")
        for fault in audited.faults:
            typer.echo(f"TAMPERED: {fault}", err=True)
    if audited.faults:
        raise typer.Exit(1)


def work(
    node: Annotated[str | None, typer.Option(help="host:port of the node; default: worker.address.")] = None,
    config: ConfigOption = SITE_YAML,
    debug: DebugOption = False,
) -> None:
    """Do the node's work under this account, which must not reach the node's key; until Ctrl-C.

    For sites whose site.yaml names a worker. The node, `fedgtv-site join`, runs under another account.
    """
    import os
    import threading

    from client.worker import UMASK, Worker
    from client.worker_account import check_apart
    from common.errors import ConfigError
    from common.settings import load_yaml
    from common.site_config import SiteConfig

    site = load_yaml(config, SiteConfig)
    if site.worker is None:
        raise ConfigError(f"{config}: names no worker; the node's account trains here, so `fedgtv-site join` is enough")
    check_apart(site, config)
    os.umask(UMASK)
    Worker(config.parent / site.work, node or site.worker.address, typer.echo).run(threading.Event())


def health(
    node: Annotated[bool, typer.Option("--node", help="Of the node alone.")] = False,
    worker: Annotated[bool, typer.Option("--worker", help="Of the worker alone.")] = False,
    config: ConfigOption = SITE_YAML,
    debug: DebugOption = False,
) -> None:
    """Say whether the node is online and the worker runs; exit code 1 if not."""
    from client.health import node_health, worker_health
    from common.settings import load_yaml
    from common.site_config import SiteConfig

    site = load_yaml(config, SiteConfig)
    asked = [node_health] if node else []
    asked += [worker_health] if worker else []
    told = [each(site, config.parent) for each in asked or (node_health, worker_health)]
    for each in told:
        typer.echo(each.told)
    if not all(each.good for each in told):
        raise typer.Exit(1)
