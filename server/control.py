"""Orders to a running SuperLink, given through Flower's own command line and answered in JSON.

Needs nothing but the coordinator's folder: `$FLWR_HOME/config.toml` there names address and authority. The folder and
its port must stay on loopback, because Flower 1.41 asks no credentials of whoever calls its Control API.
"""

import json
import secrets
import subprocess
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.atomic import write_text_atomically
from common.enrolment import JoinRequest
from common.errors import SiteError, WorkError
from common.processes import flower_command, flower_environment
from server.daemons import answers

CONNECTION = "fedgtv"
KEY_IN_USE = "already in use"
"""Flower's words for a key that it knows, shut out or not."""
POLL_S = 2.0
COMMAND_TIMEOUT_S = 120.0
UNAVAILABLE = "Connection to the SuperLink is unavailable"
"""What Flower's command line says when nothing answers."""
NOT_UP = "the coordinator does not answer; start it with `fedgtv-coordinator up` and keep it running"


@dataclass(frozen=True)
class Run:
    """One run as the SuperLink sees it.

    `status` is pending, starting, running, or finished:completed, finished:failed, finished:stopped; `details` says
    why a run failed.
    """

    run_id: int
    status: str
    details: str
    seconds: float

    @property
    def finished(self) -> bool:
        """Whether the run has ended, well or not."""
        return self.status.startswith("finished")

    @property
    def completed(self) -> bool:
        """Whether the ServerApp returned without an exception."""
        return self.status == "finished:completed"


@dataclass(frozen=True)
class Control:
    """Client of the SuperLink whose FLWR_HOME is `home`."""

    home: Path

    def configure(self, address: str, authority: Path) -> None:
        """Writes the connection to `address` (host:port), whose certificate `authority` has signed."""
        self.home.mkdir(parents=True, exist_ok=True)
        lines = ["[superlink]", f'default = "{CONNECTION}"', "", f"[superlink.{CONNECTION}]"]
        lines += [f"address = {toml_string(address)}", f"root-certificates = {toml_string(str(authority.resolve()))}"]
        write_text_atomically(self._config, "\n".join(lines) + "\n")

    def register(self, request: JoinRequest) -> int:
        """Lets the holder of the request's key connect and returns its Flower node id.

        Raises:
            SiteError: the key was registered before.
            WorkError: the SuperLink does not answer.
        """
        self._check_configured()
        key = self.home / "register.pub"
        key.write_text(request.public_key + "\n", encoding="ascii")
        try:
            return int(self._call("supernode", "register", str(key), CONNECTION)["node-id"])
        except WorkError as error:
            if KEY_IN_USE not in str(error):
                raise
            raise SiteError(
                f"site {request.site!r}: this key was enrolled before and cannot come back; the site moves its keys "
                "folder away, runs `fedgtv-site init`, and sends the new join request"
            ) from error
        finally:
            key.unlink()

    def unregister(self, node_id: int) -> None:
        """Shuts a node out for good; its key cannot be registered again (Flower 1.41)."""
        self._call("supernode", "unregister", str(node_id), CONNECTION)

    def nodes(self) -> dict[int, str]:
        """Flower node id -> `registered` (never seen), `online`, `offline`, or `unregistered`."""
        answer = self._call("supernode", "list", CONNECTION)
        return {int(node["node-id"]): str(node["status"]) for node in answer["nodes"]}

    def run(self, bundle: Path, config: Mapping[str, str]) -> int:
        """Starts the app in folder `bundle` with texts as its configuration; returns the run id.

        The texts travel in a file: one argument of a command holds at most 128 KiB, and an apostrophe would cut it.
        """
        path = self.home / f"run-config-{secrets.token_hex(4)}.toml"  # two runs may be started at once
        lines = [f"{key} = {toml_string(text)}\n" for key, text in config.items()]
        path.write_text("".join(lines), encoding="ascii")
        try:
            answer = self._call("run", str(bundle.resolve()), CONNECTION, "--run-config", str(path))
        finally:
            path.unlink()
        return int(answer["run-id"])

    def is_up(self) -> bool:
        """Whether the SuperLink answers, which takes no process of Flower's to know."""
        if not self._config.exists():
            return False
        connection = tomllib.loads(self._config.read_text(encoding="utf-8"))["superlink"][CONNECTION]
        return answers(int(connection["address"].rpartition(":")[2]), Path(connection["root-certificates"]))

    def check_up(self) -> None:
        """Raises WorkError if the SuperLink does not answer."""
        if not self.is_up():
            raise WorkError(f"{self.home.parent}: {NOT_UP}")

    def started(self) -> int:
        """Returns a number that another start of the SuperLink changes: all that it ran before has ended then."""
        return self._config.stat().st_mtime_ns if self._config.exists() else 0

    def runs(self) -> dict[int, Run]:
        """Every run the SuperLink knows, by id."""
        return {run.run_id: run for run in map(_run, self._call("ls", CONNECTION)["runs"])}

    def status(self, run_id: int) -> Run:
        """The state of one run."""
        return _run(self._call("ls", CONNECTION, "--run-id", str(run_id))["runs"][0])

    def wait(self, run_id: int, timeout_s: float, poll_s: float = POLL_S) -> Run:
        """Returns the run once it has finished, well or not.

        Raises:
            WorkError: it has not within `timeout_s`; it goes on.
        """
        for run in self.follow(run_id, timeout_s, poll_s):
            if run.finished:
                return run
        raise WorkError(f"run {run_id}: not finished within {timeout_s:.0f} s; it goes on, wait again or stop it")

    def follow(self, run_id: int, timeout_s: float, poll_s: float = POLL_S) -> Iterator[Run]:
        """Yields the run's state every `poll_s`, the last one finished, unless `timeout_s` ends first."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            run = self.status(run_id)
            yield run
            if run.finished:
                return
            time.sleep(poll_s)

    def log(self, run_id: int) -> str:
        """What the ServerApp of a run has logged so far."""
        return self._command("log", str(run_id), CONNECTION, "--show")

    def stop(self, run_id: int) -> None:
        """Ends a run; its status becomes finished:stopped."""
        self._call("stop", str(run_id), CONNECTION)

    def _call(self, *arguments: str) -> Mapping[str, Any]:
        text = self._command(*arguments, "--format", "json")
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise WorkError(f"flwr {' '.join(arguments[:2])}: answered {_one_line(text)!r}, not JSON") from error
        if not answer.get("success"):
            reason = answer.get("error-message", text)
            raise WorkError(f"flwr {' '.join(arguments[:2])}: {_one_line(str(reason))}")
        return dict(answer)

    def _command(self, *arguments: str) -> str:
        self._check_configured()
        command = [flower_command("flwr"), *arguments]
        environment = flower_environment(self.home)
        try:
            done = subprocess.run(
                command,
                cwd=self.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
                start_new_session=True,  # a second Ctrl-C must not end the call that stops the run
            )
        except subprocess.TimeoutExpired as error:
            raise WorkError(f"flwr {arguments[0]}: no answer within {COMMAND_TIMEOUT_S:.0f} s; is it up?") from error
        if UNAVAILABLE in done.stderr + done.stdout:
            raise WorkError(f"{self.home.parent}: {NOT_UP}")
        if done.returncode and not done.stdout.lstrip().startswith("{"):
            raise WorkError(f"flwr {' '.join(arguments[:2])}: {_one_line(done.stderr or done.stdout)}")
        return done.stdout

    @property
    def _config(self) -> Path:
        """Written anew at each start of the SuperLink."""
        return self.home / "config.toml"

    def _check_configured(self) -> None:
        if not self._config.exists():
            raise WorkError(f"{self.home.parent}: {NOT_UP}")


def toml_string(text: str) -> str:
    """Returns `text` as a TOML basic string of printable ASCII; every other character is escaped."""
    return '"' + "".join(_toml_character(character) for character in text) + '"'


def _toml_character(character: str) -> str:
    if character in '"\\' or not " " <= character <= "~":
        return f"\\U{ord(character):08x}"
    return character


def _run(record: Mapping[str, Any]) -> Run:
    details = _one_line(str(record["status-details"]))
    return Run(int(record["run-id"]), str(record["status"]), details, float(record["elapsed"]))


def _one_line(text: str) -> str:
    return " ".join(text.split())
