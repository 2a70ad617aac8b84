"""The demo's acts, each through the function that the product's own command calls."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from client.check_page import write_check_page
from client.keys import key_files, make_key
from client.model_package import read_model
from client.node import SiteNode
from client.quality import check_site
from client.segment import segment_scan
from client.site import Site
from common.atomic import write_bytes_atomically, write_text_atomically
from common.dicom import read_ct_series
from common.enrolment import read_join_request
from common.errors import ConfigError, WorkError
from common.experiment import Experiment
from common.kit import read_kit
from common.metrics import case_metrics
from common.phantom import make_phantom
from common.phantom_dicom import write_phantom
from common.pictures import overlay_png
from common.processes import free_port
from common.volume import read_nifti, to_lps
from deploy.cohorts import exports_folder, prepare_site, write_exports
from deploy.memory import PeakMemory
from server.federation import FILE, Federation
from server.gateway import nginx_path
from server.launch import launch
from server.matrix_text import matrix_text
from server.progress import describe
from server.provision import read_sites
from server.report import write_report
from server.superlink import Superlink

NEW_PATIENT_SEED = 990_001
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Three sites share this machine's cores: threads of one process that wait for each other slow all down."""
ONLINE_S = 90.0


class Showcase:
    """A federation of the experiment's sites on loopback, below one folder."""

    def __init__(self, experiment: Experiment, folder: Path, console: Console) -> None:
        self.experiment = experiment
        self.folder = folder
        self.console = console
        self.configs: dict[str, Path] = {}
        self.nodes: dict[str, SiteNode] = {}
        self.superlink: Superlink | None = None
        self.peak_gb = 0.0

    def run(self) -> None:
        """Plays all acts; what an interrupted demo has done already is kept.

        Raises:
            ConfigError: the experiment is not over phantoms, or has no `train` step.
            FedgtvError: an act failed; the message says why.
        """
        if self.experiment.simulation.source != "phantoms" or not any(s.kind == "train" for s in self.experiment.steps):
            raise ConfigError(f"{self.experiment.name}: a demo needs phantoms and a `train` step; see demo.yaml")
        with ExitStack() as stack:
            memory = stack.enter_context(PeakMemory(self._members))
            self._import()
            self._check()
            run_folder = self._federate(self._provision())
            self._segment(run_folder)
        self.peak_gb = memory.peak_bytes / 1e9
        self._conclude(run_folder)

    def _federate(self, federation: Federation) -> Path:
        with ExitStack() as stack:
            with_gateway = nginx_path() is not None
            self.superlink = superlink = federation.superlink(free_port() if with_gateway else 0)
            superlink.environment = ONE_THREAD
            with self._act("SuperLink and SuperNodes, TLS and node authentication"):
                stack.enter_context(superlink)
                if with_gateway:
                    stack.enter_context(federation.gateway(superlink))
                self._say(f"the sites call {'nginx, the gateway' if with_gateway else 'the SuperLink: no nginx here'}")
                self._join(federation, superlink, stack)
            return self._train(superlink, federation.config.address)

    @contextmanager
    def _act(self, title: str) -> Iterator[None]:
        started = time.monotonic()
        self.console.print(f"[bold]{title}[/]")
        with self.console.status(title):
            yield
        self.console.print(f"  {time.monotonic() - started:.0f} s", style="dim")

    def _import(self) -> None:
        exports = exports_folder(self.experiment, self.folder)
        if self.experiment.simulation.source == "phantoms":
            with self._act("Phantoms of three institutions, written as DICOM CT + RTSTRUCT"):
                write_exports(self.experiment, exports, self._say)
        with self._act("Import at each hospital"):
            for site in self.experiment.sites:
                folder = self.folder / "sites" / site
                self.configs[site] = prepare_site(
                    site, self.experiment, exports / site, folder, self._say, num_threads=1
                )

    def _check(self) -> None:
        with self._act("Pre-flight check at each hospital"):
            for site, path in self.configs.items():
                found = check_site(Site.open(path), self.experiment.split, self.experiment.recipe)
                page = path.parent / "state" / "check.html"
                write_check_page(found, site, page)
                if found.count("error"):
                    first = found.findings[-found.count("error")]
                    raise WorkError(f"site {site}: {first.subject}: {first.what}; {first.remedy}")
                kinds = Counter(finding.check for finding in found.findings if finding.severity == "warning")
                warnings = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
                self._say(f"site {site}: no error; warnings: {warnings or 'none'}; pictures: {page}")

    def _provision(self) -> Federation:
        with self._act("Certificates, and a key pair at each hospital"):
            folder = self.folder / "federation"
            if (folder / FILE).exists() and self._all_enrolled(folder):
                return Federation.open(folder)
            shutil.rmtree(folder, ignore_errors=True)  # stopped before all had joined: nothing was trained yet
            for site, path in self.configs.items():
                if not key_files(site, path.parent / "keys").private.exists():
                    make_key(site, path.parent / "keys")
            return Federation.create(folder, f"localhost:{free_port()}")

    def _all_enrolled(self, folder: Path) -> bool:
        known = read_sites(folder / "superlink" / "sites.json")
        return all(site in known and (path.parent / f"{site}.kit.json").exists() for site, path in self.configs.items())

    def _join(self, federation: Federation, superlink: Superlink, stack: ExitStack) -> None:
        for site, path in self.configs.items():
            home, key = path.parent, key_files(site, path.parent / "keys")
            if site not in read_sites(superlink.sites_file):
                federation.enrol(read_join_request(key.request), home / f"{site}.kit.json")
            kit = read_kit(home / f"{site}.kit.json")
            authority = home / "authority.crt"
            write_text_atomically(authority, kit.authority)
            node = SiteNode(
                site, home / "node", kit.coordinator, authority, key.private, path.resolve(), environment=ONE_THREAD
            )
            self.nodes[site] = stack.enter_context(node)
        for site, node in self.nodes.items():
            node.wait_online(ONLINE_S)
            self._say(f"site {site} is online")

    def _train(self, superlink: Superlink, coordinator: str) -> Path:
        self.console.print("[bold]Federation[/]")
        with self.console.status("the coordinator starts") as spinner:

            def wait() -> None:
                superlink.keep_up()
                spinner.update(self._activity() or "waiting for the sites")

            return launch(
                superlink.control,
                superlink.folder,
                self.experiment,
                self.experiment.name,
                self._tell,
                wait,
                coordinator,
            )

    def _segment(self, run_folder: Path) -> None:
        with self._act("A new patient, unknown to every site, segmented by the federated model"):
            folder = self.folder / "new-patient"
            simulation = self.experiment.simulation
            if not (folder / "case").exists():
                phantom = make_phantom("A", NEW_PATIENT_SEED, simulation.scale, simulation.contrast)
                write_phantom(phantom, folder / "case", 1)
            first = self._federated()
            model = read_model(run_folder / "models" / f"{first}.safetensors")
            outcome = segment_scan(folder / "case" / "dicom", model, folder / "result", "cpu")
            self._say(f"{outcome.volume_ml:.1f} ml, DSC {self._dsc(folder):.3f} against the true mask")
            self._draw_truth(folder)
            for path in outcome.files:
                self._say(str(path))

    @staticmethod
    def _draw_truth(folder: Path) -> None:
        """Draws the picture anew with the phantom's true tumour in it, which no real patient has."""
        volumes = [read_ct_series(folder / "case" / "dicom").volume]
        volumes += [read_nifti(path) for path in (folder / "case/truth.nii.gz", folder / "result/mask.nii.gz")]
        image, truth, mask = (to_lps(volume) for volume in volumes)
        picture = overlay_png(
            image.array, image.geometry.spacing_mm, truth.array > 0, mask.array > 0, "new patient: truth and prediction"
        )
        write_bytes_atomically(folder / "result" / "overlay.png", picture)

    def _federated(self) -> str:
        """The experiment's first federated model."""
        return next(step.model for step in self.experiment.steps if step.kind == "train")

    @staticmethod
    def _dsc(folder: Path) -> float:
        truth, mask = read_nifti(folder / "case" / "truth.nii.gz"), read_nifti(folder / "result" / "mask.nii.gz")
        return case_metrics(np.asarray(mask.array) > 0, np.asarray(truth.array) > 0, truth.geometry.spacing_mm).dsc

    def _conclude(self, run_folder: Path) -> None:
        report = write_report(run_folder)
        self.console.print()
        self.console.print(matrix_text(run_folder))
        for title, path in [
            ("report", report),
            ("models", run_folder / "models"),
            ("ledger", run_folder / "ledger.jsonl"),
            ("hospitals", self.folder / "sites"),
            ("new patient", self.folder / "new-patient" / "result"),
        ]:
            self.console.print(f"{title + ':':13} {path}", soft_wrap=True)

    def _members(self) -> list[int]:
        """The federation's processes, also those whose parent has died."""
        ours = self.superlink.members() if self.superlink else []
        return ours + [process_id for node in list(self.nodes.values()) for process_id in node.tree.members()]

    def _activity(self) -> str:
        """The last thing that each site has logged about its training."""
        lines = []
        for site, node in self.nodes.items():
            size = node.tree.log_size()
            told = [line for line in node.tree.tail(max(0, size - 4000)).splitlines() if "fedgtv.site" in line]
            if told:
                lines.append(f"{site}: {told[-1].rpartition('fedgtv.site')[2].strip()}")
        return " | ".join(lines)

    def _tell(self, record: dict[str, Any]) -> None:
        line = describe(record)
        if line:
            self.console.print(line, highlight=False)

    def _say(self, line: str) -> None:
        self.console.print(f"  {line}", highlight=False, soft_wrap=True)
