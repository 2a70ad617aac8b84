"""What Flower 1.41 leaves open at the sites' door and we close inside the SuperLink's own process.

A site signs the time of each call, and nothing else of it. Flower accepts that signature for 305 s, as often as it
comes and with whatever body. And a reply names its sender itself: the node that is logged in is not compared with it.
Here every signed time is good for one call, and a node speaks for itself alone.

The sites reach the SuperLink through TLS, so only who reads inside it (the gateway's machine) could replay anything.
"""

import logging
import threading
import time
from base64 import b64decode
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import HTTPException, Request, status
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

log = logging.getLogger("fedgtv.coordinator")
KEPT_S = 620.0
"""How long a signed time is remembered: twice what Flower accepts (305 s, and 5 s ahead), as clocks may be set."""
AHEAD = timedelta(seconds=5)
"""Flower accepts signatures from so far in the future."""

Authenticate = Callable[[Request], None]


class SignedTimes:
    """The signed times that have been used, each by the key that signed it; safe from several threads."""

    def __init__(self, started: datetime | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`started`: when this process began (UTC); what was signed before, an earlier process may have accepted."""
        self._valid_from = (started or datetime.now(UTC)) + AHEAD
        self._clock = clock
        self._lock = threading.Lock()
        self._used: set[tuple[bytes, str]] = set()
        self._order: deque[tuple[float, tuple[bytes, str]]] = deque()

    def take(self, key: bytes, signed: str) -> bool:
        """Returns whether `key` may use the time `signed` (ISO 8601, with its zone), which it may once."""
        if datetime.fromisoformat(signed) < self._valid_from:
            return False
        with self._lock:
            now = self._clock()
            while self._order and self._order[0][0] < now - KEPT_S:
                self._used.discard(self._order.popleft()[1])
            if (key, signed) in self._used:
                return False
            self._used.add((key, signed))
            self._order.append((now, (key, signed)))
            return True

    def __len__(self) -> int:
        return len(self._used)


def guarded(authenticate: Authenticate, times: SignedTimes) -> Authenticate:
    """Returns Flower's check of a call with ours behind it.

    The new check raises what Flower's does (401), and:
        HTTPException 503: the signed time was used before, or before this process began. Flower's node then signs
            anew and calls again, so that an honest one loses a second; a recorded call stays refused.
        HTTPException 403: the call pushes a reply of another node.
    """

    def authenticate_node(request: Request) -> None:
        authenticate(request)
        message, sender = request.state.protobuf_request, _told(request)
        if (claimed := _foreign_sender(message)) is not None:
            log.warning("refused: %s: a reply in the name of node %d", sender, claimed)
            raise HTTPException(status.HTTP_403_FORBIDDEN, "a node speaks for itself alone")
        key = b64decode(request.headers[FLEET_HTTP_PUBLIC_KEY_HEADER])  # its bytes: one key has several base64 texts
        if not times.take(key, request.headers[TIMESTAMP_HEADER]):
            log.warning("refused: %s: its signed time is used or too old", sender)
            raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, "signed time used or too old; sign anew")

    return authenticate_node


def _foreign_sender(message: Any) -> int | None:
    """The first node id that a reply in a push names as its sender, and that is not the caller's."""
    if not isinstance(message, PushMessagesRequest):
        return None
    senders = [each.metadata.src_node_id for each in message.messages_list]
    return next((sender for sender in senders if sender != message.node.node_id), None)


def _told(request: Request) -> str:
    message = request.state.protobuf_request
    node_id = message.node.node_id if hasattr(message, "node") else getattr(message, "node_id", "new")
    return f"{request.url.path} of node {node_id}"
