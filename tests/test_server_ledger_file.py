"""The ledger's file: broken lines are named wherever they are read, half lines wait or go, new ones are seen once."""

import json

import pytest

from common.errors import InputError
from server.ledger_file import LedgerTail, append_line, decode, drop_half_line, read_lines

BROKEN = [b"\0\0\0", b"[1]", b"{]", b'{"kind": "st\xff"}', b'{"no": "kind"}', b'{"kind": 1}', b"[" * 100_000]
ENDING = "broken; remove the line and run the experiment again"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


def add(path, data):
    with path.open("ab") as file:
        file.write(data)


def kinds(records):
    return [record["kind"] for record in records]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_line_is_named_by_whoever_reads_it(path, broken):
    append_line(path, {"kind": "step"})
    tail = LedgerTail(path)
    add(path, b'{"kind": "done"}\n' + broken + b"\n")
    new = tail.new()
    assert next(new)["kind"] == "done"
    for read in (lambda: next(new), lambda: read_lines(path)):
        with pytest.raises(InputError) as caught:
            read()
        assert str(caught.value) == f"{path}, line 3: {ENDING}"


def test_what_an_earlier_release_wrote_as_nan_is_unknown():
    assert decode(b'{"kind": "model", "validation_dsc": NaN}', "x") == {"kind": "model", "validation_dsc": None}


def test_empty_lines_count_but_say_nothing(path):
    tail = LedgerTail(path)
    add(path, b'{"kind": "a"}\n\n{"kind": "b"}\n{]\n')
    new = tail.new()
    assert kinds([next(new), next(new)]) == ["a", "b"]
    with pytest.raises(InputError, match="line 4"):
        next(new)


def test_half_a_line_does_not_count_and_goes(path):
    assert read_lines(path) == []
    drop_half_line(path)
    assert not path.exists()
    append_line(path, {"kind": "step"})
    add(path, b'{"kind": "do')
    tail = LedgerTail(path)
    assert kinds(read_lines(path)) == ["step"]
    assert list(tail.new()) == []
    drop_half_line(path)
    append_line(path, {"kind": "end"})
    assert kinds(tail.new()) == ["end"]
    assert list(tail.new()) == []
    assert [json.loads(line)["kind"] for line in path.read_bytes().splitlines()] == ["step", "end"]
