from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import replace

import pytest

from serving.client.errors import RequestError
from serving.client.loop import run
from serving.client.request import Endpoint, Request
from serving.client.transports import complete, gather, open_client, stream
from serving.deploy.ports import choose_ports
from trtllm_kit.errors import UsageError

WIRES = ("engine-grpc", "engine-http")


@pytest.fixture(params=WIRES)
def wired(request: pytest.FixtureRequest, endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, transport=request.param)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("prompt", ["hello", "emptyfinal"])
def test_text_and_counts_come_whole(wired: Endpoint, prompt: str, streamed: bool) -> None:
    completion = complete(wired, Request(prompt=prompt, max_tokens=12, stream=streamed))
    assert completion.text == (prompt * 3)[:12]
    assert (completion.tokens, completion.input_tokens, completion.counted_by) == (12, len(prompt), "server")
    assert len(completion.arrivals) == (12 if streamed else 1)


def test_deltas_arrive_one_by_one_and_in_order(wired: Endpoint) -> None:
    deltas = [delta for delta in stream(wired, Request(prompt="slow hello", max_tokens=6)) if delta.tokens]
    assert [delta.text for delta in deltas] == list("slow h")
    times = [delta.at_s for delta in deltas]
    assert times == sorted(times) and times[-1] > times[0]


@pytest.mark.parametrize(
    ("prompt", "kind", "words", "tokens"),
    [
        ("refuse", "refused", "exceeds the maximum", 0),
        ("overflow", "overloaded", "maximum queue size", 0),
        ("breaks", "failed", "out of KV blocks", 3),
    ],
)
def test_an_error_of_the_server_keeps_its_words(
    wired: Endpoint, prompt: str, kind: str, words: str, tokens: int
) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        complete(wired, Request(prompt=prompt, max_tokens=8))
    assert (caught.value.kind, caught.value.tokens) == (kind, tokens)


def test_an_unknown_model_is_refused(wired: Endpoint) -> None:
    with pytest.raises(RequestError, match="no_such_model"):
        complete(replace(wired, model="no_such_model"), Request(prompt="hello"))


def test_a_request_that_never_ends_times_out_and_is_stopped(wired: Endpoint) -> None:
    with pytest.raises(RequestError) as caught:
        complete(wired, Request(prompt="never"), timeout_s=0.5)
    assert caught.value.kind == "timeout"


def test_stop_by_request_id_ends_a_generation(wired: Endpoint) -> None:
    async def stopped() -> None:
        async with open_client(wired) as client:
            asyncio.get_running_loop().call_later(0.3, lambda: tasks.append(asyncio.ensure_future(client.stop("me"))))
            await gather(client, Request(prompt="never", request_id="me"), timeout_s=30)

    tasks: list[asyncio.Future[None]] = []
    with pytest.raises(RequestError, match="stopped"):
        run(stopped())


def test_leaving_a_stream_early_stops_the_engine_behind_the_ensemble(endpoint: Endpoint) -> None:
    census = Request(input_ids=tuple(map(ord, "census")), max_tokens=1, request_id="census")
    tokens = replace(endpoint, transport="tokens-grpc")
    # "slow" takes 50 ms a token: without the stop request its 400 tokens would go on for 20 s.
    with contextlib.closing(stream(endpoint, Request(prompt="slow", max_tokens=400, request_id="left"))) as deltas:
        next(deltas)
        assert complete(tokens, census).ids == [1]
    until = time.monotonic() + 5
    while complete(tokens, census).ids != [0]:
        assert time.monotonic() < until, "the generation went on after its client had left"
        time.sleep(0.05)


def test_nobody_there(endpoint: Endpoint) -> None:
    port = choose_ports().http
    for wire in WIRES:
        dead = Endpoint(http=f"127.0.0.1:{port}", grpc=f"127.0.0.1:{port}", transport=wire)
        with pytest.raises(RequestError, match="deploy status") as caught:
            complete(dead, Request(prompt="hello"), timeout_s=5)
        assert (caught.value.kind, caught.value.exit_code) == ("unreachable", 4)


def test_many_streams_at_once_keep_their_own_text(wired: Endpoint) -> None:
    async def many() -> list[str]:
        async with open_client(wired) as client:
            asked = [Request(prompt=f"prompt{at}", max_tokens=10) for at in range(24)]
            done = await asyncio.gather(*(gather(client, request) for request in asked))
            return [completion.text for completion in done]

    assert run(many()) == [(f"prompt{at}" * 2)[:10] for at in range(24)]


def test_threads_may_share_the_front(endpoint: Endpoint) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(complete(endpoint, Request(prompt="ab", max_tokens=4)).text))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["abab"] * 4


def test_token_ids_without_a_tokenizer(endpoint: Endpoint) -> None:
    completion = complete(replace(endpoint, transport="tokens-grpc"), Request(input_ids=(72, 105), max_tokens=5))
    assert completion.ids == [72, 105, 72, 105, 72]


@pytest.mark.parametrize(
    "request_", [Request(prompt="x", max_tokens=2**40), Request(prompt="\ud800"), Request(seed=-1)]
)
def test_values_that_cannot_be_sent_are_refused_before_sending(endpoint: Endpoint, request_: Request) -> None:
    with pytest.raises(UsageError):
        complete(endpoint, request_)


def test_unknown_transport(endpoint: Endpoint) -> None:
    with pytest.raises(UsageError, match="engine-grpc"):
        complete(replace(endpoint, transport="pigeon"), Request())


@pytest.mark.parametrize(
    ("url", "http", "grpc", "tls"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", "127.0.0.1:8001", False),
        ("localhost", "localhost:8000", "localhost:8001", False),
        ("https://triton.example", "triton.example:443", "triton.example:444", True),
        ("http://[::1]:9000/", "[::1]:9000", "[::1]:9001", False),
    ],
)
def test_addresses_as_people_type_them(url: str, http: str, grpc: str, tls: bool) -> None:
    endpoint = Endpoint.from_url(url)
    assert (endpoint.http, endpoint.grpc, endpoint.tls) == (http, grpc, tls)


@pytest.mark.parametrize("url", ["ftp://x:1", "http://", "http://host:port", "http://h:99999"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="http://HOST:PORT"):
        Endpoint.from_url(url)


def test_the_stream_says_when_each_token_came(endpoint: Endpoint) -> None:
    before = time.perf_counter()
    times = [delta.at_s for delta in stream(endpoint, Request(prompt="abc", max_tokens=5))]
    assert before < times[0] <= times[-1] <= time.perf_counter()
