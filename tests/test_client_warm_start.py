"""ClientApps from a warm start: they find the libraries loaded, nothing of ours, and are else as if started alone.

In Flower's place stands a command that tells what it finds, so that no node is needed.
"""

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faults.standing import CLIENTAPP, role

from client import loaded_release, warm_start
from common.processes import MARK, _environment

ROOT = Path(__file__).parents[1]
COMMAND = '''
"""Tells what it finds, in the words of a ClientApp's process, and waits as long as it is asked to."""

import atexit
import json
import multiprocessing
import os
import sys


def flwr_clientapp():
    atexit.register(print, "left", flush=True)
    loaded = sys.modules.copy()
    sys.path.insert(0, os.environ["APPROVED"])
    import client.app
    import numpy
    told = {
        "command": sys.argv,
        "name": open("/proc/self/comm").read().strip(),
        "loaded": sorted({each.partition(".")[0] for each in loaded}),
        "main": vars(loaded["__main__"]).get("__file__"),
        "approved": client.app.__file__,
        "safe_path": sys.flags.safe_path,
        "start_method": multiprocessing.get_start_method(allow_none=True),
        "daemon": multiprocessing.current_process().daemon,
        "drawn": numpy.random.random(),
        "parent": os.getppid(),
        "process": os.getpid(),
    }
    with open(os.environ["TOLD"], "w") as out:
        json.dump(told, out)
    if "HOLD" in os.environ:
        open(os.environ["HOLD"]).close()
    raise SystemExit(int(os.environ.get("CODE", "0")))
'''
ANEW = f"#!{sys.executable}\nimport json, os, sys\njson.dump({{'anew': sys.argv[1:]}}, open(os.environ['TOLD'], 'w'))\n"
"""What the system finds under Flower's name."""
DRIVER = '''
"""Does what the lines of its input ask for, and prints what became of it."""

import json
import os
import sys
from client import warm_start

if __name__ == "__main__":
    if libraries := os.environ.get("LIBRARIES"):
        warm_start._warm.set_forkserver_preload([libraries])
    for line in sys.stdin:
        times, asked = json.loads(line)
        for _ in range(times):
            process = warm_start.start(["flwr-clientapp", "--told"], asked)
            process.join()
        print(json.dumps([process.exitcode, len(os.listdir("/proc/self/fd"))]), flush=True)
'''


class Launcher:
    """A process that starts ClientApps one after another."""

    def __init__(self, folder: Path, **environment: str) -> None:
        flower = folder / "flwr" / "supernode" / "cli"
        flower.mkdir(parents=True)
        for package in (flower, flower.parent, flower.parents[1]):
            (package / "__init__.py").touch()
        (flower / "flwr_clientapp.py").write_text(COMMAND)
        (folder / "approved" / "client").mkdir(parents=True)
        (folder / "approved" / "client" / "__init__.py").touch()
        (folder / "approved" / "client" / "app.py").touch()
        (folder / "bin").mkdir()
        (folder / "bin" / "flwr-clientapp").write_text(ANEW)
        (folder / "bin" / "flwr-clientapp").chmod(0o755)
        (folder / "driver.py").write_text(DRIVER)
        self.folder = folder
        self.told = folder / "told"
        given = {
            "PYTHONPATH": f"{folder}:{ROOT}",
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            MARK: str(folder),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(folder / "driver.py")], env=os.environ | given | environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def ask(self, times: int = 1, **environment: str) -> None:
        assert self.process.stdin is not None
        asked = {"TOLD": str(self.told), "APPROVED": str(self.folder / "approved")} | environment
        self.process.stdin.write(json.dumps([times, asked]) + "\n")
        self.process.stdin.flush()

    def lines(self) -> list[str]:
        """What was printed, up to and with how the tasks ended."""
        assert self.process.stdout is not None
        lines = []
        while not lines or not lines[-1].startswith("["):
            lines.append(self.process.stdout.readline().rstrip())
            assert lines[-1], lines
        return lines

    def run(self, times: int = 1, **environment: str) -> dict[str, Any]:
        """What a task found, with its exit code, what it printed and how many files the launcher has open then."""
        self.ask(times, **environment)
        *printed, ended = self.lines()
        code, num_files = json.loads(ended)
        assert self.told.exists(), printed
        found = json.loads(self.told.read_text())
        self.told.unlink()
        return dict(found) | {"exit_code": code, "printed": printed, "num_files": num_files}

    def close(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(60)


MakeLauncher = Callable[..., Launcher]


@pytest.fixture(scope="module")
def make_launcher(tmp_path_factory: pytest.TempPathFactory):
    made = []

    def make(**environment: str) -> Launcher:
        made.append(Launcher(tmp_path_factory.mktemp("launcher"), **environment))
        return made[-1]

    yield make
    for launcher in made:
        assert launcher.close() == 0


@pytest.fixture(scope="module")
def launcher(make_launcher: MakeLauncher) -> Launcher:
    """With the product's libraries, for all tests of this file."""
    return make_launcher()


@pytest.fixture(scope="module")
def light(make_launcher: MakeLauncher) -> Launcher:
    """With one library, which is loaded at once."""
    return make_launcher(LIBRARIES="numpy")


def wait_for_end(process_id: int) -> None:
    """Returns when a process that is not our child has ended."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(process_id)
        assert select.select([handle], [], [], 60)[0], f"process {process_id} lives"
        os.close(handle)


def resident_kib(process_id: int) -> int:
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_libraries_are_all_that_a_clientapp_imports_and_leave_a_process_that_can_be_forked() -> None:
    program = (
        "import importlib, os, sys\n"
        "from client.loaded_release import OURS\n"
        "from client.warm_start import LIBRARIES, _unfit\n"
        "for name in [each for each in sys.modules if each.partition('.')[0] in OURS]: del sys.modules[name]\n"
        "for name in LIBRARIES: importlib.import_module(name)\n"
        "import torch\n"
        "assert not [each for each in sys.modules if each.partition('.')[0] in OURS]\n"
        "assert not torch.cuda.is_initialized()\n"
        "if not os.fork(): print(_unfit(os.getppid()), flush=True); os._exit(0)\n"
        "os.wait()\n"
        "before = {each.partition('.')[0] for each in sys.modules}\n"
        "import client.app\n"
        "optimiser = torch.optim.SGD(torch.nn.Linear(1, 1).parameters())\n"
        "print(sorted({each.partition('.')[0] for each in sys.modules} - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["None", "['client', 'common']"]


def test_flower_s_own_command_ends_with_its_own_words_and_code(tmp_path: Path) -> None:
    program = tmp_path / "launch.py"
    program.write_text(
        "from client import warm_start\n"
        "if __name__ == '__main__':\n"
        "    warm_start._warm.set_forkserver_preload([warm_start.LIBRARIES[0]])\n"
        "    process = warm_start.start(['flwr-clientapp', '--no-such'], {'FLWR_HOME': '.'})\n"
        "    process.join()\n"
        "    print(process.exitcode)\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2"]  # forked: else a line would say so
    assert "flwr-clientapp: error: one of the arguments --token --token-file is required" in done.stderr


def test_a_task_finds_libraries_and_nothing_of_this_release_and_runs_the_approved_code(launcher: Launcher) -> None:
    found = launcher.run(CODE="3")
    assert found["command"] == ["flwr-clientapp", "--told"]
    assert found["name"] == "flwr-clientapp"
    assert {"torch", "SimpleITK", "scipy", "pydicom"} < set(found["loaded"])
    assert not {*loaded_release.OURS, "__mp_main__"} & set(found["loaded"])
    assert found["main"] is None
    assert found["approved"] == str(launcher.folder / "approved" / "client" / "app.py")
    assert (found["start_method"], found["daemon"]) == (None, False)
    assert found["safe_path"]  # no module out of the work folder
    assert (found["exit_code"], found["printed"]) == (3, ["left"])


def test_tasks_have_processes_of_their_own_and_other_random_numbers(launcher: Launcher) -> None:
    one, two = launcher.run(), launcher.run()
    assert one["process"] != two["process"]
    assert one["drawn"] != two["drawn"]
    assert one["parent"] == two["parent"] != launcher.process.pid
    wait_for_end(two["process"])


def test_two_hundred_tasks_leave_nothing_behind(light: Launcher) -> None:
    before = light.run(times=20)
    resident = resident_kib(before["parent"])
    after = light.run(times=200)
    assert after["parent"] == before["parent"]
    assert abs(resident_kib(after["parent"]) - resident) < 512
    assert after["num_files"] == before["num_files"]


def test_a_task_ends_with_the_process_that_it_was_forked_from_and_another_one_takes_its_place(
    light: Launcher, tmp_path: Path
) -> None:
    told, hold = tmp_path / "told", tmp_path / "hold"
    os.mkfifo(told)
    os.mkfifo(hold)
    light.ask(TOLD=str(told), HOLD=str(hold))
    found = json.loads(told.read_text())
    os.kill(found["parent"], 9)
    assert light.lines()[-1].startswith("[255")
    wait_for_end(found["process"])
    wait_for_end(found["parent"])
    again = light.run()
    assert again["parent"] not in (found["parent"], light.process.pid)
    assert (again["exit_code"], again["printed"]) == (0, ["left"])


def test_a_task_is_found_by_its_mark_and_its_name_and_is_told_as_killed(light: Launcher, tmp_path: Path) -> None:
    told, hold = tmp_path / "told", tmp_path / "hold"
    os.mkfifo(told)
    os.mkfifo(hold)
    light.ask(TOLD=str(told), HOLD=str(hold))
    process_id = json.loads(told.read_text())["process"]
    assert f"{MARK}={light.folder}".encode() in _environment(process_id)
    assert role(process_id) == CLIENTAPP
    os.kill(process_id, 9)
    assert light.lines()[-1].startswith("[-9")


def test_a_library_that_starts_threads_has_every_task_load_its_own(make_launcher: MakeLauncher) -> None:
    launcher = make_launcher(LIBRARIES="threaded")
    (launcher.folder / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    found = launcher.run()
    assert found["anew"] == ["--told"]
    assert len(found["printed"]) == 1
    assert found["printed"][0].endswith("2 threads where ClientApps are forked; this one loads its libraries itself")


def test_where_nothing_can_be_forked_a_task_starts_alone(make_launcher: MakeLauncher, tmp_path: Path) -> None:
    long = tmp_path / ("long" * 30)
    long.mkdir()
    launcher = make_launcher(TMPDIR=str(long))
    found = launcher.run()
    assert found["parent"] == launcher.process.pid
    assert found["approved"] == str(launcher.folder / "approved" / "client" / "app.py")
    assert "no process can be forked (AF_UNIX path too long)" in found["printed"][0]


def test_threads_and_an_open_gpu_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as single:
        monkeypatch.setattr(warm_start, "GPUS", (str(tmp_path / "gpu"),))
        assert warm_start._unfit(single.pid) is None
        with (tmp_path / "gpu0").open("w"):
            assert warm_start._unfit(single.pid) == str(tmp_path / "gpu0")
        single.communicate(b"\n")
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    assert str(warm_start._unfit(os.getpid())).endswith(" threads")
    done.set()
    thread.join()


def test_what_is_forked_ends_with_its_launcher(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, LIBRARIES="json")
    found = launcher.run()
    launcher.process.kill()
    assert launcher.close() == -9
    wait_for_end(found["parent"])
