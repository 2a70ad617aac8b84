"""The ClientApp: reads a task, lets the site do it, sends the result. No logic, and no exception text leaves."""

import logging
from collections.abc import Callable
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.handover import handed_over
from client.site import Site
from common import wire
from common.errors import LeftOffError
from common.logs import log_to_output
from common.shortage import explained
from common.tasks import CompareTask, EvaluateTask, PictureTask, StatisticsTask

app = ClientApp()
log = logging.getLogger("fedgtv.site")


def _answer(message: Message, context: Context, work: Callable[[Site, Message], RecordDict]) -> Message:
    """Does `work`; an exception is logged here in full and answered by its code alone."""
    log_to_output()
    try:
        content = work(Site.open(Path(str(context.node_config["config"]))), message)
    except LeftOffError as error:
        log.info("%s", error)
        content = wire.error_reply(error)
    except Exception as raised:
        fault = explained(raised)
        log.exception("%s failed: %s", message.metadata.message_type, _line(fault))
        content = wire.error_reply(fault)
    return Message(content=content, reply_to=message)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _statistics(site: Site, message: Message) -> RecordDict:
    task, _ = wire.read_task(message, StatisticsTask)
    return wire.statistics_reply(*site.statistics(task))


def _train(site: Site, message: Message) -> RecordDict:
    task = wire.read_train_task(message)
    weights = wire.record_to_weights(wire.records(message.content, ArrayRecord)[wire.ARRAYS])
    trained, result = site.train(task, weights)
    return wire.train_reply(trained, weights, result, task.transport, handed_over)


def _evaluate(site: Site, message: Message) -> RecordDict:
    task, _ = wire.read_task(message, EvaluateTask)
    return wire.evaluate_reply(*site.evaluate(task, wire.read_models(message)))


def _compare(site: Site, message: Message) -> RecordDict:
    task, _ = wire.read_task(message, CompareTask)
    return wire.compare_reply(site.compare(task))


def _draw(site: Site, message: Message) -> RecordDict:
    task, _ = wire.read_task(message, PictureTask)
    return wire.drawings_reply(*site.draw(task, wire.read_models(message)))


@app.query("statistics")
def statistics(message: Message, context: Context) -> Message:
    """Answers a `StatisticsTask`."""
    return _answer(message, context, _statistics)


@app.query("compare")
def compare(message: Message, context: Context) -> Message:
    """Answers a `CompareTask`."""
    return _answer(message, context, _compare)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answers a `TrainTask`."""
    return _answer(message, context, _train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answers an `EvaluateTask`."""
    return _answer(message, context, _evaluate)


@app.query("pictures")
def pictures(message: Message, context: Context) -> Message:
    """Answers a `PictureTask`."""
    return _answer(message, context, _draw)
