"""A real Ray cluster on this machine: two nodes, tokens demanded, started once."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

OBJECT_STORE_BYTES = 80 << 20


@pytest.fixture(scope="session")
def node_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the nodes keep what they build."""
    return tmp_path_factory.mktemp("node-store")


@pytest.fixture(scope="session")
def cluster(node_store: Path) -> Iterator[Any]:
    """Its head has sku=cpu, and so has a second node, which alone has the label spare=l40s besides."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path may have 107 characters only
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "TRTLLM_KIT_STORE": str(node_store),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        cluster_utils = pytest.importorskip("ray.cluster_utils")  # not before: Ray reads its environment on import

        made = start(cluster_utils)
        yield made
        made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def start(cluster_utils: Any, tries: int = 3) -> Any:
    """Ray gives a node thirty seconds to come up, which a machine at its limit does not always keep."""
    node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    made = cluster_utils.Cluster()
    try:
        made.add_node(**node, labels={"sku": "cpu"})
        made.add_node(**node, labels={"sku": "cpu", "spare": "l40s"})
    except Exception:
        made.shutdown()
        if tries == 1:
            raise
        return start(cluster_utils, tries - 1)
    return made


@pytest.fixture
def disconnected() -> Iterator[None]:
    """No driver of this process stays connected: there can be one only."""
    yield
    import ray

    ray.shutdown()
