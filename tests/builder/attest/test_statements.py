"""The bill of materials and the provenance, read by those who wrote the standards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from builder import manifest
from builder.attest import provenance, sbom
from builder.plan import BuildPlan

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STACK = {
    "tensorrt_llm": "1.2.1",
    "tensorrt": "10.14.1",
    "cuda": "13.0",
    "triton_image": f"nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3@sha256:{'d' * 64}",
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def content(plan_for: Callable[..., BuildPlan]) -> Mapping[str, Any]:
    """The manifest of an engine for an H100, of a model on the hub."""
    plan = plan_for(LLAMA, target__sku="h100_sxm", precision="fp8")
    plan = replace(plan, checkpoint=replace(plan.checkpoint, revision=COMMIT, source="org/llama@main"))
    metrics = {"kl_mean": {"value": 0.01, "low": 0.005, "high": 0.02}}
    files = {"engine/rank0.engine": "a" * 64, "engine/config.json": "b" * 64}
    facts = {"quality": {"decision": "pass", "overall": {"metrics": metrics}}}
    return manifest.make(plan, {"compile": "c" * 64}, STACK, files, facts=facts)


@pytest.mark.parametrize("licence", ["apache-2.0", "llama3.1", None])
def test_the_bill_is_valid_cyclonedx(content: Mapping[str, Any], licence: str | None) -> None:
    bill = sbom.make(content, licence=licence)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None


def test_the_bill_names_model_stack_and_files(content: Mapping[str, Any]) -> None:
    bill = sbom.make(content, licence="apache-2.0")
    rows = {row["bom-ref"]: row for row in bill["components"]}
    assert bill["metadata"]["component"]["version"] == content["digest"]
    assert rows["model"]["purl"] == f"pkg:huggingface/org/llama@{COMMIT}"
    assert rows["model"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert rows["model"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]["value"] == "0.01"
    image = rows["stack:triton_image"]
    assert image["version"] == "26.07-trtllm-python-py3"
    assert image["purl"] == f"pkg:docker/nvidia/tritonserver@sha256:{'d' * 64}?repository_url=nvcr.io"
    versions = {row["name"]: row["version"] for ref, row in rows.items() if ref.startswith("stack:")}
    assert versions["tensorrt-llm"] == "1.2.1"
    assert versions["tensorrt"] == "10.14.1"
    assert versions["cuda"] == "13.0"
    assert versions["trtllm-kit"] == content["versions"]["trtllm-kit"]
    hashes = {row["name"]: row["hashes"][0]["content"] for row in rows.values() if row["type"] == "file"}
    assert hashes == content["files"]


def test_a_licence_that_spdx_does_not_know_keeps_its_name(content: Mapping[str, Any]) -> None:
    model = sbom.make(content, licence="llama3.1")["components"][0]
    assert model["licenses"] == [{"license": {"name": "llama3.1"}}]
    assert "licenses" not in sbom.make(content, licence=None)["components"][0]


def test_the_provenance_is_an_in_toto_statement_of_slsa(content: Mapping[str, Any]) -> None:
    tree = provenance.make(content, builder_id="https://ci.example/runner")
    statement = json_format.ParseDict(tree, StatementMessage())  # refuses unknown fields
    Statement.copy_from_pb(statement).validate()
    predicate = json_format.ParseDict(tree["predicate"], Provenance())
    assert statement.predicate_type == "https://slsa.dev/provenance/v1"
    assert predicate.run_details.builder.id == "https://ci.example/runner"
    subjects = {row.name: row.digest["sha256"] for row in statement.subject}
    assert subjects == {content["identifier"]: content["digest"], **content["files"]}
    model, image = predicate.build_definition.resolved_dependencies
    assert dict(model.digest) == {"sha256": content["model"]["digest"], "gitCommit": COMMIT}
    assert dict(image.digest) == {"sha256": "d" * 64}
    assert tree["predicate"]["buildDefinition"]["externalParameters"] == {"spec": content["spec"]}


def test_an_image_by_tag_and_a_model_in_a_folder_have_no_more_than_is_known(
    plan_for: Callable[..., BuildPlan], tmp_path: Path
) -> None:
    (tmp_path / "secret-place").mkdir()
    plan = plan_for(LLAMA, target__sku="h100_sxm", precision="fp8")
    plan = replace(plan, checkpoint=replace(plan.checkpoint, source=str(tmp_path / "secret-place")))
    stack = {"triton_image": "registry:5000/tritonserver:26.07"}
    content = manifest.make(plan, {}, stack, {}, facts={})
    model, image = provenance.make(content, builder_id=None)["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert model == {"name": "secret-place", "digest": {"sha256": content["model"]["digest"]}}
    assert image == {"name": stack["triton_image"], "uri": "pkg:docker/tritonserver@26.07?repository_url=registry:5000"}
    assert str(tmp_path) not in json.dumps([sbom.make(content, licence=None), model])
