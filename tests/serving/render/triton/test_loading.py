"""Every kind of rendered repository loads in a real tritonserver that ends at the first model it cannot load."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from serving.render import render

ENGINE_MODELS = {"preprocessing", "tensorrt_llm", "postprocessing", "tensorrt_llm_bls", "ensemble"}


def loaded(served: Any) -> set[str]:
    request = urllib.request.Request(f"{served.server.http_url}/v2/repository/index", method="POST")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return {row["name"] for row in json.load(answer) if row["state"] == "READY"}


def configuration(served: Any, model: str) -> dict[str, Any]:
    with served.client() as client:
        return client.get_model_config(model, as_json=True)["config"]


def test_an_engine_repository_does_not_depend_on_the_number_of_ranks(make_plan) -> None:
    """World size is the launcher's affair, so loading one of these loads them all."""
    alone = render(make_plan())
    for tp, pp in ((2, 1), (8, 1), (4, 2)):
        assert render(make_plan(target__tp_size=tp, target__pp_size=pp)) == alone


@pytest.mark.parametrize(
    ("version", "decoupled"),
    # The tests of the Python models load 1.2.1 decoupled and 0.19.0 whole.
    [("0.16.0", True), ("0.18.2", False), ("0.19.0", True), ("1.2.1", False)],
)
def test_an_engine_repository_loads(serve, tmp_path: Path, version: str, decoupled: bool) -> None:
    changes = {"target__tp_size": 8, "trtllm_version": version, "serving__decoupled_mode": decoupled}
    with serve(tmp_path, build__logits_dtype="float16", **changes) as served:
        assert loaded(served) == ENGINE_MODELS
        assert configuration(served, "tensorrt_llm")["backend"] == "tensorrtllm"
        answer = served.stream("ensemble", text_input="fox", max_tokens=2)
        assert answer[0].as_numpy("text_output").shape == (1, 1)


@pytest.mark.parametrize(("tp", "decoupled"), [(1, False), (2, True), (8, True)])
def test_an_llmapi_repository_loads(serve, tmp_path: Path, tp: int, decoupled: bool) -> None:
    with serve(tmp_path, runtime="pytorch", target__tp_size=tp, serving__decoupled_mode=decoupled) as served:
        assert loaded(served) == {"tensorrt_llm"}
        whole = served.stream if decoupled else lambda model, **arrays: [served.infer(model, **arrays)]
        (answer,) = whole("tensorrt_llm", text_input="a b", sampling_param_max_tokens=3)
        assert answer.as_numpy("text_output").tolist() == [b" a b a"]


def test_a_server_without_the_tokenizer_says_where_it_should_be(
    serve, make_plan, write_artifact, tmp_path: Path
) -> None:
    from serving.deploy.server import running_server
    from trtllm_kit.errors import RolloutError

    root = write_artifact(make_plan(), tmp_path / "artifact")
    (root / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(RolloutError, match="tokenizer_dir"), running_server(root, extra=("--exit-on-error=true",)):
        pass


@pytest.fixture(scope="module")
def llmapi(serve, tmp_path_factory) -> Any:
    with serve(tmp_path_factory.mktemp("llmapi"), runtime="pytorch") as served:
        yield served


def test_llmapi_streams_cumulative_text_and_what_is_asked_for(llmapi) -> None:
    results = llmapi.stream(
        "tensorrt_llm",
        text_input="a b",
        sampling_param_max_tokens=3,
        streaming=True,
        return_finish_reason=True,
        return_cumulative_logprob=True,
    )
    assert [result.as_numpy("text_output").item() for result in results] == [b" a", b" a b", b" a b a"]
    assert results[-1].as_numpy("finish_reason").tolist() == [b"length"]
    assert results[-1].as_numpy("cumulative_logprob").tolist() == [-2.5]


def test_llmapi_takes_stop_words_and_may_repeat_the_prompt(llmapi) -> None:
    (answer,) = llmapi.stream(
        "tensorrt_llm",
        text_input="a b",
        sampling_param_max_tokens=30,
        sampling_param_stop=np.array(["b"], np.object_),
        sampling_param_exclude_input_from_output=False,
    )
    assert answer.as_numpy("text_output").item() == b"a b a b"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text_input": b"\xff"}, "not UTF-8"),
        ({"text_input": np.array(["a", "b"], np.object_)}, "one prompt"),
        ({"sampling_param_max_tokens": 0}, "at least 1"),
        ({"lora_name": "x"}, "belong together"),
        ({"stop": True}, "stop needs the id"),
    ],
)
def test_llmapi_refuses_in_words(llmapi, changes: dict[str, Any], says: str) -> None:
    arrays = {"text_input": "a", "sampling_param_max_tokens": 2, **changes}
    with pytest.raises(InferenceServerException, match=says):
        llmapi.stream("tensorrt_llm", **arrays)


def test_llmapi_stops_by_request_id(llmapi) -> None:
    pause = np.array([20], np.uint64)
    with llmapi.open() as opened, llmapi.open() as other:
        opened.send(
            "tensorrt_llm",
            "mine",
            text_input="a",
            streaming=True,
            sampling_param_max_tokens=5000,
            sampling_param_seed=pause,
        )
        opened.next()
        other.send("tensorrt_llm", "mine", text_input="a", stop=True)
        with pytest.raises(InferenceServerException, match="cancelled"):
            for _ in opened.rest():
                pass
