"""The SuperLink's store answers as Flower's own, whatever it is asked, and tells what the disk has lost."""

import hashlib
from types import SimpleNamespace

import pytest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from hypothesis import given, settings
from hypothesis import strategies as st

from common.object_files import ObjectFiles, before
from server.object_store import FiledObjectStore

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")
"""Flower's fault, not ours: how it configures its migrations."""


def made(body, *parts):
    """An object with its id, content and tree; Flower takes this class for one of its tests."""
    content = f"CustomDataClass {','.join(part.id for part in parts)} {len(body)}".encode() + b"\x00" + body
    name = hashlib.sha256(content).hexdigest()
    return SimpleNamespace(id=name, content=content, tree=ObjectTree(object_id=name, children=[p.tree for p in parts]))


CHUNKS = [made(bytes([number]) * 9) for number in range(3)]
ARRAYS = [made(b"array", *CHUNKS[:2]), made(b"array", *CHUNKS[1:])]
MESSAGES = [made(b"one", ARRAYS[0]), made(b"both", *ARRAYS), made(b"other", ARRAYS[1], CHUNKS[2]), made(b"bare")]
OBJECTS = [*CHUNKS, *ARRAYS, *MESSAGES]
ONE = CHUNKS[0]
LIES = before(len(ONE.content)) + ONE.content
"""How it lies in its file."""


@pytest.fixture
def files(tmp_path):
    return ObjectFiles(tmp_path / "objects")


@pytest.fixture
def store(tmp_path, files):
    """A function that opens the store, at first and after a restart."""

    def opened(kind=FiledObjectStore, *more):
        store = kind(str(tmp_path / "state.db"), *(more or ([files] if kind is FiledObjectStore else [])))
        store.initialize()
        return store

    return opened


def names(tmp_path):
    return {path.name for path in (tmp_path / "objects").iterdir()}


def shape(tree):
    """A tree without the order of its children, which SQL does not keep."""
    return tree.object_id, sorted(map(shape, tree.children))


def answer(store, asked, *told):
    """What a store says, or the kind of error that it raises."""
    try:
        said = getattr(store, asked)(*told)
    except Exception as error:
        return type(error)
    return shape(said) if isinstance(said, ObjectTree) else said


ANY = st.sampled_from(OBJECTS)
NAMES = ANY.map(lambda each: each.id)
ROOTS = st.sampled_from([*MESSAGES, ARRAYS[0]])
RUNS = st.sampled_from([1, 2**64 - 1])
QUESTIONS = st.one_of(
    st.tuples(st.just("preregister"), RUNS, ROOTS.map(lambda root: root.tree)),
    ANY.map(lambda each: ("put", each.id, each.content)),
    st.tuples(st.just("put"), NAMES, st.sampled_from([each.content for each in OBJECTS] + [b"no head", b"a b 9\x00"])),
    st.tuples(st.sampled_from(["get", "delete", "__contains__", "get_object_tree"]), NAMES),
    st.tuples(st.sampled_from(["get", "delete", "__contains__"]), st.sampled_from(["", "../state.db", "a" * 64])),
    st.tuples(st.just("delete_objects_in_run"), RUNS),
    st.tuples(st.just("clear")),
    st.tuples(st.just("__len__")),
)


@pytest.fixture(scope="module")
def in_memory_database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    store = FiledObjectStore(":memory:", ObjectFiles(folder))
    store.initialize()
    return store, folder


@given(questions=st.lists(QUESTIONS, max_size=40))
@settings(deadline=None, max_examples=150)
def test_it_answers_as_flowers_own_and_keeps_a_file_for_each_content_alone(in_memory_database, questions):
    store, folder = in_memory_database
    store.clear()
    oracle = InMemoryObjectStore()
    for asked in questions:
        assert answer(store, *asked) == answer(oracle, *asked), asked
        there = {name for name, entry in oracle.store.items() if entry.is_available}
        assert {path.name for path in folder.iterdir()} == there


def announced(store, message=MESSAGES[0]):
    """A store that has all of a message."""
    for name in store.preregister(1, message.tree):
        store.put(name, next(each.content for each in OBJECTS if each.id == name))
    return store


def test_contents_lie_in_files_and_a_restart_finds_them(tmp_path, store):
    first = announced(store())
    assert first.query("SELECT sum(length(content)) AS num_bytes, min(is_available) AS here FROM objects") == [
        {"num_bytes": 0, "here": 1}
    ]
    again = store()
    assert again.preregister(2, MESSAGES[0].tree) == []
    assert again.get(ONE.id) == ONE.content
    again.delete(MESSAGES[0].id)
    assert (names(tmp_path), len(again)) == (set(), 0)


@pytest.mark.parametrize("left", [None, b"", LIES[:-1], bytes(len(LIES))])
def test_what_the_disk_has_lost_is_missing_and_is_sent_again(tmp_path, store, left):
    kept = announced(store())
    path = tmp_path / "objects" / ONE.id
    path.unlink() if left is None else path.write_bytes(left)
    for each in (kept, store()):
        assert each.get(ONE.id) == b""
        assert ONE.id in each
        assert each.preregister(1, MESSAGES[0].tree) == [ONE.id]
    kept.put(ONE.id, ONE.content)
    assert kept.get(ONE.id) == ONE.content
    assert kept.preregister(2, MESSAGES[0].tree) == []


def test_a_file_that_is_there_before_its_object_is_announced_counts(store, files):
    """As the ServerApp writes it; what a site puts there as well changes nothing."""
    files.write(ONE.id, ONE.content)
    opened = FiledObjectStore(":memory:", files)
    opened.initialize()  # removes what is in no row
    files.write(ONE.id, ONE.content)
    assert opened.get(ONE.id) is None
    assert opened.preregister(1, ARRAYS[0].tree) == [CHUNKS[1].id, ARRAYS[0].id]
    assert opened.get(ONE.id) == ONE.content
    opened.put(ONE.id, ONE.content)
    assert opened.preregister(1, ONE.tree) == []


def test_what_is_in_no_row_goes_at_the_start(tmp_path, store, files):
    announced(store(), MESSAGES[3])
    files.write(ONE.id, ONE.content)
    (tmp_path / "objects" / f".{ONE.id}.0123.part").write_bytes(b"half")
    store()
    assert names(tmp_path) == {MESSAGES[3].id}


def test_a_database_of_an_earlier_release_is_gone_on_with(tmp_path, store):
    earlier = store(SqlObjectStore)
    announced(earlier)
    later = store()
    assert later.preregister(2, MESSAGES[1].tree) == [CHUNKS[2].id, ARRAYS[1].id, MESSAGES[1].id]
    announced(later, MESSAGES[1])
    assert names(tmp_path) == {CHUNKS[2].id, ARRAYS[1].id, MESSAGES[1].id}
    for each in (*CHUNKS, *ARRAYS, *MESSAGES[:2]):
        assert later.get(each.id) == each.content
    later.delete_objects_in_run(1)
    later.delete_objects_in_run(2)
    assert (names(tmp_path), len(later)) == (set(), 0)


def test_a_full_disk_leaves_the_object_missing(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    opened = store()
    opened.preregister(1, ONE.tree)
    with monkeypatch.context() as patch:
        patch.setattr("common.atomic._write", full)
        with pytest.raises(OSError, match="No space"):
            opened.put(ONE.id, ONE.content)
    assert opened.get(ONE.id) == b""
    assert opened.preregister(1, ONE.tree) == [ONE.id]
    opened.put(ONE.id, ONE.content)
    assert opened.get(ONE.id) == ONE.content


class BreaksOffError(Exception):
    """What ends a transaction without its changes."""


def test_a_transaction_that_breaks_off_leaves_nothing_that_is_there_and_cannot_be_read(store):
    opened = announced(store())

    def break_off(*changes):
        with opened.session():
            for change, *told in changes:
                change(*told)
            raise BreaksOffError

    with pytest.raises(BreaksOffError):
        break_off((opened.delete, MESSAGES[0].id))
    assert opened.get(ONE.id) == b""
    assert opened.preregister(1, MESSAGES[0].tree) == [*(each.id for each in CHUNKS[:2]), ARRAYS[0].id, MESSAGES[0].id]
    with pytest.raises(BreaksOffError):
        break_off((opened.put, ONE.id, ONE.content))
    assert opened.get(ONE.id) == ONE.content
    assert ONE.id not in opened.preregister(1, MESSAGES[0].tree)


def test_what_a_site_puts_is_verified_first(tmp_path, store):
    opened = store()
    opened.preregister(1, ONE.tree)
    with pytest.raises(ValueError, match="does not match content hash"):
        opened.put(ONE.id, CHUNKS[1].content)
    headless = b"no head"
    name = hashlib.sha256(headless).hexdigest()
    opened.preregister(1, ObjectTree(object_id=name))
    with pytest.raises(Exception, match="unexpected structure"):
        validate_object_content(headless)
    with pytest.raises(Exception, match="unexpected structure"):
        opened.put(name, headless)
    with pytest.raises(NoObjectInStoreError):
        opened.put(CHUNKS[1].id, CHUNKS[1].content)
    assert names(tmp_path) == set()
