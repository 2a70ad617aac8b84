"""The coordinator: rounds, ledger, matrix, report, enrolment."""
