"""The steps that docs/joining.md writes down, typed as they stand, from nothing to joined."""

import re
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.node import node_tree
from common.processes import free_port
from server.federation import Federation

pytestmark = [pytest.mark.tls, pytest.mark.timeout(300)]
DOC = Path(__file__).parents[2] / "docs" / "joining.md"
ADDRESS = "coordinator.example.org:8443"


def written_steps():
    """The commands of the table `Who types what`, in its order."""
    section = DOC.read_text().partition("## Who types what")[2].partition("\n## ")[0]
    return re.findall(r"^\| \d \|.*?`(fedgtv-[^`]+)`", section, re.MULTILINE)


def test_a_hospital_types_three_commands_and_the_coordinator_two_and_one_a_site():
    steps = [step.split()[0] for step in written_steps()]
    assert steps.count("fedgtv-site") == 3
    assert steps.count("fedgtv-coordinator") == 2 + 1
    blocks = re.findall(r"^```sh\n(.*?)^```$", DOC.read_text(), re.MULTILINE | re.DOTALL)
    assert set(written_steps()) <= {line for block in blocks for line in block.splitlines()}


def command(step):
    name, *arguments = shlex.split(step)
    return [sys.executable, "-u", str(Path(sys.executable).with_name(name)), *arguments]


def run_to_end(step, folder):
    done = subprocess.run(command(step), cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def typed(step, folder):
    """A command of ours, running in `folder`; ended by Ctrl-C and, while it stops, by a polite kill."""
    with subprocess.Popen(
        command(step), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
            told = process.stdout.read()
            assert process.wait(60) == 130, told
            assert told.endswith("still stopping\nstopped; the same command goes on where it was\n")


def until(process, words):
    """Reads what a command prints up to the line with `words`, and returns all of it."""
    told = ""
    for line in process.stdout:
        told += line
        if words in line:
            return told
    raise AssertionError(told)


def test_the_written_steps_lead_from_nothing_to_joined(tmp_path):
    coordinator, hospital = tmp_path / "coordinator", tmp_path / "hospital"
    coordinator.mkdir()
    hospital.mkdir()
    address = f"localhost:{free_port()}"
    init, up, site_init, enrol, place, join = (step.replace(ADDRESS, address) for step in written_steps())
    assert "authority: valid until" in run_to_end(init, coordinator)
    with typed(up, coordinator) as running:
        until(running, "up")
        fingerprint = re.search(r"SHA256:\S+", run_to_end(site_init, hospital))[0]
        (hospital / "keys" / "A.join.json").rename(coordinator / "A.join.json")
        assert fingerprint in run_to_end(enrol, coordinator)
        kit = (coordinator / "A.kit.json").read_text()
        assert "PRIVATE" not in kit
        (hospital / "A.kit.json").write_text(kit)
        run_to_end(place, hospital)
        with typed(join, hospital) as node:
            until(node, "node online as")
            assert run_to_end("fedgtv-coordinator sites", coordinator).startswith("A: online\n")
        assert node_tree(hospital / "state" / "node").members() == []
    assert Federation.open(coordinator / "federation").superlink().members() == []
