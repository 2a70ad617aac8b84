"""How Flower's own command is called, with a stand-in for it."""

import os
import socket
import ssl
import sys
import threading
from pathlib import Path

import pytest

from common.errors import WorkError
from common.processes import free_port
from server.control import Control
from server.provision import make_certificates


def test_a_ctrl_c_at_the_terminal_does_not_reach_the_call_that_stops_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal sends it to the whole process group."""
    flwr = tmp_path / "flwr"
    flwr.write_text(f"#!{sys.executable}\nimport os\nprint(os.getpgrp())\n")
    flwr.chmod(0o755)
    monkeypatch.setattr("server.control.flower_command", lambda _: str(flwr))
    (tmp_path / "config.toml").touch()
    assert int(Control(tmp_path).log(7)) != os.getpgrp()


def test_whether_the_superlink_answers_is_known_without_flower(tmp_path: Path) -> None:
    certificates, port = make_certificates(tmp_path / "pki", ["localhost"]), free_port()
    control = Control(tmp_path / "flwr")
    assert not control.is_up()
    control.configure(f"127.0.0.1:{port}", certificates.authority)
    assert not control.is_up()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with socket.create_server(("127.0.0.1", port)) as server:
        greeter = threading.Thread(target=lambda: context.wrap_socket(server.accept()[0], server_side=True).close())
        greeter.start()
        assert control.is_up()
        greeter.join()
    with pytest.raises(WorkError, match="start it with `fedgtv-coordinator up`"):
        control.check_up()


def test_another_start_of_the_superlink_is_told_from_the_last(tmp_path: Path) -> None:
    control = Control(tmp_path)
    before = control.started()
    control.configure("127.0.0.1:1", tmp_path / "ca.crt")
    first = control.started()
    control.configure("127.0.0.1:1", tmp_path / "ca.crt")
    assert len({before, first, control.started()}) == 3


def test_two_runs_started_at_once_have_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []

    def call(_: Control, *arguments: str) -> dict[str, str]:
        paths.append(Path(arguments[-1]))
        assert paths[-1].exists()
        if len(paths) == 1:
            Control(tmp_path).run(tmp_path, {"run": "second"})
            assert paths[0].read_text() == 'run = "first"\n'
        return {"run-id": "1"}

    monkeypatch.setattr(Control, "_call", call)
    Control(tmp_path).run(tmp_path, {"run": "first"})
    assert len(set(paths)) == 2
    assert not any(path.exists() for path in paths)
