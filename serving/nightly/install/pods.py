"""The pod in which a cell, or the report, runs: what it may do, what it is given, and on which nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from serving.nightly.install.groups import SkuGroup
from serving.nightly.install.request import InstallRequest
from trtllm_kit.errors import SpecError

CONTAINER = "nightly"
CONFIG = "trtllm-nightly"
CONFIG_MOUNT = "/etc/trtllm-kit"
PRODUCT_LABEL = "nvidia.com/gpu.product"  # of GPU feature discovery
GPU = "nvidia.com/gpu"
CPUS = 4
_WORK = "/work"
_CLAIM_MOUNT = "/shared"
_USER = 1000  # neither root nor one that the image must know
_MIB = 1 << 20
_REPORT_BYTES = 1 << 30
_DEPOT_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL")
_MODEL_SECRETS = ("HF_TOKEN",)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def cell_pod(group: SkuGroup, request: InstallRequest, command: str) -> dict[str, Any]:
    """Of an index of a SKU's job."""
    asked = resources(group)
    return _pod(
        request,
        command,
        environment=[_job_name(), *_secrets(request, (*_DEPOT_SECRETS, *_MODEL_SECRETS))],
        requests=asked,
        limits={name: asked[name] for name in ("memory", GPU) if name in asked},
        placement=_placement(group),
    )


def report_pod(request: InstallRequest, command: str) -> dict[str, Any]:
    """Of the report, which needs next to nothing."""
    memory = _quantity(_REPORT_BYTES)
    webhook = _VARIABLE.findall(request.session.nightly.spec.report.webhook or "")
    return _pod(
        request,
        command,
        environment=_secrets(request, (*_DEPOT_SECRETS, *webhook)),
        requests={"cpu": "1", "memory": memory},
        limits={"memory": memory},
        placement={},
    )


def kept_folder(request: InstallRequest) -> str:
    """Where a pod writes what it would find again: on the claim, else it is gone with the pod."""
    return _CLAIM_MOUNT if request.claim else _WORK


def resources(group: SkuGroup) -> dict[str, str]:
    """What each index asks for, by the largest cell of its SKU."""
    asked = {
        "cpu": str(CPUS),
        "memory": _quantity(group.memory_bytes),
        "ephemeral-storage": _quantity(group.disk_bytes),
    }
    return {**asked, GPU: str(group.gpus)} if group.gpus else asked


def node_labels(group: SkuGroup) -> dict[str, str]:
    """By which the nodes of a SKU are known; none for `cpu`. SpecError for a SKU whose label nobody knows."""
    if group.sku.is_cpu:
        return {}
    if not group.sku.k8s_label:
        raise SpecError(
            f"no value of {PRODUCT_LABEL} is known for {group.sku.id}",
            expected="a SKU whose `k8s_label` is in profiles/data/skus.csv",
            fix="add what `kubectl get nodes --show-labels` says, or exclude the SKU from this matrix",
        )
    return {PRODUCT_LABEL: group.sku.k8s_label}


def _placement(group: SkuGroup) -> dict[str, Any]:
    labels = node_labels(group)
    if not labels:
        return {}
    terms = [{"key": key, "operator": "In", "values": [value]} for key, value in labels.items()]
    required = {"nodeSelectorTerms": [{"matchExpressions": terms}]}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
    }


def _pod(
    request: InstallRequest,
    command: str,
    *,
    environment: Sequence[Mapping[str, Any]],
    requests: Mapping[str, str],
    limits: Mapping[str, str],
    placement: Mapping[str, Any],
) -> dict[str, Any]:
    mounts = {"config": CONFIG_MOUNT, "work": _WORK, "tmp": "/tmp", "shm": "/dev/shm"}
    if request.claim:
        mounts["shared"] = _CLAIM_MOUNT
    container = {
        "name": CONTAINER,
        "image": request.image,
        "command": ["/bin/sh", "-c", command],
        "workingDir": _WORK,
        "env": [*_environment(request), *environment],
        "resources": {"requests": dict(requests), "limits": dict(limits)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [_mount(name, path) for name, path in mounts.items()],
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **placement,
        "containers": [container],
        "volumes": list(_volumes(request)),
    }


def _mount(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "mountPath": path, **({"readOnly": True} if name == "config" else {})}


def _volumes(request: InstallRequest) -> Iterator[dict[str, Any]]:
    yield {"name": "config", "configMap": {"name": CONFIG}}
    yield {"name": "work", "emptyDir": {}}
    yield {"name": "tmp", "emptyDir": {}}
    yield {"name": "shm", "emptyDir": {"medium": "Memory"}}
    if request.claim:
        yield {"name": "shared", "persistentVolumeClaim": {"claimName": request.claim}}


def _environment(request: InstallRequest) -> list[dict[str, Any]]:
    kept = kept_folder(request)
    values = {
        "HOME": _WORK,
        "USER": "nightly",  # who asks the password file for the user's name finds none
        "HF_HOME": f"{kept}/huggingface",
        "TRTLLM_KIT_STORE": f"{kept}/store",
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def _job_name() -> dict[str, Any]:
    label = "metadata.labels['batch.kubernetes.io/job-name']"
    return {"name": "JOB_NAME", "valueFrom": {"fieldRef": {"fieldPath": label}}}


def _secrets(request: InstallRequest, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Values that must not be written down, from the keys of one Secret; keys that it lacks stay unset."""
    return [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": request.secret, "key": key, "optional": True}}}
        for key in keys
        if request.secret
    ]


def _quantity(size_bytes: int) -> str:
    return f"{-(-size_bytes // _MIB)}Mi"
