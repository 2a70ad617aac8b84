"""ClientApps from a warm start: they find the libraries loaded, nothing of ours, and end as what they are."""

import subprocess
import sys
from pathlib import Path


def test_libraries_load_without_threads_of_python_and_without_ours() -> None:
    program = (
        "import importlib, sys, threading\n"
        "from client.warm_start import LIBRARIES, OURS\n"
        "for name in [each for each in sys.modules if each.partition('.')[0] in OURS]: del sys.modules[name]\n"
        "for name in LIBRARIES: importlib.import_module(name)\n"
        "import torch\n"
        "assert not [each for each in sys.modules if each.partition('.')[0] in OURS]\n"
        "assert threading.active_count() == 1\n"
        "assert not torch.cuda.is_initialized()\n"
        "before = {each.partition('.')[0] for each in sys.modules}\n"
        "import client.app\n"
        "print(sorted({each.partition('.')[0] for each in sys.modules} - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['client', 'common']"


def test_a_clientapp_has_a_process_of_its_own_named_as_flower_s_and_its_exit_code(tmp_path: Path) -> None:
    program = tmp_path / "launch.py"
    program.write_text(
        "from client import warm_start\n"
        "if __name__ == '__main__':\n"
        "    process = warm_start.start(['flwr-clientapp', '--no-such'], {'FLWR_HOME': '.'})\n"
        "    process.join()\n"
        "    print(process.exitcode)\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"
    assert "flwr-clientapp: error: one of the arguments --token --token-file is required" in done.stderr
