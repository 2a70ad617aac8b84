"""A coordinator's folder: `federation.yaml`, `pki/`, `superlink/` (database, enrolment, runs) and `gateway/`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from common.atomic import write_text_atomically
from common.enrolment import JoinRequest
from common.errors import ConfigError, InputError
from common.file_lock import is_held
from common.kit import Address, Kit, write_kit
from common.pem import pem_of
from common.settings import Frozen, Name, load_yaml, validate
from common.validity import warning
from server.certificate import read_certificates
from server.gateway import Gateway
from server.ledger_file import LEDGER, read_lines
from server.progress import describe
from server.provision import (
    Certificates,
    certificate_files,
    expiry,
    make_certificates,
    read_sites,
    renew_authority,
    renew_certificate,
)
from server.run_lock import LOCK
from server.superlink import Superlink
from server.wanted import WANTED, wanted

FILE = "federation.yaml"
RENEW = "run `fedgtv-coordinator renew`, then stop and start `up`"
RENEW_AUTHORITY = "run `fedgtv-coordinator renew --authority`, then stop and start `up`, and send the sites their kits"


class FederationConfig(Frozen):
    """What `init` writes."""

    address: Address
    """Where the sites reach the coordinator (its gateway)."""
    names: tuple[str, ...] = ()
    """Further names and IP addresses of the coordinator, for the certificate."""
    superlink_port: int = Field(default=0, ge=0, le=65535)
    """Of loopback, where the SuperLink listens behind the gateway; 0: any free one, and without a gateway the address's
    own."""

    @property
    def host(self) -> str:
        """The name or IP address alone."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port alone."""
        return int(self.address.rpartition(":")[2])

    @property
    def all_names(self) -> tuple[str, ...]:
        """Everything that the certificate names but loopback: the address's host first."""
        return (self.host, *self.names)


@dataclass(frozen=True)
class Federation:
    """One federation as its coordinator holds it."""

    folder: Path
    config: FederationConfig
    certificates: Certificates

    @classmethod
    def create(cls, folder: Path, address: str, names: Sequence[str] = ()) -> "Federation":
        """Makes authority, server certificate and configuration (InputError: a bad address or name, or one exists)."""
        config = validate({"address": address, "names": names}, FederationConfig, "init")
        if (folder / FILE).exists():
            raise ConfigError(f"{folder / FILE}: exists already; give another --folder, or keep this federation")
        certificates = make_certificates(folder / "pki", config.all_names)
        write_text_atomically(folder / FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        return cls(folder, config, certificates)

    @classmethod
    def open(cls, folder: Path) -> "Federation":
        """Returns the federation in `folder` (ConfigError: there is none; `init` makes one)."""
        if not (folder / FILE).exists():
            raise ConfigError(f"{folder}: holds no {FILE}; make one with `fedgtv-coordinator init`, or give --folder")
        return cls(folder, load_yaml(folder / FILE, FederationConfig), certificate_files(folder / "pki"))

    def superlink(self, port: int = 0) -> Superlink:
        """Returns the federation's SuperLink on `port` of loopback (0: as configured); not started by this."""
        port = port or self.config.superlink_port or self.config.port
        return Superlink(self.folder / "superlink", self.certificates, port)

    def gateway(self, superlink: Superlink) -> Gateway:
        """Returns the gateway before `superlink`; not started by this."""
        config = self.config
        return Gateway(self.folder / "gateway", self.certificates, config.all_names, config.port, superlink.upstream)

    def renew(self) -> datetime:
        """Replaces the server certificate by one for the configured names, and returns when that expires (UTC).

        No site notices; `up` takes it up when it is started again.

        Raises:
            InputError: the authority's files are missing, damaged or expired; the old certificate stands.
        """
        renew_certificate(self.certificates.authority.parent, self.config.all_names)
        return expiry(self.certificates.certificate)

    def renew_authority(self) -> list[Path]:
        """Renews the authority and the server certificate, and returns every site's new kit.

        The sites stay enrolled, and those with the old kit are served until the old authority's last day.

        Raises:
            InputError: the authority's files are missing or damaged; the old certificates stand.
        """
        renew_authority(self.certificates.authority.parent)
        self.renew()
        folder = self.folder / "kits"
        folder.mkdir(exist_ok=True)
        kits = {folder / f"{site}.kit.json": self._kit(site) for site in read_sites(self.superlink().sites_file)}
        for path, kit in kits.items():
            write_kit(kit, path)
        return list(kits)

    def valid_until(self) -> dict[str, str]:
        """Returns the last day (UTC) of the server certificate and of the authority."""
        return {what: f"{expiry(path):%Y-%m-%d}" for what, path, _ in self._certificates()}

    def warnings(self) -> list[str]:
        """What is to be said of the certificates: nothing while both are valid for more than 30 days."""
        due = [warning(what, expiry(path), remedy) for what, path, remedy in self._certificates()]
        return [line for line in due if line]

    def _certificates(self) -> list[tuple[str, Path, str]]:
        files = self.certificates
        return [("server certificate", files.certificate, RENEW), ("authority", files.authority, RENEW_AUTHORITY)]

    def enrol(self, request: JoinRequest, out: Path | None = None) -> Path:
        """Registers a site with the running SuperLink and returns the path of its kit.

        For a site that is enrolled with this very key, the kit alone is written again.

        Raises:
            ConfigError: `out` lies in no folder; the site is not registered then.
            InputError: the authority's certificate cannot be read; nor is it then.
            SiteError: the site's name or key is enrolled already.
            WorkError: the coordinator is not up.
        """
        path = out or Path(f"{request.site}.kit.json")
        if not path.parent.is_dir():
            raise ConfigError(f"--out: {path.parent} is no folder; make it, or give another place for the kit")
        kit, superlink = self._kit(request.site), self.superlink()
        known = read_sites(superlink.sites_file).get(request.site)
        if known is None or known.fingerprint != request.fingerprint:
            superlink.enrol(request)
        write_kit(kit, path)
        return path

    def progress(self) -> dict[str, str]:
        """Returns for each run the last thing that its ledger tells, or which line of that is broken."""
        runs = self.superlink().runs_folder
        folders = {path.parent for pattern in (f"*/{LEDGER}", f"*/{WANTED}") for path in runs.glob(pattern)}
        return {folder.name: _told(folder) for folder in sorted(folders)}

    def connections(self) -> dict[str, str]:
        """Returns for each enrolled site whether it is online, offline, or was never seen (`registered`)."""
        superlink = self.superlink()
        states = superlink.control.nodes()
        return {
            name: states.get(site.node_id, "unknown") for name, site in sorted(read_sites(superlink.sites_file).items())
        }

    def _kit(self, site: str) -> Kit:
        authority = pem_of(read_certificates(self.certificates.authority))
        return Kit(site=site, coordinator=self.config.address, authority=authority)


def check_run_name(name: str) -> str:
    """Returns a run's name, which becomes a folder's (ConfigError: it cannot)."""
    try:
        return str(TypeAdapter(Name).validate_python(name))
    except ValidationError as error:
        raise ConfigError(f"--name: {name!r} is no name; use up to 63 letters, digits, _, . and -") from error


def _told(run_folder: Path) -> str:
    try:
        records = read_lines(run_folder / LEDGER)
    except InputError as error:  # of one run of many
        return str(error)
    lines = [line for record in records if (line := describe(record))]
    told = lines[-1].strip() if lines else "nothing yet"
    settled = bool(records) and records[-1]["kind"] in ("end", "failed")
    if not records or settled or wanted(run_folder) or is_held(run_folder / LOCK):
        return told
    return f"stopped; the same `run` goes on with it; last: {told}"
