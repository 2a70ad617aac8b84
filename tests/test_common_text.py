"""Words of others for a terminal."""

from hypothesis import given
from hypothesis import strategies as st

from common.text import MAX_TEXT, clean_text


@given(st.text())
def test_a_cleaned_text_is_one_printable_line_and_stays_as_it_is(text):
    cleaned = clean_text(text, None)
    assert cleaned.isprintable()
    assert len(cleaned) == len(text)
    assert clean_text(cleaned, None) == cleaned
    assert len(clean_text(text)) == min(len(text), MAX_TEXT)


def test_what_is_printable_stays():
    assert clean_text("Tumör \u80bf\u7624 [b]\x1b[31m\udc80") == "Tumör \u80bf\u7624 [b]?[31m?"
