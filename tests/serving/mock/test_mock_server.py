from __future__ import annotations

import itertools
import json
import urllib.error

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.client.errors import RequestError
from serving.client.request import Request
from serving.client.transports import complete, stream
from serving.mock.behaviour import Behaviour, draw_plan
from trtllm_kit.errors import UsageError

QUICK = ("--ttft-ms", "5", "--itl-ms", "1")
LLMAPI = (*QUICK, "--layout", "llmapi")
TRANSPORTS = [
    (QUICK, "engine-http"),
    (QUICK, "engine-grpc"),
    (QUICK, "openai-completions"),
    (QUICK, "openai-chat"),
    (LLMAPI, "llmapi-http"),
    (LLMAPI, "llmapi-grpc"),
]
STREAMED_FAULTS = [
    ("--late-error-rate", "failed", "KV cache"),
    ("--cut-rate", "cut", "without a final response"),
    ("--garbage-rate", "garbage", "the server sent"),
]


@pytest.mark.parametrize(("options", "transport"), TRANSPORTS)
def test_every_interface_says_what_the_ledger_holds(start_mock, options, transport: str) -> None:
    mock = start_mock(*options)
    completion = complete(mock.endpoint(transport), Request(prompt="one two three", max_tokens=9))
    entry = mock.ledger[-1]
    assert completion.tokens == sum(entry["tokens"]) == 9
    assert len(completion.arrivals) == len(entry["sent_ns"]) == len(entry["scheduled_ns"]) == 9
    assert entry["end"] == "complete" and entry["input_tokens"] == 3
    if completion.counted_by != "responses":
        assert completion.input_tokens == 3
    assert len(completion.text.split()) == 9


@pytest.mark.parametrize(("options", "transport"), TRANSPORTS)
def test_a_plain_answer_has_the_same_text_as_a_streamed_one(start_mock, options, transport: str) -> None:
    endpoint = start_mock(*options, "--seed", "3").endpoint(transport)
    streamed = complete(endpoint, Request(prompt="a b", max_tokens=5))
    if transport.endswith("grpc"):  # a plain request over the stream is one response too
        plain = complete(endpoint, Request(prompt="a b", max_tokens=5, stream=False))
        assert len(plain.arrivals) == 1
        return
    plain = complete(endpoint, Request(prompt="a b", max_tokens=5, stream=False))
    assert len(plain.text.split()) == len(streamed.text.split()) == 5


@pytest.mark.parametrize("transport", ["engine-http", "engine-grpc", "openai-chat"])
@pytest.mark.parametrize(("rate", "kind", "words"), STREAMED_FAULTS)
def test_faults_after_the_first_token(start_mock, transport: str, rate: str, kind: str, words: str) -> None:
    mock = start_mock(*QUICK, rate, "1")
    with pytest.raises(RequestError, match=words) as caught:
        complete(mock.endpoint(transport), Request(prompt="x", max_tokens=8))
    assert (caught.value.kind, caught.value.tokens) == (kind, sum(mock.ledger[-1]["tokens"]))
    assert caught.value.tokens > 0


@pytest.mark.parametrize("transport", ["engine-http", "engine-grpc", "openai-completions"])
@pytest.mark.parametrize("rate", ["--refuse-rate", "--hidden-error-rate"])
def test_faults_before_the_first_token(start_mock, transport: str, rate: str) -> None:
    mock = start_mock(*QUICK, rate, "1")
    with pytest.raises(RequestError) as caught:
        complete(mock.endpoint(transport), Request(prompt="x", max_tokens=8))
    assert (caught.value.kind, caught.value.tokens) == ("refused", 0)


def test_a_hidden_error_is_an_http_200(start_mock) -> None:
    body = {"text_input": "x", "max_tokens": 4, "stream": True}
    assert '"error"' in start_mock(*QUICK, "--hidden-error-rate", "1").get("/v2/models/ensemble/generate_stream", body)
    with pytest.raises(urllib.error.HTTPError) as caught:
        start_mock(*QUICK, "--refuse-rate", "1").get("/v2/models/ensemble/generate_stream", body)
    assert caught.value.code == 400
    caught.value.close()


@pytest.mark.parametrize("transport", ["engine-http", "openai-chat", "llmapi-http"])
def test_characters_cut_in_two_by_the_network_arrive_whole(start_mock, transport: str) -> None:
    options = LLMAPI if transport.startswith("llmapi") else QUICK
    mock = start_mock(*options, "--split-utf8")
    completion = complete(mock.endpoint(transport), Request(prompt="x y", max_tokens=12))
    assert completion.tokens == 12
    assert "�" not in completion.text and set(completion.text.split()) <= {"naïve", "日本", "🙂", "über"}


def test_a_stop_request_ends_a_generation_and_both_sides_count_the_same(start_mock) -> None:
    mock = start_mock("--ttft-ms", "5", "--itl-ms", "20")
    for transport in ("engine-http", "engine-grpc"):
        request = Request(prompt="x", max_tokens=500, request_id=f"stop-{transport}")
        deltas = stream(mock.endpoint(transport), request)
        next(deltas)
        body = {"id": request.request_id, "input_ids": [0], "stop": True}
        mock.get("/v2/models/tensorrt_llm/generate_stream", body)
        tokens = 1 + sum(delta.tokens or 0 for delta in deltas)
        assert mock.ledger[-1]["end"] == "cancelled" and tokens == sum(mock.ledger[-1]["tokens"]) < 500


def test_a_client_that_leaves_ends_its_request(start_mock) -> None:
    mock = start_mock("--ttft-ms", "5", "--itl-ms", "20")
    before = mock.totals["ends"].get("cancelled", 0)
    deltas = stream(mock.endpoint("openai-chat"), Request(prompt="x", max_tokens=500))
    next(deltas)
    deltas.close()
    while mock.totals["active"]:
        pass
    assert mock.totals["ends"]["cancelled"] == before + 1


def test_slots_make_a_queue(start_mock) -> None:
    mock = start_mock("--ttft-ms", "50", "--itl-ms", "0", "--slots", "1")
    from concurrent.futures import ThreadPoolExecutor

    endpoint = mock.endpoint("engine-http")
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda at: complete(endpoint, Request(prompt=f"p{at}", max_tokens=2)), range(3)))
    starts = sorted(entry["started_ns"] for entry in mock.ledger)
    assert all(later - sooner >= 50e6 for sooner, later in itertools.pairwise(starts))


def test_statistics_metrics_and_metadata(start_mock) -> None:
    mock = start_mock(*QUICK, "--seed", "7")
    complete(mock.endpoint("engine-http"), Request(prompt="x", max_tokens=3))
    assert json.loads(mock.get("/v2"))["version"] == "2.51.0"
    assert mock.get("/v2/health/ready") == "{}"
    (row,) = json.loads(mock.get("/v2/models/ensemble/stats"))["model_stats"]
    assert row["inference_stats"]["success"]["count"] == 1
    assert 'nv_inference_request_success{model="ensemble",version="1"} 1' in mock.get("/metrics").splitlines()
    assert 'mock_output_tokens{model="ensemble",version="1"} 3' in mock.get("/metrics").splitlines()
    with pytest.raises(urllib.error.HTTPError) as caught:
        mock.get("/v2/models/nonsense")
    caught.value.close()


def test_the_grpc_side_speaks_tritons_own_client(start_mock) -> None:
    from tritonclient.grpc import InferenceServerClient

    mock = start_mock(*QUICK)
    client = InferenceServerClient(mock.grpc)
    assert client.is_server_ready() and client.get_server_metadata().version == "2.51.0"
    assert client.get_model_config("ensemble").config.model_transaction_policy.decoupled
    assert client.get_inference_statistics("ensemble").model_stats[0].name == "ensemble"
    client.close()


@given(
    st.integers(0, 5),
    st.text(max_size=10),
    st.integers(1, 60),
    st.integers(1, 7),
    st.floats(0, 0.5),
)
def test_a_plan_is_its_seeds_and_adds_up(seed: int, prompt: str, tokens: int, size: int, jitter: float) -> None:
    behaviour = Behaviour(seed=seed, tokens_per_chunk=size, jitter=jitter)
    plan = draw_plan(behaviour, prompt=prompt, input_tokens=3, tokens=tokens, nth=0)
    assert plan == draw_plan(behaviour, prompt=prompt, input_tokens=3, tokens=tokens, nth=0)
    assert sum(chunk.tokens for chunk in plan.chunks) == tokens
    assert all(chunk.tokens == size for chunk in plan.chunks[:-1])
    times = [chunk.due_s for chunk in plan.chunks]
    assert times == sorted(times) and times[0] >= 0
    assert all(len(chunk.text.split()) == chunk.tokens for chunk in plan.chunks)


def test_without_jitter_the_times_are_what_was_asked_for() -> None:
    behaviour = Behaviour(ttft_ms=100, ttft_per_input_token_ms=0.5, itl_ms=10, tokens_per_chunk=2)
    plan = draw_plan(behaviour, prompt="p", input_tokens=20, tokens=5, nth=0)
    assert [round(chunk.due_s * 1e3, 6) for chunk in plan.chunks] == [110.0, 130.0, 140.0]


def test_rates_are_shares_of_all_requests() -> None:
    behaviour = Behaviour(refuse_rate=0.2, cut_rate=0.3)
    faults = [draw_plan(behaviour, prompt=f"{at}", input_tokens=1, tokens=3, nth=0).fault for at in range(4000)]
    assert faults.count("refuse") / 4000 == pytest.approx(0.2, abs=0.03)
    assert faults.count("cut") / 4000 == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("wrong", [{"cut_rate": 0.6, "refuse_rate": 0.6}, {"itl_ms": -1}, {"tokens_per_chunk": 0}])
def test_impossible_behaviour_is_refused(wrong) -> None:
    with pytest.raises(UsageError):
        Behaviour(**wrong)


def test_a_taken_port_is_said(start_mock, kit) -> None:
    port = start_mock(*QUICK).http.rpartition(":")[2]
    outcome = kit.run("mock-server", "--http-port", port, "--no-grpc")
    assert outcome.code == 4 and port in outcome.err
