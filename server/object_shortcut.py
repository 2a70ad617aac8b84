"""The ServerApp's shortcut: it reads and writes the contents of objects in the SuperLink's folder, and not over HTTPS.

It runs on the SuperLink's machine under its account. What it sends lies in the folder before the SuperLink hears of the
message and tells which of its objects are missing: none, unless one was deleted at that very moment, with another
message. What it receives, the SuperLink has verified. Where a file is not there, Flower's own way is gone. Whose reply
it is, and to what, the SuperLink says, and not the reply; and one that is no message ends no run. The symbols are
private: a contract test guards them.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import Message, RecordDict
from flwr.app.message import make_message
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.supercore.inflatable.inflatable_object import InflatableObject
from flwr.superlink.grid import http_grid

from common import objects
from common.object_files import ObjectFiles

log = logging.getLogger("fedgtv.coordinator")
Nested = Callable[[InflatableObject], dict[str, InflatableObject]]
Pull = Callable[[str], bytes]
NESTED = "get_all_nested_objects"
"""Flower's grid calls it with each message that is to be sent, before the SuperLink is told."""
MAKE_PULL = "make_pull_object_fn_protobuf"
"""And this for each message that is to be received."""
INFLATE = "inflate_object_from_contents"
"""And this to put it together."""
PULL_MESSAGES = "PullMessages"
"""The call of its client that brings replies, without their contents."""


def take_shortcut(grid: Any, files: ObjectFiles) -> None:
    """Lets Flower's grid, in this process, use `files` for what it sends and receives."""
    vars(http_grid)[NESTED] = written(vars(http_grid)[NESTED], files)
    vars(http_grid)[MAKE_PULL] = read_first(vars(http_grid)[MAKE_PULL], files)
    client, told = grid._runtime_client, dict[str, ProtoMetadata]()
    vars(client)[PULL_MESSAGES] = noting(getattr(client, PULL_MESSAGES), told)
    vars(http_grid)[INFLATE] = lambda name, contents: put_together(told[name], name, contents)


def noting(pull: Callable[[Any], Any], told: dict[str, ProtoMetadata]) -> Callable[[Any], Any]:
    """Returns `pull`, after which `told` has the metadata of the replies that it brought, by their ids."""

    def pull_and_note(request: Any) -> Any:
        response = pull(request)
        told.clear()
        told.update({each.metadata.message_id: each.metadata for each in response.messages_list})
        return response

    return pull_and_note


def put_together(told: ProtoMetadata, name: str, contents: Mapping[str, bytes]) -> Message:
    """Returns a reply under the metadata that the SuperLink took it with, and has compared with who sent it.

    What a site has put into the reply itself may say anything. Where its objects make no message, it has no content.
    """
    metadata = metadata_from_proto(told)
    try:
        message = objects.inflated(name, contents)
        if not isinstance(message, Message):
            raise TypeError(f"expected a message, not {type(message).__name__}")
    except MemoryError:  # no fault of the reply's
        raise
    except Exception as error:  # Flower's own and Python's, whatever a broken object sets off
        log.warning("a reply cannot be read (%s)", type(error).__name__)
        return make_message(metadata=metadata, content=RecordDict())
    if message.has_error():
        return make_message(metadata=metadata, error=message.error)
    return make_message(metadata=metadata, content=message.content)


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
