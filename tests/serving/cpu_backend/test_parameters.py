"""`config.pbtxt` and request tensors in upstream's meanings: what is read, what is defaulted, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.cpu_backend.inputs import generation_request
from serving.cpu_backend.parameters import BackendParameters, read_parameters
from serving.cpu_backend.request import GenerationRequest, RequestError
from trtllm_kit.errors import IncompatibleError

GOOD = {
    "gpt_model_type": "inflight_fused_batching",
    "gpt_model_path": "engine",
    "tokenizer_dir": "${tokenizer_dir}",
    "xgrammar_tokenizer_info_path": "",
    "guided_decoding_backend": "${guided_decoding_backend}",
}


def read(warnings: list[str] | None = None, drop: str = "", **changes: str) -> BackendParameters:
    values = {key: {"string_value": value} for key, value in {**GOOD, **changes}.items() if key != drop}
    config: dict[str, Any] = {
        "max_batch_size": 4,
        "parameters": values,
        "model_transaction_policy": {"decoupled": True},
        "dynamic_batching": {"default_queue_policy": {"max_queue_size": 7}},
    }
    args = {"model_config": json.dumps(config), "model_repository": "/srv/artifact/model_repository/tensorrt_llm"}
    return read_parameters(args, (warnings if warnings is not None else []).append)


def test_reads_the_unmodified_repository() -> None:
    found = read(enable_kv_cache_reuse="False", max_tokens_in_paged_kv_cache="640", cancellation_check_period_ms="50")
    assert found.engine == Path("/srv/artifact/engine")
    assert (found.max_batch_size, found.max_queue_size, found.decoupled) == (4, 7, True)
    assert (found.enable_block_reuse, found.kv_tokens, found.cancellation_period_s) == (False, 640, 0.05)
    assert read(gpt_model_path="/elsewhere/engine").engine == Path("/elsewhere/engine")
    assert read(max_attention_window_size="512,128").attention_window == 128


@pytest.mark.parametrize("value", ["", "${enable_kv_cache_reuse}", "yes"])
def test_what_does_not_parse_falls_back_as_upstream_does(value: str) -> None:
    warnings: list[str] = []
    assert read(warnings, enable_kv_cache_reuse=value).enable_block_reuse is True
    assert len(warnings) == (value == "yes")


@pytest.mark.parametrize(
    "key", ["gpt_model_type", "tokenizer_dir", "xgrammar_tokenizer_info_path", "guided_decoding_backend"]
)
def test_refuses_to_start_without_the_keys_that_upstream_needs(key: str) -> None:
    with pytest.raises(IncompatibleError, match=key):
        read(drop=key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gpt_model_type", "V1"),
        ("gpt_model_path", ""),
        ("guided_decoding_backend", "xgrammar"),
        ("encoder_model_path", "/encoder"),
        ("max_beam_width", "2"),
        ("decoding_mode", "medusa"),
        ("sink_token_length", "4"),
    ],
)
def test_refuses_to_start_with_what_it_would_have_to_ignore(key: str, value: str) -> None:
    with pytest.raises(IncompatibleError, match=key):
        read(**{key: value})


def request(**tensors: Any) -> GenerationRequest:
    base = {"input_ids": [[5, 6, 7, 0]], "input_lengths": [[3]], "request_output_len": [[9]]}
    merged = {**base, **tensors}
    return generation_request(
        {name: np.asarray(value) for name, value in merged.items() if value is not None}  # None: not sent
    )


def test_reads_every_sampling_input() -> None:
    found = request(
        end_id=[[2]],
        pad_id=[[0]],
        runtime_top_k=[[5]],
        runtime_top_p=[[0.5]],
        temperature=[[0.25]],
        seed=[[2**63]],
        repetition_penalty=[[1.5]],
        presence_penalty=[[0.5]],
        frequency_penalty=[[-0.5]],
        min_tokens=[[2]],
        return_log_probs=[[True]],
        streaming=[[True]],
        stop_words_list=[[[11, 12, 13, 0], [2, 3, -1, -1]]],
        bad_words_list=np.empty((1, 2, 0), np.int32),
        embedding_bias=np.empty((1, 0), np.float32),
        len_penalty=[[1.0]],
    )
    assert found == GenerationRequest(
        input_ids=[5, 6, 7],
        max_tokens=9,
        end_id=2,
        stop_words=((11, 12), (13,)),
        temperature=0.25,
        top_k=5,
        top_p=0.5,
        seed=2**63,
        repetition_penalty=1.5,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        min_tokens=2,
        log_probs=True,
        streaming=True,
    )


def test_unset_values_as_upstream_reads_them() -> None:
    plain = request()
    assert plain == request(end_id=[[-1]], runtime_top_p=[[0.0]], stop_words_list=[[[0], [-1]]])
    assert plain.greedy
    assert request(random_seed=[[4]], min_length=[[2]]) == request(seed=[[4]], min_tokens=[[2]])


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"return_context_logits": [[True]]}, "return_context_logits"),
        ({"return_generation_logits": [[True]]}, "return_generation_logits"),
        ({"return_perf_metrics": [[True]]}, "return_perf_metrics"),
        ({"lora_task_id": [[1]]}, "LoRA"),
        ({"prompt_embedding_table": [[[1.0]]]}, "prompt tuning"),
        ({"draft_input_ids": [[4]]}, "draft"),
        ({"embedding_bias": [[0.0, 1.0]]}, "embedding bias"),
        ({"guided_decoding_guide": np.array([[b"{}"]], object)}, "guided"),
        ({"runtime_top_p_decay": [[0.9]]}, "decay"),
        ({"input_ids": [[5], [6]]}, "batch of 2"),
        ({"input_ids": None}, "input_ids is missing"),
        ({"input_lengths": [[5]]}, "input_lengths is 5"),
        ({"input_lengths": [[-1]]}, "input_lengths is -1"),
        ({"request_output_len": None}, "request_output_len is missing"),
        ({"stop_words_list": [[1, 2, 3]]}, "shape"),
        ({"stop_words_list": [[[1, 2], [3, -1]]]}, "word ends"),
        ({"stop_words_list": [[[1, 2], [2, 1]]]}, "word ends"),
    ],
)
def test_refuses_what_it_would_have_to_ignore(tensors: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        request(**tensors)
