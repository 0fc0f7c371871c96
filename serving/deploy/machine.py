"""What this machine offers to a deployment, GPUs included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from profiles.detect import detect
from serving.deploy.compatibility import Target
from serving.deploy.local import local_target
from serving.deploy.tritonserver import find_tritonserver


def this_machine(manifest: Mapping[str, Any]) -> Target:
    """The local server and, for artifacts that need GPUs, what NVML sees; HostError without a tritonserver."""
    target = local_target(find_tritonserver())
    if manifest["runtime"] == "cpu":
        return target
    found = detect()
    first = found.gpus[0] if found.gpus else None
    return replace(
        target,
        sku=first.sku.id if first and first.sku else None,
        sm=first.reading.sm if first else None,
        gpu_count=len(found.gpus),
    )
