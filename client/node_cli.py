"""The commands that a site's containers run beside `join`. Heavy imports stay inside them."""

from pathlib import Path
from typing import Annotated

import typer

CONFIG = Annotated[Path, typer.Option("--config", help="The site's configuration.")]
DEBUG = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def work(
    node: Annotated[str | None, typer.Option(help="host:port of the node; default: worker.address.")] = None,
    config: CONFIG = Path("site.yaml"),
    debug: DEBUG = False,
) -> None:
    """Do the node's work under this account, which must not reach the node's key; until Ctrl-C.

    For sites whose site.yaml names a worker. The node, `fedgtv-site join`, runs under another account.
    """
    import os
    import threading

    from client.worker import UMASK, Worker
    from client.worker_account import check_apart
    from common.config import SiteConfig, load_yaml
    from common.errors import ConfigError

    site = load_yaml(config, SiteConfig)
    if site.worker is None:
        raise ConfigError(f"{config}: names no worker; the node's account trains here, so `fedgtv-site join` is enough")
    check_apart(site, config.parent)
    os.umask(UMASK)
    Worker(config.parent / site.work, node or site.worker.address, typer.echo).run(threading.Event())


def health(
    worker: Annotated[bool, typer.Option("--worker", help="Of the worker alone.")] = False,
    config: CONFIG = Path("site.yaml"),
    debug: DEBUG = False,
) -> None:
    """Say whether the node is online and the worker runs; exit code 1 if not."""
    from client.health import node_health, worker_health
    from common.config import SiteConfig, load_yaml

    site = load_yaml(config, SiteConfig)
    told = [worker_health(site, config.parent)]
    if not worker:
        told.insert(0, node_health(site, config.parent))
    for each in told:
        typer.echo(each.told)
    if not all(each.good for each in told):
        raise typer.Exit(1)
