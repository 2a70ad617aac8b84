"""Every code that stands for a fault has its sentence."""

import ast
import re
from pathlib import Path

import pytest
from flwr.common.constant import ErrorCode

from common.errors import CODES
from server import supervision
from server.progress import EVENTS
from server.remedies import AT_THE_SITE, FLOWER, REMEDIES, UNKNOWN, remedy, with_remedy

SERVER = Path(__file__).parents[1] / "server"
CODE = re.compile(r"(?:no|not|other)-[a-z]+|norm|opposed")


def texts(nodes):
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def reasons():
    """What the coordinator's own checks of a reply return, as it stands in the sources."""
    found = set()
    for node in nodes(ast.Return):
        inner = texts(ast.walk(node.value)) if node.value else set()
        found |= {text.strip() for text in inner if CODE.fullmatch(text.strip())}
    return found


def nodes(kind):
    for path in SERVER.glob("*.py"):
        yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kind))


def test_every_event_of_a_site_is_told_in_words():
    calls = [node for node in nodes(ast.Call) if getattr(node.func, "attr", "") == "event"]
    for call in calls:
        _, event, why = call.args
        assert texts([event]) <= set(EVENTS) | {"left-out"}
        assert texts([why]) <= set(REMEDIES)


def test_every_code_of_a_site_has_a_remedy():
    assert set(AT_THE_SITE) >= CODES


def test_every_code_of_flowers_has_a_remedy():
    codes = {value for name, value in vars(ErrorCode).items() if name.isupper()}
    assert {f"flower-{code}" for code in codes} == set(FLOWER)


def test_every_reason_for_refusing_a_reply_has_a_remedy():
    found = reasons()
    assert found >= {"other-names", "not-finite", "other-shape", "other-count"}
    assert found <= set(REMEDIES)


def test_every_reason_for_starting_again_has_a_sentence():
    faults = {supervision.SUPERLINK_DOWN, supervision.SUPERLINK_DIED, supervision.SERVERAPP_DIED}
    assert faults | {supervision.NOT_BEGUN, supervision.NOT_TAKEN} <= set(REMEDIES)


def test_a_layers_name_may_follow_a_code():
    assert remedy("not-finite stage1.conv.weight") == remedy("not-finite") != UNKNOWN


def test_an_unknown_code_is_said_to_be_one():
    assert remedy("of a later release") == UNKNOWN
    assert with_remedy("of a later release") == "of a later release"


@pytest.mark.parametrize("code", sorted(REMEDIES))
def test_a_remedy_is_one_short_line(code):
    assert remedy(code)
    assert "\n" not in remedy(code)
    assert len(remedy(code)) <= 110
