"""Uploads over slow lines, as the SuperLink has them: a reply is handed out when it is whole, and a cut costs no part.

Flower hands a reply out as soon as it is announced. The ServerApp then asks for one part of it after another, with up
to 10 s between two looks, and hears of no other site for as long as a slow line takes; after 500 looks or two hours the
reply counts as lost. And of a part that came twice, because the answer to it was lost on its way, Flower says that it
was not stored: the node then gives the whole reply up.
"""

from flwr.app import Message
from flwr.server.superlink.linkstate import linkstate_factory
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.date import now
from flwr.supercore.state.schema.corestate_models import ObjectPushSession, ObjectPushSessionRoot
from flwr.supercore.state.schema.linkstate_models import MessageRes
from sqlalchemy import select

KEPT_S = 3600
"""An upload of which no part has come for so long is forgotten, with all its parts (Flower: 180)."""
TTL = "OBJECT_PUSH_SESSION_TTL_SECONDS"
"""Flower's name for it; a contract test guards it."""


class PatientLinkState(SqlLinkState):
    """Flower's state of messages, which waits for slow lines."""

    def get_message_res(self, message_ids: set[str], run_id: int) -> list[Message]:
        """Returns the replies to messages as Flower does, but for those that are still on their way."""
        return super().get_message_res(message_ids - self._on_their_way(message_ids), run_id)

    def _on_their_way(self, message_ids: set[str]) -> set[str]:
        """The messages that are being answered; of a reply that is whole Flower forgets how it was sent, or almost."""
        asked = (
            select(MessageRes.reply_to_message_id)
            .join(ObjectPushSessionRoot, ObjectPushSessionRoot.root_object_id == MessageRes.message_id)
            .join(ObjectPushSession, ObjectPushSession.session_id == ObjectPushSessionRoot.session_id)
            .where(MessageRes.reply_to_message_id.in_(message_ids))
            .where(ObjectPushSession.expires_at > now(), ObjectPushSession.pending_count > 0)
        )
        with self.session() as session:
            return set(session.scalars(asked))

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Stores a part of a message; one that is already here counts as stored."""
        stored: bool = super().store_object(run_id, session_id, object_id, object_content)
        return stored or bool(self.object_store.get(object_id))


def wait_for_slow_lines() -> None:
    """Has Flower's SuperLink use this state, and keep what has come of an upload for an hour."""
    vars(linkstate_factory)[SqlLinkState.__name__] = PatientLinkState
    vars(sql_corestate)[TTL] = KEPT_S
