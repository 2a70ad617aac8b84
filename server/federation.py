"""A coordinator's folder: `federation.yaml`, `pki/` and `superlink/` (database, enrolment, runs)."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from common.atomic import write_text_atomically
from common.config import Frozen, Name, load_yaml, validate
from common.enrolment import JoinRequest
from common.errors import ConfigError
from common.kit import Address, Kit, write_kit
from server.progress import describe
from server.provision import (
    Certificates,
    certificate_files,
    expiry,
    make_certificates,
    read_sites,
    renew_certificate,
)
from server.superlink import Superlink

FILE = "federation.yaml"
LEDGERS = "*/ledger.jsonl"


class FederationConfig(Frozen):
    """What `init` writes."""

    address: Address
    """Where the sites reach the coordinator (its gateway)."""

    @property
    def host(self) -> str:
        """The name or IP address alone."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port alone; the SuperLink listens on the same port of loopback."""
        return int(self.address.rpartition(":")[2])


@dataclass(frozen=True)
class Federation:
    """One federation as its coordinator holds it."""

    folder: Path
    config: FederationConfig
    certificates: Certificates

    @classmethod
    def create(cls, folder: Path, address: str) -> "Federation":
        """Makes authority, server certificate and configuration (ConfigError: a bad address, or one exists)."""
        config = validate({"address": address}, FederationConfig, "init")
        if (folder / FILE).exists():
            raise ConfigError(f"{folder / FILE}: exists already; give another --folder, or keep this federation")
        certificates = make_certificates(folder / "pki", [config.host])
        write_text_atomically(folder / FILE, yaml.safe_dump(config.model_dump()))
        return cls(folder, config, certificates)

    @classmethod
    def open(cls, folder: Path) -> "Federation":
        """Returns the federation in `folder` (ConfigError: there is none; `init` makes one)."""
        if not (folder / FILE).exists():
            raise ConfigError(f"{folder}: holds no {FILE}; make one with `fedgtv-coordinator init`, or give --folder")
        return cls(folder, load_yaml(folder / FILE, FederationConfig), certificate_files(folder / "pki"))

    def superlink(self) -> Superlink:
        """Returns the federation's SuperLink; not started by this."""
        return Superlink(self.folder / "superlink", self.certificates, self.config.port)

    def renew(self) -> datetime:
        """Replaces the server certificate by one for the configured address, and returns when that expires (UTC).

        No site notices; the SuperLink takes it up when it is started again.

        Raises:
            InputError: the authority's files are missing, damaged or expired; the old certificate stands.
        """
        renew_certificate(self.certificates.authority.parent, [self.config.host])
        return expiry(self.certificates.certificate)

    def enrol(self, request: JoinRequest, out: Path | None = None) -> Path:
        """Registers a site with the running SuperLink and returns the path of its kit.

        For a site that is enrolled with this very key, the kit alone is written again.

        Raises:
            ConfigError: `out` lies in no folder; the site is not registered then.
            SiteError: the site's name or key is enrolled already.
            WorkError: the coordinator is not up.
        """
        path = out or Path(f"{request.site}.kit.json")
        if not path.parent.is_dir():
            raise ConfigError(f"--out: {path.parent} is no folder; make it, or give another place for the kit")
        superlink = self.superlink()
        known = read_sites(superlink.sites_file).get(request.site)
        if known is None or known.fingerprint != request.fingerprint:
            superlink.enrol(request)
        kit = Kit(site=request.site, coordinator=self.config.address, authority=self.certificates.authority.read_text())
        write_kit(kit, path)
        return path

    def progress(self) -> dict[str, str]:
        """Returns for each run the last thing that its ledger tells; a line still being written does not count."""
        return {path.parent.name: _last_told(path) for path in sorted(self.superlink().runs_folder.glob(LEDGERS))}

    def connections(self) -> dict[str, str]:
        """Returns for each enrolled site whether it is online, offline, or was never seen (`registered`)."""
        superlink = self.superlink()
        states = superlink.control.nodes()
        return {
            name: states.get(site.node_id, "unknown") for name, site in sorted(read_sites(superlink.sites_file).items())
        }


def check_run_name(name: str) -> str:
    """Returns a run's name, which becomes a folder's (ConfigError: it cannot)."""
    try:
        return str(TypeAdapter(Name).validate_python(name))
    except ValidationError as error:
        raise ConfigError(f"--name: {name!r} is no name; use up to 63 letters, digits, _, . and -") from error


def _last_told(ledger: Path) -> str:
    whole = ledger.read_text(encoding="utf-8").rpartition("\n")[0]
    told = [line for record in whole.splitlines() if (line := describe(json.loads(record)))]
    return told[-1].strip() if told else "nothing yet"
