"""The sites' two calls that carry the parts of a model, answered by the SuperLink before Flower's layers.

The gateway moves the bytes. It hands out a part's file after the SuperLink has said that this call may have it, and
writes the body of a call that brings a part into a file, whose path the SuperLink is told. Without a gateway, the
bytes come and go with the calls.
"""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

from fastapi import HTTPException, Request, Response, status
from flwr.common.constant import Status
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest, PushObjectResponse
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.routers.fleet import node_auth
from flwr.superlink.servicer.fleet import fleet_handlers

from common.direct_calls import Answer
from common.object_files import ObjectFiles
from server.gateway import BODY_FILE, HANDS_OUT, OBJECTS

log = logging.getLogger("fedgtv.coordinator")
PULL, PUSH = "/v1/fleet/pull-object", "/v1/fleet/push-object"
HAND_OUT = "X-Accel-Redirect"
"""What nginx is told to hand out, instead of the answer itself."""
RUNNING_S = 1.0
"""So long after it ran, a run is not asked again whether it runs, which changes the database each time."""


class FleetObjects:
    """What answers these calls."""

    def __init__(self, files: ObjectFiles, bodies: Path) -> None:
        """`files`: the contents of objects; `bodies`: where the gateway writes the bodies of calls."""
        self._files, self._bodies = files, bodies
        self._ran: dict[int, float] = {}
        """When a run was seen to run last."""

    @property
    def answers(self) -> Mapping[str, Answer]:
        """The functions that answer, by the path of the call."""
        return {PULL: self.pull, PUSH: self.push}

    def find_body(self, call: Request) -> bytes | None:
        """Returns a call's body that lies in a file; None where it came with the call.

        Raises:
            HTTPException 503: the file cannot be read; a node calls again.
        """
        path = Path(call.headers.get(BODY_FILE, ""))
        if call.url.path != PUSH or path.parent != self._bodies:
            return None
        try:
            return path.read_bytes()
        except OSError as error:
            log.error("%s: cannot be read (%s)", path, error.strerror)
            raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, "cannot be read now") from error

    def pull(self, call: Request, asked: PullObjectRequest) -> PullObjectResponse | Response:
        """As Flower, errors too; the gateway is told the file where there is one."""
        node_auth.authenticate_node(call)
        state = get_linkstate(call)
        size = self._files.size(asked.object_id) if HANDS_OUT in call.headers else None
        if not (size and self._runs(asked.run_id, state)):
            return fleet_handlers.pull_object(asked, state)
        state.store_traffic(asked.run_id, bytes_sent=size, bytes_recv=0)
        return Response(headers={HAND_OUT: f"/{OBJECTS}/{asked.object_id}"}, media_type=PROTOBUF_MEDIA_TYPE)

    def push(self, call: Request, part: PushObjectRequest) -> PushObjectResponse:
        """As Flower, errors too."""
        node_auth.authenticate_node(call)
        state = get_linkstate(call)
        if not self._runs(part.run_id, state):
            return fleet_handlers.push_object(part, state)
        if not state.store_object(part.run_id, part.session_id, part.object_id, part.object_content):
            return fleet_handlers.push_object(part, state)  # which says why
        if part.object_content:
            state.store_traffic(part.run_id, bytes_sent=0, bytes_recv=len(part.object_content))
        return PushObjectResponse(stored=True)

    def _runs(self, run_id: int, state: LinkState) -> bool:
        """Whether a run is under way, or was a moment ago; of any other, Flower says what is wrong."""
        now = time.monotonic()
        if now - self._ran.get(run_id, -math.inf) > RUNNING_S:
            known = state.get_run_status({run_id}).get(run_id)
            if known is None or known.status != Status.RUNNING:
                return False
            self._ran[run_id] = now
        return True
