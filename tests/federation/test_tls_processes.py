"""Our supervision against real Flower processes: three sites run a tiny app, are killed, come back, leave no orphan."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from federation.flower_app import write_app

from client.keys import key_files, make_key
from client.node import SiteNode
from common.enrolment import read_join_request
from common.errors import SiteError, WorkError
from common.processes import flower_command, free_port
from server.provision import make_certificates, read_sites

pytestmark = [pytest.mark.tls, pytest.mark.timeout(300)]

CLIENT = """\
import os
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query("facts")
def facts(message, context):
    peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
    record = ConfigRecord({
        "site": context.node_config["site"], "config": context.node_config["config"], "cwd": os.getcwd(),
        "mark": os.environ.get("FEDGTV_PROCESS", ""), "extra": os.environ.get("PROBE", ""),
        "home": os.environ["FLWR_HOME"], "peak_kib": int(peak), "echo": message.content["task"]["text"],
    })
    return Message(content=RecordDict({"facts": record}), reply_to=message)
"""
SERVER = """\
import json, os, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    began = time.time()
    task = json.loads(context.run_config["task"])
    if task.get("fail"):
        raise ValueError("told to fail")
    while task.get("hang"):
        time.sleep(0.2)
    content = RecordDict({"task": ConfigRecord({"text": task["text"]})})
    messages = [Message(content, dst_node_id=node, message_type="query.facts") for node in task["node_ids"]]
    replies = list(grid.send_and_receive(messages, timeout=120))
    peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
    found = {r.content["facts"]["site"]: dict(r.content["facts"]) for r in replies}
    out = {"began": began, "ended": time.time(), "cwd": os.getcwd(), "peak_kib": int(peak), "sites": found,
           "text": task["text"]}
    Path(os.environ["FEDGTV_RUNS"], task["run"] + ".json").write_text(json.dumps(out))
"""
AWKWARD = 'it\'s "quoted" = 5 \\ Müller \N{GRINNING FACE}\n\x7f' + 150_000 * "x"


def probe_app(folder: Path) -> Path:
    return write_app(folder / "probe", "probe", CLIENT, SERVER, ("task",))


def peaks_kib(process_ids: list[int]) -> dict[str, int]:
    """Peak memory by name and id of the federation's own processes; what ends meanwhile or starts just now is left."""
    found = {}
    for process_id in process_ids:
        try:
            lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
            command = Path(f"/proc/{process_id}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        names = [Path(part.decode()).name for part in command if b"flower-" in part or b"superlink_process" in part]
        peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
        if names and peaks:
            found[f"{names[0]}-{process_id}"] = peaks[0]
    return found


def check_facts(facts: dict, federation, configs: dict[str, Path]) -> None:
    """Text came through whole; every ClientApp ran with its node's environment, folder and settings."""
    assert facts["text"] == AWKWARD
    assert set(facts["sites"]) == set(configs)
    for site, told in facts["sites"].items():
        node = federation.nodes[site]
        assert (told["config"], told["extra"], told["echo"]) == (str(configs[site]), "inherited", AWKWARD)
        assert (told["cwd"], told["home"]) == (str(node.folder), str(node.folder / "flwr"))
        assert told["mark"] == f"supernode:{node.folder}:{node.folder.stat().st_ino}"


def test_three_sites_run_an_app_and_its_end_is_known(tmp_path, start_federation):
    app, configs = probe_app(tmp_path), {}
    for site in "ABC":
        configs[site] = tmp_path / f"site {site}.yaml"
        configs[site].write_text(f"site: {site}\n", encoding="utf-8")
    federation = start_federation(configs, {"PROBE": "inherited"}, (flower_command("flower-supernode"),))
    superlink, control, asked = federation.superlink, federation.superlink.control, time.time()

    task = {"run": "first", "text": AWKWARD, "node_ids": list(federation.node_ids.values())}
    run_id = control.run(app, {"task": json.dumps(task, ensure_ascii=False)})
    assert control.wait(run_id, 120.0, poll_s=0.5).completed, control.log(run_id)
    facts = json.loads((superlink.runs_folder / "first.json").read_text())
    check_facts(facts, federation, configs)
    measured = {"serverapp_s": facts["began"] - asked, "replies_s": facts["ended"] - asked}
    measured |= {"serverapp_kib": facts["peak_kib"], "clientapp_kib": facts["sites"]["A"]["peak_kib"]}
    print(json.dumps(measured | peaks_kib(federation.processes()), indent=1))

    failed = control.wait(control.run(app, {"task": '{"fail": true}'}), 60.0, poll_s=0.5)
    assert failed.status == "finished:failed"
    assert "told to fail" in failed.details
    hanging = control.run(app, {"task": '{"hang": true}'})
    with pytest.raises(WorkError, match="not finished within 3 s"):
        control.wait(hanging, 3.0, poll_s=0.5)
    control.stop(hanging)
    assert control.wait(hanging, 30.0, poll_s=0.5).status == "finished:stopped"
    assert set(control.runs()) == {run_id, failed.run_id, hanging}


@pytest.mark.slow
def test_a_killed_node_outlasts_its_lease_and_a_revoked_one_stays_out(tmp_path, start_federation):
    config = tmp_path / "site.yaml"
    config.write_text("site: A\n")
    federation = start_federation({"A": config, "B": config})
    superlink, node = federation.superlink, federation.nodes["B"]
    os.kill(node.tree.process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 150.0
    while (node.num_starts < 2 or node.node_id is None) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert node.node_id == federation.node_ids["B"]
    assert node.num_starts > 1

    request = read_join_request(key_files("B", tmp_path / "site-B" / "keys").request)
    told, deadline = [], time.monotonic() + 120.0
    node.report = told.append
    superlink.revoke("B")
    while not any("no longer accepts site B's key" in line for line in told) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert f"no longer accepts site B's key {request.fingerprint}; ask" in told[-1]
    with pytest.raises(SiteError, match="no longer accepts"):
        node.wait_online(1.0)
    assert node.tree.members() == []
    assert set(read_sites(superlink.sites_file)) == {"A"}
    with pytest.raises(SiteError, match="'B': not enrolled"):
        superlink.revoke("B")
    assert superlink.control.nodes()[federation.node_ids["A"]] == "online"
    assert superlink.control.nodes().get(federation.node_ids["B"]) in (None, "unregistered")
    with pytest.raises(SiteError, match="cannot come back"):
        superlink.enrol(request)
    assert set(read_sites(superlink.sites_file)) == {"A"}


def test_a_second_coordinator_a_wrong_authority_and_an_unknown_key_are_refused(tmp_path, start_federation):
    superlink = start_federation({}).superlink
    other = type(superlink)(tmp_path / "other", superlink.certificates, superlink.port)
    with pytest.raises(WorkError, match=f"port {superlink.port}: taken"):
        other.start()
    stranger = make_certificates(tmp_path / "stranger", ["localhost"]).authority
    key = make_key("A", tmp_path / "keys").private
    node = SiteNode("A", tmp_path / "node", f"localhost:{superlink.port}", stranger, key, tmp_path / "site.yaml")
    with node, pytest.raises(WorkError, match="not signed by"):
        node.wait_online(60.0)
    node.authority = superlink.certificates.authority
    with node, pytest.raises(SiteError, match=r"does not accept site A's key SHA256:\S+; ask the coordinator to enrol"):
        node.wait_online(60.0)
    assert node.num_starts == 2
    second = type(superlink)(superlink.folder, superlink.certificates, free_port())
    with pytest.raises(WorkError, match="runs here already"):
        second.start()
    assert superlink.tree.running


def test_a_killed_superlink_starts_again_with_its_sites(tmp_path, start_federation):
    config = tmp_path / "site.yaml"
    config.write_text("site: A\n")
    federation = start_federation({"A": config})
    superlink = federation.superlink
    os.kill(superlink.tree.process.pid, signal.SIGKILL)
    superlink.tree.process.wait()
    superlink.start()
    deadline = time.monotonic() + 60.0
    while superlink.control.nodes() != {federation.node_ids["A"]: "online"} and time.monotonic() < deadline:
        time.sleep(0.5)
    assert superlink.control.nodes() == {federation.node_ids["A"]: "online"}
