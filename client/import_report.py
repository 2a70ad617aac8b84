"""What became of an export, or would become of it: a line a case, for people and for scripts at the site."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from client.target import Found
from common.text import clean_text

Action = Literal["new", "changed", "unchanged", "removed", "refused"]
"""`removed`: taken out on purpose with `fedgtv-site remove`, and not brought back."""


def unexpected(error: Exception) -> str:
    """Returns why a file or case is refused that our own code stumbled over: the others shall still be imported."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"cannot be read ({reason}); expected files that can; report this, and leave it out"


@dataclass(frozen=True)
class CaseLine:
    """One case of an export and what is done with it."""

    name: str
    """Its folder, or the file of a structure set without a CT."""
    action: Action
    reason: str = ""
    """Why it is refused, or not brought back."""
    case_id: str = ""
    """Its pseudonym, as far as it has one."""
    images: str = ""
    """Such as `130 slices`."""
    structure_sets: tuple[str, ...] = ()
    """File names."""
    pairing: str = ""
    """How structure sets and CT were brought together."""
    found: Found = field(default_factory=Found)
    unread: Literal["", "damaged", "denied"] = ""
    """Not a case, but a file or folder that could not be read: it is damaged, or the system denies it."""


@dataclass(frozen=True)
class ImportReport:
    """All lines of an import; names are the export's own, so it stays on the site."""

    cases: tuple[CaseLine, ...]
    """Every case, and before them what could not be read, and every structure set or series without the other."""
    warnings: tuple[str, ...] = ()
    dry_run: bool = False
    """Nothing was written."""

    @property
    def imported(self) -> tuple[str, ...]:
        """Pseudonyms of new and changed cases; none in a dry run."""
        return () if self.dry_run else self._named("new", "changed")

    @property
    def skipped(self) -> tuple[str, ...]:
        """Pseudonyms of cases that have not changed since an earlier import."""
        return self._named("unchanged")

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """Folder (or file) and the reason, in one line."""
        return tuple((line.name, line.reason) for line in self.cases if line.action == "refused")

    @property
    def removed(self) -> tuple[str, ...]:
        """Pseudonyms of cases that were taken out on purpose."""
        return self._named("removed")

    @property
    def num_usable(self) -> int:
        """Cases that are in the data set now, or would be."""
        return len(self.cases) - len(self.refused) - len(self.removed)

    @property
    def unread(self) -> tuple[CaseLine, ...]:
        """Files and folders of the export that could not be read."""
        return tuple(line for line in self.cases if line.unread)

    def count(self, action: Action) -> int:
        """Returns how many cases have this action."""
        return sum(line.action == action for line in self.cases)

    def to_dict(self) -> Mapping[str, Any]:
        """Returns plain values for JSON."""
        totals = {"imported": self.imported, "skipped": self.skipped, "removed": self.removed, "refused": self.refused}
        return totals | asdict(self)

    def with_warnings(self, warnings: Sequence[str]) -> "ImportReport":
        """Returns the report with more warnings at its end."""
        return replace(self, warnings=(*self.warnings, *warnings))

    def in_brief(self) -> "ImportReport":
        """Returns the report with one line for all files of a folder that could not be read for the same reason."""
        alike: dict[tuple[str, str], list[CaseLine]] = {}
        for line in self.unread:
            alike.setdefault((line.name.rpartition("/")[0], line.reason), []).append(line)
        return replace(self, cases=(*(_summed(lines) for lines in alike.values()), *self._read))

    def for_terminal(self) -> "ImportReport":
        """Returns the report with all its texts as a terminal may show them: names and UIDs are those of files."""
        return replace(self, cases=_cleaned(self.cases), warnings=_cleaned(self.warnings))

    @property
    def _read(self) -> tuple[CaseLine, ...]:
        return tuple(line for line in self.cases if not line.unread)

    def _named(self, *actions: Action) -> tuple[str, ...]:
        return tuple(line.case_id for line in self.cases if line.action in actions)


def _summed(lines: Sequence[CaseLine]) -> CaseLine:
    """One line for lines of one folder and one reason."""
    first = lines[0]
    if len(lines) == 1:
        return first
    folder, _, name = first.name.rpartition("/")
    reason = f"{len(lines)} files, such as {name} (--list names all): {first.reason}"
    return replace(first, name=folder or "the export", reason=reason)


def _cleaned(value: Any) -> Any:
    """A text, or texts in tuples and dataclasses, without control characters; numbers as they are."""
    if isinstance(value, str):
        return clean_text(value, None)
    if isinstance(value, tuple):
        return tuple(_cleaned(each) for each in value)
    if isinstance(value, CaseLine | Found):
        return replace(value, **{each.name: _cleaned(getattr(value, each.name)) for each in fields(value)})
    return value
