"""Starts Flower's SuperLink: a database and uploads that have their time, objects in files, a guard at the sites' door.

Flower 1.41 gives SQLite 5 s to get a lock and answers 500 after that, which ends the ServerApp or its launcher, and the
run with it. Seen on a busy machine with three sites. The symbols are private: a contract test guards them.
"""

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from flwr.supercore import sql_mixin
from flwr.supercore.object_store import object_store_factory
from flwr.superlink import extensions
from flwr.superlink.routers.fleet import node_auth
from starlette.middleware import Middleware

from common.direct_calls import DirectCalls
from common.logs import log_to_output
from common.object_files import ObjectFiles
from server import BODIES_VARIABLE, OBJECTS_VARIABLE
from server.fleet_guard import SignedTimes, guarded
from server.fleet_objects import FleetObjects
from server.object_store import FiledObjectStore
from server.uploads import wait_for_slow_lines

BUSY_TIMEOUT_MS = 120_000
SYMBOL = "SQLITE_PRAGMAS"
AUTHENTICATE = "authenticate_node"
STORE = "SqlObjectStore"
LAYERS, LIFESPANS = "get_middleware", "get_lifespan_contexts"


def patient_pragmas(pragmas: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Returns the settings with the time that SQLite waits for a lock raised to `BUSY_TIMEOUT_MS`."""
    return tuple((name, str(BUSY_TIMEOUT_MS) if name == "busy_timeout" else value) for name, value in pragmas)


@asynccontextmanager
async def modules_left_alone(_app: Any) -> AsyncIterator[None]:
    """From its start on, what was loaded before is not searched for cycles of references, which took 0.2 s a time."""
    gc.freeze()
    yield


def main() -> None:
    """Flower's own command, with its own arguments."""
    from flwr.superlink.cli import flower_superlink

    log_to_output()
    vars(sql_mixin)[SYMBOL] = patient_pragmas(vars(sql_mixin)[SYMBOL])
    files = ObjectFiles(Path(os.environ[OBJECTS_VARIABLE]))
    vars(object_store_factory)[STORE] = partial(FiledObjectStore, files=files)
    vars(node_auth)[AUTHENTICATE] = guarded(vars(node_auth)[AUTHENTICATE], SignedTimes())
    direct = FleetObjects(files, Path(os.environ[BODIES_VARIABLE]))
    vars(extensions)[LAYERS] = lambda: (Middleware(DirectCalls, answers=direct.answers, find_body=direct.find_body),)
    vars(extensions)[LIFESPANS] = lambda: (modules_left_alone,)
    wait_for_slow_lines()
    flower_superlink()


if __name__ == "__main__":
    main()
