"""Kubernetes: an Indexed CronJob for each SKU, one for the report, and where wanted the Kueue objects they queue in.

Plain YAML from Python values, tied together by a kustomization. An index is a cell; `backoffLimitPerIndex` and the pod
failure policy are the table of `serving.nightly.retry`: what would end the same way again fails its index at once, an
eviction is not counted at all. Needs Kubernetes 1.29, the first where `backoffLimitPerIndex` is on by default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from serving.nightly.install import kueue
from serving.nightly.install.groups import SkuGroup
from serving.nightly.install.pods import CONFIG, CONFIG_MOUNT, CONTAINER, cell_pod, kept_folder, report_pod
from serving.nightly.install.request import InstallRequest, Rendered
from serving.nightly.install.schedule import Schedule
from serving.nightly.retry import AGAIN
from trtllm_kit.errors import SpecError, UsageError

_RETRIES = 2  # one number for all ends that count: three attempts, as a killed process has
_LONGEST_S = 20 * 3600  # or a pod that no node takes would hold up the next night
_KEEP_S = 7 * 24 * 3600
_LATEST_START_S = 3600
_CONFIG_MAP_BYTES = 1_000_000
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

# Every index of a night sees the same name: the controller ends a job's name with the scheduled minute.
_NIGHT = '"$(date -u -d @$((${JOB_NAME##*-} * 60)) +%Y%m%dT%H%M%SZ)-k8s"'


def kubernetes(request: InstallRequest) -> Rendered:
    """Manifests, a file for each object that a person may want to look at alone."""
    _check(request)
    _warn_of_folders(request)
    manifests: dict[str, Any] = {"config.yaml": [_config(request)], "report.yaml": [_report(request)]}
    manifests |= {f"cells-{group.name}.yaml": [_cells(group, request)] for group in request.groups}
    applied = sorted(manifests)
    steps = [f"kubectl apply -k {request.out}"]
    if request.queue:
        manifests["kueue.yaml"] = kueue.objects(request.groups, request)
        steps.insert(0, f"kubectl apply -f {request.out}/kueue.yaml  # once, by who administers the cluster")
    manifests["kustomization.yaml"] = [_kustomization(request, applied)]
    return Rendered(files={name: _yaml(rows) for name, rows in manifests.items()}, next_steps=tuple(steps))


def _check(request: InstallRequest) -> None:
    if not request.image:
        raise UsageError(
            "pods need an image",
            expected="one with trtllm-kit, and with TensorRT-LLM where engines are built",
            fix="--image REGISTRY/NAME:TAG; docs/nightly_kubernetes.md has a Dockerfile",
        )
    for option, name in {"namespace": request.namespace, "queue": request.queue, "claim": request.claim}.items():
        if name is not None and not _DNS_LABEL.fullmatch(name):
            raise UsageError(f"--{option} {name} is no name in Kubernetes", expected="small letters, digits and dashes")
    folder = request.session.url.removeprefix("file://")
    if "://" not in folder and not (request.claim and folder.startswith("/shared/")):
        raise SpecError(
            f"pods cannot reach the depot {folder}: it is a folder of this machine",
            expected="a depot that all pods share: s3://..., or a folder below /shared with --claim",
            fix="set `depot:` in the matrix",
        )


def _warn_of_folders(request: InstallRequest) -> None:
    models = {str(task.spec["model"]) for group in request.groups for task in group.tasks}
    for model in sorted(model for model in models if model.startswith("/")):
        request.session.talk.warn(f"{model} is a folder: pods must find it at that path, in the image or on the claim")


def _cells(group: SkuGroup, request: InstallRequest) -> dict[str, Any]:
    tasks = f"{CONFIG_MOUNT}/{group.sku.id}.jsonl"
    command = f"exec trtllm-kit nightly cell --tasks {tasks} --index-env JOB_COMPLETION_INDEX --night {_NIGHT}"
    count = len(group.tasks)
    job = {
        "completionMode": "Indexed",
        "completions": count,
        "parallelism": min(request.at_once, count),
        "backoffLimitPerIndex": _RETRIES,
        "maxFailedIndexes": count,  # no cell's failure ends the others
        "podFailurePolicy": {"rules": _rules()},
    }
    labels = {"trtllm-kit/sku": group.name}
    queue = {"kueue.x-k8s.io/queue-name": request.queue} if request.queue else {}
    if request.queue:
        job["suspend"] = True  # until Kueue admits it
    return _cron_job(
        f"trtllm-nightly-{group.name}", request.schedule, job, cell_pod(group, request, command), labels, queue
    )


def _report(request: InstallRequest) -> dict[str, Any]:
    settings, pages = f"{CONFIG_MOUNT}/nightly.yaml", f"{kept_folder(request)}/report"
    command = f"exec trtllm-kit nightly report latest -f {settings} --out {pages} --publish"
    return _cron_job(
        "trtllm-nightly-report", request.report_schedule, {"backoffLimit": 0}, report_pod(request, command), {}, {}
    )


def _rules() -> list[dict[str, Any]]:
    """The first that fits holds. An evicted pod may end with any code, so that comes first."""
    never = sorted(code for code, wanted in AGAIN.items() if wanted == "never" and code != 0)
    again = sorted(code for code, wanted in AGAIN.items() if wanted != "never")
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        _on_exit("FailIndex", never),
        _on_exit("Count", again),
    ]


def _on_exit(action: str, codes: list[int]) -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": codes}}


def _cron_job(
    name: str,
    schedule: Schedule,
    job: Mapping[str, Any],
    pod: Mapping[str, Any],
    labels: Mapping[str, str],
    job_labels: Mapping[str, str],
) -> dict[str, Any]:
    own = {"app.kubernetes.io/name": "trtllm-kit", "app.kubernetes.io/component": "nightly", **labels}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, "labels": own},
        "spec": {
            "schedule": schedule.text,
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": _LATEST_START_S,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "metadata": {"labels": {**own, **job_labels}},
                "spec": {
                    **job,
                    "activeDeadlineSeconds": _LONGEST_S,
                    "ttlSecondsAfterFinished": _KEEP_S,
                    "template": {"metadata": {"labels": own}, "spec": dict(pod)},
                },
            },
        },
    }


def _config(request: InstallRequest) -> dict[str, Any]:
    data = {f"{group.sku.id}.jsonl": group.lines for group in request.groups}
    data["nightly.yaml"] = _yaml([_report_settings(request)])
    size = sum(len(text.encode()) for text in data.values())
    if size > _CONFIG_MAP_BYTES:
        raise SpecError(
            f"the tasks are {size:,} bytes, and a ConfigMap takes no more than 1 MiB",
            expected="a smaller matrix",
            fix="split it into several, each in a namespace of its own",
        )
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG}, "data": data}


def _report_settings(request: InstallRequest) -> dict[str, Any]:
    """As much of the matrix as the report reads; what names a path of this machine means nothing in a pod."""
    webhook = request.session.nightly.spec.report.webhook
    return {"depot": request.session.url, **({"report": {"webhook": webhook}} if webhook else {})}


def _kustomization(request: InstallRequest, files: list[str]) -> dict[str, Any]:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": request.namespace,
        "resources": files,
    }


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, values that occur twice written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(rows: list[dict[str, Any]]) -> str:
    return yaml.dump_all(rows, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
