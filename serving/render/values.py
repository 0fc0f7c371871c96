"""A build plan as the values of its model repository: all arithmetic and every rule between build and serving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from builder.plan import BuildPlan
from profiles.triton_contract import Contract, engine_contract, llmapi_contract
from serving.render.llm_args import llm_args, triton_config
from serving.render.parameters import engine_parameters
from serving.render.rules import check_engine_rules, check_llmapi_rules
from trtllm_kit.spec import Runtime

Family = Literal["engine", "llmapi"]

FAMILIES: Mapping[Runtime, Family] = {"tensorrt": "engine", "cpu": "engine", "pytorch": "llmapi"}
"""Which templates serve which runtime. The cpu runtime is served by the engine's own files, unmodified."""

TRITON_BACKEND = "tensorrtllm"

LOGITS_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16"}

_ENCODER_AND_PROMPT_TYPE = "TYPE_FP16"
"""Upstream's own choice; the ensemble declares the prompt table as FP16 and Triton wants both ends of a wire alike."""


@dataclass(frozen=True, kw_only=True)
class RepositoryValues:
    """Everything that a template places, under upstream's template variable names where it has one."""

    family: Family
    contract: Contract
    parameters: Mapping[str, Mapping[str, str]]  # model -> key -> string_value, in the contract's order
    world_size: int  # ranks, one GPU each; launch scripts start as many processes
    triton_backend: str
    triton_max_batch_size: int
    decoupled_mode: str  # "true" | "false"
    max_queue_size: int  # 0: unlimited
    max_queue_delay_microseconds: int
    preprocessing_instance_count: int
    postprocessing_instance_count: int
    bls_instance_count: int
    llm_args: Mapping[str, Any]  # of tensorrt_llm.LLM; empty for the engine family
    triton_config: Mapping[str, Any]


def family_of(runtime: Runtime) -> Family:
    """`engine` or `llmapi`."""
    return FAMILIES[runtime]


def values_of(plan: BuildPlan) -> RepositoryValues:
    """All values of the plan's repository; SpecError for what Triton or TensorRT-LLM would refuse or bend."""
    family = family_of(plan.runtime)
    engine = family == "engine"
    (check_engine_rules if engine else check_llmapi_rules)(plan)
    contract = engine_contract(plan.trtllm_version, data_types(plan)) if engine else llmapi_contract()
    serving = plan.serving
    return RepositoryValues(
        family=family,
        contract=contract,
        parameters=engine_parameters(plan, contract) if engine else {},
        world_size=plan.world_size,
        triton_backend=TRITON_BACKEND if engine else "python",
        triton_max_batch_size=serving.triton_max_batch_size,
        decoupled_mode="true" if serving.decoupled_mode else "false",
        max_queue_size=serving.max_queue_size,
        max_queue_delay_microseconds=serving.max_queue_delay_microseconds,
        preprocessing_instance_count=serving.preprocessing_instance_count,
        postprocessing_instance_count=serving.postprocessing_instance_count,
        bls_instance_count=serving.bls_instance_count,
        llm_args={} if engine else llm_args(plan),
        triton_config={} if engine else triton_config(plan),
    )


def data_types(plan: BuildPlan) -> dict[str, str]:
    """The data types that follow from the engine: `logits_datatype` must equal the engine's own."""
    return {
        "logits": LOGITS_TYPES[plan.build.logits_dtype],
        "encoder_input_features": _ENCODER_AND_PROMPT_TYPE,
        "prompt_embedding_table": _ENCODER_AND_PROMPT_TYPE,
    }
