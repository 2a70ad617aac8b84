"""Starts Flower's SuperLink with a database that waits for its turn.

Flower 1.41 gives SQLite 5 s to get a lock and answers 500 after that, which ends the ServerApp or its launcher, and the
run with it. Seen on a busy machine with three sites. The symbol is private: a contract test guards it.
"""

from flwr.supercore import sql_mixin

BUSY_TIMEOUT_MS = 120_000
SYMBOL = "SQLITE_PRAGMAS"


def patient_pragmas(pragmas: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Returns the settings with the time that SQLite waits for a lock raised to `BUSY_TIMEOUT_MS`."""
    return tuple((name, str(BUSY_TIMEOUT_MS) if name == "busy_timeout" else value) for name, value in pragmas)


def main() -> None:
    """Flower's own command, with its own arguments."""
    from flwr.superlink.cli import flower_superlink

    vars(sql_mixin)[SYMBOL] = patient_pragmas(vars(sql_mixin)[SYMBOL])
    flower_superlink()


if __name__ == "__main__":
    main()
