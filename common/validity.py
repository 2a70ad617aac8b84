"""How long a certificate is still valid, and when to say so: from 30 days on, sharper at 7 days and at 1."""

from datetime import UTC, datetime, timedelta

STAGES_DAYS = (30, 7, 1)
"""A warning is due from each of these on, and again when the next is reached."""


def stage(until: datetime, now: datetime | None = None) -> int:
    """Returns how many of the warnings are due: 0 (more than 30 days left) to 3 (less than a day, or expired)."""
    left = until - (now or datetime.now(UTC))
    return sum(left <= timedelta(days=days) for days in STAGES_DAYS)


def warning(what: str, until: datetime, remedy: str, now: datetime | None = None) -> str | None:
    """Returns a line such as `server certificate: 6 days left, until 2027-01-02; REMEDY`; None while none is due."""
    now = now or datetime.now(UTC)
    if not stage(until, now):
        return None
    left = until - now
    told = f"{left.days} days left, until" if left.days > 1 else "ends within two days, on"
    told = "less than a day left, until" if left <= timedelta(days=1) else told
    told = "expired on" if left <= timedelta() else told
    return f"{what}: {told} {until:%Y-%m-%d %H:%M} UTC; {remedy}"
