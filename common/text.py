"""Words of others, from files or over the wire, as a terminal may show them."""

MAX_TEXT = 200


def clean_text(text: str, most: int | None = MAX_TEXT) -> str:
    """Returns at most `most` characters (None: all), what is not printable as `?`: no control character gets through.

    A text is one line afterwards, and cannot move the cursor, colour what follows or rename a window.
    """
    return "".join(each if each.isprintable() else "?" for each in text[:most])
