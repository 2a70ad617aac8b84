"""Replies at the SuperLink: handed out whole, one at a time, and not forgotten while a line is cut.

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
from sqlalchemy import and_, false, select, update

KEPT_S = 3600
"""An upload of which no part has come for so long is forgotten, with all its parts (Flower: 180)."""
TTL = "OBJECT_PUSH_SESSION_TTL_SECONDS"
"""Flower's name for it; a contract test guards it."""

LOCK = update(ObjectPushSession).where(false()).values(pending_count=0)
"""Changes nothing, but holds SQLite's one lock for writers until the transaction ends."""


class PatientLinkState(SqlLinkState):
    """Flower's state of messages, which waits for slow lines."""

    def get_message_res(self, message_ids: set[str], run_id: int) -> list[Message]:
        """Returns a reply to one of these messages, as Flower does, but none that is still on its way.

        So a ServerApp that asks for all replies at once holds one at a time. What Flower itself answers in a node's
        stead, which is an error, comes besides. No reply is announced between the look and the answer: one that was
        would be handed out without its parts.
        """
        with self.session() as session:
            session.execute(LOCK)
            found = self._replies(message_ids)
            whole = sorted(message_id for message_id, is_whole in found.items() if is_whole)
            return super().get_message_res(message_ids - found.keys() | set(whole[:1]), run_id)

    def _replies(self, message_ids: set[str]) -> dict[str, bool]:
        """By the message that a site has answered, whether its reply is whole and was not handed out before.

        Flower forgets how a reply was sent when its last part has come; one that is announced again lacks none.
        """
        sent, way = ObjectPushSessionRoot, ObjectPushSession
        is_under_way = and_(way.session_id == sent.session_id, way.expires_at > now(), way.pending_count > 0)
        asked = (
            select(MessageRes.reply_to_message_id, MessageRes.delivered_at, way.session_id)
            .outerjoin(sent, sent.root_object_id == MessageRes.message_id)
            .outerjoin(way, is_under_way)
            .where(MessageRes.reply_to_message_id.in_(message_ids))
        )
        with self.session() as session:
            return {
                str(name): not (handed_out or session_id) for name, handed_out, session_id in session.execute(asked)
            }

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Stores a part of a message; one that is already here counts as stored."""
        stored: bool = super().store_object(run_id, session_id, object_id, object_content)
        return stored or bool(self.object_store.get(object_id))


def wait_for_slow_lines() -> None:
    """Has Flower's SuperLink use this state, and keep what has come of an upload for an hour."""
    vars(linkstate_factory)[SqlLinkState.__name__] = PatientLinkState
    vars(sql_corestate)[TTL] = KEPT_S
