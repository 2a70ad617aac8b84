"""The demo as its user runs it, with a tiny network: stopped by Ctrl-C in the middle of a run, and started again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.tls, pytest.mark.timeout(600)]
STOPPED_BY_CTRL_C = 130


@pytest.fixture
def experiment_file(tmp_path, tiny_recipe) -> Path:
    path = tmp_path / "tiny.yaml"
    phantoms = {"source": "phantoms", "cases": {"A": 3, "B": 3}, "scale": 0.125, "contrast": 3.0}
    steps = [
        {"kind": "statistics"},
        {"kind": "train", "model": "federated", "rounds": 3, "local_epochs": 1},
        {"kind": "evaluate", "models": ["federated"], "pictures": 1},
    ]
    experiment = {
        "name": "tiny",
        "sites": ["A", "B"],
        "recipe": tiny_recipe.model_dump(mode="json"),
        "simulation": phantoms,
        "steps": steps,
    }
    path.write_text(yaml.safe_dump(experiment))
    return path


def start_demo(experiment_file: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deploy.demo", "--experiment", str(experiment_file), "--folder", str(folder)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def processes_of(folder: Path) -> list[str]:
    """Command lines of living processes that have the folder in their command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue  # ended meanwhile, or another user's
            if str(folder).encode() in command + environment:
                found.append(command.replace(b"\0", b" ").decode())
    return found


def rounds_on_record(folder: Path) -> list[int]:
    ledger = folder / "federation" / "superlink" / "runs" / "tiny" / "ledger.jsonl"
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    return [record["round"] for record in records if record["kind"] == "round"]


def test_ctrl_c_stops_the_demo_and_the_next_one_goes_on(tmp_path, experiment_file):
    folder = tmp_path / "demo"
    told = []
    with start_demo(experiment_file, folder) as first:
        for line in first.stdout:
            told.append(line)
            if "federated round 1/3" in line:
                first.send_signal(signal.SIGINT)
    assert first.returncode == STOPPED_BY_CTRL_C, "".join(told)
    assert processes_of(folder) == []
    assert 1 in rounds_on_record(folder)
    assert 3 not in rounds_on_record(folder)
    assert not (folder / "finished").exists()

    with start_demo(experiment_file, folder) as second:
        output, _ = second.communicate()
    assert second.returncode == 0, output
    assert processes_of(folder) == []
    assert rounds_on_record(folder) == [1, 2, 3]
    assert "mean over sites" in output
    assert (folder / "federation" / "superlink" / "runs" / "tiny" / "report.html").exists()
    written = {path.name for path in (folder / "new-patient" / "result").iterdir()}
    assert {
        "mask.nii.gz",
        "overlay.png",
        "report.json",
    } <= written  # and an RTSTRUCT where so brief a training finds any
    assert (folder / "finished").exists()
