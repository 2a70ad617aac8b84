"""How much memory there is for what a site is about to do."""

from pathlib import Path


def available_bytes() -> int:
    """Returns the memory that a new process could have: what the kernel says, or less where a container limits it."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return min(1024 * int(lines["MemAvailable"].split()[0]), _container_bytes())


def _container_bytes(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """What is left of a container's limit (cgroup v2); without one, more than any machine has."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return int(limit) - int(used)
    except (OSError, ValueError):  # no such file, or `max`
        return 2**63
