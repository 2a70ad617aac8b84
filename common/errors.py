"""The errors a user can cause; each message names the thing, its value, what was expected and the remedy.

FedgtvError
├── InputError          exit code 2: what was given cannot be used
│   ├── ConfigError     a YAML field or option
│   ├── ImageError      an image, a DICOM series, a geometry
│   ├── LabelError      a contour or mask that cannot serve as the target
│   ├── CheckpointError weights of another network, or an unreadable file
│   ├── SiteError       a site that is named twice, unknown, or missing
│   └── TaskError       a task from a coordinator of another release
└── WorkError           exit code 1: the work itself failed
"""


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
    """A task cannot be read; the coordinator most likely runs another release."""

    code = "bad-task"


class WorkError(FedgtvError, RuntimeError):
    """The work failed although the input was good."""

    code = "work-failed"


INTERNAL = "internal"
"""The code of an exception that is none of ours."""
CODES = frozenset(
    kind.code
    for kind in (
        FedgtvError, InputError, ConfigError, ImageError, LabelError, CheckpointError, SiteError, TaskError, WorkError
    )
) | {INTERNAL}  # fmt: skip
"""All that a site says of its errors to the coordinator."""
