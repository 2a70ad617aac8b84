"""Draws docs/check-page.png: the check page of a site of phantoms, some of them spoilt, as a browser shows it.

Run, with Chromium installed (on Debian: apt-get install chromium): .venv/bin/python docs/check_page.py
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.check_page import write_check_page
from client.ingest import import_folder
from client.quality import check_site
from client.site import Site
from common.phantom import make_phantom
from common.phantom_dicom import write_phantom
from common.site_config import SiteConfig
from common.split import SplitConfig
from common.volume import read_nifti, write_nifti

NUM_CASES = 12
SCALE, CONTRAST = 0.75, 3.0
"""Coarser than a patient's scan, so that it takes a minute, and easy to see."""
SHOWN = "A-0004"
SIZE = (1400, 900)


def skip_slices(array):
    """A target drawn on every second slice only."""
    held = np.flatnonzero(array.any(axis=(1, 2)))
    array[held[1::2]] = 0
    return array


SPOILT = {
    "A-0002": ("label", lambda array: np.roll(array, array.shape[2] // 2, axis=2)),
    SHOWN: ("label", skip_slices),
    "A-0007": ("image", lambda array: array + np.int16(1024)),
    "A-0009": ("label", np.zeros_like),
}
"""What is done to image or label: the target beside the patient, with gaps, without rescale, empty."""


def make_site(folder):
    """Returns a site in `folder` with imported cases of three institutions, some of them spoilt."""
    for number in range(NUM_CASES):
        phantom = make_phantom("ABC"[number % 3], 100 + number, SCALE, CONTRAST)
        write_phantom(phantom, folder / "export" / f"{number:02d}", number)
    site = Site(SiteConfig(site="A", device="cpu"), folder)
    import_folder(folder / "export", site.cases_folder, site.config.ingest, site.config.site)
    for case_id, (name, change) in SPOILT.items():
        (path,) = (site.cases_folder / case_id).glob(f"{name}.nii.gz")
        volume = read_nifti(path)
        write_nifti(replace(volume, array=change(volume.array)), path)
    return site


def photograph(page, picture):
    """Writes what Chromium shows of the page at one case."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("chromium: not found; install it (on Debian: apt-get install chromium)")
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    options = ["--headless", "--disable-gpu", "--hide-scrollbars", f"--window-size={SIZE[0]},{SIZE[1]}"]
    address = f"{page.as_uri()}#case-{SHOWN}"
    subprocess.run([browser, *as_root, *options, f"--screenshot={picture}", address], check=True, capture_output=True)


def main():
    """Writes the picture."""
    with tempfile.TemporaryDirectory() as name:
        site = make_site(Path(name))
        page = site.state_folder / "check.html"
        write_check_page(check_site(site, SplitConfig()), site.config.site, page)
        photograph(page, Path(__file__).with_name("check-page.png"))


if __name__ == "__main__":
    main()
