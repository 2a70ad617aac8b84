"""Import of phantom cases of 512 x 512 pixels and about 130 slices: time a case, by process, and peak memory.

Run by hand: OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/importing.py [--cases 6] [--processes 1 2]
Three phantoms are drawn, one an institution; further cases are copies of them with identifiers of their own. A case
takes 70 MB of disk as DICOM and up to 42 MB imported, all in a temporary folder. docs/performance.md shows 50 cases.
"""

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid

from client.exports import find_cases
from client.ingest import import_folder
from common.phantom import make_phantom
from common.phantom_dicom import write_phantom
from common.site_config import IngestConfig
from deploy.memory import PeakMemory

CONFIG = IngestConfig()
CONTRAST = IngestConfig(contrast=("^second",))


def copy_case(source, target, number):
    """Copies a case as another patient's: instances, series, study and frame of reference get UIDs of their own."""

    def renamed(_, element):
        if element.VR == "UI" and not element.keyword.endswith("ClassUID"):
            element.value = generate_uid(entropy_srcs=[str(number), element.value])

    target.mkdir(parents=True)
    for path in source.iterdir():
        dataset = dcmread(path)
        dataset.walk(renamed)
        dataset.PatientID = f"copy-{number}"
        dataset.save_as(target / f"{path.name[:2]}.{dataset.SOPInstanceUID}.dcm")


def add_contrast(folder):
    """Writes the case's CT once more, as a second series in its frame of reference."""
    second = folder.with_name(f"{folder.name}-second")
    second.mkdir()
    for path in folder.glob("CT*"):
        dataset = dcmread(path)
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["second", dataset.SeriesInstanceUID])
        dataset.SOPInstanceUID = generate_uid()
        dataset.SeriesDescription = "second"
        dataset.save_as(second / path.name)


def measure(export, cases, config, num_processes):
    """Imports an export and prints what it took."""
    shutil.rmtree(cases, ignore_errors=True)
    used = processor_s()
    start = time.perf_counter()
    with PeakMemory(lambda: (), every_s=0.2) as memory:
        report = import_folder(export, cases, config, "A", num_processes=num_processes)
    seconds, used = time.perf_counter() - start, processor_s() - used
    assert len(report.imported) == len(report.cases), report.refused
    number = len(report.imported)
    each = f"{seconds / number:.2f} s a case ({used / number:.2f} s of processor time)"
    gib = memory.peak_bytes / 2**30
    print(
        f"{number} cases ({report.cases[0].images}), {num_processes} processes: {seconds:.1f} s, {each}, {gib:.2f} GiB"
    )


def processor_s():
    """Returns the processor time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main():
    """Prints a line for each number of processes, one for cases of two images, and the time that headers take."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 1])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for number, institution in enumerate("ABC"):
            write_phantom(make_phantom(institution, 11), work / "drawn" / institution, number)
        for number in range(arguments.cases):
            copy_case(work / "drawn" / "ABC"[number % 3] / "dicom", work / "export" / f"case-{number:03d}", number)
        start = time.perf_counter()
        found = find_cases(work / "export", CONFIG)
        seconds, files = time.perf_counter() - start, sum(len(case.files) for case in found.cases)
        print(f"headers: {files} files in {seconds:.1f} s, {1000 * seconds / files:.2f} ms a file")
        for num_processes in arguments.processes:
            measure(work / "export", work / "cases", CONFIG, num_processes)
        shutil.rmtree(work / "export")
        copy_case(work / "drawn" / "A" / "dicom", work / "export" / "case", 0)
        add_contrast(work / "export" / "case")
        measure(work / "export", work / "cases", CONTRAST, 1)


if __name__ == "__main__":
    main()
