"""What was measured of each case, kept at the site: measured once, and compared without measuring again.

FOLDER/<digest of the model>/<name of the prepared case>, JSON of a few hundred bytes each. The digest changes with the
weights as they came, the recipe and the normalisation (`common/digest.py`), the case's name with its files. Where the
site's own layers take the place of some weights, the file says which, and others are measured anew. No case's numbers
leave from here: `client/comparing.py` tells what is made of them.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from client.cases import OpenCase
from common.atomic import write_text_atomically
from common.metrics import CaseMetrics
from common.private import private_folder, private_mode
from common.settings import Frozen

RESULTS = "results"
"""Below the folder of prepared cases."""


@dataclass(frozen=True)
class MeasuredCase:
    """One case, measured with one model."""

    metrics: CaseMetrics
    is_empty: bool
    """Whether the model found nothing."""
    truth_metrics: CaseMetrics | None = None
    """Against a phantom's true tumour; None where the case has none."""


class _Kept(Frozen):
    """One file; a distance that is undefined is null."""

    layers: str
    """Digest of the site's own layers in the model."""
    is_empty: bool
    metrics: dict[str, float | None]
    truth_metrics: dict[str, float | None] | None = None


class KeptResults:
    """Those of one model."""

    def __init__(self, folder: Path, digest: str, layers: str | None = None) -> None:
        """Takes where they lie.

        Args:
            folder: of all models' results.
            digest: the model's.
            layers: digest of the site's own layers that it is measured with; None: whichever were last.
        """
        self._root = folder
        self._digest = digest
        self._layers = layers

    def find(self, case: OpenCase) -> MeasuredCase | None:
        """Returns what is kept of a case; None where that is nothing, damaged, or of other layers."""
        try:
            kept = _Kept.model_validate_json(self._path(case).read_bytes())
            metrics = _read(kept.metrics)
            truth_metrics = None if kept.truth_metrics is None else _read(kept.truth_metrics)
        except (OSError, ValidationError, TypeError):  # the last of other metrics than this release's
            return None
        return MeasuredCase(metrics, kept.is_empty, truth_metrics) if self._layers in (None, kept.layers) else None

    def save(self, case: OpenCase, measured: MeasuredCase) -> None:
        """Writes what was measured of a case (OSError: the disk is full or not writable)."""
        kept = _Kept(
            layers=self._layers or "",
            is_empty=measured.is_empty,
            metrics=_written(measured.metrics),
            truth_metrics=None if measured.truth_metrics is None else _written(measured.truth_metrics),
        )
        folder = private_folder(private_folder(self._root) / self._digest)
        text = kept.model_dump_json()
        write_text_atomically(folder / case.cached.folder.name, text, private_mode(folder), durable=False)

    def _path(self, case: OpenCase) -> Path:
        return self._root / self._digest / case.cached.folder.name


def _written(metrics: CaseMetrics) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in asdict(metrics).items()}


def _read(values: dict[str, float | None]) -> CaseMetrics:
    """Raises TypeError if they are other metrics than this release's."""
    return CaseMetrics(**{name: math.nan if value is None else value for name, value in values.items()})
