"""Every miscount that load testers are known for, each against a server whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.client.request import Request
from serving.client.transports import complete
from serving.load.arrivals import ClosedLoop, OpenLoop
from serving.load.prompts import measure_of
from serving.load.summary import summarise
from serving.load.until import Until

QUICK = ("--ttft-ms", "5", "--itl-ms", "1")
ENGINE = ["engine-http", "engine-grpc", "openai-completions", "openai-chat"]


@pytest.mark.parametrize("transport", ENGINE)
def test_tokens_are_the_servers_and_not_those_of_another_tokenizer(
    start_mock, load, transport: str, tiny_llama: Path
) -> None:
    mock = start_mock(*QUICK)
    before = mock.totals["output_tokens"]
    result = load(mock.endpoint(transport), requests=12, output_len="4-12")
    total = sum(record.output_tokens for record in result.records())
    assert total == mock.totals["output_tokens"] - before
    assert {record.counted_by for record in result.records()} <= {"server", "usage"}
    # What a naive count would have said: the mock's words are several tokens each for this tokenizer.
    measure = measure_of(tiny_llama)
    told = load(mock.endpoint(transport), requests=12, output_len="4-12", conditions={"retokenize": measure})
    naive = sum(record.output_tokens for record in told.records())
    assert naive > 1.2 * total
    assert {record.counted_by for record in told.records()} == {"tokenizer"}


@pytest.mark.parametrize("transport", ENGINE)
def test_chunks_are_not_tokens(start_mock, load, transport: str) -> None:
    mock = start_mock(*QUICK, "--tokens-per-chunk", "4")
    result = load(mock.endpoint(transport), requests=6, output_len="14")
    for record in result.records():
        assert record.output_tokens == 14
        assert 1 + len(record.gaps_us) == 4  # chunks: what a naive client counts
        assert sum(weight for _, weight in record.token_gaps()) == pytest.approx(10 if record.counts else 10.5)
    assert result.summary.output_tokens == 6 * 14
    # Chunks of four tokens come every 4 ms; per token that is 1 ms.
    assert result.summary.latency["itl_ms"].mean < result.summary.latency["icl_ms"].mean / 2


@pytest.mark.parametrize("transport", ["engine-http", "engine-grpc", "openai-completions"])
def test_input_echoed_in_the_answer_is_not_output(start_mock, load, transport: str) -> None:
    mock = start_mock(*QUICK)
    template = Request(top_k=1, stream=False, request_id="plain-")
    result = load(
        mock.endpoint(transport), requests=5, input_len="20", output_len="6", conditions={"template": template}
    )
    assert [record.output_tokens for record in result.records()] == [6] * 5
    assert [record.input_tokens for record in result.records()] == [20] * 5


def test_this_server_would_echo_the_input_if_it_were_not_told_otherwise(start_mock) -> None:
    body = {"text_input": "a b c d", "max_tokens": 6, "return_num_output_tokens": True}
    answer = json.loads(start_mock(*QUICK).get("/v2/models/ensemble/generate", body))
    assert answer["num_output_tokens"] == 10 and answer["text_output"].startswith("a b c d")


def test_cumulative_text_is_counted_by_what_is_new(start_mock, load) -> None:
    mock = start_mock(*QUICK, "--layout", "llmapi")
    for transport in ("llmapi-http", "llmapi-grpc"):
        result = load(mock.endpoint(transport), requests=6, output_len="9")
        assert [record.output_tokens for record in result.records()] == [9] * 6
        assert "one response is counted as one token" in " ".join(result.warnings)


def test_empty_chunks_are_no_first_token(start_mock, load) -> None:
    """Chat begins with a chunk of the role alone, ends with one of the finish reason, then usage: none is a token."""
    mock = start_mock("--ttft-ms", "5", "--itl-ms", "1", "--seed", "11")
    result = load(mock.endpoint("openai-chat"), requests=4, output_len="5")
    assert [1 + len(record.gaps_us) for record in result.records()] == [5] * 4


def test_warm_up_does_not_enter_the_figures(record) -> None:
    """Ten seconds of compilation at the start, then steady: an average over all would be off by a third."""
    cold = [record(at_s=at / 4, ttft_s=2.0, itl_s=0.1) for at in range(40)]
    warm = [record(at_s=10 + at / 4, ttft_s=0.1) for at in range(240)]
    records = cold + warm
    summary = summarise(lambda: records)
    assert summary.window.steady and 10 <= summary.window.start_s <= 14
    assert summary.latency["ttft_ms"].mean == pytest.approx(100, rel=0.005)
    assert summary.latency["itl_ms"].max == pytest.approx(20)
    assert summary.output_tokens_per_s.value == pytest.approx(40, rel=0.02)
    naive = summarise(lambda: records, whole=True)
    assert naive.latency["ttft_ms"].mean > 300


def test_queueing_is_not_hidden_in_an_open_loop(start_mock, load) -> None:
    """Ten requests a second at a server of five a second: a D/D/1 queue, whose nth request waits n times 100 ms."""
    mock = start_mock("--ttft-ms", "200", "--itl-ms", "0", "--slots", "1")
    arrivals = OpenLoop(rate=10, kind="constant")
    result = load(mock.endpoint("engine-http"), requests=10, output_len="1", arrivals=arrivals)
    ttft_s = sorted(record.ttft_ns / 1e9 for record in result.records())
    assert ttft_s[-1] >= 1.0 and ttft_s[4] >= 0.55
    closed = load(mock.endpoint("engine-http"), requests=5, output_len="1", concurrency=1)
    assert closed.summary.latency["ttft_ms"].p50 < 1e3 * ttft_s[4], "a closed loop sees nothing of the queue"


def test_latency_counts_from_when_a_request_was_due(record) -> None:
    """A generator that was late itself must not take its lateness off (coordinated omission)."""
    late = record(at_s=1.0, ttft_s=0.5, sent_ns=1_400_000_000)
    assert late.ttft_ns == 500_000_000
    assert summarise(lambda: [late], whole=True).latency["ttft_ms"].p50 == pytest.approx(500)


def test_failed_requests_do_not_flatter_the_latencies(record) -> None:
    quick = record(at_s=1.0, ttft_s=0.001, error="failed", message="out of memory")
    gone = record(at_s=1.0, error="unreachable", message="nobody there")
    summary = summarise(lambda: [record(at_s=1.0), quick, gone], whole=True)
    assert summary.latency["ttft_ms"].count == 1 and summary.errors == {"failed": 1, "unreachable": 1}
    assert summary.messages == {"failed": "out of memory", "unreachable": "nobody there"}


def test_more_tokens_than_asked_for_are_doubted(start_mock, load, record) -> None:
    assert summarise(lambda: [record(asked_output=9, tokens=10)], whole=True).too_long == 1


def test_a_run_ends_by_time_with_what_it_has(start_mock, load) -> None:
    mock = start_mock("--ttft-ms", "5", "--itl-ms", "10")
    until = Until(duration_s=1.0)
    result = load(
        mock.endpoint("engine-http"),
        until=until,
        arrivals=ClosedLoop(concurrency=3),
        conditions={"grace_s": 0.0},
        output_len="40",
    )
    assert result.reason == "time"
    unfinished = [record for record in result.records() if record.error == "unfinished"]
    assert len(unfinished) == 3 and result.summary.errors == {} and result.summary.unfinished == 3
    assert all(record.output_tokens > 0 for record in unfinished), "what came is counted, late or not"


def test_single_requests_count_alike(start_mock) -> None:
    mock = start_mock(*QUICK, "--tokens-per-chunk", "3")
    for transport in ENGINE:
        completion = complete(mock.endpoint(transport), Request(prompt="x", max_tokens=10))
        assert completion.tokens == 10, transport
