"""A ClientApp's two calls that carry the parts of a model, answered by its node before Flower's layers.

A ClientApp of this release takes a model from the handover, and calls for what is not there; any other calls for all.
That a ClientApp is of the node's version is checked by every other call that it makes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.dependencies.runtime import get_runtime_state
from flwr.supercore.dependencies.task import authenticate_task
from flwr.supernode.servicer.runtime import runtime_handlers

from common.direct_calls import Answer, DirectCalls

MAKE_APP = "create_app"
"""Flower's function in `flwr.supernode.main` that makes the node's interface for ClientApps; a contract test guards it.
"""


def by_task(handle: Callable[[Any, Any, Any], Any]) -> Answer:
    """Returns what answers a task's call by Flower's handler (FlowerError: the call's token is of no task)."""

    def answer(call: Request, message: Any) -> Any:
        state: Any = get_runtime_state(call)
        return handle(message, state, authenticate_task(call, call.headers.get(TASK_TOKEN_HEADER), state))

    return answer


def or_handed_over(handed_over: Callable[[str], bytes | None]) -> Callable[[Any, Any, Any], Any]:
    """Returns Flower's handler of a call for an object, which gives those in the handover too."""

    def pull(asked: Any, state: Any, task: Any) -> Any:
        answer = runtime_handlers.pull_object(asked, state, task)
        if answer.object_found and not answer.object_available and (content := handed_over(asked.object_id)):
            return PullObjectResponse(object_found=True, object_available=True, object_content=content)
        return answer

    return pull


def answer_first(main: Any, handed_over: Callable[[str], bytes | None]) -> None:
    """Has the application that the module `flwr.supernode.main` makes answer these calls before its layers.

    `handed_over`: returns an object that lies in the handover.
    """
    answers: Mapping[str, Answer] = {
        "/v1/runtime/pull-object": by_task(or_handed_over(handed_over)),
        "/v1/runtime/push-object": by_task(runtime_handlers.push_object),
    }
    make = vars(main)[MAKE_APP]

    def make_app(*arguments: Any, **options: Any) -> FastAPI:
        app: FastAPI = make(*arguments, **options)
        app.add_middleware(DirectCalls, answers=answers)
        return app

    vars(main)[MAKE_APP] = make_app
