"""One scan or many, one after the other: what is done is not done again, and one that fails does not stop the rest."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from client.scans import Scan
from client.segment import Segmenter
from common.errors import FedgtvError

log = logging.getLogger("fedgtv.site")


@dataclass(frozen=True)
class ScanReport:
    """What became of one scan."""

    scan: str
    status: Literal["done", "unchanged", "failed"]
    volume_ml: float = 0.0
    flags: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    reason: str = ""
    """Why it failed, in one line."""

    def as_json(self) -> dict[str, Any]:
        """Returns plain values: a failed scan has a reason, another one volume, flags and files."""
        told = {"scan": self.scan, "status": self.status}
        if self.status == "failed":
            return told | {"reason": self.reason}
        files = [str(path) for path in self.files]
        return told | {"volume_ml": self.volume_ml, "flags": list(self.flags), "files": files}


def segment_one(scan: Scan, segmenter: Segmenter, out: Path, again: bool = False) -> ScanReport:
    """Returns what became of a scan whose results go to `out` itself (FedgtvError: it failed).

    Args:
        scan: what to segment.
        segmenter: with which model.
        out: where the results go.
        again: also if the same release has done it before, the same scan with the same model.
    """
    earlier = None if again else segmenter.earlier(scan, out)
    outcome = earlier or segmenter.run(scan, out)
    status: Literal["done", "unchanged"] = "unchanged" if earlier else "done"
    return ScanReport(str(scan.name), status, outcome.volume_ml, outcome.flags, outcome.files)


def segment_all(
    scans: Sequence[Scan],
    segmenter: Segmenter,
    out: Path,
    again: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[ScanReport]:
    """Gives a report a scan, as it gets done; each has its own folder below `out`. `progress` hears done and total."""
    for number, scan in enumerate(scans):
        progress(number, len(scans))
        yield _guarded(scan, segmenter, out / scan.name, again)
    progress(len(scans), len(scans))


def _guarded(scan: Scan, segmenter: Segmenter, out: Path, again: bool) -> ScanReport:
    """Returns what became of one of many, also where it failed."""
    try:
        return segment_one(scan, segmenter, out, again)
    except FedgtvError as error:
        return ScanReport(str(scan.name), "failed", reason=str(error))
    except Exception as error:
        log.exception("scan %s failed", scan.name)
        return ScanReport(str(scan.name), "failed", reason=" ".join(f"{type(error).__name__}: {error}".split()))
