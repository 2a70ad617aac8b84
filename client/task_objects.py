"""A ClientApp's two calls that carry the parts of a model, answered by its node before Flower's layers.

That a ClientApp is of the node's version is checked by every other call that it makes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
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


ANSWERS: Mapping[str, Answer] = {
    "/v1/runtime/pull-object": by_task(runtime_handlers.pull_object),
    "/v1/runtime/push-object": by_task(runtime_handlers.push_object),
}


def answer_first(main: Any) -> None:
    """Has the application that the module `flwr.supernode.main` makes answer these calls before its layers."""
    make = vars(main)[MAKE_APP]

    def make_app(*arguments: Any, **options: Any) -> FastAPI:
        app: FastAPI = make(*arguments, **options)
        app.add_middleware(DirectCalls, answers=ANSWERS)
        return app

    vars(main)[MAKE_APP] = make_app
