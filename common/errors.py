"""The errors a user can cause; each message names the thing, its value, what was expected and the remedy.

FedgtvError
├── InputError          exit code 2: what was given cannot be used
│   ├── ConfigError     a YAML field or option
│   ├── ImageError      an image, a DICOM series, a geometry
│   ├── LabelError      a contour or mask that cannot serve as the target
│   ├── CheckpointError weights of another network, or an unreadable file
│   ├── SiteError       a site that is named twice, unknown, or missing
│   ├── TaskError       a task that cannot be read
│   │   └── ReleaseError  a task from a coordinator of another release
│   ├── ApprovalError   code that this site has not approved
│   └── PolicyError     what the site's policy does not allow
├── AuditError          exit code 1: the audit log cannot be written, or has been changed
└── WorkError           exit code 1: the work itself failed
    ├── OutOfMemoryError  a GPU, or the machine, has no memory left for it
    ├── DiskFullError     there is no room for what must be written
    ├── WorkerLostError   the process that did it has ended without an answer
    ├── LeftOffError      work that nobody waits for any more
    ├── NoCasesError      no case is left to train on
    └── NoResultsError    what is to be compared was not measured here
"""

from typing import ClassVar, Self


class FedgtvError(Exception):
    """Base of every error that a command prints as one line."""

    exit_code = 1
    code = "failed"


class InputError(FedgtvError, ValueError):
    """What the user gave cannot be used; nothing was written."""

    exit_code = 2
    code = "bad-input"


class ConfigError(InputError):
    """A configuration field or option is unknown, missing or out of range."""

    code = "bad-config"


class ImageError(InputError):
    """An image cannot be read as a CT volume."""

    code = "bad-image"


class LabelError(InputError):
    """A contour or mask cannot serve as the target of its image."""

    code = "bad-label"


class CheckpointError(InputError):
    """A weights file is unreadable or belongs to another network."""

    code = "bad-checkpoint"


class SiteError(InputError):
    """A site is named twice, unknown or missing."""

    code = "bad-site"


class TaskError(InputError):
    """A task cannot be read, or its weights cannot be used."""

    code = "bad-task"


class ReleaseError(TaskError):
    """A task from an older or a newer release."""

    code = "other-release"


class _Coded:
    """A kind of refusal that has several codes."""

    code: str
    codes: ClassVar[frozenset[str]]

    @classmethod
    def of(cls, code: str, message: str) -> Self:
        """Returns the error with one of its `codes`."""
        assert code in cls.codes, code
        error = cls(message)  # type: ignore[call-arg]
        error.code = code
        return error


class ApprovalError(_Coded, InputError):
    """A bundle of code that may not run here: not approved, not what it claims to be, or no decent archive."""

    code = "unapproved-code"
    codes = frozenset({"unapproved-code", "tampered-code", "hostile-code"})


class PolicyError(_Coded, InputError):
    """What the site's policy does not allow: a kind of task, more rounds or epochs, these hours, this disk, a reply."""

    code = "policy-reply"
    codes = frozenset(f"policy-{what}" for what in ("task", "rounds", "epochs", "hours", "disk", "epsilon", "reply"))


class WorkError(FedgtvError, RuntimeError):
    """The work failed although the input was good."""

    code = "work-failed"


class OutOfMemoryError(WorkError):
    """A GPU, or the machine, has no memory left for the work."""

    code = "out-of-memory"


class DiskFullError(WorkError):
    """There is no room on the disk for what must be written."""

    code = "disk-full"


class WorkerLostError(WorkError):
    """The process that did the work has ended without an answer."""

    code = "worker-lost"


class LeftOffError(WorkError):
    """Work that nobody waits for any more was left off; what was done is kept."""

    code = "left-off"


class NoCasesError(WorkError):
    """No case is left to train on."""

    code = "no-cases"


class NoResultsError(WorkError):
    """What is to be compared was not measured here, or was measured with other weights or cases."""

    code = "no-results"


class AuditError(FedgtvError):
    """The audit log cannot be written, or has been changed: a site that cannot prove what it does does nothing."""

    code = "audit"


INTERNAL = "internal"
"""The code of an exception that is none of ours."""
CRASHED = "crashed"
"""The code for a site whose process ended without an answer, or could not load the code."""
CODES = frozenset(
    kind.code
    for kind in (
        FedgtvError, InputError, ConfigError, ImageError, LabelError, CheckpointError, SiteError, TaskError,
        ReleaseError, AuditError, WorkError, OutOfMemoryError, DiskFullError, WorkerLostError, LeftOffError,
        NoCasesError, NoResultsError,
    )
) | ApprovalError.codes | PolicyError.codes | {INTERNAL, CRASHED}  # fmt: skip
"""All that a site says of its errors to the coordinator."""
