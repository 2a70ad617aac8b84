"""The worker: it waits for the node's secret, is started again, passes lines on, and starts code unpacked anew."""

import importlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from flwr.common.args import try_obtain_flwr_app_token
from flwr.common.constant import APP_DIR
from flwr.proto.runtime_pb2 import PushTaskOutputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import factory
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResultStatus

from client import warm_start, worker_process
from client.worker import NAME, Worker
from client.worker_account import SECRET
from client.worker_process import TOKEN, FreshCode, Running
from common.errors import WorkError

flwr_clientapp = importlib.import_module("flwr.supernode.cli.flwr_clientapp")
SECRET_TOKEN = "a-task-s-token"
EPOCH = "2026-11-24 01:48:54,098 fedgtv.site federated round 5, stage2 epoch 56 of 91: loss 0.3179"

MakeWorker = Callable[[str], Worker]
RunUntil = Callable[[Worker, str], list[str]]


@pytest.fixture
def make_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeWorker:
    """A worker whose process is a line of Python."""

    def make(program: str) -> Worker:
        worker = Worker(tmp_path / "work", "node:9094", restart_s=0.01)
        monkeypatch.setattr(worker, "_command", lambda: [sys.executable, "-c", program])
        return worker

    (tmp_path / "work").mkdir()
    return make


def test_it_waits_for_the_node_s_first_start(make_worker: MakeWorker, monkeypatch, run_until: RunUntil) -> None:
    worker = make_worker("import time; time.sleep(60)")
    monkeypatch.setattr("client.worker.TELL_S", 0.0)
    told = run_until(worker, "not there yet")
    assert told == [f"{worker.work / SECRET}: not there yet; start the node with `fedgtv-site join`"]
    (worker.work / SECRET).write_bytes(b"secret")
    assert run_until(worker, "started") == ["worker started, for the node at node:9094"]


def test_it_is_started_again_and_passes_the_site_s_lines_on(make_worker: MakeWorker, run_until: RunUntil) -> None:
    worker = make_worker(f"import time; print({EPOCH!r}, flush=True); time.sleep(0.5); raise SystemExit(3)")
    (worker.work / SECRET).write_bytes(b"secret")
    told = run_until(worker, "starting it again")
    assert told[1:] == [
        "01:48:54  federated round 5, stage2 epoch 56 of 91: loss 0.3179",
        "worker ended (exit code 3); starting it again in 0 s",
    ]


def test_flower_is_called_with_the_secret_past_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "pacs.hospital.example")
    (tmp_path / SECRET).write_bytes(b"secret")
    worker = Worker(tmp_path, "node:9094")
    assert worker._command()[1:] == [
        "-P", "-m", "client.worker_process", "--insecure", "--runtime-api-address", "node:9094",
        "--superexec-auth-secret-file", str(tmp_path / SECRET),
    ]  # fmt: skip
    environment = worker._environment()
    assert environment["NO_PROXY"] == environment["no_proxy"] == "node,localhost,127.0.0.1,pacs.hospital.example"
    assert environment["FLWR_HOME"] == str(tmp_path / NAME / "flwr")


def test_a_secret_that_it_may_not_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(WorkError, match=rf"{SECRET}: cannot be read \(Permission denied\)"):
        Worker(tmp_path, "node:9094")._command()


ASKED = ExecutionSpec(TaskType.CLIENT_APP, "node:9094", SECRET_TOKEN, True, None, False, 7, False, 1)


@dataclass
class Started:
    """Stands in for a ClientApp's process; it ends once it was told to so many times."""

    stubborn: int = 0
    exitcode: int = -9
    told: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._hear()

    def join(self) -> None:
        self.ended.wait()

    def terminate(self) -> None:
        self._hear("terminate")

    def kill(self) -> None:
        self._hear("kill")

    def _hear(self, *what: str) -> None:
        self.told += what
        if len(self.told) >= self.stubborn:
            self.ended.set()


@pytest.mark.parametrize("stubborn", [0, 1, 2])
def test_a_clientapp_of_a_node_that_was_killed_is_ended_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: int
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    processes = [Started(stubborn), Started()]
    waiting = list(processes)
    monkeypatch.setattr(warm_start, "start", lambda *_: waiting.pop(0))
    monkeypatch.setattr(worker_process, "_tell_ended", lambda *_: None)
    monkeypatch.setattr(worker_process, "LEAVE_S", 0.05)
    launcher = FreshCode()
    launcher.launch(ASKED)
    assert processes[0].told == []
    launcher.launch(ASKED)
    assert processes[0].told == ["terminate", "kill"][:stubborn]
    assert waiting == []


def test_the_end_of_a_clientapp_is_told_to_the_node_with_its_own_token() -> None:
    """A node in this process: what it is told must end the task that the token belongs to."""
    heard: list[tuple[str, str, bytes]] = []

    class Node(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((self.path, str(dict(self.headers)), body))
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Node) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        spec = replace(ASKED, runtime_api_address=f"127.0.0.1:{server.server_port}")
        Running(Started(), spec).thread.join()  # type: ignore[arg-type]
        thread.join()
    ((path, headers, body),) = heard
    assert path == "/v1/runtime/push-task-output"
    assert SECRET_TOKEN in headers
    told = PushTaskOutputRequest.FromString(body)
    assert (told.sub_status, told.details) == ("failed", "ended with exit code -9")
    worker_process._tell_ended(spec, "and a node that is gone is nobody's fault")


def test_a_full_disk_ends_the_task_and_not_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    told: list[str] = []
    monkeypatch.setattr(worker_process, "_tell_ended", lambda _, details: told.append(details))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker_process, "write_text_atomically", full)
    assert FreshCode().launch(ASKED).status == LaunchResultStatus.FAILED
    assert told == ["cannot be started"]


def test_a_task_finds_nothing_unpacked_and_shows_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    found: list[tuple[list[str], Path]] = []

    def start(words: list[str], environment: dict[str, str], _release: object) -> Started:
        found.append((words, Path(environment["FLWR_HOME"])))
        return Started()

    monkeypatch.setattr(warm_start, "start", start)
    monkeypatch.setattr(worker_process, "_tell_ended", lambda *_: None)
    FreshCode().launch(ASKED)
    unpacked = "fedgtv.fedgtv.0.1.0.12345678"  # the right 8 digits, whatever is in it
    (tmp_path / "kept" / unpacked).mkdir(parents=True)
    (found[0][1] / APP_DIR).symlink_to(tmp_path / "kept")
    (tmp_path / APP_DIR).symlink_to(tmp_path / "kept")
    FreshCode().launch(ASKED)
    (_, earlier), (words, home) = found
    assert home.parent == tmp_path
    assert [path.name for path in home.iterdir()] == [TOKEN]
    assert not earlier.exists()
    assert (tmp_path / "kept" / unpacked).exists()
    assert not any(SECRET_TOKEN in word for word in words)  # every user can read a command line
    told = flwr_clientapp._parse_args_run_flwr_clientapp().parse_args(words[1:])
    assert (words[0], told.runtime_api_address, told.insecure, told.parent_pid) == (
        "flwr-clientapp", "node:9094", True, 7,
    )  # fmt: skip
    assert try_obtain_flwr_app_token(told) == SECRET_TOKEN
    assert Path(told.token_file).stat().st_mode & 0o777 == 0o600


def test_flower_takes_its_executor_from_where_ours_is_put(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Flower 1.41: a superexec by another way would use code that lies there."""
    monkeypatch.setitem(vars(factory), "SubprocessExecutor", FreshCode)
    made = factory.get_executor(factory.ExecutorType.SUBPROCESS, insecure=True, root_certificates_path=None)
    assert type(made) is FreshCode
