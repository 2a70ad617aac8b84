"""Contents in files: only a whole one is there, however its length is spelt, and no name leads out of the folder."""

import hashlib
import stat

import pytest
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from hypothesis import given, settings
from hypothesis import strategies as st

from common.object_files import HEAD_BYTES, ObjectFiles, before

IDS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(3)]


def content(body=b"body", parts=(), length=None):
    return f"CustomDataClass {','.join(parts)} {length or len(body)}".encode() + b"\x00" + body


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store") / "objects"


@pytest.fixture(scope="module")
def files(folder):
    return ObjectFiles(folder)


def test_what_is_written_is_there_for_this_account_alone(tmp_path):
    tmp_path.chmod(0o777)
    (tmp_path / "objects").mkdir(mode=0o755)
    files = ObjectFiles(tmp_path / "objects")
    assert (files.read(IDS[0]), files.holds(IDS[0])) == (None, False)
    files.write(IDS[0], content())
    assert (files.read(IDS[0]), files.holds(IDS[0])) == (content(), True)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "objects", tmp_path / "objects" / IDS[0])]
    assert modes == [0o700, 0o600]
    files.remove(IDS[0])
    files.remove(IDS[0])
    assert list((tmp_path / "objects").iterdir()) == []


@given(body=st.binary(max_size=20), num_parts=st.sampled_from([0, 1, 62, 63, 200]), cut=st.integers(1, 400))
@settings(deadline=None)
def test_a_shortened_content_is_not_there(folder, files, body, num_parts, cut):
    whole = content(body, [IDS[1]] * num_parts)
    assert (num_parts > 62) == (len(whole) - len(body) > HEAD_BYTES)
    files.write(IDS[0], whole)
    assert (files.read(IDS[0]), files.holds(IDS[0])) == (whole, True)
    stored = (folder / IDS[0]).read_bytes()
    short = whole[:-cut]
    for torn in (stored[:-cut], stored + b"x", bytes(len(stored)), whole, before(len(short)) + short):
        (folder / IDS[0]).write_bytes(torn)
        assert (files.read(IDS[0]), files.holds(IDS[0])) == (None, False)


@pytest.mark.parametrize("length", ["4", "+4", "04", "0_4", "\t4\n", "\N{ARABIC-INDIC DIGIT FOUR}"])
def test_what_flower_accepts_is_whole(files, length):
    """Else a site could send what is accepted, and never there for who waits for it."""
    odd = content(length=length)
    validate_object_content(odd)
    files.write(IDS[0], odd)
    assert (files.read(IDS[0]), files.holds(IDS[0])) == (odd, True)


@pytest.mark.parametrize("start", [b"", b"no head", b"one\x00", b"a b \xff\x00", b"a b c\x00", b"\x00"])
def test_what_has_no_head_is_not_there(folder, files, start):
    (folder / IDS[0]).write_bytes(before(len(start)) + start)
    assert (files.read(IDS[0]), files.holds(IDS[0])) == (None, False)


@pytest.mark.parametrize("name", ["", ".", "..", "../secret", "/etc/passwd", "a" * 63, "a" * 65, "A" * 64, "a\x00" * 32,
                                  "\N{ARABIC-INDIC DIGIT FOUR}" * 64, "a" * 64 + "\n"])  # fmt: skip
def test_a_name_that_is_no_id_leads_nowhere(folder, files, name):
    (folder.parent / "secret").write_bytes(content())
    assert (files.read(name), files.holds(name)) == (None, False)
    files.remove(name)
    with pytest.raises(FileNotFoundError):
        files.write(name, content())
    assert (folder.parent / "secret").exists()


def test_others_and_what_was_left_unfinished_go(tmp_path):
    files = ObjectFiles(tmp_path)
    for each in IDS:
        files.write(each, content())
    (tmp_path / f".{IDS[1]}.0123.part").write_bytes(b"half")
    files.keep_only({IDS[1]})
    assert [path.name for path in tmp_path.iterdir()] == [IDS[1]]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    files = ObjectFiles(tmp_path)
    monkeypatch.setattr("common.atomic._write", full)
    with pytest.raises(OSError, match="No space"):
        files.write(IDS[0], content())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [1, 127, 128, 16383, 16384, 5 << 20])
def test_a_file_is_the_answer_to_who_asks_for_the_object(folder, files, size):
    head = content(b"")[:-1]
    whole = (head + b"\x00" + bytes(size))[:size] if size > len(head) else bytes(size)
    files.write(IDS[0], whole)
    answer = PullObjectResponse(object_found=True, object_available=True, object_content=whole)
    assert (folder / IDS[0]).read_bytes() == before(size) + whole == answer.SerializeToString()


def test_a_file_of_an_earlier_release_and_one_that_says_another_size_are_not_there(folder, files):
    files.write(IDS[0], content())
    (folder / IDS[1]).write_bytes(content())
    (folder / IDS[2]).write_bytes(before(len(content()) + 1) + content())
    assert [files.size(name) for name in IDS] == [len(content()), None, None]
    assert [files.read(name) for name in IDS] == [content(), None, None]
