"""`fedgtv-coordinator`: commands, exit codes, and what a script reads, without a SuperLink."""

import json
import shutil
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from client.keys import make_key
from common.bundle import RUN_KEY
from common.errors import WorkError
from common.experiment import load_experiment
from common.kit import read_kit
from server.cli import main
from server.control import Run
from server.ledger import Ledger
from server.provision import add_site, renew_certificate
from server.run_lock import hold
from server.superlink import Superlink
from server.wanted import admit, new_attempt, unwatched, want, wanted

FINISHED_RUN = Path(__file__).parent / "data" / "finished_run"


@pytest.fixture
def coordinator(command):
    return lambda *arguments: command(main, *arguments)


@pytest.fixture
def federation(tmp_path, coordinator):
    assert coordinator("init", "example.org:8443", "--folder", tmp_path / "fed").code == 0
    return tmp_path / "fed"


@pytest.fixture
def enrolled(tmp_path, federation):
    """A federation that knows site A as node 7, as after `enrol`."""
    from common.enrolment import read_join_request

    request = read_join_request(make_key("A", tmp_path / "keys").request)
    add_site(federation / "superlink" / "sites.json", request, 7)
    return federation


def answer(monkeypatch, states):
    """Lets the SuperLink's control API answer with nodes and states."""
    monkeypatch.setattr("server.control.Control.nodes", lambda _: states)


def test_init_says_what_comes_next_and_never_overwrites(tmp_path, coordinator):
    ended = coordinator("init", "example.org:8443", "--folder", tmp_path / "fed")
    assert ended.code == 0
    assert "valid until" in ended.out
    before = (tmp_path / "fed" / "pki" / "ca.key").read_bytes()
    again = coordinator("init", "other.org:1", "--folder", tmp_path / "fed")
    assert (again.code, again.out) == (2, "")
    assert "exists already" in again.err
    assert (tmp_path / "fed" / "pki" / "ca.key").read_bytes() == before


def test_renew_tells_the_new_expiry_and_enrols_nobody_anew(enrolled, coordinator):
    def certificate(name):
        return x509.load_pem_x509_certificate((enrolled / "pki" / name).read_bytes())

    kept = [enrolled / name for name in ("federation.yaml", "pki/ca.crt", "pki/ca.key", "superlink/sites.json")]
    before, old = [path.read_bytes() for path in kept], certificate("server.crt")
    ended = coordinator("renew", "--folder", enrolled)
    new = certificate("server.crt")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(
        f"server certificate: for example.org, valid until {new.not_valid_after_utc:%Y-%m-%d}\nnext: "
    )
    assert new.serial_number != old.serial_number
    assert new.not_valid_after_utc - datetime.now(UTC) > timedelta(days=824)
    new.verify_directly_issued_by(certificate("ca.crt"))
    names = [each.extensions.get_extension_for_class(x509.SubjectAlternativeName).value for each in (old, new)]
    assert names[0] == names[1]
    assert [path.read_bytes() for path in kept] == before


def test_renew_without_the_authoritys_key_leaves_the_old_certificate(federation, coordinator):
    (federation / "pki" / "ca.key").unlink()
    old = (federation / "pki" / "server.crt").read_bytes()
    ended = coordinator("renew", "--folder", federation)
    assert (ended.code, ended.out) == (2, "")
    assert "ca.key: missing; restore it" in ended.err
    assert (federation / "pki" / "server.crt").read_bytes() == old


@pytest.mark.parametrize("address", ["example.org", "example.org:0", "example.org:65536", "a b:1", ":1", "-.org:8443"])
def test_an_address_that_cannot_be_reached_makes_nothing(tmp_path, coordinator, address):
    ended = coordinator("init", "--folder", tmp_path / "fed", "--", address)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "fed").exists()


@pytest.mark.parametrize("arguments", [("sites",), ("status",), ("stop",), ("up",), ("renew",), ("revoke", "A")])
def test_a_folder_without_federation_is_bad_input(tmp_path, coordinator, arguments):
    ended = coordinator(*arguments, "--folder", tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert "fedgtv-coordinator init" in ended.err


@pytest.mark.parametrize("arguments", [("sites",), ("status",), ("stop",)])
def test_a_coordinator_that_was_never_up_is_work_that_failed(federation, coordinator, arguments):
    ended = coordinator(*arguments, "--folder", federation)
    assert ended.code == 1
    assert "start it with `fedgtv-coordinator up`" in ended.err
    assert "unexpected" not in ended.err


def test_sites_and_their_states(enrolled, coordinator, monkeypatch):
    answer(monkeypatch, {7: "online", 8: "offline"})
    told = coordinator("sites", "--folder", enrolled).out.splitlines()
    assert told[0] == "A: online"
    assert [line.partition(": valid until 20")[0] for line in told[1:]] == ["server certificate", "authority"]
    assert json.loads(coordinator("sites", "--folder", enrolled, "--json").out) == {"A": "online"}
    answer(monkeypatch, {})
    assert coordinator("sites", "--folder", enrolled).out.startswith("A: unknown\n")


def test_status_shows_the_runs_also_when_the_coordinator_is_down(enrolled, coordinator, monkeypatch):
    shutil.copytree(FINISHED_RUN, enrolled / "superlink" / "runs" / "first")
    with (enrolled / "superlink" / "runs" / "first" / "ledger.jsonl").open("a") as file:
        file.write('{"kind": "rou')
    ended = coordinator("status", "--folder", enrolled)
    assert ended.code == 1
    assert ended.out.startswith("run first: finished")
    answer(monkeypatch, {7: "offline"})
    told = json.loads(coordinator("status", "--folder", enrolled, "--json").out)
    assert (told["up"], told["sites"], list(told["runs"])) == (True, {"A": "offline"}, ["first"])
    assert told["live"] == {"first": {"state": "idle"}}
    assert list(told["valid_until"]) == ["server certificate", "authority"]


@pytest.mark.parametrize("listing", ["sites", "status"])
@pytest.mark.parametrize(("days", "words"), [(29, "28 days left"), (6, "5 days left"), (0.5, "less than a day left")])
def test_a_certificate_that_ends_soon_is_warned_of(federation, coordinator, monkeypatch, listing, days, words):
    answer(monkeypatch, {})
    assert coordinator(listing, "--folder", federation).err == ""
    renew_certificate(federation / "pki", ["example.org"], days)
    ended = coordinator(listing, "--folder", federation)
    assert ended.code == 0
    assert ended.err.startswith(f"warning: server certificate: {words}, until 20")
    assert ended.err.endswith("run `fedgtv-coordinator renew`, then stop and start `up`\n")


def test_renewing_the_authority_writes_every_sites_kit_and_enrols_nobody_anew(enrolled, coordinator):
    record = (enrolled / "superlink" / "sites.json").read_bytes()
    ended = coordinator("renew", "--authority", "--folder", enrolled)
    kit = read_kit(enrolled / "kits" / "A.kit.json")
    assert ended.code == 0
    assert "kits/A.kit.json (send it to the site" in ended.out
    assert (kit.site, kit.coordinator) == ("A", "example.org:8443")
    assert kit.authority == (enrolled / "pki" / "ca.crt").read_text()
    assert (enrolled / "superlink" / "sites.json").read_bytes() == record


def test_up_without_nginx_says_what_to_install(federation, coordinator, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    ended = coordinator("up", "--folder", federation)
    assert (ended.code, ended.out) == (1, "")
    assert "apt-get install nginx-light" in ended.err


def test_enrol_a_second_time_or_without_a_place_for_the_kit_registers_nothing(
    tmp_path, enrolled, coordinator, monkeypatch
):
    calls = []
    monkeypatch.setattr("server.control.Control.register", lambda _, request: calls.append(request.site) or 8)
    again = coordinator("enrol", make_key("A", tmp_path / "another").request, "--folder", enrolled)
    assert again.code == 2
    assert "site 'A': enrolled already" in again.err
    other = make_key("B", tmp_path / "other").request
    nowhere = coordinator("enrol", other, "--out", tmp_path / "no" / "B.kit.json", "--folder", enrolled)
    assert nowhere.code == 2
    assert "is no folder" in nowhere.err
    assert calls == []
    good = coordinator("enrol", other, "--out", tmp_path / "B.kit.json", "--folder", enrolled)
    assert (good.code, calls) == (0, ["B"])
    kit = json.loads((tmp_path / "B.kit.json").read_text())
    assert (kit["site"], kit["coordinator"]) == ("B", "example.org:8443")
    assert kit["authority"] == (enrolled / "pki" / "ca.crt").read_text()


GARBAGE = [b"", b"no certificate", bytes(range(256))]


@pytest.mark.parametrize("content", GARBAGE)
def test_enrol_with_a_damaged_authority_registers_nothing_and_tells_the_coordinator(
    tmp_path, enrolled, coordinator, monkeypatch, content
):
    calls, record = [], (enrolled / "superlink" / "sites.json").read_bytes()
    monkeypatch.setattr("server.control.Control.register", lambda _, request: calls.append(request.site) or 8)
    authority, out = enrolled / "pki" / "ca.crt", tmp_path / "B.kit.json"
    authority.write_bytes(content)
    ended = coordinator("enrol", make_key("B", tmp_path / "other").request, "--out", out, "--folder", enrolled)
    assert ended.code == 2
    assert ended.err.startswith(f"error: {authority}: no certificate in PEM; restore it from a backup")
    assert (calls, out.exists()) == ([], False)
    assert (enrolled / "superlink" / "sites.json").read_bytes() == record


def test_a_key_beside_the_authoritys_certificate_travels_in_no_kit(tmp_path, enrolled, coordinator, monkeypatch):
    monkeypatch.setattr("server.control.Control.register", lambda *_: 8)
    authority, out = enrolled / "pki" / "ca.crt", tmp_path / "B.kit.json"
    certificate, key = authority.read_text(), (enrolled / "pki" / "ca.key").read_text()
    authority.write_text(certificate + key)
    ended = coordinator("enrol", make_key("B", tmp_path / "other").request, "--out", out, "--folder", enrolled)
    assert ended.code == 0
    assert "PRIVATE" not in out.read_text()
    assert json.loads(out.read_text())["authority"] == certificate


@pytest.mark.parametrize("name", ["ca.crt", "server.crt"])
@pytest.mark.parametrize("content", GARBAGE)
@pytest.mark.parametrize("listing", ["sites", "status", "up"])
def test_a_damaged_certificate_is_bad_input(federation, coordinator, monkeypatch, listing, name, content):
    answer(monkeypatch, {})
    path = federation / "pki" / name
    path.write_bytes(content)
    ended = coordinator(listing, "--folder", federation)
    assert ended.code == 2
    assert ended.err.startswith(f"error: {path}: no certificate in PEM; r")


def test_revoke_strikes_a_site_off(enrolled, coordinator, monkeypatch):
    shut_out = []
    monkeypatch.setattr("server.control.Control.unregister", lambda _, node: shut_out.append(node))
    assert coordinator("revoke", "A", "--folder", enrolled).code == 0
    assert shut_out == [7]
    gone = coordinator("revoke", "A", "--folder", enrolled)
    assert gone.code == 2
    assert "not enrolled; enrolled are none" in gone.err


@pytest.mark.parametrize("name", ["../elsewhere", "", "a/b", ".hidden"])
def test_a_run_name_that_leaves_the_runs_folder_is_refused(tmp_path, enrolled, coordinator, name):
    experiment = tmp_path / "e.yaml"
    experiment.write_text("{name: e, sites: [A], steps: [{kind: statistics}]}")
    ended = coordinator("run", experiment, "--name", name, "--folder", enrolled)
    assert (ended.code, ended.out) == (2, "")
    assert repr(name) in ended.err


def test_run_prints_the_matrix_and_writes_the_report(tmp_path, enrolled, coordinator, monkeypatch):
    experiment = tmp_path / "e.yaml"
    experiment.write_text("{name: e, sites: [A], steps: [{kind: statistics}]}")
    runs = []

    def launch(_control, folder, config, name, tell, **_):
        runs.append((folder, config.name, name))
        tell({"kind": "step", "step": 0, "what": "statistics", "model": None})
        return Path(shutil.copytree(FINISHED_RUN, folder / "runs" / name))

    monkeypatch.setattr("server.launch.launch", launch)
    ended = coordinator("run", experiment, "--name", "second", "--folder", enrolled)
    assert ended.code == 0
    assert runs == [((enrolled / "superlink").resolve(), "e", "second")]
    assert "step 1: statistics" in ended.out
    assert (enrolled / "superlink" / "runs" / "second" / "report.html").is_file()


def test_a_dry_run_prints_the_plan_and_launches_nothing(tmp_path, enrolled, coordinator, monkeypatch):
    experiment = tmp_path / "e.yaml"
    experiment.write_text("{name: e, sites: [A], steps: [{kind: statistics}, {kind: local, model: own, rounds: 2}]}")
    monkeypatch.setattr("server.launch.launch", lambda *_, **__: pytest.fail("launched"))
    ended = coordinator("run", experiment, "--dry-run", "--folder", enrolled)
    assert ended.code == 0
    assert "2. local own at A: 2 rounds of 1 epoch; not known" in ended.out
    assert not (enrolled / "superlink" / "runs" / "e").exists()


def test_a_failed_run_is_code_1(tmp_path, enrolled, coordinator, monkeypatch):
    experiment = tmp_path / "e.yaml"
    experiment.write_text("{name: e, sites: [A], steps: [{kind: statistics}]}")

    def launch(*_, **__):
        raise WorkError("round 2: no answer")

    monkeypatch.setattr("server.launch.launch", launch)
    ended = coordinator("run", experiment, "--folder", enrolled)
    assert (ended.code, ended.err) == (1, "error: round 2: no answer\n")


def test_a_finished_run_is_told_at_once_and_its_report_written_anew(enrolled, coordinator):
    """The coordinator is not up, and two of the sites are not enrolled."""
    run = Path(shutil.copytree(FINISHED_RUN, enrolled / "superlink" / "runs" / "first"))
    ledger = (run / "ledger.jsonl").read_bytes()
    ended = coordinator("run", run / "experiment.yaml", "--name", "first", "--folder", enrolled)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("finished\n")
    assert (run / "report.html").is_file()
    assert (run / "ledger.jsonl").read_bytes() == ledger


def test_the_reason_of_a_failed_run_is_printed_once(tmp_path, enrolled, coordinator, monkeypatch):
    experiment = tmp_path / "e.yaml"
    experiment.write_text("{name: e, sites: [A], steps: [{kind: statistics}]}")

    run_folder = enrolled / "superlink" / "runs" / "e"

    def run(_, bundle, config):
        failed = {"kind": "failed", "code": "work-failed", "exit_code": 1, "why": "no result from site A"}
        ledger = Ledger(run_folder, load_experiment(experiment))
        with ledger.hold():
            admit(run_folder, json.loads(config[RUN_KEY])["attempt"], 1)
            ledger.append(failed)
        return 1

    monkeypatch.setattr("server.control.Control.run", run)
    monkeypatch.setattr("server.control.Control.is_up", lambda _: True)
    monkeypatch.setattr("server.supervision.POLL_S", 0.0)
    ended = coordinator("run", experiment, "--folder", enrolled)
    assert (ended.code, ended.out, ended.err) == (1, "", "error: no result from site A\n")


@pytest.fixture
def two_wanted(enrolled, monkeypatch):
    """Runs `first` and `second`, both under way at the SuperLink, and the Flower runs that are stopped there."""
    stopped, runs_folder = [], enrolled / "superlink" / "runs"
    for number, name in enumerate(("first", "second"), 1):
        (runs_folder / name).mkdir(parents=True)
        want(runs_folder / name, None)
        admit(runs_folder / name, new_attempt(runs_folder / name), number)
    running = {1: Run(1, "running", "", 1.0), 2: Run(2, "running", "", 1.0), 3: Run(3, "finished:completed", "", 1.0)}
    monkeypatch.setattr("server.control.Control.is_up", lambda _: True)
    monkeypatch.setattr("server.control.Control.runs", lambda _: running)
    monkeypatch.setattr("server.control.Control.stop", lambda _, run_id: stopped.append(run_id))
    return stopped


def test_stop_ends_all_runs_and_nobody_wants_them_any_more(enrolled, coordinator, two_wanted):
    told = coordinator("stop", "--folder", enrolled).out.splitlines()
    assert told == [f"run {name}: stopped; the same `run` goes on with it" for name in ("first", "second")]
    assert two_wanted == [1, 2]
    assert not any(wanted(path) for path in (enrolled / "superlink" / "runs").iterdir())
    assert coordinator("stop", "--folder", enrolled).out == "nothing is running\n"


def test_stop_ends_one_run_by_its_name(enrolled, coordinator, two_wanted):
    assert coordinator("stop", "second", "--folder", enrolled).out.startswith("run second: stopped")
    assert two_wanted == [2]
    assert wanted(enrolled / "superlink" / "runs" / "first")
    assert coordinator("stop", "second", "--folder", enrolled).out == "run second: not running\n"
    ended = coordinator("stop", "third", "--folder", enrolled)
    assert (ended.code, ended.out) == (2, "")
    assert "run 'third': there is none of this name (runs: first, second)" in ended.err


def test_stop_while_the_coordinator_is_down_keeps_a_run_from_going_on(enrolled, coordinator, two_wanted, monkeypatch):
    monkeypatch.setattr("server.control.Control.is_up", lambda _: False)
    assert coordinator("stop", "--folder", enrolled).code == 0
    assert two_wanted == []
    assert not any(wanted(path) for path in (enrolled / "superlink" / "runs").iterdir())


def test_stop_waits_until_the_serverapp_has_let_go(enrolled, coordinator, two_wanted, monkeypatch):
    monkeypatch.setattr("server.stopping.SERVERAPP_ENDS_S", 0.0)
    with hold(enrolled / "superlink" / "runs" / "first" / "lock"):
        ended = coordinator("stop", "first", "--folder", enrolled)
    assert ended.code == 1
    assert "run 'first': still at work 0 s after it was stopped" in ended.err


@pytest.mark.parametrize("leaving", [signal.SIGHUP, signal.SIGTERM])
def test_a_closed_terminal_ends_the_watch_and_not_the_run(tmp_path, enrolled, coordinator, monkeypatch, leaving):
    experiment = tmp_path / "e.yaml"
    experiment.write_text("{name: e, sites: [A], steps: [{kind: statistics}]}")
    monkeypatch.setattr("server.control.Control.is_up", lambda _: True)
    monkeypatch.setattr("server.control.Control.run", lambda *_: signal.raise_signal(leaving))
    before = signal.getsignal(leaving)
    try:
        ended = coordinator("run", experiment, "--folder", enrolled)
    finally:
        signal.signal(leaving, before)
    assert ended.code == 128 + leaving
    assert wanted(enrolled / "superlink" / "runs" / "e")
    assert unwatched(enrolled / "superlink" / "runs") == ["e"]


def test_report_is_written_anew(tmp_path, coordinator):
    run = Path(shutil.copytree(FINISHED_RUN, tmp_path / "run"))
    assert coordinator("report", run).out == f"report: {run / 'report.html'}\n"
    nothing = coordinator("report", tmp_path)
    assert nothing.code == 2
    assert "no run's folder" in nothing.err
    assert not (tmp_path / "report.html").exists()


def test_ctrl_c_says_how_to_go_on(federation, coordinator, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Superlink, "start", interrupt)
    ended = coordinator("up", "--folder", federation)
    assert (ended.code, ended.err) == (130, "stopped; the same command goes on where it was\n")
