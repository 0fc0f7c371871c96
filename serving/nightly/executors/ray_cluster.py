"""A Ray cluster that is there already: reached, allowed to be used, and what its nodes offer."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from serving.nightly.executors.protocol import CellTask
from trtllm_kit.errors import HostError

_OLDEST = Version("2.54")  # where CVE-2026-27482 is fixed
_CONNECT_S = 5.0
_CLIENT = "ray://"


@dataclass(frozen=True, kw_only=True)
class RayNode:
    """A live node as far as placing a cell goes."""

    sku: str | None  # its label
    cpus: float
    gpus: float
    memory_bytes: float


def connect(address: str, *, allow_unauthenticated: bool) -> Any:
    """The module `ray`, connected. HostError: not installed, too old, without tokens, unreachable, refused."""
    ray = _import()
    authenticated = os.environ.get("RAY_AUTH_MODE") == "token"
    if not authenticated and not allow_unauthenticated:
        raise _without_tokens("RAY_AUTH_MODE is not 'token'")
    _knock(address)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own, on what it will change one day
            ray.init(address=address, log_to_driver=False, logging_level="critical")
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise HostError(
            f"the Ray cluster at {address} does not take us: {_first_line(error)}",
            expected="a cluster of this Ray and this Python, whose token we have in RAY_AUTH_TOKEN or its file",
            fix="compare `ray --version` there and here, and see docs/nightly_ray.md",
        ) from None
    if not authenticated and not _is_this_machine(ray):
        ray.shutdown()
        raise _without_tokens(f"{address} has other machines and no tokens")
    return ray


def nodes_of(ray: Any, sku_label: str) -> list[RayNode]:
    """Every node that is alive."""
    return [_node(row, sku_label) for row in ray.nodes() if row["Alive"]]


def refusal(task: CellTask, nodes: Sequence[RayNode], sku_label: str) -> str | None:
    """Why none of the nodes can ever run a task, however idle it is; None when one can."""
    having = [node for node in nodes if node.sku == task.sku]
    if not having:
        offered = ", ".join(sorted({node.sku for node in nodes if node.sku})) or "no node with that label"
        return f"no node of the Ray cluster has {sku_label}={task.sku}; there is {offered}"
    if max(node.cpus for node in having) < 1:
        return f"no node with {sku_label}={task.sku} lends a CPU"
    gpus = max(node.gpus for node in having)
    if gpus < task.gpus:
        return f"{task.gpus} GPUs are needed on one node, and nodes with {sku_label}={task.sku} lend {gpus:g}"
    memory = max(node.memory_bytes for node in having if node.gpus >= task.gpus)
    if memory < task.memory_bytes:
        needed, lent = task.memory_bytes / 1e9, memory / 1e9
        return f"{needed:.1f} GB of RAM are needed, and nodes with {sku_label}={task.sku} lend {lent:.1f} GB"
    return None


def _import() -> Any:
    try:
        import ray
        import ray._private.worker
    except ImportError:
        raise HostError(
            "Ray is not installed",
            expected=f"Ray {_OLDEST} or newer, the version of the cluster",
            fix="pip install 'trtllm-kit[ray]'",
        ) from None
    if Version(ray.__version__) < _OLDEST:
        raise HostError(
            f"Ray {ray.__version__} is too old",
            expected=f"Ray {_OLDEST} or newer: older dashboards let anybody in reach end jobs (CVE-2026-27482)",
            fix="upgrade Ray here and on every node",
        )
    # Ray prints what befalls nodes on stdout, whatever log_to_driver says; ours holds results alone.
    ray._private.worker._worker_logs_enabled = False
    return ray


def _knock(address: str) -> None:
    """Ray tries an address that does not answer for minutes; we say so after seconds."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = address.removeprefix(_CLIENT)
        if not address.startswith(_CLIENT):
            found = canonicalize_bootstrap_address(address) or ""
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise HostError(
            f"no Ray cluster answers at {address}: {_first_line(error) or 'no address'}",
            expected="auto on a machine of the cluster, host:port of its head, or ray://host:10001",
            fix="start one (docs/nightly_ray.md), or set executor.address in nightly.yaml",
        ) from None


def _without_tokens(happened: str) -> HostError:
    return HostError(
        f"Ray without authentication: {happened}",
        expected="RAY_AUTH_MODE=token here and on every node: whoever reaches a node without it can run code there",
        fix="`ray get-auth-token --generate`, copy ~/.ray/auth_token to every node, set RAY_AUTH_MODE=token, restart; "
        "executor.allow_unauthenticated is for a cluster on this machine alone",
    )


def _is_this_machine(ray: Any) -> bool:
    own = {"127.0.0.1", "::1", ray.util.get_node_ip_address()}
    return all(row["NodeManagerAddress"] in own for row in ray.nodes() if row["Alive"])


def _node(row: Mapping[str, Any], sku_label: str) -> RayNode:
    lends = row["Resources"]
    return RayNode(
        sku=row.get("Labels", {}).get(sku_label),
        cpus=lends.get("CPU", 0.0),
        gpus=lends.get("GPU", 0.0),
        memory_bytes=lends.get("memory", 0.0),
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")
