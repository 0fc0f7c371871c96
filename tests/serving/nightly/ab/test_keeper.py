"""Nothing outlives a comparison: not when it ends, and not when it is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from serving.nightly.ab.keeper import keeping

_KILLED = """
import os, signal, subprocess, sys
from pathlib import Path
from serving.nightly.ab.keeper import keeping
folder = Path(sys.argv[1])
with keeping(folder):
    (folder / "root").mkdir()
    started = subprocess.Popen(["sleep", "300"], cwd=folder / "root", start_new_session=True)
    print(started.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_runs_below_the_folder_is_ended_with_the_block_and_nothing_else(tmp_path: Path) -> None:
    folder, beside = tmp_path / "servers", tmp_path / "servers-of-others"
    beside.mkdir()
    with keeping(folder), subprocess.Popen(["sleep", "300"], cwd=beside) as other:
        (folder / "deep" / "er").mkdir(parents=True)
        ours = subprocess.Popen(["sleep", "300"], cwd=folder / "deep" / "er", start_new_session=True)
        other_pid, ours_pid = other.pid, ours.pid
        with keeping(folder):
            pass
        assert gone(ours_pid) and ours.wait() == -9
        assert not gone(other_pid) and not folder.exists() and beside.exists()
        other.kill()


def test_also_when_the_comparison_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "servers"
    done = subprocess.run([sys.executable, "-c", _KILLED, str(folder)], stdout=subprocess.PIPE, text=True)
    assert done.returncode == -9
    deadline = time.monotonic() + 30
    while not (gone(int(done.stdout)) and not folder.exists()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_shared_memory_of_a_server_goes_with_it(tmp_path: Path) -> None:
    prefix = f"trtkittest{time.monotonic_ns()}_"
    left = Path("/dev/shm") / f"{prefix}prefix0_x"
    left.write_bytes(b"x")
    folder = tmp_path / "servers"
    with keeping(folder):
        sleep = "import sys, time; time.sleep(300)"
        option = f"--backend-config=python,shm-region-prefix-name={prefix}prefix0_"
        process = subprocess.Popen([sys.executable, "-c", sleep, option], cwd=folder)
        time.sleep(0.2)  # its command line is there once it has been executed
    assert process.wait() == -9 and not left.exists()
