"""What runs on a node of a Ray cluster: the kit's own command, in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from serving.nightly.executors.cell_process import COMMAND, exit_code, last_words
from serving.nightly.process_tree import die_with_parent
from trtllm_kit import __version__
from trtllm_kit.errors import HostError


def run_task(
    task: Mapping[str, Any], *, attempt: int, command: Sequence[str], version: str, tokens: bool
) -> dict[str, Any]:
    """The command on this node, the task on its stdin; plain values for `Finish`: exit_code, node, words.

    Args:
        command: in place of the kit's own; empty: that.
        version: of the kit where the night was planned, which must be this node's.
        tokens: whether Ray must have been started with authentication on this node.
    """
    node = platform.node()
    unfit = _unfit(node, version, tokens)
    if unfit:
        return {"exit_code": HostError.exit_code, "node": node, "words": unfit}
    done = subprocess.run(
        [*(command or COMMAND), "--attempt", str(attempt)],
        input=json.dumps(task),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=die_with_parent,  # a worker that Ray kills has no say in what becomes of its child
    )
    words = last_words(done.stderr, done.returncode)
    return {"exit_code": exit_code(done.returncode), "node": node, "words": words}


def _unfit(node: str, version: str, tokens: bool) -> str:
    """What speaks against building on this node, if anything."""
    if version != __version__:
        return f"{node} has trtllm-kit {__version__}, the night was planned by {version}"
    if tokens and os.environ.get("RAY_AUTH_MODE") != "token":
        return f"Ray on {node} was started without RAY_AUTH_MODE=token: it takes orders from anybody"
    return ""
