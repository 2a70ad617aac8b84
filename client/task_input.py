"""How a ClientApp's process takes in its message from the node, and hands its reply over: the model by files.

Flower 1.41 makes four copies of a model on the way in, beside those of the calls; here it is copied once.
"""

from collections.abc import Callable
from typing import Any

from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_objects, push_objects

from client.handover import Handover
from common import objects

TAKE = "pull_and_inflate_object_from_tree"
"""Flower's function in `flwr.supernode.runtime.run_clientapp` that `take_in` stands for; a contract test guards it."""
GIVE = "push_objects"
"""And that `hand_over` stands for."""


def take_in(tree: Any, pull: Callable[[str], bytes], confirm: Callable[[str], None], **_: Any) -> Any:
    """As Flower's: returns the message of a tree of objects, each of which `pull` gets, and confirms that it is here.

    The node has checked every object by its id.
    """
    handover = Handover.at_work()
    names = {each.object_id for each in iterate_object_tree(tree)}
    chunks = {name: chunk for name in names if handover is not None and (chunk := handover.find(name))}
    contents = pull_objects(sorted(names - chunks.keys()), pull)
    taken = objects.inflated(tree.object_id, contents, chunks, keep_chunks=False)
    confirm(tree.object_id)
    return taken


def hand_over(
    made: dict[str, Any], push: Callable[[str, bytes], None], *, object_ids_to_push: set[str], **options: Any
) -> None:
    """As Flower's: brings the objects that the node asks for there, and removes them from `made`.

    What was handed over when it was made is there.
    """
    for name in [name for name, each in made.items() if isinstance(each, objects.RemoteChunk)]:
        del made[name]
    push_objects(made, push, object_ids_to_push=object_ids_to_push & made.keys(), **options)
