"""The coordinator: rounds, ledger, matrix, report, enrolment."""

RUNS_VARIABLE = "FEDGTV_RUNS"
"""Environment variable with the folder of all run folders; the ServerApp inherits it from the SuperLink."""
OBJECTS_VARIABLE = "FEDGTV_OBJECTS"
"""Environment variable with the folder of the contents of Flower's objects, for the SuperLink and the ServerApp."""
BODIES_VARIABLE = "FEDGTV_BODIES"
"""Environment variable with the folder that the gateway writes the bodies of calls to, for the SuperLink."""
