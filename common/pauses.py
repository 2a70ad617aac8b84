"""How long whoever waits for something pauses between two looks: a share of the time for which nothing has happened."""

SHARE = 0.05
"""Of the quiet before a pause: a wait lasts a twentieth longer than what it waits for, on average half of that."""
LEAST = 0.1
"""Of the longest pause."""


def pause_s(longest_s: float, quiet_s: float) -> float:
    """Returns the pause after `quiet_s` in which nothing happened, between a tenth of `longest_s` and all of it."""
    return min(longest_s, max(LEAST * longest_s, SHARE * quiet_s))
