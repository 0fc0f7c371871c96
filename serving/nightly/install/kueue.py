"""Kueue's objects: a flavor for each SKU, a cluster queue with a quota for each, and the queue of the namespace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.nightly.install.groups import SkuGroup
from serving.nightly.install.pods import GPU, node_labels, resources
from serving.nightly.install.request import InstallRequest

_VERSION = "kueue.x-k8s.io/v1beta2"
_MEBI = "Mi"


def objects(groups: Sequence[SkuGroup], request: InstallRequest) -> list[dict[str, Any]]:
    """Flavors, ClusterQueue and LocalQueue. The quota of a SKU is what its cells take that may run at once."""
    # The flavor without node labels first: it has room for all cells of `cpu`, which so never take a GPU's node.
    ordered = sorted(groups, key=lambda group: not group.sku.is_cpu)
    covered = ["cpu", "memory", "ephemeral-storage", GPU]
    name = f"{request.namespace}-{request.queue}"
    return [
        *(_object("ResourceFlavor", _flavor(group), {"nodeLabels": node_labels(group)}) for group in ordered),
        _object(
            "ClusterQueue",
            name,
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": request.namespace}},
                "queueingStrategy": "BestEffortFIFO",
                "resourceGroups": [
                    {"coveredResources": covered, "flavors": [_quota(group, covered, request) for group in ordered]}
                ],
            },
        ),
        _object("LocalQueue", str(request.queue), {"clusterQueue": name}, namespace=request.namespace),
    ]


def _object(kind: str, name: str, spec: dict[str, Any], *, namespace: str | None = None) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {"apiVersion": _VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _flavor(group: SkuGroup) -> str:
    return f"trtllm-{group.name}"


def _quota(group: SkuGroup, covered: Sequence[str], request: InstallRequest) -> dict[str, Any]:
    asked, at_once = resources(group), min(request.at_once, len(group.tasks))
    return {
        "name": _flavor(group),
        "resources": [{"name": name, "nominalQuota": _times(asked.get(name, "0"), at_once)} for name in covered],
    }


def _times(quantity: str, count: int) -> str:
    """A quantity in whole pieces or in Mi, so many times."""
    number = quantity.removesuffix(_MEBI)
    return f"{int(number) * count}" + quantity[len(number) :]
