"""The backend inside a real tritonserver, over gRPC, with the repository as it is rendered for the engine layout."""

from __future__ import annotations

import itertools
import queue
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from serving.cpu_backend.engine import Engine
from serving.deploy.server import RunningServer, running_server
from serving.deploy.tritonserver import cpu_backend_files
from trtllm_kit.errors import RolloutError

PROMPT = list(range(5, 45))
_TYPES = {bool: ("BOOL", np.bool_), float: ("FP32", np.float32), int: ("INT32", np.int32)}


def tensors(**values: Any) -> list[Any]:
    """Inputs with a leading batch of one; a list is a vector, or a matrix where it holds lists."""
    values = {"input_ids": PROMPT, "request_output_len": 24, **values}
    values.setdefault("input_lengths", len(values["input_ids"]))
    made = []
    for name, value in values.items():
        array = np.array(value).reshape(1, -1) if np.ndim(value) < 2 else np.array([value])
        kind, dtype = _TYPES[type(array.flat[0].item())] if array.size else _TYPES[int]
        if name == "seed":
            kind, dtype = "UINT64", np.uint64
        made.append(grpc.InferInput(name, list(array.shape), kind))
        made[-1].set_data_from_numpy(array.astype(dtype))
    return made


class Client:
    """One gRPC stream; news of each request in the order of arrival."""

    def __init__(self, server: RunningServer) -> None:
        self.grpc = grpc.InferenceServerClient(server.grpc_address)
        self.arrivals: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.grpc.start_stream(lambda result, error: self.arrivals.put((result, error)))

    def send(self, request_id: str, outputs: list[str] | None = None, **values: Any) -> None:
        wanted = None if outputs is None else [grpc.InferRequestedOutput(name) for name in outputs]
        self.grpc.async_stream_infer(
            "tensorrt_llm",
            tensors(**values),
            outputs=wanted,
            request_id=request_id,
            enable_empty_final_response=True,
        )

    def next(self) -> tuple[str, bool, dict[str, Any]]:
        """(request id, whether it is final, outputs)"""
        result, error = self.arrivals.get(timeout=60)
        if error is not None:
            raise error
        response = result.get_response()
        outputs = {output.name: result.as_numpy(output.name) for output in response.outputs}
        return response.id, response.parameters["triton_final_response"].bool_param, outputs

    def until_final(self, request_id: str) -> list[dict[str, Any]]:
        found = []
        while True:
            name, final, outputs = self.next()
            if name == request_id:
                found.append(outputs)
                if final:
                    return found

    def close(self) -> None:
        self.grpc.stop_stream()
        self.grpc.close()


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    client = Client(server)
    yield client
    client.close()


def ids(responses: list[dict[str, Any]]) -> list[int]:
    return [int(token) for outputs in responses for token in outputs["output_ids"].reshape(-1)]


def gauges(server: RunningServer) -> dict[str, float]:
    text = urllib.request.urlopen(f"{server.http_url.rsplit(':', 1)[0]}:{server.ports.metrics}/metrics").read().decode()
    return {
        f"{family}.{value}": float(number)
        for family, value, number in re.findall(
            r'^(nv_trt_llm_\w+)\{[^}]*?(?:type|metric)="(\w+)"[^}]*\} (\S+)$', text, re.M
        )
    }


def test_plain_and_streamed_give_the_engine_s_own_tokens(
    client: Client, engine: Engine, stream: Callable[..., Any]
) -> None:
    sampling = {"seed": 3, "temperature": 0.9}
    expected = stream(engine, input_ids=PROMPT, max_tokens=24, top_k=40, top_p=0.95, **sampling).tokens()
    wire = {"runtime_top_k": 40, "runtime_top_p": 0.95, **sampling, "return_num_output_tokens": True}
    client.send("plain", **wire)
    plain = client.until_final("plain")
    client.send("streamed", **wire, streaming=True, return_num_input_tokens=True)
    streamed = client.until_final("streamed")
    assert ids(plain) == ids(streamed) == expected
    assert len(plain) == 1
    assert plain[0]["output_ids"].shape == (1, 1, 24)
    assert plain[0]["sequence_length"].tolist() == plain[0]["num_output_tokens"].tolist() == [[24]]
    assert len(streamed) == 24
    assert all(outputs["num_output_tokens"].tolist() == [[1]] for outputs in streamed)
    assert all(outputs["num_input_tokens"].tolist() == [[40]] for outputs in streamed)
    assert all(outputs["batch_index"].tolist() == outputs["sequence_index"].tolist() == [[0]] for outputs in streamed)


def test_only_the_outputs_that_were_asked_for(client: Client) -> None:
    client.send("few", outputs=["output_ids", "sequence_length"], return_num_output_tokens=True)
    assert set(client.until_final("few")[0]) == {"output_ids", "sequence_length"}
    client.send("all", return_log_probs=True)
    outputs = client.until_final("all")[0]
    assert outputs["output_log_probs"].shape == (1, 1, 24)
    assert outputs["cum_log_probs"][0, 0] == pytest.approx(outputs["output_log_probs"].sum(), rel=1e-5)


def test_the_prompt_is_repeated_only_on_request(client: Client) -> None:
    client.send("with", exclude_input_in_output=False, return_num_output_tokens=True)
    outputs = client.until_final("with")
    assert ids(outputs)[:40] == PROMPT
    assert len(ids(outputs)) == 64
    assert outputs[0]["num_output_tokens"].tolist() == [[24]]


def test_stop_words_and_end(client: Client) -> None:
    sampling = {"runtime_top_k": 40, "seed": 5}
    client.send("full", **sampling)
    full = ids(client.until_final("full"))
    client.send("word", **sampling, stop_words_list=[[full[6], full[7]], [2, -1]])
    assert ids(client.until_final("word")) == full[:8]
    client.send("end", **sampling, end_id=full[6], streaming=True)
    ended = client.until_final("end")
    assert ids(ended) == full[: full.index(full[6])]
    assert ended[-1]["sequence_length"].tolist() == [[0]]


def finals(client: Client, count: int) -> tuple[list[str], list[str]]:
    """(ids of all responses, ids of the final ones), in the order of arrival, until `count` requests have ended."""
    order: list[str] = []
    ends: list[str] = []
    while len(ends) < count:
        name, final, _ = client.next()
        order.append(name)
        ends += [name] * final
    return order, ends


def test_streams_interleave(client: Client) -> None:
    for number in range(4):
        client.send(str(number), request_output_len=180, streaming=True)
    order, _ = finals(client, 4)
    assert len(order) == 4 * 180
    assert sum(a != b for a, b in itertools.pairwise(order)) > len(order) / 4


def test_a_short_request_overtakes_long_ones_that_run(client: Client) -> None:
    """Plain requests, since this client is too slow to read streams and send at once."""
    for number in range(4):
        client.send(f"long{number}", request_output_len=150)
    client.send("short", request_output_len=3)
    assert finals(client, 5)[1][0] == "short"


def test_stop_by_request_id_ends_it_with_what_it_has(client: Client) -> None:
    client.send("victim", request_output_len=210, streaming=True)
    client.next()
    client.send("victim", stop=True)
    answers, finals, tokens = 0, 0, 0
    while finals < 2:
        _, final, outputs = client.next()
        answers += not outputs
        finals += final
        tokens += outputs["output_ids"].size if outputs else 0
    assert answers == 1  # the stop request's own, empty answer
    assert tokens < 200
    client.send("after")
    assert len(ids(client.until_final("after"))) == 24


def test_a_cancelled_stream_frees_the_engine(server: RunningServer, client: Client) -> None:
    gone = Client(server)
    for number in range(6):
        gone.send(str(number), request_output_len=210, streaming=True)
    gone.next()
    gone.grpc.stop_stream(cancel_requests=True)
    client.send("after")
    assert len(ids(client.until_final("after"))) == 24
    for _ in range(200):
        if gauges(server)["nv_trt_llm_request_metrics.active"] == 0:
            break
        client.send("tick", request_output_len=1)
        client.until_final("tick")
    assert gauges(server)["nv_trt_llm_request_metrics.active"] == 0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"request_output_len": 0}, "at least 1"),
        ({"request_output_len": 240}, "max_seq_len 256"),
        ({"input_ids": [5, 320]}, "outside the vocabulary"),
        ({"runtime_top_p": 1.5}, "top_p"),
        ({"temperature": -1.0}, "temperature"),
        ({"beam_width": 2}, "beam_width"),
        ({"return_context_logits": True}, "return_context_logits"),
        ({"bad_words_list": [[7], [1]]}, "bad words"),
        ({"stop": True}, "without specifying a request_id"),
    ],
)
def test_refusals_reach_the_client_with_what_to_do(values: dict[str, Any], says: str, client: Client) -> None:
    client.send("", **values)
    with pytest.raises(InferenceServerException, match=says) as refused:
        client.next()
    assert "to do:" in refused.value.message()


def test_a_full_queue_is_refused(make_artifact: Callable[..., Path]) -> None:
    """Eight run and four may wait, in the engine and in front of it: how many get in depends on the moment."""
    with running_server(make_artifact(max_queue_size=4), cpu_backend=cpu_backend_files()) as server:
        client = Client(server)
        for number in range(60):
            client.send(str(number), request_output_len=100)
        outcomes = []
        for _ in range(60):
            try:
                outcomes.append(len(ids([client.next()[2]])))
            except InferenceServerException as error:
                assert "Exceeds maximum queue size" in error.message()
                outcomes.append(0)
        client.close()
    assert set(outcomes) == {0, 100}


def test_metrics_of_upstream(server: RunningServer, client: Client) -> None:
    client.send("one")
    client.until_final("one")
    found = gauges(server)
    assert found["nv_trt_llm_request_metrics.max"] == 8
    assert {key.rsplit(".", 1)[1] for key in found if "request_metrics" in key} == {
        "active", "max", "scheduled", "context", "waiting",
    }  # fmt: skip
    assert found["nv_trt_llm_kv_cache_block_metrics.max"] == 33
    assert found["nv_trt_llm_kv_cache_block_metrics.tokens_per"] == 32
    assert found["nv_trt_llm_general_metrics.iteration_counter"] >= 24
    assert found["nv_trt_llm_runtime_memory_metrics.cpu"] > 10 * 2**20


def test_without_decoupling_plain_requests_run_and_streams_are_refused(make_artifact: Callable[..., Path]) -> None:
    with running_server(make_artifact(decoupled_mode=False), cpu_backend=cpu_backend_files()) as server:
        client = grpc.InferenceServerClient(server.grpc_address)
        result = client.infer("tensorrt_llm", tensors())
        assert result.as_numpy("output_ids").shape == (1, 1, 24)
        with pytest.raises(InferenceServerException, match="decoupled"):
            client.infer("tensorrt_llm", tensors(streaming=True))
        client.close()


@pytest.mark.parametrize(
    ("pattern", "replacement", "says"),
    [
        (r'string_value: "engine"', 'string_value: "absent"', "engine.json"),
        (r"guided_decoding_backend", "another_key", "guided_decoding_backend"),
    ],
)
def test_a_repository_that_cannot_be_served_does_not_start(
    pattern: str, replacement: str, says: str, make_artifact: Callable[..., Path]
) -> None:
    root = make_artifact(lambda text: re.sub(pattern, replacement, text, count=1))
    with pytest.raises(RolloutError, match=says), running_server(root, cpu_backend=cpu_backend_files()):
        pass
