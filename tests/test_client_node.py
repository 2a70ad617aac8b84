"""The site's node: what it makes of a SuperNode's log, when it gives up, and what people see of the work.

A small program stands in for the SuperNode and writes the lines that Flower's writes (tests/test_flower_contract.py).
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client.keys import make_key
from client.node import CONFIG_VARIABLE, LAUNCHER_VARIABLE, SiteNode, WorkerLink
from client.node_log import NodeLog, left_connected
from client.worker import launcher_command
from common.enrolment import read_join_request
from common.errors import SiteError, WorkError
from common.processes import ProcessTree, flower_environment

ONLINE = "\x1b[92mINFO \x1b[0m:      SuperNode ID: 4711"
BYE = "\x1b[92mINFO \x1b[0m:      SuperNode terminated gracefully."
REFUSED = "\x1b[91mERROR \x1b[0m:     Exit Code: 305\n[code: 2004] Failed to activate SuperNode."
EPOCH = "2026-11-24 01:48:54,098 fedgtv.site federated round 5, stage2 epoch 56 of 91: loss 0.3179"

STAND_IN = """\
import sys, time
from pathlib import Path
turns = Path({turns!r})
number = len(list(turns.glob("done-*")))
(turns / f"done-{{number}}").touch()
scripts = {scripts!r}
script = scripts[min(number, len(scripts) - 1)]
print(script["say"], flush=True)
while script.get("stay"):
    time.sleep(0.05)
sys.exit(script.get("code", 0))
"""
LAUNCHER = """
import os, sys, time
assert sys.argv[-2] == "--parent-pid"
print("started", os.getpid(), flush=True)
while os.getppid() == int(sys.argv[-1]):
    time.sleep(0.05)
"""
"""Stands in for Flower's SuperExec, which watches its parent alike."""
MakeNode = Callable[..., SiteNode]
RunUntil = Callable[[SiteNode, str], list[str]]


@pytest.fixture
def make_node(tmp_path: Path) -> MakeNode:
    """Returns make(*scripts, ...): a node whose n-th start says and does what the n-th script has."""
    key = make_key("A", tmp_path / "keys").private

    def make(*scripts: dict[str, object], lease_s: float = 0.0, answer_s: float = 60.0) -> SiteNode:
        turns = tmp_path / "turns"
        turns.mkdir(exist_ok=True)
        program = tmp_path / "supernode.py"
        program.write_text(STAND_IN.format(turns=str(turns), scripts=scripts))
        return SiteNode(
            "A",
            tmp_path / "node",
            "hospital.example:8443",
            tmp_path / "ca.crt",
            key,
            tmp_path / "site.yaml",
            command=(sys.executable, str(program)),
            backoff_s=(0.01,),
            leased_s=0.01,
            lease_s=lease_s,
            answer_s=answer_s,
        )

    return make


def fingerprint(tmp_path: Path) -> str:
    return read_join_request(tmp_path / "keys" / "A.join.json").fingerprint


def test_an_unknown_key_ends_the_node_with_address_fingerprint_and_remedy(make_node: MakeNode, tmp_path: Path) -> None:
    node = make_node({"say": REFUSED, "code": 1}, lease_s=60.0)
    with pytest.raises(SiteError, match="enrol this key") as error:
        node.run(threading.Event())
    assert error.value.exit_code == 2
    accepted = f"hospital.example:8443 does not accept site A's key {fingerprint(tmp_path)}"
    assert str(error.value).startswith(f"{accepted}; ask the coordinator to enrol this key")
    assert node.num_starts == 1
    assert node.tree.members() == []


def test_a_revoked_key_ends_a_node_that_was_online(make_node: MakeNode, tmp_path: Path) -> None:
    """Flower's SuperNode ends itself, politely and with code 0, when its heartbeat is no longer accepted."""
    node = make_node({"say": f"{ONLINE}\n{BYE}"}, {"say": REFUSED, "code": 1}, lease_s=60.0)
    with pytest.raises(SiteError, match=f"no longer accepts site A's key {re.escape(fingerprint(tmp_path))};"):
        node.run(threading.Event())
    assert node.num_starts == 2


def test_a_killed_node_is_refused_until_its_lease_has_run_out(make_node: MakeNode, run_until: RunUntil) -> None:
    node = make_node(
        {"say": ONLINE, "code": 137}, {"say": REFUSED, "code": 1}, {"say": ONLINE, "stay": True}, lease_s=60
    )
    node.backoff_s = (0.0, 0.0)
    told = run_until(node, "refused")
    assert told[:4] == [
        "node started, calling hospital.example:8443",
        "node online as 4711",
        "node ended (exit code 137); starting it again in 0 s",
        "node started, calling hospital.example:8443",
    ]
    assert told[4].startswith("node ended (refused, its last connection has not run out; that takes up to 45 s)")


def test_a_killed_node_tries_again_soon_and_tells_so_once_until_its_lease_has_run_out(
    make_node: MakeNode, run_until: RunUntil
) -> None:
    """With growing waits the last one, of half a minute, would begin just before the lease ends."""
    refused = {"say": REFUSED, "code": 1}
    node = make_node({"say": ONLINE, "code": 137}, *[refused] * 6, {"say": ONLINE, "stay": True}, lease_s=60)
    node.backoff_s = (0.0, 99.0)
    told = run_until_online_twice(node, run_until)
    assert node.num_starts == 8
    assert [line for line in told if "refused" in line] == [
        "node ended (refused, its last connection has not run out; that takes up to 45 s); starting it again in 0 s"
    ]


def run_until_online_twice(node: SiteNode, run_until: RunUntil) -> list[str]:
    """Stops after the second time."""
    pass_on, online = node._pass_on, []

    def count(log: NodeLog) -> None:
        before = node.node_id
        pass_on(log)
        if before is None and node.node_id is not None:
            online.append(1)
            if len(online) == 2:
                node.report("twice online")

    node._pass_on = count  # type: ignore[method-assign]
    return run_until(node, "twice online")


def test_a_node_that_took_long_to_hear_its_refusal_is_judged_by_when_it_called(
    make_node: MakeNode, run_until: RunUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a process that was refused within the lease ends after it: its key is good all the same."""
    node = make_node({"say": REFUSED, "code": 1}, {"say": ONLINE, "stay": True}, lease_s=0.0)
    monkeypatch.setattr("client.node.left_connected", lambda _: True)
    why = node._why
    node.lease_s = 0.5

    def late(log: NodeLog, started: float) -> str:
        node._leased_until = time.monotonic() - 0.001
        return why(log, started)

    monkeypatch.setattr(node, "_why", late)
    assert "node online as 4711" in run_until(node, "online")


def test_a_key_that_is_refused_for_longer_than_a_lease_is_not_accepted(make_node: MakeNode) -> None:
    node = make_node({"say": ONLINE, "code": 137}, {"say": REFUSED, "code": 1}, lease_s=0.2)
    node.backoff_s = (0.3,)
    with pytest.raises(SiteError, match="no longer accepts"):
        node.run(threading.Event())


def test_a_lease_of_an_earlier_process_counts(make_node: MakeNode, run_until: RunUntil) -> None:
    """The whole machine lost power: its log ends in a connection that was never closed."""
    node = make_node({"say": REFUSED, "code": 1}, lease_s=60.0)
    node.tree.folder.mkdir()
    node.tree.log.write_text(f"{ONLINE}\n{EPOCH}\n")
    assert "has not run out" in run_until(node, "refused")[-1]
    node.tree.log.write_text(f"{ONLINE}\n{EPOCH}\n{BYE}\n")
    with pytest.raises(SiteError, match="does not accept"):
        node.run(threading.Event())


def test_a_background_node_tells_whoever_waits_for_it(make_node: MakeNode) -> None:
    with make_node({"say": REFUSED, "code": 1}) as node, pytest.raises(SiteError, match="enrol this key"):
        node.wait_online(30.0)


def test_a_wrong_authority_and_a_wrong_clock_are_told_apart(make_node: MakeNode, run_until: RunUntil) -> None:
    clock = make_node({"say": "Client error '401 Unauthorized' for url 'https://...'", "code": 1})
    assert "clock" in run_until(clock, "node ended")[-1]
    stranger = make_node({"say": "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "code": 1})
    with pytest.raises(WorkError, match="not signed by"):
        stranger.run(threading.Event())


def test_a_coordinator_that_does_not_answer_is_told_of_once(make_node: MakeNode, run_until: RunUntil) -> None:
    node = make_node({"say": "Connection attempt failed", "code": 1, "stay": True}, answer_s=0.0)
    told = run_until(node, "no answer from hospital.example:8443 yet")
    assert told[0] == "node started, calling hospital.example:8443"
    assert len(told) == 2


def test_the_site_s_own_lines_are_passed_on_and_flower_s_are_not(make_node: MakeNode, run_until: RunUntil) -> None:
    said = [ONLINE, "INFO: [RUN 13]", EPOCH, "Traceback (most recent call last):", EPOCH.replace("56", "57")]
    told = run_until(make_node({"say": "\n".join(said), "stay": True}), "epoch 57")
    assert told == [
        "node started, calling hospital.example:8443",
        "node online as 4711",
        "01:48:54  federated round 5, stage2 epoch 56 of 91: loss 0.3179",
        "01:48:54  federated round 5, stage2 epoch 57 of 91: loss 0.3179",
    ]


def test_what_the_science_says_is_passed_on_and_no_other_s_line(tmp_path: Path) -> None:
    log = NodeLog(tmp_path / "supernode.log")
    (tmp_path / "supernode.log").write_text(
        "2026-11-24 01:48:54,098 fedgtv memory is too small for 2 windows at a time\n"
        "2026-11-24 01:48:55,098 fedgtv.coordinator round 3\n2026-11-24 01:48:56,098 flwr up\n"
    )
    assert log.read() == ["01:48:54  memory is too small for 2 windows at a time"]


def test_a_line_is_read_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "supernode.log"
    assert NodeLog(path).read() == []
    path.write_text(f"{ONLINE}\n{EPOCH}\n")
    log = NodeLog(path)
    with path.open("a") as file:
        file.write(EPOCH[:40])
        file.flush()
        assert log.read() == []
        file.write(EPOCH[40:] + "\n")
    assert log.read() == ["01:48:54  federated round 5, stage2 epoch 56 of 91: loss 0.3179"]
    assert log.read() == []
    assert log.node_id is None


def test_who_is_let_in_was_not_refused_and_who_signs_off_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "supernode.log"
    assert not left_connected(path)
    log = NodeLog(path)
    path.write_text(f"{REFUSED}\n")
    log.read()
    assert log.refusals == {"[code: 2004]"}
    path.write_text(f"{REFUSED}\n{ONLINE}\n")
    log.read()
    assert (log.refusals, log.connected, left_connected(path)) == (set(), True, True)
    path.write_text(f"{REFUSED}\n{ONLINE}\n{BYE}\n")
    log.read()
    assert (log.node_id, log.connected, left_connected(path)) == (4711, False, False)


def test_only_who_has_the_secret_may_ask_the_node_for_work(tmp_path: Path) -> None:
    key = make_key("A", tmp_path / "keys").private
    places = {"authority": tmp_path / "ca.crt", "key": key, "config": tmp_path / "site.yaml"}
    node = SiteNode("A", tmp_path / "node", "hospital.example:8443", **places)
    link = node._own_link()
    command = node._command(link)
    assert command[command.index("--isolation") :] == [
        "--isolation", "process", "--superexec-auth-secret-file", str(link.secret),
        "--host", "127.0.0.1", "--port", link.address.rpartition(":")[2],
    ]  # fmt: skip
    assert link.secret.stat().st_mode & 0o777 == 0o600
    assert json.loads(node._environment(link)[LAUNCHER_VARIABLE]) == launcher_command(link.address, link.secret)
    apart = WorkerLink("0.0.0.0:9094", link.secret)
    node = SiteNode("A", tmp_path / "node", "hospital.example:8443", **places, worker=apart)
    assert LAUNCHER_VARIABLE not in node._environment(apart)
    assert "0.0.0.0" in node._command(apart)


@pytest.mark.parametrize("ending", ["launcher", "node"])
def test_node_and_launcher_end_together(tmp_path: Path, ending: str) -> None:
    """A node without a launcher would wait for replies for ever."""
    program = (
        "import sys, time\nfrom client.node_process import launch_with\n"
        f"launch_with([sys.executable, '-c', {LAUNCHER!r}])\nprint('up', flush=True)\ntime.sleep(60)"
    )
    tree = ProcessTree("probe", tmp_path)
    tree.start([sys.executable, "-c", program], flower_environment(tmp_path))
    try:
        while len(started := re.findall("up|started (\\d+)", tree.tail())) < 2:
            assert tree.running, tree.tail()
        os.kill(int(max(started)) if ending == "launcher" else tree.process.pid, signal.SIGKILL)
        tree.process.wait(30)
        while tree.members():
            time.sleep(0.05)
    finally:
        tree.stop()


def test_a_second_node_in_the_folder_is_refused_and_the_first_goes_on(make_node: MakeNode) -> None:
    first, second = make_node({"say": ONLINE, "stay": True}), make_node({"say": ONLINE, "stay": True})
    with first:
        first.wait_online(10.0)
        with pytest.raises(WorkError, match="supernode runs here already"):
            second.run(threading.Event())
        assert first.tree.running
        assert first.num_starts == 1


def test_a_node_whose_loop_has_returned_ends_although_threads_go_on(tmp_path: Path) -> None:
    """Flower's returns over a handshake that timed out; its interface for ClientApps ran on, and the site was lost."""
    program = (
        "import threading, flwr.supernode.cli as cli\n"
        "cli.flower_supernode = lambda: threading.Thread(target=threading.Event().wait).start()\n"
        "from client import node_process\n"
        "node_process.main()\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    environment = os.environ | {CONFIG_VARIABLE: str(tmp_path / "site.yaml")}
    ended = subprocess.run(
        command,
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert "the connection to the coordinator is broken" in ended.stdout + ended.stderr
