"""Whether a site's node and worker are at work, told from their files: for a look, and for a container's health."""

from dataclasses import dataclass
from pathlib import Path

from client.node import node_tree
from client.node_log import is_online
from client.worker import worker_tree
from common.site_config import SiteConfig

NODE = "node"
"""Below the site's state: the node's log and Flower's own files."""


@dataclass(frozen=True)
class Health:
    """How one of the site's processes is."""

    good: bool
    told: str


def node_health(site: SiteConfig, folder: Path) -> Health:
    """Returns whether the node runs and the coordinator has let it in."""
    tree = node_tree(folder / site.state / NODE)
    if not tree.owned():
        return Health(False, "node: not running; start it with `fedgtv-site join`")
    if not is_online(tree.log):
        return Health(False, f"node: running, but the coordinator has not let it in; see {tree.log}")
    return Health(True, "node: online")


def worker_health(site: SiteConfig, folder: Path) -> Health:
    """Returns whether the worker runs, where training has an account of its own."""
    if site.worker is None:
        return Health(True, "worker: none; the node's account trains")
    if not worker_tree(folder / site.work).owned():
        return Health(False, "worker: not running; start it with `fedgtv-site work`")
    return Health(True, "worker: running")
