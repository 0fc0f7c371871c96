"""What this machine offers to a deployment, GPUs included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from profiles.detect import Detection, detect
from serving.deploy.compatibility import Target
from serving.deploy.local import local_target
from serving.deploy.tritonserver import find_tritonserver


def this_machine(manifest: Mapping[str, Any]) -> Target:
    """The local server and, for artifacts that need GPUs, what NVML sees; HostError without a tritonserver."""
    target = local_target(find_tritonserver())
    if manifest["runtime"] == "cpu":
        return target
    return replace(target, **gpu_facts(manifest, detect()))


def gpu_facts(manifest: Mapping[str, Any], found: Detection) -> dict[str, Any]:
    """SKU, compute capability and number of the GPUs that the artifact would get, as fields of Target.

    Those of its SKU where there are any, else the first. Where MIG is on these are slices, one for each process.
    """
    same = [place for place in found.places if place.id == manifest["target"]["sku"]]
    given = same or found.places
    first = given[0] if given else None
    return {
        "sku": first.id if first else None,
        "sm": first.gpu.reading.sm if first else None,
        "gpu_count": 1 if first and first.is_slice else len(given),
    }
