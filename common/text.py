"""Words for a terminal: numbers with their things, and words of others, from files or over the wire."""

MAX_TEXT = 200


def counted(number: int, thing: str) -> str:
    """Returns a number with its thing, such as `1 file` and `2 files`."""
    return f"{number} {thing}" + ("" if number == 1 else "s")


def clean_text(text: str, most: int | None = MAX_TEXT) -> str:
    """Returns at most `most` characters (None: all), what is not printable as `?`: no control character gets through.

    A text is one line afterwards, and cannot move the cursor, colour what follows or rename a window.
    """
    return "".join(each if each.isprintable() else "?" for each in text[:most])
