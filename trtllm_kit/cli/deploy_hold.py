"""A deployment of a pulled artifact keeps it in its depot: whoever must start it again finds it there."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from builder.store import Store
from trtllm_kit.console import Talk
from trtllm_kit.errors import KitError
from trtllm_kit.files import pretty_json, write_text_atomic

_FILE = "hold.json"


def hold(store: Store, name: str, content: Mapping[str, Any], talk: Talk) -> None:
    """Tell the depot that the artifact was pulled from; that it cannot be told is no reason not to serve."""
    record = store.get_ref(str(content["identifier"])) or {}
    if "depot" not in record or record["artifact"] != content["digest"]:
        return
    from builder.depot import Depot

    held = {"depot": record["depot"], "digest": content["digest"], "name": f"{socket.gethostname()}-{name}"}
    try:
        Depot.open(held["depot"]).hold(held["digest"], held["name"], f"deployed as {name}")
    except KitError as error:
        talk.warn(f"the depot does not know of this deployment: {error.happened}")
    else:
        write_text_atomic(store.deployments / name / _FILE, pretty_json(held))


def read(store: Store, name: str) -> dict[str, str] | None:
    """What `hold` noted for a deployment; to be read before the deployment is forgotten."""
    try:
        held = json.loads((store.deployments / name / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {str(key): str(value) for key, value in held.items()}


def release(held: Mapping[str, str] | None, talk: Talk) -> None:
    """Let the depot collect the artifact once nothing else needs it."""
    if held is None:
        return
    from builder.depot import Depot

    try:
        Depot.open(held["depot"]).release(held["digest"], held["name"])
    except KitError as error:
        talk.warn(f"the depot still holds {held['digest'][:12]} for {held['name']}: {error.happened}")
