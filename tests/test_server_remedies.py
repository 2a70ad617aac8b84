"""Every code that stands for a fault has its sentence."""

import ast
import re
from pathlib import Path

import pytest
from flwr.common.constant import ErrorCode

from common.errors import CODES
from server import supervision
from server.remedies import AT_THE_SITE, FLOWER, REMEDIES, UNKNOWN, remedy

SERVER = Path(__file__).parents[1] / "server"
CODE = re.compile(r"(?:no|not|other)-[a-z]+|norm|opposed|late|idle|connected")


def reasons():
    """What the coordinator's own checks of a reply return, and what it tells of a site, as it stands in the sources."""
    found = set()
    for path in SERVER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            values = list(ast.walk(node.value)) if isinstance(node, ast.Return) and node.value else []
            values += node.args if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "event" else []
            texts = [each.value for each in values if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            found |= {text.strip() for text in texts if CODE.fullmatch(text.strip())}
    return found


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


@pytest.mark.parametrize("code", sorted(REMEDIES))
def test_a_remedy_is_one_short_line(code):
    assert remedy(code)
    assert "\n" not in remedy(code)
    assert len(remedy(code)) <= 110
