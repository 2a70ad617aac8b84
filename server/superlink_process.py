"""Starts Flower's SuperLink: a database and uploads that have their time, objects in files, a guard at the sites' door.

Flower 1.41 gives SQLite 5 s to get a lock and answers 500 after that, which ends the ServerApp or its launcher, and the
run with it. Seen on a busy machine with three sites. The symbols are private: a contract test guards them.
"""

import os
from functools import partial
from pathlib import Path

from flwr.supercore import sql_mixin
from flwr.supercore.object_store import object_store_factory
from flwr.superlink import extensions
from flwr.superlink.routers.fleet import node_auth
from starlette.middleware import Middleware

from common.logs import log_to_output
from common.object_files import ObjectFiles
from server import OBJECTS_VARIABLE
from server.collected_bodies import CollectedBodies
from server.fleet_guard import SignedTimes, guarded
from server.object_store import FiledObjectStore
from server.uploads import wait_for_slow_lines
from server.whole_bodies import WholeBodies

BUSY_TIMEOUT_MS = 120_000
SYMBOL = "SQLITE_PRAGMAS"
AUTHENTICATE = "authenticate_node"
STORE = "SqlObjectStore"
LAYERS = "get_middleware"


def patient_pragmas(pragmas: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Returns the settings with the time that SQLite waits for a lock raised to `BUSY_TIMEOUT_MS`."""
    return tuple((name, str(BUSY_TIMEOUT_MS) if name == "busy_timeout" else value) for name, value in pragmas)


def main() -> None:
    """Flower's own command, with its own arguments."""
    from flwr.superlink.cli import flower_superlink

    log_to_output()
    vars(sql_mixin)[SYMBOL] = patient_pragmas(vars(sql_mixin)[SYMBOL])
    files = ObjectFiles(Path(os.environ[OBJECTS_VARIABLE]))
    vars(object_store_factory)[STORE] = partial(FiledObjectStore, files=files)
    vars(node_auth)[AUTHENTICATE] = guarded(vars(node_auth)[AUTHENTICATE], SignedTimes())
    vars(extensions)[LAYERS] = lambda: (Middleware(CollectedBodies), Middleware(WholeBodies))
    wait_for_slow_lines()
    flower_superlink()


if __name__ == "__main__":
    main()
