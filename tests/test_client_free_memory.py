"""Free memory: what the kernel says, or what a container leaves."""

from pathlib import Path

from client import free_memory
from client.free_memory import available_bytes


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    assert 0 < available_bytes() < 2**60
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    left = free_memory._container_bytes(tmp_path)
    assert left == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory._container_bytes(tmp_path) > 2**60
    assert free_memory._container_bytes(Path("/nowhere")) > 2**60
    monkeypatch.setattr(free_memory, "_container_bytes", lambda: left)
    assert available_bytes() == 2000
