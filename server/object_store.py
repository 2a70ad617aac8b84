"""The SuperLink's objects with their contents in files: rows and references in Flower's database, and no content.

Flower 1.41 keeps contents of 5 MB in SQLite, which copies each into its log and from there into its pages, and holds
64 MB of pages for every connection.

All that changes rows holds SQLite's one lock for writers until its transaction ends, and files of known objects are
written and removed within it: none goes whose row stays, but where a transaction breaks off after all. Then the row is
of an object that nobody wants any more. Whoever announces it again is asked for its content.
"""

from collections.abc import Iterable
from typing import Any

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_id, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from common.object_files import ObjectFiles

PUT = "UPDATE objects SET is_available = 1 WHERE object_id = :object_id AND is_available = 0 RETURNING object_id"
MARK = "UPDATE objects SET is_available = :is_available WHERE object_id = :object_id"


class FiledObjectStore(SqlObjectStore):
    """Flower's store, but what is put goes to `files`. A database of an earlier release, with contents, is read too.

    An object is available as soon as its file is there, whoever wrote it: its name is the SHA-256 of its content.
    """

    def __init__(self, database_path: str, files: ObjectFiles) -> None:
        super().__init__(database_path)
        self._files = files

    def initialize(self, log_queries: bool = False, **engine_kwargs: Any) -> list[str]:
        """As Flower; and files of objects that are in no row go."""
        tables = super().initialize(log_queries, **engine_kwargs)
        self._files.keep_only({row["object_id"] for row in self.query("SELECT object_id FROM objects")})
        return tables

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """As Flower: returns the objects whose content is missing, also where a row says that it is there."""
        ids = [node.object_id for node in iterate_object_tree(object_tree)]
        with self._mutation_session():
            told = set(super().preregister(run_id, object_tree))
            missing = {object_id for object_id in set(ids) if not self._has(object_id)}
            self._mark(told - missing, available=True)
            self._mark(missing - told, available=False)
        return [object_id for object_id in ids if object_id in missing]

    def put(self, object_id: str, object_content: bytes) -> None:
        """As Flower, errors too (OSError: the disk is full)."""
        if self.verify:
            if object_id != get_object_id(object_content):
                raise ValueError(f"Object ID {object_id} does not match content hash")
            validate_object_content(content=object_content)
        with self.session():
            if self.query(PUT, {"object_id": object_id}):
                self._files.write(object_id, object_content)
            elif object_id not in self:
                raise NoObjectInStoreError(f"Object with ID '{object_id}' was not pre-registered.")

    def get(self, object_id: str) -> bytes | None:
        """Returns a content; `b""` where it is missing, None where the object is unknown."""
        in_row = super().get(object_id)
        return in_row if in_row != b"" else self._files.read(object_id) or b""

    def delete(self, object_id: str) -> None:
        """As Flower, which calls this for each part too."""
        with self._mutation_session():
            super().delete(object_id)
            if object_id not in self:
                self._files.remove(object_id)

    def clear(self) -> None:
        """As Flower."""
        with self._mutation_session():
            super().clear()
            self._files.keep_only(())

    def _has(self, object_id: str) -> bool:
        return self._files.holds(object_id) or bool(super().get(object_id))

    def _mark(self, object_ids: Iterable[str], available: bool) -> None:
        for object_id in object_ids:
            self.query(MARK, {"object_id": object_id, "is_available": int(available)})
