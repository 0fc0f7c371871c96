"""Ends what a comparison has started, however the comparison ends: run as a process of its own, beside it.

It waits for the end of its standard input, which comes when its parent closes the pipe or is gone, by SIGKILL too. Then
every process whose working directory lies below the folder is killed, its shared memory removed, and the folder itself.
Nothing has to be registered with it, so there is no moment at which a server could be missed. Standard library only: it
has to be there before the first server is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_SHM = Path("/dev/shm")
_OPTION = "shm-region-prefix-name="
_ROUNDS, _PAUSE_S = 40, 0.1


@contextlib.contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """What runs below `folder` is gone when the block ends, and so is the folder; also when this process is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-I", "-S", __file__, str(folder.resolve())]
    # A session of its own: a signal to the group of the comparison must not end it.
    keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait()


def end_all(folder: Path) -> None:
    """Kill and remove. More than one round: a process that is just being started shows up in the next one."""
    for _ in range(_ROUNDS):
        found = list(_below(folder))
        for pid in found:
            prefixes = list(_prefixes(pid))
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            for prefix in prefixes:
                _remove_shared_memory(prefix)
        if not found:
            break
        time.sleep(_PAUSE_S)
    shutil.rmtree(folder, ignore_errors=True)


def _below(folder: Path) -> Iterator[int]:
    """Processes at work below `folder`. One that has ended and waits to be collected has no working directory."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                place = Path(str((entry / "cwd").readlink()).removesuffix(" (deleted)"))
                if place == folder or folder in place.parents:
                    yield int(entry.name)


def _prefixes(pid: int) -> Iterator[str]:
    """What a tritonserver and its stubs name their shared memory by, before the part that counts them."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        yield from (word.partition(_OPTION)[2].split("prefix")[0] for word in words if _OPTION in word)


def _remove_shared_memory(prefix: str) -> None:
    for path in _SHM.glob(f"{prefix}*") if prefix else ():
        with contextlib.suppress(OSError):
            path.unlink()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_all(Path(sys.argv[1]))
