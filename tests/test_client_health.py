"""What `health` says of a site's node and worker, by their locks and logs."""

import os
import sys
from pathlib import Path

import client.cli
from client.health import NODE, Health, node_health, worker_health
from client.node import node_tree
from client.worker import worker_tree
from common.processes import STARTS
from common.site_config import SiteConfig

ALONE = SiteConfig(site="A")
APART = SiteConfig.model_validate({"site": "A", "worker": {"group": "fedgtv"}})
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
START = f"{STARTS}\n"
ONLINE = START + "INFO :      SuperNode ID: 4711\n"


def test_a_node_is_online_when_it_runs_and_was_let_in_since_it_started(tmp_path: Path) -> None:
    tree = node_tree(tmp_path / "state" / NODE)
    told = [node_health(ALONE, tmp_path)]
    tree.log.parent.mkdir(parents=True)
    tree.log.write_text(ONLINE)  # of a node that was killed
    tree.start(SLEEP, {})
    try:
        told.append(node_health(ALONE, tmp_path))
        for text in (START, ONLINE, ONLINE + START):
            tree.log.write_text(text)
            told.append(node_health(ALONE, tmp_path))
    finally:
        tree.stop()
    told.append(node_health(ALONE, tmp_path))
    stopped = Health(False, "node: not running; start it with `fedgtv-site join`")
    waiting = Health(False, f"node: running, but the coordinator has not let it in; see {tree.log}")
    assert told == [stopped, waiting, waiting, Health(True, "node: online"), waiting, stopped]


def test_a_worker_is_asked_for_where_the_site_has_one(tmp_path: Path) -> None:
    assert worker_health(ALONE, tmp_path) == Health(True, "worker: none; the node's account trains")
    tree = worker_tree(tmp_path / "work")
    told = [worker_health(APART, tmp_path).good]
    tree.start(SLEEP, {})
    try:
        told.append(worker_health(APART, tmp_path).good)
    finally:
        tree.stop()
    assert told == [False, True]


def test_the_command_s_exit_code_is_for_a_container(tmp_path: Path, command) -> None:
    (tmp_path / "site.yaml").write_text("site: A\n")
    ended = command(client.cli.main, "health", "--config", tmp_path / "site.yaml")
    assert (ended.code, ended.out.splitlines()) == (
        1, ["node: not running; start it with `fedgtv-site join`", "worker: none; the node's account trains"],
    )  # fmt: skip
    ended = command(client.cli.main, "health", "--worker", "--config", tmp_path / "site.yaml")
    assert (ended.code, ended.out) == (0, "worker: none; the node's account trains\n")


def test_a_node_s_health_is_its_own(tmp_path: Path, command) -> None:
    (tmp_path / "site.yaml").write_text("{site: A, worker: {group: fedgtv}}")
    tree = node_tree(tmp_path / "state" / NODE)
    tree.start(SLEEP, {})
    try:
        tree.log.write_text(ONLINE)
        told = [command(client.cli.main, "health", *of, "--config", tmp_path / "site.yaml") for of in (["--node"], [])]
    finally:
        tree.stop()
    down = "worker: not running; start it with `fedgtv-site work`\n"
    assert [(each.code, each.out) for each in told] == [(0, "node: online\n"), (1, "node: online\n" + down)]


def test_work_is_for_sites_that_name_a_worker(tmp_path: Path, command) -> None:
    (tmp_path / "site.yaml").write_text("site: A\n")
    ended = command(client.cli.main, "work", "--config", tmp_path / "site.yaml")
    assert ended.code == 2
    assert ended.err.startswith(f"error: {tmp_path / 'site.yaml'}: names no worker; the node's account trains here")


def test_init_for_a_worker_makes_the_folders_that_are_mounted(tmp_path: Path, command, monkeypatch) -> None:
    monkeypatch.setenv("FEDGTV_WORKER_GROUP", str(os.getgid()))
    monkeypatch.setenv("FEDGTV_WORKER_ADDRESS", "0.0.0.0:9094")
    assert command(client.cli.main, "init", "A", "--folder", tmp_path).code == 0
    found = {path.name: path.stat().st_mode & 0o7777 for path in tmp_path.iterdir() if path.is_dir()}
    assert found == {"cases": 0o2750, "work": 0o2770, "state": 0o700, "keys": 0o700}
    assert "address: 0.0.0.0:9094" in (tmp_path / "site.yaml").read_text()
