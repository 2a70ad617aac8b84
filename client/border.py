"""A site's border: the one place through which every task comes in and every reply goes out.

It runs in the node's own process, from the installed release, whatever code does the work. What comes in is read,
written to the audit log and judged by the policy; what goes out is built here anew, of numbers, known names and codes
alone, limited by the policy and written to the audit log first. No text that the work made can pass: not an
exception's, not a path, not a name. Of pictures, where the policy lets them go, the pixels pass.
"""

import hashlib
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.common.constant import ErrorCode

from client import policy
from client.audit import OUTGOING, Audit, AuditLog
from client.comparison_policy import limit_comparison
from client.disk_use import bytes_below
from client.pixels import pixels_alone
from client.progress import forget_progress, read_progress
from client.received_objects import ReceivedObjects
from common import objects, wire
from common.errors import CODES, CRASHED, FedgtvError, PolicyError, WorkerLostError, WorkError
from common.layers import Layers
from common.private import private_folder
from common.settings import load_yaml
from common.site_config import PolicyConfig, SiteConfig
from common.statistics import HuHistogram
from common.tasks import (
    CompareResult,
    CompareTask,
    EvaluateResult,
    EvaluateTask,
    PictureTask,
    SiteProgress,
    SiteStatistics,
    StatisticsTask,
    TrainResult,
    TrainTask,
)

log = logging.getLogger("fedgtv.site")
TASK, DECISION = "task", "decision"
UNASKED = "unasked-reply"
"""The decision on a reply that answers no task; it is no code, for nothing is sent."""
PASSED_OVER = "passed-over"
"""The decision on a round that a later one has taken the place of; nothing is sent for it either."""
ADMITTED = "admitted"


@dataclass
class Entry:
    """A task that was let in, as far as its reply must be measured against it."""

    task: wire.Task
    received: Layers = field(default_factory=lambda: Layers.of({}))
    """What a training task sent."""


@dataclass
class _Leaving:
    """A reply being made: its content, and what the audit log tells of it."""

    content: RecordDict
    counts: dict[str, Any] = field(default_factory=dict)
    withheld: policy.Withheld = field(default_factory=policy.Withheld)


class Border:
    """The border of one site, by its `site.yaml` as it is now: a changed policy holds from the next message on."""

    def __init__(self, config: SiteConfig, folder: Path) -> None:
        """Relative paths of `config` start at `folder`."""
        self.site = config.site
        self.policy: PolicyConfig = config.policy
        self.work, self.state = folder / config.work, folder / config.state
        self.audit = AuditLog(self.state)
        most_gb = math.inf if self.policy.max_disk_gb is None else self.policy.max_disk_gb / 4
        self.received = ReceivedObjects(self.state, int(1e9 * min(config.keep_received_gb, most_gb)))

    @classmethod
    def open(cls, path: Path) -> "Border":
        """Returns the border of the site that `site.yaml` at `path` describes (ConfigError: the file is not valid)."""
        return cls(load_yaml(path, SiteConfig), path.parent)

    def receive(self, message: Message, num_bytes: int) -> None:
        """Writes to the audit log that a message came, readable or not (AuditError: the log cannot be written)."""
        self.audit.append(TASK, **_where(message), bytes=num_bytes)

    def turn_away(self, message: Message, error: FedgtvError) -> None:
        """Writes to the audit log that a message was received and refused unread."""
        why = "site.yaml cannot be read; neither task nor code was looked at"
        self.audit.append(DECISION, **_where(message), decision=error.code, why=why)

    def tell(self, message: Message, progress: SiteProgress) -> Message:
        """Returns the answer to a `ProgressTask`, once the audit log holds all that it says, in the one line of it.

        No policy forbids it: it tells of no patient, and whoever waits hours for a round may know that it goes on.
        """
        return self._send(message, _Leaving(wire.progress_reply(progress), progress.model_dump(exclude_none=True)))

    def enter(self, message: Message) -> Entry:
        """Returns what a message that was received asks for, once the policy allows it and the audit log holds that.

        Raises:
            TaskError: it is no task of this release (ReleaseError: of another).
            PolicyError: the policy does not allow it.
            AuditError: the log cannot be written, or was tampered with.
        """
        where = _where(message)
        sha256 = message.content.object_id
        try:
            entry = self._admit(message, where)
        except FedgtvError as error:
            self.audit.append(DECISION, **where, sha256=sha256, decision=error.code, why=str(error))
            raise
        self.audit.append(DECISION, **where, sha256=sha256, decision=ADMITTED, **_told(entry.task))
        return entry

    def _admit(self, message: Message, where: dict[str, Any]) -> Entry:
        task = wire.read_any_task(message)
        done = self._done(self.audit.checked(), where["run"], message.content.object_id)
        policy.admit(self.policy, task, done, datetime.now())
        if self.policy.max_disk_gb is not None:
            policy.admit_disk(self.policy, bytes_below(private_folder(self.state)) + bytes_below(self.work))
        if not isinstance(task, TrainTask):
            return Entry(task)
        record = wire.records(message.content, ArrayRecord).get(wire.ARRAYS)
        return Entry(task, wire.record_to_layers(record)) if record is not None else Entry(task)

    @staticmethod
    def _done(audit: Audit, run: str, asked: str) -> policy.Done:
        """What was done before what is asked now; a round that is asked for again, to the bit, counts once."""
        trained = {
            each["sha256"]: each["epochs"]
            for each in audit.records
            if each.get("run") == run and each["event"] == DECISION and "epochs" in each and each["sha256"] != asked
        }
        return policy.Done(len(trained), sum(trained.values()), audit.noises)

    def leave(self, message: Message, entry: Entry, reply: Message) -> Message:
        """Returns the reply to `message` that may leave, made of what the work replied; the audit log holds it then.

        What the policy does not allow, and what is no reply of this release, leaves as an error's code.

        Raises:
            AuditError: the log cannot be written; nothing may leave.
        """
        try:
            leaving = self._limit(entry, reply)
        except FedgtvError as error:
            log.warning("%s: reply held back: %s", _where(message)["kind"], error)
            leaving = _Leaving(wire.error_reply(error))
        return self._send(message, leaving)

    def refuse(self, message: Message, error: Exception) -> Message:
        """Returns a reply with an error's code alone, once the audit log holds it; the error's words stay here."""
        log.warning("%s refused: %s", _where(message)["kind"], _line(error))
        return self._send(message, _Leaving(wire.error_reply(error)))

    def hold_back(self, reply: Message) -> None:
        """Writes to the audit log that a reply was made which answers no task, and that it is not sent."""
        why = "a reply to no task that is being worked on"
        self.audit.append(DECISION, **_where(reply), decision=UNASKED, why=why)

    def pass_over(self, message: Message) -> None:
        """Writes to the audit log that a round which was received is not trained, and that nothing is sent for it."""
        self.audit.append(DECISION, **_where(message), decision=PASSED_OVER, why="the run asks for a later round")

    def _send(self, message: Message, leaving: _Leaving) -> Message:
        for what in leaving.withheld.what:
            log.info("%s: withheld by policy: %s", _where(message)["kind"], what)
        error = wire.error_code(leaving.content)
        told: dict[str, Any] = {"error": error} if error else {}
        told |= leaving.counts | ({"withheld": leaving.withheld.what} if leaving.withheld.what else {})
        content = leaving.content
        self.audit.append(OUTGOING, **_where(message), sha256=content.object_id, bytes=num_bytes(content), **told)
        return Message(content=content, reply_to=message)

    def _limit(self, entry: Entry, reply: Message) -> _Leaving:
        if reply.has_error() and reply.error.code == ErrorCode.CLIENT_APP_CRASHED:
            return _Leaving(wire.code_reply(WorkerLostError.code))
        if reply.has_error() or not reply.has_content():
            return _Leaving(wire.code_reply(CRASHED))
        code = wire.error_code(reply.content)
        if code is not None:
            return _Leaving(wire.code_reply(code if code in CODES else "failed"))
        try:
            match entry.task:
                case StatisticsTask():
                    return self._statistics(entry.task, reply)
                case TrainTask():
                    return self._training(entry.task, entry.received, reply)
                case EvaluateTask():
                    return self._evaluation(entry.task, reply)
                case CompareTask():
                    return self._comparison(entry.task, reply)
                case PictureTask():
                    return self._pictures(entry.task, reply)
        except (WorkError, *wire.UNREADABLE) as error:
            if isinstance(error, FedgtvError) and not isinstance(error, WorkError):
                raise
            raise PolicyError.of("policy-reply", f"reply: not one of this release ({_line(error)})") from error

    def _statistics(self, task: StatisticsTask, reply: Message) -> _Leaving:
        result, withheld = wire.read_result(reply, SiteStatistics), policy.Withheld()
        histogram = wire.read_histogram(reply)
        fewest = min(result.train, result.test) if task.split.fold else result.train
        if histogram is not None and fewest < self.policy.min_cases:
            withheld.what.append(f"histogram of {fewest} cases")
            histogram = None
        if histogram is None:
            result = result.model_copy(update={"digest": None})
        if histogram is not None:
            histogram = HuHistogram.from_array(histogram).to_array()
        counts = {"cases": result.train, "numbers": 0 if histogram is None else int(histogram.size)}
        return _Leaving(wire.statistics_reply(result, histogram), counts, withheld)

    def _training(self, task: TrainTask, received: Layers, reply: Message) -> _Leaving:
        result, withheld = wire.read_result(reply, TrainResult), policy.Withheld()
        record = wire.records(reply.content, ArrayRecord)[wire.ARRAYS]
        trained = wire.trained_layers(wire.record_to_layers(record), received, task.transport)
        update = policy.limit_update(policy.keeping(self.policy, task), received, trained)
        result = policy.limit_training(self.policy, result, update, withheld)
        counts: dict[str, Any] = {"cases": result.num_examples, "arrays": len(update.layers.shapes)}
        counts |= {"numbers": sum(map(update.layers.size, update.layers.shapes)), "norm": round(update.norm, 6)}
        if update.local:
            counts["local"] = len(update.local)
        noises = self.audit.checked().noises
        policy.admit_epsilon(self.policy, noises)  # by the policy of now; the task was let in by that of then
        if update.noise:
            counts |= {
                "noise": update.noise,
                "epsilon": self._epsilon((*noises, update.noise)),
                "delta": self.policy.delta,
            }
        leaving = None if update.is_changed else wire.packed_again(record, task.transport)
        leaving = leaving or wire.pack_trained(update.layers.arrays(), received.arrays(), task.transport)
        return _Leaving(wire.packed_reply(leaving, result), counts, withheld)

    def _epsilon(self, noises: tuple[float, ...]) -> float:
        """Of all updates that ever left here with noise."""
        value = policy.epsilon(noises, self.policy.delta)
        log.info("update %d with noise: epsilon %.2f at delta %g", len(noises), value, self.policy.delta)
        return round(value, 4)

    def _evaluation(self, task: EvaluateTask, reply: Message) -> _Leaving:
        withheld = policy.Withheld()
        result = policy.limit_evaluation(self.policy, task, wire.read_result(reply, EvaluateResult), withheld)
        pictures = [] if result.withheld else wire.read_pictures(reply)[: task.pictures]
        if pictures and not self.policy.share_pictures:
            withheld.what.append(f"{len(pictures)} pictures")
            pictures = []
        if any(each.dsc is not None for each in pictures) and not self.policy.share_case_metrics:
            withheld.what.append("DSC of single cases")
        shares = self.policy.share_case_metrics
        pictures = [type(each)(pixels_alone(each.png), each.dsc if shares else None) for each in pictures]
        cases = max((each.n for each in result.summaries.values()), default=0)
        counts = {"cases": cases, "models": len(result.summaries), "pictures": len(pictures)}
        return _Leaving(wire.evaluate_reply(result, pictures), counts, withheld)

    def _comparison(self, task: CompareTask, reply: Message) -> _Leaving:
        withheld = policy.Withheld()
        result = limit_comparison(self.policy, task, wire.read_result(reply, CompareResult), withheld)
        cases = max((each.n for each in result.rows.values()), default=0)
        counts = {"cases": cases, "models": len(result.rows), "pairs": len(result.pairs)}
        return _Leaving(wire.compare_reply(result), counts, withheld)

    def _pictures(self, task: PictureTask, reply: Message) -> _Leaving:
        withheld, (told, files) = policy.Withheld(), wire.read_drawings(reply)
        result = policy.limit_pictures(self.policy, task, told, withheld)
        files = [pixels_alone(file) for file in files] if result.drawings else []
        counts = {"cases": result.n, "models": len(task.models), "pictures": len(files)}
        return _Leaving(wire.drawings_reply(result, files), counts, withheld)


def guarded(app: Callable[[Message, Context], Message]) -> Callable[[Message, Context], Message]:
    """Returns `app` behind the border of the site in its context: what a node does, in one process."""

    def answer(message: Message, context: Context) -> Message:
        border = Border.open(Path(str(context.node_config["config"])))
        if wire.is_progress(message):
            return border.tell(message, read_progress(border.work) or SiteProgress())
        border.receive(message, num_bytes(message.content))
        try:
            entry = border.enter(message)
        except FedgtvError as error:
            return border.refuse(message, error)
        try:
            return border.leave(message, entry, app(message, context))
        finally:
            forget_progress(border.work)

    return answer


def _where(message: Message) -> dict[str, Any]:
    metadata = message.metadata
    kind = metadata.message_type if metadata.message_type in (*wire.TASKS, wire.PROGRESS) else "unknown"
    return {"run": str(metadata.run_id), "message": _id(metadata.message_id), "kind": kind}


def _id(told: str) -> str:
    """A message's id, a hash; of anything else that stands in its place, the hash."""
    return told if re.fullmatch("[0-9a-f]{64}", told) else hashlib.sha256(told.encode()).hexdigest()


def _told(task: wire.Task) -> dict[str, Any]:
    told: dict[str, Any] = {"experiment": task.experiment}
    if isinstance(task, TrainTask):
        told |= {"model": task.model, "round": task.round, "epochs": task.local_epochs}
    if isinstance(task, EvaluateTask | CompareTask):
        models = task.models if isinstance(task, EvaluateTask) else task.rows
        told |= {"models": list(models), "part": task.part}
    if isinstance(task, PictureTask):
        told |= {"models": list(task.models), "pictures": list(task.what)}
    return told


def num_bytes(content: RecordDict) -> int:
    """Returns the bytes of a message's records, without what Flower adds to send them."""
    return sum(
        sum(len(key) + objects.num_bytes(array) for key, array in record.items())
        if isinstance(record, ArrayRecord)
        else record.count_bytes()
        for record in content.values()
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
