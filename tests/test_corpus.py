"""Bad and odd inputs, through the real import: each gives the right case, or one clear line and nothing written."""

import numpy as np
import pytest
from corpus import ct, folders, niftis, structures

from client.ingest import import_folder
from client.quality import check_site
from client.site import Site
from common.errors import FedgtvError
from common.split import SplitConfig
from common.volume import Volume, read_nifti, to_lps

CORPUS = [*ct.ENTRIES, *structures.ENTRIES, *niftis.ENTRIES, *folders.ENTRIES]


def test_the_corpus_is_large_and_names_everything_once():
    names = [entry.name for entry in CORPUS]
    assert len(names) >= 60
    assert len(set(names)) == len(names)


def run(entry, folder):
    """Returns the case expected, and pseudonyms, refusals and warnings; an error is a refusal too."""
    (folder / "export").mkdir()
    expected = entry.make(folder / "export")
    try:
        report = import_folder(folder / "export", folder / "cases", entry.config, "A")
    except FedgtvError as error:
        return expected, (), [str(error)], []
    return expected, report.imported, [": ".join(pair) for pair in report.refused], list(report.warnings)


def assert_lines(lines, words):
    """One clear line for each of the words that is not empty, in this order."""
    for line, expected in zip(lines, filter(None, words), strict=True):
        assert expected in line
        assert "\n" not in line
        assert "; " in line, "no remedy"
        assert "Traceback" not in line
        assert "Fictional" not in line


@pytest.mark.parametrize("entry", [entry for entry in CORPUS if entry.refused], ids=lambda entry: entry.name)
def test_a_bad_input_gives_one_clear_line_and_nothing_written(tmp_path, capfd, entry):
    _, imported, refused, warnings = run(entry, tmp_path)
    assert imported == ()
    for lines, words in ((refused, [entry.beside, entry.refused]), (warnings, [entry.warned])):
        assert_lines(lines, words)
    assert not (tmp_path / "cases").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("entry", [entry for entry in CORPUS if not entry.refused], ids=lambda entry: entry.name)
def test_an_odd_input_gives_the_right_case(tmp_path, capfd, entry):
    expected, imported, refused, warnings = run(entry, tmp_path)
    for lines, words in ((refused, [entry.beside]), (warnings, [entry.warned])):
        assert_lines(lines, words)
    assert imported == ("A-0001",)
    image, label = (read_nifti(tmp_path / "cases" / "A-0001" / f"{name}.nii.gz") for name in ("image", "label"))
    assert image.geometry.matches(label.geometry)
    for read, array in ((image, expected.hu), (label, expected.mask)):
        found, there = to_lps(read), to_lps(Volume(array, expected.geometry))
        assert found.geometry.matches(there.geometry, tolerance_mm=0.06)
        np.testing.assert_array_equal(found.array, there.array)
    assert capfd.readouterr() == ("", "")
    if entry.checked:
        (tmp_path / "site.yaml").write_text("{site: A, device: cpu}")
        findings = check_site(Site.open(tmp_path / "site.yaml"), SplitConfig()).findings
        assert any(entry.checked in finding.what for finding in findings if finding.severity == "error")
