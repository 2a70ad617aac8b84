"""The ServerApp's shortcut: it reads and writes the contents of objects in the SuperLink's folder, and not over HTTPS.

It runs on the SuperLink's machine under its account. What it sends lies in the folder before the SuperLink hears of the
message and tells which of its objects are missing: none, unless one was deleted at that very moment, with another
message. What it receives, the SuperLink has verified. Where a file is not there, Flower's own way is gone. The symbols
are private: a contract test guards them.
"""

from collections.abc import Callable
from typing import Any

from flwr.supercore.inflatable.inflatable_object import InflatableObject
from flwr.superlink.grid import http_grid

from common import objects
from common.object_files import ObjectFiles

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
    vars(http_grid)[INFLATE] = lambda name, contents: objects.inflated(name, contents, keep_chunks=False)


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
