"""How it is served and what `validate` will ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.plan import BuildFlags, ServingPlan, ValidationPlan
from builder.resolve.choices import Choices
from trtllm_kit.errors import SpecError
from trtllm_kit.spec import Runtime, ServingSpec, Spec

REQUESTS_PER_LEVEL = 16
INPUT_LEN = 128  # tokens, where the longest sequence leaves room
OUTPUT_LEN = 64
_PYTHON_FRONT_ENDS = 64  # each of them is a process on the server


def choose_serving(spec: Spec, runtime: Runtime, build: BuildFlags, choices: Choices) -> ServingPlan:
    written = spec.serving
    concurrency = choices.take(
        "serving.concurrency",
        written.concurrency,
        min(8 if runtime == "cpu" else _PYTHON_FRONT_ENDS, build.max_batch_size),
        "what a laptop streams well"
        if runtime == "cpu"
        else "as many as the engine batches and Python front ends serve",
    )
    tokenizers = min(concurrency, 2 if runtime == "cpu" else 8)
    paged = build.use_paged_context_fmha == "enable"
    decided: Mapping[str, Any] = {
        "concurrency": concurrency,
        "triton_max_batch_size": choices.take(
            "serving.triton_max_batch_size",
            written.triton_max_batch_size,
            build.max_batch_size,
            "the engine's own limit",
        ),
        "preprocessing_instance_count": choices.take(
            "serving.preprocessing_instance_count",
            written.preprocessing_instance_count,
            tokenizers,
            "tokenizing is much faster than generating",
        ),
        "postprocessing_instance_count": choices.take(
            "serving.postprocessing_instance_count",
            written.postprocessing_instance_count,
            1 if written.decoupled_mode else tokenizers,
            "two instances would let the tokens of one stream overtake each other in the ensemble"
            if written.decoupled_mode
            else "detokenizing is much faster than generating",
        ),
        "bls_instance_count": choices.take(
            "serving.bls_instance_count", written.bls_instance_count, *_bls_instances(runtime, written, concurrency)
        ),
        "max_queue_size": choices.take(
            "serving.max_queue_size",
            written.max_queue_size,
            0 if runtime == "cpu" else 8 * build.max_batch_size,
            "no limit: with one, Triton's batcher holds back requests that could join a running batch"
            if runtime == "cpu"
            else "eight batches may wait; beyond that a refusal is kinder than a time-out",
        ),
        "enable_chunked_context": choices.take(
            "serving.enable_chunked_context",
            written.enable_chunked_context,
            paged,
            "long prompts then share steps with running ones" if paged else "it needs use_paged_context_fmha",
        ),
        "cpu_threads": choices.take(
            "serving.cpu_threads", written.cpu_threads, 0, "all cores of the serving machine but one, which serves"
        ),
    }
    return ServingPlan(**{**written.model_dump(), **decided})


def warnings_of(serving: ServingPlan) -> list[str]:
    """What was asked for and will not do what one expects."""
    if serving.decoupled_mode and serving.postprocessing_instance_count > 1:
        return [
            f"postprocessing_instance_count {serving.postprocessing_instance_count} with decoupled_mode: the tokens of"
            " one stream may overtake each other in the ensemble; set it to 1"
        ]
    return []


def _bls_instances(runtime: Runtime, written: ServingSpec, concurrency: int) -> tuple[int, str]:
    """How many, and why. A streaming instance serves its requests by threads, which share Python's lock."""
    if not written.decoupled_mode:
        return concurrency, "without streaming an instance serves one request at a time"
    if runtime == "cpu":
        return 1, "one process streams all requests by threads; more would take cores from the engine"
    return concurrency, "the intended concurrency: streams then do not wait for each other's Python"


def choose_validation(spec: Spec, build: BuildFlags, choices: Choices) -> ValidationPlan:
    written = spec.validation
    decided: Mapping[str, Any] = {
        "concurrencies": tuple(written.concurrencies),
        "requests_per_level": choices.take(
            "validation.requests_per_level",
            written.requests_per_level,
            REQUESTS_PER_LEVEL,
            "enough for a median; raise it for tails",
        ),
        "input_len": choices.take(
            "validation.input_len",
            written.input_len,
            max(1, min(INPUT_LEN, build.max_seq_len // 4)),
            "a short chat turn",
        ),
        "output_len": choices.take(
            "validation.output_len",
            written.output_len,
            max(1, min(OUTPUT_LEN, build.max_seq_len // 4)),
            "a short answer",
        ),
    }
    plan = ValidationPlan(**{**written.model_dump(), **decided})
    if plan.input_len + plan.output_len > build.max_seq_len:
        raise SpecError(
            f"validation asks for {plan.input_len} + {plan.output_len} tokens, max_seq_len is {build.max_seq_len}",
            expected="input_len + output_len within max_seq_len",
            fix="lower validation.input_len or output_len, or raise build.max_seq_len",
        )
    return plan
