"""Thirty identifiers in a hospital's data, paths and exceptions: none in anything that a coordinator gets or keeps.

In one process every reply is searched as it leaves. Over TLS, with real processes, everything that the coordinator has
on disk and on its screen is searched; there the same federation is also sent code that nobody approved, and code that
was changed on its way.
"""

import base64
import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from flwr.common.serde import message_to_proto

from client.app import app as client_app
from client.approval import Approvals
from client.audit import AuditLog
from client.border import guarded
from client.ingest import import_folder
from client.site import Site
from common.bundle import write_bundle
from common.errors import WorkError
from common.experiment import Experiment
from common.site_config import IngestConfig
from common.split import SplitConfig
from deploy.in_process import InProcessGrid
from server import sites as server_sites
from server import supervision
from server.control import Control
from server.experiment import run_experiment
from server.launch import launch
from server.ledger import Ledger
from server.report import write_report
from server.sites import Sites

TAGS = {
    "PatientName": "Mustermann^Erika", "PatientID": "PID-4711-0815", "PatientBirthDate": "19570613",
    "PatientAddress": "Heidestrasse 17", "PatientTelephoneNumbers": "+49-221-4710815",
    "PatientMotherBirthName": "Gabler",
    "OtherPatientNames": "Musterfrau^E", "PatientComments": "Schwester von Willi", "Occupation": "Lokfuehrerin",
    "EthnicGroup": "Friesisch", "MilitaryRank": "Obermaat", "AccessionNumber": "ACC-99-77123", "StudyID": "STUDY-31337",
    "StudyDescription": "Planung Mustermann NPC", "SeriesDescription": "CT Hals E.M.", "ProtocolName": "Proto-Gabler-7",
    "InstitutionName": "Klinikum Sonnenhof", "InstitutionAddress": "Lindenallee 3", "StationName": "CT-SONNE-02",
    "ReferringPhysicianName": "Sauerbruch^F", "OperatorsName": "Roentgen^Wilhelm",
    "PerformingPhysicianName": "Virchow^R",
    "DeviceSerialNumber": "SN-8861542", "StudyDate": "20260229", "StudyInstanceUID": "1.2.276.0.7230010.3.1.2.8323329",
}  # fmt: skip
HOSPITAL = "sonnenhof-station-4b"
EXPORT = "mustermann_erika_1957"
STRUCTURE = "GTV Frau Mustermann-Gabler"
RAISED = "Fallakte 88123/Kowalski"
LIBRARY = "/data/patients/Schimanski_Horst/ct.dcm"
IDENTIFIERS = [*TAGS.values(), HOSPITAL, EXPORT, STRUCTURE, RAISED, LIBRARY]
PARTS = ["Mustermann", "Gabler", "Sonnenhof", "Kowalski", "Schimanski"]
STEPS = (
    {"kind": "statistics"},
    {"kind": "train", "model": "federated", "rounds": 1},
    {"kind": "evaluate", "models": ("federated",), "pictures": 1},
)
SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])


def encoded(text: str) -> set[bytes]:
    """A text in the forms in which it could travel; base64 at each of the three offsets that it can have."""
    plain = text.encode()
    forms = {plain, text.encode("utf-16le"), plain.hex().encode(), json.dumps(text)[1:-1].encode()}
    for offset in range(3):
        first, last = -(-8 * offset // 6), 8 * (offset + len(plain)) // 6  # characters that no neighbour changes
        forms.add(base64.b64encode(b"\0" * offset + plain + b"\0\0\0")[first:last])
    return {form.lower() for form in forms}


def found(data: bytes) -> list[str]:
    """Which of the identifiers, and of the names in them, are in there."""
    lower = data.lower()
    return [text for text in [*IDENTIFIERS, *PARTS] if any(form in lower for form in encoded(text))]


def test_there_are_thirty_and_the_search_finds_each() -> None:
    assert len(set(IDENTIFIERS)) == 30
    for text in IDENTIFIERS:
        for form in (text.encode(), text.upper().encode(), text.encode("utf-16le"), base64.b64encode(text.encode()),
                     base64.b64encode(b"x" + text.encode()), text.encode().hex().encode()):  # fmt: skip
            assert text in found(b"before" + form + b"after"), text


@pytest.fixture
def hospital(tmp_path, write_ct, write_structures):
    """hospital(site, policy) -> site.yaml: patients with every identifier, imported from DICOM as a user does it."""

    def make(site: str, **policy: object) -> Path:
        home = tmp_path / f"{HOSPITAL}-{site}"
        for number in range(5):
            patient = home / EXPORT / f"{TAGS['PatientID']}-{number}"
            hu = np.full((16, 24, 24), -1000, np.int16)
            hu[:, 4:20, 4:20] = 40
            hu[6:10, 9:15, 9:15] = 100
            hu[:, 17:19, 17:19] = 400
            hu += np.random.default_rng(number).integers(-9, 9, hu.shape, np.int16)
            own = {
                "PatientID": f"{TAGS['PatientID']}-{number}",
                "StudyInstanceUID": f"{TAGS['StudyInstanceUID']}.{number}",
            }
            slices = write_ct(patient, hu, (6.0, 6.0, 6.0), (0.0, 0.0, 0.0), **(TAGS | own))
            contours = [np.column_stack([72 + 18 * SQUARE, np.full(4, 6.0 * z)]) for z in range(6, 10)]
            write_structures(patient / f"RS {TAGS['PatientName']}.dcm", slices, {STRUCTURE: contours})
        report = import_folder(home / EXPORT, home / "cases", IngestConfig(), site)
        assert (len(report.imported), report.refused) == (5, ())
        config = home / "site.yaml"
        told = {"site": site, "device": "cpu", "num_threads": 1, "policy": {"min_cases": 1, **policy}}
        config.write_text(json.dumps(told))
        (home / "planted.txt").write_text("\n".join(IDENTIFIERS))
        return config

    return make


@pytest.fixture
def experiment(tiny_recipe):
    def make(*steps: object) -> Experiment:
        return Experiment(reuse=False, name="tiny", sites=("A",), recipe=tiny_recipe, steps=steps or STEPS,
                          split=SplitConfig(test_fraction=0.3, validation_fraction=0.2))  # fmt: skip

    return make


def raising(error: Exception):
    def work(*_: object) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    "error",
    [None, ValueError(RAISED), OSError(2, "No such file", LIBRARY), KeyError(STRUCTURE), MemoryError(EXPORT),
     type(HOSPITAL, (Exception,), {})(1), UnicodeDecodeError("utf-8", TAGS["PatientName"].encode(), 0, 1, RAISED),
     SystemError(LIBRARY)],
    ids=lambda error: type(error).__name__[:12],
)  # fmt: skip
def test_no_reply_of_a_whole_experiment_holds_one(
    tmp_path, hospital, experiment, monkeypatch, error: Exception | None, caplog
) -> None:
    monkeypatch.setattr(server_sites, "POLL_MAX_S", 0.02)
    config, replies = hospital("A", share_pictures=True, share_case_metrics=True), []

    def watched(message, context):
        reply = guarded(client_app)(message, context)
        replies.append(message_to_proto(reply).SerializeToString())
        return reply

    if error is not None:
        monkeypatch.setattr(Site, "open_cases", raising(error))
    ledger = Ledger(tmp_path / "coordinator", experiment())
    with closing(InProcessGrid(watched, {"A": config})) as grid, caplog.at_level(logging.INFO, "fedgtv.site"):
        sites = Sites(grid, grid.node_ids, experiment().rounds)
        if error is None:
            run_experiment(experiment(), ledger, sites)
            write_report(tmp_path / "coordinator")
        else:
            code = "out-of-memory" if isinstance(error, MemoryError) else "internal"
            with pytest.raises(WorkError, match=rf"A \({code}\)") as told:
                run_experiment(experiment(), ledger, sites)
            assert found(str(told.value).encode()) == []
            assert found(caplog.text.encode())  # the site's own log does tell it
    assert len(replies) == (4 if error is None else 1)  # statistics, training, evaluation, comparison
    assert [found(reply) for reply in replies] == [[]] * len(replies)
    assert stored(tmp_path / "coordinator") == {}
    assert found((config.parent / "state" / "audit.jsonl").read_bytes()) == []


def stored(folder: Path) -> dict[str, list[str]]:
    """Files below a folder whose content or name holds an identifier, and which."""
    names = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    content = {name: path.read_bytes() if path.is_file() else b"" for name, path in names.items()}
    return {name: hits for name, data in content.items() if (hits := found(name.encode() + b"\n" + data))}


SLOPPY = """
import sys
from pathlib import Path
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query("statistics")
def statistics(message, context):
    text = Path(str(context.node_config["config"])).with_name("planted.txt").read_text()
    print(text)
    print(text, file=sys.stderr)
    raise RuntimeError(text)
"""


def send(superlink, monkeypatch, experiment, name, change=None, exchanged=None):
    """Launches a run whose bundle `change(folder)` has altered; returns the ledger's lines and the error, if any.

    `exchanged`: a bundle that the SuperLink sends in place of the one it was given, under the hash of that one.
    """

    def written(folder: Path) -> Path:
        target = write_bundle(folder)
        if change:
            change(target)
        return target

    def run(self: Control, bundle: Path, config: dict[str, str]) -> int:
        run_id = started(self, bundle, config)
        if exchanged:
            exchange(superlink.folder / "state.db", exchanged)
        return run_id

    started = Control.run
    told: list[dict[str, object]] = []
    with monkeypatch.context() as patch:
        patch.setattr(supervision, "write_bundle", written)
        patch.setattr(Control, "run", run)
        try:
            launch(superlink.control, superlink.folder, experiment, name, told.append)
        except WorkError as error:
            return told, str(error)
    return told, None


def exchange(database: Path, bundle: bytes) -> None:
    """Puts other code in the SuperLink's database under the hashes of all that is there."""
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        assert connection.execute("UPDATE fab SET content = ?", (bundle,)).rowcount
        connection.commit()


def decisions(config: Path) -> list[str]:
    audit = AuditLog(config.parent / "state").read()
    assert audit.faults == ()
    return [str(line["decision"]) for line in audit.records if line["event"] == "code"]


@pytest.mark.tls
@pytest.mark.timeout(600)
def test_over_tls_no_identifier_and_no_foreign_code_gets_through(
    tmp_path, hospital, experiment, start_federation, monkeypatch
) -> None:
    config = hospital("A", share_pictures=True)
    federation = start_federation({"A": config})
    superlink, said = federation.superlink, []
    federation.nodes["A"].report = said.append
    statistics = experiment({"kind": "statistics"})

    # Code that is not this release's: nothing runs, both sides see why, and it waits for a person.
    def alter(bundle: Path) -> None:
        (bundle / "client" / "app.py").write_text(SLOPPY)

    _, why = send(superlink, monkeypatch, statistics, "foreign", alter)
    assert "A (unapproved-code)" in str(why)
    approvals = Approvals(config.parent / "state")
    (waiting,) = approvals.waiting()
    command = f"fedgtv-site approve {waiting.stem[:12]}"
    assert any(command in line for line in said), said
    assert not list((federation.nodes["A"].folder / "flwr").rglob("app.py"))

    # Approved by mistake, it raises, prints and would send Flower a text with a path: the coordinator gets a code.
    approved = waiting.read_bytes()
    approvals.approve(approved)
    _, why = send(superlink, monkeypatch, statistics, "sloppy", alter)
    assert "A (crashed)" in str(why)

    # This release's own code needs no approval.
    told, why = send(superlink, monkeypatch, experiment(), "own")
    assert why is None
    assert told[-1]["kind"] == "end"
    write_report(superlink.runs_folder / "own")

    # Approved code, but under the hash of other code.
    _, why = send(superlink, monkeypatch, statistics, "tampered", exchanged=approved)
    assert "A (tampered-code)" in str(why)
    assert decisions(config) == ["unapproved-code", "accepted", "accepted", "tampered-code"]

    told_by_flower = "".join(superlink.control.log(run_id) for run_id in superlink.control.runs())
    assert found(told_by_flower.encode()) == []
    assert stored(superlink.folder) == {}
    assert found((federation.nodes["A"].tree.log).read_bytes())  # the site's own log does tell them
