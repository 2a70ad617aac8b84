"""One run kept going: its ServerApp started, watched, and started again after a crash, until the run's ledger ends.

The ServerApp holds the run's lock while it lives, so its death is seen at once. Flower itself notices after 49 s, and
fails a run for ever whose ServerApp or SuperLink has died. Two never work on one run: a start that has been replaced
finds in `attempt.json` that it has.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.bundle import write_bundle
from common.errors import CheckpointError, ConfigError, FedgtvError, InputError, SiteError, WorkError
from common.experiment import Experiment
from common.file_lock import is_held
from server.app import run_config
from server.control import Control
from server.ledger import RESULTS, Ledger, Reply, spooled
from server.ledger_file import LEDGER, LedgerTail
from server.remedies import remedy
from server.run_lock import LOCK, PATIENCE_S, HeldError, hold
from server.wanted import check_wanted, forget, last_attempt, new_attempt

log = logging.getLogger("fedgtv.coordinator")
POLL_S = 1.0
TAKEN_UP_S = 20.0
"""A ServerApp is up after 5 to 15 s, 60 s on a busy machine; only after this is Flower asked what became of it."""
ASK_EVERY_S = 10.0
"""Asking starts a process of Flower's."""
DOWN_S = 5.0
"""`up` starts a SuperLink again within some seconds; only after this is one told of that is down."""
CRASHES = 8
"""So often in a row may a run end without having got anything done: over more than an hour, with the pauses."""
FIRST_PAUSE_S, PAUSE_GROWS, MAX_PAUSE_S = 15.0, 4.0, 1800.0
"""A run is started again at once the first time, then after pauses that grow, as what is amiss may pass."""
GOT_ON = RESULTS | {"model"}
SUPERLINK_DOWN = "superlink-down"
SUPERLINK_DIED = "superlink-died"
SERVERAPP_DIED = "serverapp-died"
NOT_BEGUN = "not-begun"
NOT_TAKEN = "not-taken"
ERRORS = {error.code: error for error in (InputError, ConfigError, CheckpointError, SiteError)}
"""What the ServerApp's failure is here, by the code in its ledger; any other code: WorkError."""


@dataclass
class Supervisor:
    """Keeps run `name` of the SuperLink in `folder` going; the caller watches over it (`server.wanted.watching`).

    Args:
        control: of the SuperLink.
        folder: the SuperLink's, with `runs/`.
        name: the run's; it is wanted.
        experiment: the run's.
        node_ids: Flower's, of the experiment's sites.
        tell: hears every new ledger line but `failed`, whose reason is that of the error raised, and as a `note` why
            the run waits.
        waiting: called about once a second; what it raises ends the watch, and nothing else.
        coordinator: its address, for the models' cards.
    """

    control: Control
    folder: Path
    name: str
    experiment: Experiment
    node_ids: Mapping[str, int]
    tell: Callable[[dict[str, Any]], None]
    waiting: Callable[[], None]
    coordinator: str | None = None
    _flower_id: int | None = field(default=None, init=False)
    """Flower's id of the start that works now."""
    _token: str | None = field(default=None, init=False)
    _superlink: int = field(default=0, init=False)
    """Which start of the SuperLink it works under."""
    _last: dict[str, Any] = field(default_factory=dict, init=False)
    """The last line of the ledger since the last start."""
    _got_on: bool = field(default=False, init=False)
    """Whether that start got anything done."""
    _spooled: frozenset[Reply] = field(default_factory=frozenset, init=False)
    """The replies that lay on disk when it began."""
    _why: str = field(default="", init=False)
    """What Flower said of a start that it did not take, or failed."""

    def __post_init__(self) -> None:
        self.run_folder = self.folder / "runs" / self.name
        self._lock = self.run_folder / LOCK
        self._ledger = LedgerTail(self.run_folder / LEDGER)

    def run(self) -> None:
        """Returns when the run has come to its end.

        Raises:
            StoppedError: the run is wanted no more.
            InputError, WorkError: the ServerApp gave up, with its own reason; or the run has crashed too often.
        """
        fault, crashes = None, 0
        while True:
            fault = self._begin(fault, crashes) or self._watch()
            if fault is None:
                return
            check_wanted(self.run_folder)
            crashes = 1 if self._has_got_on() else crashes + 1
            if crashes == CRASHES:
                raise WorkError(self._given_up(fault))
            self._rest(fault, pause_s(crashes))

    def stop(self) -> None:
        """Ends the run for now; what it has done stays."""
        self._note_flower_id()
        forget(self.run_folder)
        self._stop_flower()

    def _begin(self, fault: str | None, crashes: int) -> str | None:
        """Joins the ServerApp that works, or starts one; returns why that could not be done."""
        self._last, self._got_on = {}, False
        self._spooled = spooled(self.run_folder)
        if is_held(self._lock):
            self._join()
            return None
        self._wait_until_up()
        self._note_flower_id()
        self._stop_flower()  # what Flower still believes to be running of this run
        try:
            with hold(self._lock, PATIENCE_S):
                self._token = self._note_start(fault, crashes)
        except HeldError:
            self._join()
            return None
        return self._start(self._token)

    def _join(self) -> None:
        attempt = last_attempt(self.run_folder)
        self._token = attempt.token if attempt else None
        self._superlink = self.control.started()

    def _note_start(self, fault: str | None, crashes: int) -> str:
        token = new_attempt(self.run_folder)
        if fault is not None:
            ledger = Ledger(self.run_folder, self.experiment, held=True)
            ledger.append({"kind": "restart", "why": fault, "crashes": crashes})
        return token

    def _start(self, token: str) -> str | None:
        self._superlink = self.control.started()
        config = run_config(self.name, self.experiment, dict(self.node_ids), self.coordinator, token)
        try:
            self._flower_id = self.control.run(write_bundle(self.folder / "bundle" / self.name), config)
        except WorkError as error:  # it may have been taken all the same; it is up soon then, or replaced by the next
            self._why = str(error)
            self._pause()
            return NOT_TAKEN
        return None

    def _watch(self) -> str | None:
        """Tells the ledger's lines until the ServerApp is gone; returns why, or None if the run has ended."""
        ask_at = time.monotonic() + TAKEN_UP_S
        while True:
            fault = self._gone()
            if fault is None and not is_held(self._lock) and time.monotonic() > ask_at:
                ask_at, fault = time.monotonic() + ASK_EVERY_S, self._ask_flower()
            self._read_ledger()  # after looking whether it is gone, so that no line falls between
            if fault is not None:
                return self._conclude(fault)
            self._pause()

    def _gone(self) -> str | None:
        """Returns why the ServerApp is gone, or None while it works or is still to come.

        It is known to have come when it has written its id, which it does with the lock in its hands.
        """
        has_come = self._note_flower_id()  # before the lock is looked at
        if is_held(self._lock):
            return None
        if not has_come and last_attempt(self.run_folder) is not None:
            self._wait_until_up()
        if self.control.started() != self._superlink or not self.control.is_up():
            return SUPERLINK_DIED
        return SERVERAPP_DIED if has_come or last_attempt(self.run_folder) is None else None

    def _note_flower_id(self) -> bool:
        """Takes Flower's id of the start from where its ServerApp wrote it; returns whether it has."""
        attempt = last_attempt(self.run_folder)
        if attempt is None or attempt.run_id is None:
            return False
        self._flower_id = attempt.run_id
        return attempt.token == self._token

    def _ask_flower(self) -> str | None:
        """Returns why a ServerApp that is long in coming will not come."""
        if self._flower_id is None or not self.control.is_up():
            return None
        try:
            run = self.control.status(self._flower_id)
        except WorkError as error:
            log.info("run %s: %s", self.name, error)
            return None
        self._why = run.details
        return NOT_BEGUN if run.finished else None

    def _has_got_on(self) -> bool:
        """Whether the last start got anything done: a result, or a reply that is on disk now."""
        return self._got_on or bool(spooled(self.run_folder) - self._spooled)

    def _rest(self, fault: str, rest_s: float) -> None:
        """Pauses between two crashes, unless a ServerApp comes after all."""
        if not rest_s:
            return
        self._tell_note(f"{remedy(fault)}{self._flowers_words(fault)}; the run is started again in {rest_s:.0f} s")
        until = time.monotonic() + rest_s
        while time.monotonic() < until and not is_held(self._lock):
            check_wanted(self.run_folder)
            self._pause()

    def _read_ledger(self) -> None:
        for record in self._ledger.new():
            self._last = record
            self._got_on = self._got_on or record["kind"] in GOT_ON
            if record["kind"] != "failed":
                self.tell(record)

    def _conclude(self, fault: str) -> str | None:
        if self._last.get("kind") == "failed":
            raise failure(self._last["code"], self._last["why"])
        return None if self._last.get("kind") == "end" else fault

    def _wait_until_up(self) -> None:
        tell_at = time.monotonic() + DOWN_S
        while not self.control.is_up():
            if time.monotonic() > tell_at:
                tell_at = math.inf
                self._tell_note(remedy(SUPERLINK_DOWN))
            check_wanted(self.run_folder)
            self._pause()

    def _stop_flower(self) -> None:
        """Tells Flower that the run is over, so that it drops the messages that no site has fetched yet."""
        if self._flower_id is None:
            return
        try:
            self.control.stop(self._flower_id)
        except WorkError as error:  # it is over there as well, or the SuperLink is down
            log.info("run %s: %s", self.name, error)
        self._flower_id = None

    def _pause(self) -> None:
        self.waiting()
        time.sleep(POLL_S)

    def _tell_note(self, text: str) -> None:
        """Tells what only whoever watches need know: it is not in the ledger."""
        self.tell({"kind": "note", "text": text})

    def _flowers_words(self, fault: str) -> str:
        return f" ({self._why})" if self._why and fault in (NOT_TAKEN, NOT_BEGUN) else ""

    def _given_up(self, fault: str) -> str:
        return (
            f"run {self.name!r}: ended {CRASHES} times in a row without getting anything done; {remedy(fault)}"
            f"{self._flowers_words(fault)}; "
            f"see {self.folder / 'superlink.log'}, then run it again to go on from the last round"
        )


def pause_s(crashes: int) -> float:
    """Returns how long to wait after so many crashes in a row."""
    return 0.0 if crashes < 2 else min(FIRST_PAUSE_S * PAUSE_GROWS ** (crashes - 2), MAX_PAUSE_S)


def failure(code: str, why: str) -> FedgtvError:
    """Returns the error that a `failed` line stands for."""
    return ERRORS.get(code, WorkError)(why)
