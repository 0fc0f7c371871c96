"""Manifests against the schemas of every Kubernetes that has their fields, and against what they are meant to do."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from serving.nightly.retry import AGAIN, again

kubernetes_validate = pytest.importorskip("kubernetes_validate")

Installed = Callable[[str], Path]
KUEUE = json.loads((Path(__file__).parent / "kueue.schema.json").read_text())
VERSIONS = list(dict.fromkeys(kubernetes_validate.utils.all_versions()))
FIRST = 29  # minor version where limits of indices are on by default


def minor(version: str) -> int:
    return int(version.split(".")[1])


@pytest.fixture(scope="module")
def manifests(installed: Installed) -> dict[str, list[Any]]:
    return {path.name: list(yaml.safe_load_all(path.read_text())) for path in installed("kubernetes").glob("*.yaml")}


@pytest.fixture(scope="module")
def jobs(manifests: dict[str, list[Any]]) -> dict[str, Any]:
    """Cron jobs by name."""
    return {row["metadata"]["name"]: row for rows in manifests.values() for row in rows if row["kind"] == "CronJob"}


def pod_of(cron_job: Any) -> Any:
    return cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", [version for version in VERSIONS if minor(version) >= FIRST])
def test_every_kubernetes_from_1_29_on_takes_them(manifests: dict[str, list[Any]], version: str) -> None:
    for name in manifests.keys() - {"kueue.yaml", "kustomization.yaml"}:
        for manifest in manifests[name]:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", [version for version in VERSIONS if minor(version) < FIRST])
def test_an_older_kubernetes_takes_the_report_and_refuses_the_cells(jobs: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(jobs["trtllm-nightly-report"], version, strict=True)
    with pytest.raises(jsonschema.ValidationError):
        kubernetes_validate.validate(jobs["trtllm-nightly-l40s"], version, strict=True)


def test_the_validator_is_strict(jobs: dict[str, Any]) -> None:
    broken = json.loads(json.dumps(jobs["trtllm-nightly-l40s"]))
    broken["spec"]["jobTemplate"]["spec"]["backoffLimitPerIndexx"] = 1
    with pytest.raises(jsonschema.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2"])
def test_kueue_objects_fit_our_schema_of_both_versions(manifests: dict[str, list[Any]], version: str) -> None:
    rows = manifests["kueue.yaml"]
    assert [row["kind"] for row in rows] == ["ResourceFlavor"] * 3 + ["ClusterQueue", "LocalQueue"]
    for row in rows:
        jsonschema.validate({**row, "apiVersion": f"kueue.x-k8s.io/{version}"}, KUEUE)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**rows[-1], "spec": {}}, KUEUE)


def test_kueue_has_room_for_every_pod_and_flavors_lead_to_its_nodes(
    manifests: dict[str, list[Any]], jobs: dict[str, Any]
) -> None:
    *flavors, cluster_queue, local_queue = manifests["kueue.yaml"]
    (group,) = cluster_queue["spec"]["resourceGroups"]
    quotas = {
        row["name"]: {part["name"]: part["nominalQuota"] for part in row["resources"]} for row in group["flavors"]
    }
    labels = {row["metadata"]["name"]: row["spec"]["nodeLabels"] for row in flavors}
    assert labels.keys() == quotas.keys()
    for sku in ("cpu", "l40s", "h100-sxm"):
        cron_job, quota = jobs[f"trtllm-nightly-{sku}"], quotas[f"trtllm-{sku}"]
        job = cron_job["spec"]["jobTemplate"]
        assert list(quota) == group["coveredResources"]  # Kueue wants all, in that order
        (container,) = pod_of(cron_job)["containers"]
        for name, asked in container["resources"]["requests"].items():
            assert number(asked) * job["spec"]["parallelism"] <= number(quota[name])
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local_queue["metadata"]["name"]
        assert job["spec"]["suspend"] is True
        assert labels[f"trtllm-{sku}"] == wanted_labels(pod_of(cron_job))
    assert local_queue["spec"]["clusterQueue"] == cluster_queue["metadata"]["name"]


def number(quantity: str) -> int:
    return int(quantity.removesuffix("Mi"))


def wanted_labels(pod: Any) -> dict[str, str]:
    if "affinity" not in pod:
        return {}
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    ((term,),) = (row["matchExpressions"] for row in required["nodeSelectorTerms"])
    assert term["operator"] == "In"
    return {term["key"]: term["values"][0]}


def test_cells_go_to_their_gpus_and_to_no_others(jobs: dict[str, Any]) -> None:
    assert wanted_labels(pod_of(jobs["trtllm-nightly-l40s"])) == {"nvidia.com/gpu.product": "NVIDIA-L40S"}
    (container,) = pod_of(jobs["trtllm-nightly-l40s"])["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    (container,) = pod_of(jobs["trtllm-nightly-cpu"])["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert jobs["trtllm-nightly-h100-sxm"]["spec"]["jobTemplate"]["spec"]["completions"] == 2


def end_of_pod(rules: list[Any], exit_code: int, *, disrupted: bool) -> str:
    """What the job controller does with a failed pod: the first rule that fits, else Count."""
    for rule in rules:
        conditions, codes = rule.get("onPodConditions"), rule.get("onExitCodes")
        if conditions and disrupted:
            assert conditions == [{"type": "DisruptionTarget", "status": "True"}]
            return str(rule["action"])
        if codes and exit_code in codes["values"]:
            assert codes["operator"] == "In"
            return str(rule["action"])
    return "Count"


@pytest.mark.parametrize("exit_code", [*sorted(code for code in AGAIN if code), 137, 143])
def test_pods_fail_or_count_by_the_table_of_retries(jobs: dict[str, Any], exit_code: int) -> None:
    job = jobs["trtllm-nightly-l40s"]["spec"]["jobTemplate"]["spec"]
    rules = job["podFailurePolicy"]["rules"]
    assert end_of_pod(rules, exit_code, disrupted=False) == ("Count" if again(exit_code, 1) else "FailIndex")
    assert end_of_pod(rules, exit_code, disrupted=True) == "Ignore"
    assert job["maxFailedIndexes"] >= job["completions"]


def test_pods_may_nothing_that_they_need_not(jobs: dict[str, Any]) -> None:
    for cron_job in jobs.values():
        pod = pod_of(cron_job)
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        written = {row["name"]: row for row in container["env"]}
        for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "NIGHTLY_WEBHOOK"):
            if name in written:
                assert written[name]["valueFrom"]["secretKeyRef"] == {"name": "keys", "key": name, "optional": True}
        assert ("NIGHTLY_WEBHOOK" in written) == (cron_job["metadata"]["name"] == "trtllm-nightly-report")


def shell_of(pod: Any, environment: dict[str, str]) -> str:
    """The pod's shell command as the kubelet hands it over: $(NAME) is replaced where NAME is a variable of the pod."""
    (container,) = pod["containers"]
    shell, flag, text = container["command"]
    assert (shell, flag) == ("/bin/sh", "-c")
    known = {row["name"] for row in container["env"]} | environment.keys()
    assert not known & set(re.findall(r"\$\(([A-Za-z_]+)\)", text))
    return str(text)


def test_every_index_of_a_night_takes_the_same_name(jobs: dict[str, Any], tmp_path: Path) -> None:
    """The controller names a job after its cron job and the scheduled minute since 1970."""
    kit = tmp_path / "trtllm-kit"
    kit.write_text('#!/bin/sh\necho "$@"\n')
    kit.chmod(0o755)
    said = set()
    for sku in ("cpu", "l40s", "h100-sxm"):
        environment = {"JOB_NAME": f"trtllm-nightly-{sku}-{1_792_375_200 // 60}", "PATH": f"{tmp_path}:/usr/bin:/bin"}
        text = shell_of(pod_of(jobs[f"trtllm-nightly-{sku}"]), environment)
        out = subprocess.run(
            ["/bin/sh", "-c", text], env=environment, capture_output=True, text=True, check=True
        ).stdout
        *_, tasks, flag, variable, _, night = out.split()
        assert (tasks, flag, variable) == (
            f"/etc/trtllm-kit/{sku.replace('-', '_')}.jsonl",
            "--index-env",
            "JOB_COMPLETION_INDEX",
        )
        said.add(night)
    assert said == {"20261019T020000Z-k8s"}


def test_an_index_finds_its_line_in_the_config_map(kit: Any, manifests: dict[str, list[Any]]) -> None:
    (config,) = manifests["config.yaml"]
    tasks = kit.folder / "cpu.jsonl"
    tasks.write_text(config["data"]["cpu.jsonl"])
    command = ("nightly", "cell", "--tasks", str(tasks), "--index-env", "JOB_COMPLETION_INDEX")
    beyond = kit.run(*command, JOB_COMPLETION_INDEX="1")
    assert (beyond.code, "has 1 tasks and none at 1" in beyond.err) == (2, True)


def test_a_depot_that_pods_cannot_reach_is_refused(kit: Any, matrix: Path) -> None:
    matrix.write_text(matrix.read_text().replace("s3://bucket/depot", "depot"))
    refused = kit.run("nightly", "install", "--target", "kubernetes", "--image", "x")
    assert refused.code == 3
    assert "it is a folder of this machine" in refused.err
