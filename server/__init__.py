"""The coordinator: rounds, ledger, matrix, report, enrolment."""

RUN_KEY = "run"
"""The one key of a run's configuration (`server.app` parses it); Flower takes no key that the bundle does not name."""
RUNS_VARIABLE = "FEDGTV_RUNS"
"""Environment variable with the folder of all run folders; the ServerApp inherits it from the SuperLink."""
