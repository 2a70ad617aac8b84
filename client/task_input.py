"""How a ClientApp's process takes in its message from the node: with one copy of a model instead of Flower's four."""

from collections.abc import Callable
from typing import Any

from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_objects

from common import objects

TAKE = "pull_and_inflate_object_from_tree"
"""Flower's function in `flwr.supernode.runtime.run_clientapp` that `take_in` stands for; a contract test guards it."""


def take_in(tree: Any, pull: Callable[[str], bytes], confirm: Callable[[str], None], **_: Any) -> Any:
    """As Flower's: returns the message of a tree of objects, each of which `pull` gets, and confirms that it is here.

    The node's store has checked every object by its id.
    """
    contents = pull_objects([each.object_id for each in iterate_object_tree(tree)], pull)
    confirm(tree.object_id)
    return objects.inflated(tree.object_id, contents, keep_chunks=False)
