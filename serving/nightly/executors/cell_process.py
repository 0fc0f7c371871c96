"""The process in which an executor runs a cell, wherever it does: the command, and what its end says."""

from __future__ import annotations

import sys

COMMAND = (sys.executable, "-c", "from trtllm_kit.cli.main import main; main()", "nightly", "cell", "-")
"""Takes the task on its standard input."""

_ERROR = "error: "


def exit_code(returncode: int) -> int:
    """Of `subprocess`, as a shell gives it: 128 + signal for a process that was killed."""
    return returncode if returncode >= 0 else 128 - returncode


def last_words(stderr: str, returncode: int) -> str:
    """The last error that the process told, else by which signal it was killed; empty where it says nothing."""
    said = [line for line in stderr.splitlines() if line.startswith(_ERROR)]
    if said:
        return said[-1].removeprefix(_ERROR)
    return f"its process was killed by signal {-returncode}" if returncode < 0 else ""
