"""The ServerApp's shortcut: it reads and writes the contents of objects in the SuperLink's folder, and not over HTTPS.

It runs on the SuperLink's machine under its account. What it sends lies in the folder before the SuperLink hears of the
message and tells which of its objects are missing: none, unless one was deleted at that very moment, with another
message. What it receives, the SuperLink has verified. Where a file is not there, Flower's own way is gone. A reply that
is no message ends no run. The symbols are private: a contract test guards them.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.inflatable.inflatable_object import InflatableObject
from flwr.superlink.grid import http_grid

from common import objects
from common.object_files import DIVIDER, ObjectFiles

log = logging.getLogger("fedgtv.coordinator")
Nested = Callable[[InflatableObject], dict[str, InflatableObject]]
Pull = Callable[[str], bytes]
NESTED = "get_all_nested_objects"
"""Flower's grid calls it with each message that is to be sent, before the SuperLink is told."""
MAKE_PULL = "make_pull_object_fn_protobuf"
"""And this for each message that is to be received."""
INFLATE = "inflate_object_from_contents"
"""And this to put it together."""


def take_shortcut(files: ObjectFiles) -> None:
    """Lets Flower's grid, in this process, use `files` for what it sends and receives."""
    vars(http_grid)[NESTED] = written(vars(http_grid)[NESTED], files)
    vars(http_grid)[MAKE_PULL] = read_first(vars(http_grid)[MAKE_PULL], files)
    vars(http_grid)[INFLATE] = put_together


def put_together(name: str, contents: Mapping[str, bytes]) -> Message:
    """Returns a reply; one without content for what no message can be made of, by whichever of its objects."""
    try:
        message = objects.inflated(name, contents, keep_chunks=False)
        if not isinstance(message, Message):
            raise TypeError(f"expected a message, not {type(message).__name__}")
        return message
    except MemoryError:  # no fault of the reply's
        raise
    except Exception as error:  # Flower's own and Python's, whatever a broken object sets off
        log.warning("a reply cannot be read (%s)", type(error).__name__)
        return make_message(metadata=_metadata(contents.get(name, b"")), content=RecordDict())


def _metadata(content: bytes) -> Metadata:
    """The metadata in a message's own object; of nobody's, which answers nothing, where they cannot be read."""
    try:
        return metadata_from_proto(ProtoMessage.FromString(content.partition(DIVIDER)[2]).metadata)
    except Exception:
        return Metadata(
            run_id=0,
            message_id="",
            src_node_id=0,
            dst_node_id=0,
            reply_to_message_id="",
            group_id="",
            created_at=0.0,
            ttl=0.0,
            message_type=SYSTEM_MESSAGE_TYPE,
        )


def written(nested: Nested, files: ObjectFiles) -> Nested:
    """Returns `nested`, after which the contents of all that it returns are in `files` (OSError: the disk is full)."""

    def nested_and_written(message: InflatableObject) -> dict[str, InflatableObject]:
        parts = nested(message)
        for object_id, each in parts.items():
            if not files.holds(object_id):  # the sites' messages share the model
                files.write(object_id, each.deflate())
        return parts

    return nested_and_written


def read_first(make_pull: Callable[..., Pull], files: ObjectFiles) -> Callable[..., Pull]:
    """Returns `make_pull`, but what it makes looks into `files` first."""

    def make(**asked: Any) -> Pull:
        pull = make_pull(**asked)
        return lambda object_id: files.read(object_id) or pull(object_id)

    return make
