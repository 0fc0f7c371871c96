"""HTTP/1.1 and HTTP/2 from bytes: published vectors, and answers cut at every place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.client import hpack
from serving.client.grpc_speech import GrpcSpeech
from serving.client.http_speech import BrokenAnswerError, HttpSpeech
from serving.client.layouts import LAYOUTS
from serving.client.readers import EngineReader
from serving.client.request import Request
from serving.client.transports import complete
from serving.load.flight import Flight


class Heard:
    """A Listener that remembers."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    def event(self, data: bytes, at_ns: int) -> None:
        self.said.append(("event", data))

    def document(self, status: int, body: bytes, at_ns: int) -> None:
        self.said.append(("document", status, body))

    def end(self, at_ns: int) -> None:
        self.said.append(("end",))

    def failed(self, code: int, message: str, at_ns: int) -> None:
        self.said.append(("failed", code, message))

    def lost(self, detail: str, *, connected: bool) -> None:
        self.said.append(("lost", detail))


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        # RFC 7541, C.2.1 to C.2.4, C.4.1 (Huffman; its :authority would be indexed, which a client reads the same)
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", {"custom-key": "custom-header"}),
        ("040c2f73616d706c652f70617468", {":path": "/sample/path"}),
        ("100870617373776f726406736563726574", {"password": "secret"}),
        ("82", {":method": "GET"}),
        (
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            {":method": "GET", ":scheme": "http", ":path": "/", ":authority": "www.example.com"},
        ),
        # C.6.1
        (
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
            {
                ":status": "302",
                "cache-control": "private",
                "date": "Mon, 21 Oct 2013 20:13:21 GMT",
                "location": "https://www.example.com",
            },
        ),
    ],
)
def test_the_rfcs_header_blocks(block: str, headers: dict[str, str]) -> None:
    assert hpack.Decoder().decode(bytes.fromhex(block)) == headers


def test_a_dynamic_table_is_followed_through_the_rfcs_three_requests() -> None:
    """RFC 7541, C.4: each block refers to what those before it left in the table."""
    decoder = hpack.Decoder()
    blocks = (
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    )
    first, second, third = (decoder.decode(bytes.fromhex(block)) for block in blocks)
    assert first[":authority"] == second[":authority"] == third[":authority"] == "www.example.com"
    assert second["cache-control"] == "no-cache"
    assert third["custom-key"] == "custom-value" and third[":path"] == "/index.html"


_NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1)


@given(st.dictionaries(_NAMES, st.text(st.characters(max_codepoint=255), max_size=300)))
def test_header_blocks_round_trip(headers: dict[str, str]) -> None:
    assert hpack.Decoder().decode(hpack.encode(list(headers.items()))) == headers


@given(st.binary(max_size=40))
def test_broken_header_blocks_are_said_to_be(block: bytes) -> None:
    try:
        hpack.Decoder().decode(block)
    except ValueError:
        return


EVENTS = [b'{"a": 1}', "{é🙂}".encode(), b"x" * 40]


def _answer(line_end: bytes) -> bytes:
    body = b"".join(b"data: " + event + line_end * 2 for event in EVENTS)
    # Chunks that end where no event does.
    parts = [body[at : at + 13] for at in range(0, len(body), 13)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@given(st.lists(st.integers(1, 60)))
def test_an_event_stream_reads_the_same_however_it_is_cut(line_end: bytes, sizes: list[int]) -> None:
    heard, speech, rest, whole = Heard(), HttpSpeech(), _answer(line_end), False
    speech.begin(b"", heard)
    for size in [*sizes, 10**6]:
        part, rest = rest[:size], rest[size:]
        if part:
            whole = speech.feed(part, 1)
    assert heard.said == [*(("event", event) for event in EVENTS), ("end",)]
    assert whole and speech.reusable


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    heard, speech = Heard(), HttpSpeech()
    speech.begin(b"", heard)
    assert not speech.feed(b"HTTP/1.0 500 Oops\r\n\r\nso", 1)
    assert not speech.feed(b"rry", 1) and speech.hang_up(1)
    assert heard.said == [("document", 500, b"sorry")] and not speech.reusable


def test_a_continue_before_the_answer_is_passed_over() -> None:
    heard, speech = Heard(), HttpSpeech()
    speech.begin(b"", heard)
    assert speech.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 1)
    assert heard.said == [("document", 200, b"hi")]


def test_bytes_that_nobody_asked_for_are_broken() -> None:
    with pytest.raises(BrokenAnswerError):
        HttpSpeech().feed(b"HTTP/1.1 408 Timeout\r\n\r\n", 1)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _trailers(status: int, message: str = "") -> bytes:
    return hpack.encode([("grpc-status", str(status)), *([("grpc-message", message)] if message else [])])


MESSAGES = [b"", b"one", b"two" * 1000]
CALL = b"".join(
    [
        _frame(4, 0, 0, b""),
        _frame(1, 4, 1, hpack.encode([(":status", "200"), ("content-type", "application/grpc")])),
        _frame(0, 0, 1, b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in MESSAGES)),
        _frame(6, 0, 0, b"pingpong"),
        _frame(0, 8, 1, b"\2" + b"\0\0\0\0\1" + b"!" + b"\0\0"),  # padded
        _frame(1, 1, 1, _trailers(0)[:4]),  # cut in two: HEADERS and CONTINUATION
        _frame(9, 4, 1, _trailers(0)[4:]),
    ]
)


@given(st.lists(st.integers(1, 4000)))
def test_a_grpc_call_reads_the_same_however_it_is_cut(sizes: list[int]) -> None:
    heard, speech, rest, over = Heard(), GrpcSpeech("h:1", "/a/b", tls=False), CALL, False
    speech.begin(b"question", heard)
    for size in [*sizes, 10**6]:
        part, rest = rest[:size], rest[size:]
        if part:
            over = speech.feed(part, 1)
    assert heard.said == [*(("event", message) for message in MESSAGES), ("event", b"!"), ("end",)]
    assert over and speech.reusable
    assert speech.outgoing.endswith(_frame(6, 1, 0, b"pingpong")), "a ping is answered"


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (_frame(1, 5, 1, _trailers(3, "caf%C3%A9")), ("failed", 3, "café")),
        (_frame(1, 5, 1, hpack.encode([(":status", "503")])), ("failed", 14, "HTTP 503")),
        (_frame(3, 0, 1, b"\0\0\0\x08"), ("failed", 1, "the server reset the stream (00000008)")),
    ],
)
def test_a_call_that_fails(frames: bytes, said: tuple[object, ...]) -> None:
    heard, speech = Heard(), GrpcSpeech("h:1", "/a/b", tls=False)
    speech.begin(b"question", heard)
    assert speech.feed(frames, 1) and heard.said == [said]


def test_a_server_that_goes_away_gets_no_further_call() -> None:
    heard, speech = Heard(), GrpcSpeech("h:1", "/a/b", tls=False)
    speech.begin(b"question", heard)
    speech.feed(_frame(7, 0, 0, bytes(8)), 1)
    assert speech.feed(_frame(1, 5, 1, _trailers(0)), 1) and not speech.reusable


def test_a_long_request_waits_for_the_servers_window() -> None:
    speech = GrpcSpeech("h:1", "/a/b", tls=False)
    speech.begin(b"x" * 100_000, Heard())
    assert len(speech.outgoing) < 66_000 + 500
    speech.outgoing = b""
    speech.feed(_frame(8, 0, 1, (50_000).to_bytes(4, "big")), 1)
    assert speech.outgoing == b"", "the connection's window is still shut"
    speech.feed(_frame(8, 0, 0, (50_000).to_bytes(4, "big")), 1)
    assert 34_000 < len(speech.outgoing) < 35_000


@pytest.mark.parametrize("transport", ["engine-grpc", "engine-http", "openai-chat"])
def test_prompts_of_a_megabyte_arrive_whole(start_mock, transport: str) -> None:
    mock = start_mock("--ttft-ms", "1", "--itl-ms", "0")
    completion = complete(mock.endpoint(transport), Request(prompt="word " * 200_000, max_tokens=2))
    assert mock.ledger[-1]["input_tokens"] == 200_000 and completion.tokens == 2


_LIKE = b'{"num_input_tokens":5,"num_output_tokens":1,"sequence_end":false,"text_output":"%b"}'
_ODD = (
    b'{"num_output_tokens":2,"sequence_end":false,"text_output":"two"}',
    b'{"num_output_tokens":0,"sequence_end":false,"text_output":""}',
    b'{"num_output_tokens":1,"sequence_end":true,"text_output":"end"}',
    b'{"num_output_tokens":1,"sequence_end":false,"text_output":"a","more":"b"}',
)
_TEXT = st.text(max_size=5).map(lambda text: json.dumps(text)[1:-1].encode())


def _opened() -> tuple[HttpSpeech, Flight]:
    flight = Flight(Request(prompt="?", max_tokens=9), EngineReader(LAYOUTS["engine"]), lambda flight: None)
    speech = HttpSpeech()
    speech.begin(b"", flight)
    speech.feed(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n", 1)
    return speech, flight


def _chunk(event: bytes) -> bytes:
    return b"%x\r\ndata: %b\n\n\r\n" % (len(event) + 8, event)


@given(st.lists(st.one_of(_TEXT.map(lambda text: _LIKE % text), st.sampled_from(_ODD))), st.data())
def test_events_known_by_sight_are_counted_like_parsed_ones(events: list[bytes], data: st.DataObject) -> None:
    speech, flight = _opened()
    chunks = [_chunk(event) for event in events]
    while chunks:
        together = data.draw(st.integers(1, 3))  # chunks in one read
        speech.feed(b"".join(chunks[:together]), 1)
        del chunks[:together]
    counts = [json.loads(event)["num_output_tokens"] for event in events]
    assert flight.tokens == sum(counts)
    assert len(flight.arrivals_ns) == len([count for count in counts if count])
    assert list(flight.counts) in ([], [count for count in counts if count])


@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(_LIKE % b"a\n\ndata: {}"),  # two events, neither of them whole
        _chunk(_LIKE % b""),
        _chunk(_LIKE % b'a","error":"b'),
        _chunk((_LIKE % b"a").replace(b"1", b"7")),
        _chunk(_LIKE % b"a").replace(b"\r\n", b"0\r\n", 1),  # the chunk is not over
        _chunk(_LIKE % b"a")[:-9] + b"\n\n\r\n",
    ],
)
def test_what_only_resembles_an_event_known_by_sight_is_read_as_if_nothing_were_known(chunk: bytes) -> None:
    (fresh, alone), (speech, flight) = _opened(), _opened()
    for text in (b"one", b"two", b"six"):
        speech.feed(_chunk(_LIKE % text), 1)
    assert flight.tokens == 3
    assert fresh.feed(chunk, 1) == speech.feed(chunk, 1)
    assert flight.tokens - 3 == alone.tokens
    assert bool(flight.error) == bool(alone.error)
