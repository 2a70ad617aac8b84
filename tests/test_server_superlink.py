"""The SuperLink's processes: whose the folder is, and that a stop ends them all."""

import signal
import subprocess
import sys
import time

import pytest

from common.errors import WorkError
from common.processes import ProcessTree
from server.provision import make_certificates
from server.superlink import Superlink


@pytest.mark.parametrize("held", ["superlink", "superexec"])
def test_a_second_start_is_refused_and_leaves_the_firsts_secret(tmp_path, held):
    folder = tmp_path / "superlink"
    second = Superlink(folder, make_certificates(tmp_path / "pki", ["localhost"]))
    folder.mkdir()
    second.secret.write_bytes(b"the first one's")
    first = ProcessTree(held, folder)
    first.claim()
    try:
        with pytest.raises(WorkError, match="another"):
            second.start()
        assert second.secret.read_bytes() == b"the first one's"
        assert first.owned()
    finally:
        first.stop()


SLOW = """
import os, signal, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
print("up", flush=True)
while not asked:
    time.sleep(0.02)
print("asked", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
"""
"""Stands in for Flower's SuperExec, which takes its time to end: until the file `go` is there."""
UP = """
import os, sys, time, typer
from pathlib import Path
from common.command import command_line
from server.provision import certificate_files
from server.superlink import Superlink

app = typer.Typer()

@app.command()
def up(folder: Path) -> None:
    superlink = Superlink(folder, certificate_files(folder))
    try:
        superlink.tree.start([sys.executable, "-c", "import time; time.sleep(600)"], os.environ)
        superlink.launcher.start([sys.executable, "-c", {slow!r}], os.environ)
        time.sleep(600)
    finally:
        superlink.stop()

command_line(app)
"""
"""Stands in for `fedgtv-coordinator up`; both processes are started without Flower."""


def until(told):
    deadline = time.monotonic() + 30
    while not told():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_second_signal_does_not_break_off_the_stop(tmp_path, second):
    superlink = Superlink(tmp_path, make_certificates(tmp_path / "pki", ["localhost"]))
    command = ["env", "--default-signal", sys.executable, "-c", UP.format(slow=SLOW), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: "up" in superlink.launcher.tail())
            process.terminate()
            until(lambda: "asked" in superlink.launcher.tail())
            process.send_signal(second)
            assert process.stderr.readline() == "still stopping\n"
            (tmp_path / "go").touch()
            assert process.stderr.read() == "stopped; the same command goes on where it was\n"
            assert process.wait() == 130
            assert superlink.members() == []
        finally:
            process.kill()
            for tree in (superlink.tree, superlink.launcher):
                tree.claim()
                tree.stop()


def test_a_launcher_that_cannot_be_stopped_does_not_keep_the_superlink_up(tmp_path, monkeypatch):
    superlink, ended = Superlink(tmp_path, make_certificates(tmp_path / "pki", ["localhost"])), []

    def fail():
        raise KeyboardInterrupt

    monkeypatch.setattr(superlink.launcher, "stop", fail)
    monkeypatch.setattr(superlink.tree, "stop", lambda: ended.append("superlink"))
    with pytest.raises(KeyboardInterrupt):
        superlink.stop()
    assert ended == ["superlink"]
