"""Images built and entered without a Docker daemon: buildah, as root, in a chroot and on this machine's own network."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

MARK = "FEDGTV_IMAGE_TEST"
BASE = "localhost/fedgtv-base"
PACKAGES = "python3,python3-venv,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def call(*command, **options):
    """Returns what a command prints; its own words end the test if it fails."""
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def need_tools():
    """Installs what is missing; on Debian, as root."""
    if not all(shutil.which(name) for name in ("buildah", "podman", "debootstrap")):
        call("apt-get", "update", "-qq")
        call("apt-get", "install", "-y", "-qq", "--no-install-recommends", "buildah", "podman", "debootstrap")


def make_base():
    """Returns the name of a Debian with Python, made here: the default base of the Dockerfile lies in a registry."""
    if not call("buildah", "images", "--quiet", "--filter", f"reference={BASE}").strip():
        with tempfile.TemporaryDirectory() as root:
            call("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root)
            call(
                "rm",
                "-rf",
                *Path(root, "var/cache/apt/archives").glob("*.deb"),
                *Path(root, "var/lib/apt/lists").iterdir(),
            )
            with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as archive:
                call("podman", "import", "-", BASE, stdin=archive.stdout)
    return BASE


def build(target, tag, base):
    """Builds one target of deploy/Dockerfile; pip finds packages where this machine's pip does."""
    with pip_mounts() as mounts:
        call(
            "buildah", "bud", "--isolation=chroot", "--network=host", "--format=docker", "--layers", *mounts,
            "--build-arg", f"BASE_IMAGE={base}", "--build-arg", "CPU_INDEX=", "--target", target,
            "-f", "deploy/Dockerfile", "-t", tag, ".",
        )  # fmt: skip


@contextmanager
def pip_mounts():
    """Arguments that lend this machine's pip settings, package folders and certificates to the build alone."""
    told = call(sys.executable, "-m", "pip", "config", "list").splitlines()
    settings = {name.rpartition(".")[2]: value.strip("'") for name, _, value in (line.partition("=") for line in told)}
    kept = {name: settings[name] for name in ("find-links", "extra-index-url", "index-url") if name in settings}
    if CERTIFICATES.exists():
        kept["cert"] = str(CERTIFICATES)
    words = [word.removeprefix("file://") for value in kept.values() for word in value.split()]
    places = {Path(word) for word in words if word.startswith("/") and Path(word).exists()}
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write("[global]\n" + "".join(f"{name} = {value}\n" for name, value in kept.items()))
        file.flush()
        shared = [f"{file.name}:/etc/pip.conf:ro", *(f"{_whole(place)}:{_whole(place)}:ro" for place in sorted(places))]
        yield [word for each in dict.fromkeys(shared) for word in ("-v", each)]


def _whole(place):
    """Of an index its parent: its pages lead to files beside it."""
    return place.parent if place.name == "simple" else place


def size_gb(tag):
    """What the image takes on disk."""
    return json.loads(call("podman", "image", "inspect", tag))[0]["Size"] / 1e9


def config(tag):
    """The image's own settings: Entrypoint, Cmd, User, Healthcheck ..."""
    return json.loads(call("podman", "image", "inspect", tag))[0]


class Service:
    """One service of a Compose file, run as the file says, but on this machine's network and a writable root."""

    def __init__(self, name, tag, spec, folder, environment):
        """`folder`: of the Compose file's relative paths; `environment`: in place of the file's own."""
        self.name, self.spec = name, spec
        self.entrypoint = config(tag)["Config"]["Entrypoint"]
        self.container = call("buildah", "from", tag).strip()
        self.mark = f"{MARK}={folder.name}-{name}"
        self.environment = [self.mark, "TINI_SUBREAPER=1", *(f"{key}={value}" for key, value in environment.items())]
        self.mounts = [
            f"{(folder / each['source']).resolve()}:{each['target']}:{'ro' if each.get('read_only') else 'rw'}"
            for each in spec["volumes"]
        ]
        self.brought = self._owned()

    def command(self, arguments, entrypoint=True):
        """The line that runs `arguments` in the image."""
        words = ["buildah", "run", "--isolation=chroot", "--user", self.spec["user"]]
        words += [f"--cap-drop={each}" for each in self.spec["cap_drop"]]
        for setting in self.environment:
            words += ["--env", setting]
        for mount in self.mounts:
            words += ["--volume", mount]
        closed = ["setpriv", "--no-new-privs"] if "no-new-privileges:true" in self.spec["security_opt"] else []
        return [*words, self.container, "--", *closed, *(self.entrypoint if entrypoint else []), *map(str, arguments)]

    def written(self):
        """What the image's accounts made outside the Compose file's mounts; nothing, if the root may be read-only."""
        mounts = [*(each["target"] for each in self.spec["volumes"]), *self.spec["tmpfs"]]
        new = sorted(self._owned() - self.brought)
        return [path for path in new if not any(f"{path}/".startswith(f"{mount}/") for mount in mounts)]

    def _owned(self):
        root = call("buildah", "mount", self.container).strip()
        return set(call("find", root, "-xdev", "-uid", "+10000", "-printf", "/%P\\n").splitlines())

    def run(self, *arguments, entrypoint=True, expected=0):
        """Returns what a command in the image prints, both streams."""
        line = self.command(arguments, entrypoint)
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != expected:
            raise SystemExit(f"{self.name}: {arguments}: exit code {done.returncode}\n{done.stdout}")
        return done.stdout

    def start(self, log, command=None):
        """Runs the service's own command in the background."""
        arguments = self.spec["command"] if command is None else command
        with log.open("ab") as output:
            return subprocess.Popen(self.command(arguments), stdout=output, stderr=subprocess.STDOUT)

    def processes(self):
        """Ids of all processes in the image that live, as this machine sees them."""
        return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and self._owns(each)]

    def _owns(self, entry):
        try:
            return self.mark.encode() in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def kill(self):
        """Kills all of the service at once, as a power cut would."""
        for process_id in self.processes():
            os.kill(process_id, signal.SIGKILL)

    def stop(self, running):
        """Asks its first process to end, as `docker stop` does, and returns the seconds until all have."""
        started = time.monotonic()
        for process_id in self.processes():
            if Path(f"/proc/{process_id}/comm").read_text().strip() == "tini":
                os.kill(process_id, signal.SIGTERM)
        running.wait(60)
        assert self.processes() == [], f"{self.name}: left {self.processes()} running"
        return time.monotonic() - started

    def remove(self):
        """Takes the container away; its image stays."""
        call("buildah", "rm", self.container)
