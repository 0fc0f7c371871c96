from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.client.decoding import DeltaDecoder
from serving.client.errors import RequestError
from serving.client.layouts import LAYOUTS
from serving.client.links import LINKS
from serving.client.request import Completion, Endpoint, Request
from serving.client.tensors import pack, unpack
from serving.client.transports import complete

Answer = Callable[[str], Endpoint]


@pytest.fixture
def answering() -> Iterator[Answer]:
    """A server that sends fixed bytes to whoever asks and hangs up."""
    import threading

    listeners: list[socket.socket] = []

    def serve(answer: str) -> Endpoint:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def loop() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer.encode())

        threading.Thread(target=loop, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        return Endpoint(http=address, grpc=address, transport="llmapi-http")

    yield serve
    for listener in listeners:
        listener.close()


def _sse(*events: str, end: bool = True) -> str:
    chunks = "".join(f"{len(text.encode()):x}\r\n{text}\r\n" for text in (f"data: {event}\n\n" for event in events))
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + chunks + ("0\r\n\r\n" if end else "")


def test_cumulative_text_becomes_deltas_and_responses_are_counted(answering: Answer) -> None:
    endpoint = answering(_sse('{"text_output": "Par"}', '{"text_output": "Paris is"}', '{"text_output": "Paris is."}'))
    completion = complete(endpoint, Request(prompt="x", max_tokens=8))
    assert (completion.text, completion.tokens, completion.counted_by) == ("Paris is.", 3, "responses")


def test_a_rewritten_end_of_cumulative_text_is_taken_from_where_it_parts(answering: Answer) -> None:
    decoder = DeltaDecoder(LAYOUTS["llmapi"])
    assert decoder.decode({"text_output": ["ab\ufffd"]}, 0.0).text == "ab\ufffd"
    assert decoder.decode({"text_output": ["abé!"]}, 0.0).text == "é!"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (_sse('{"error": "out of memory"}'), "refused"),
        (_sse('{"text_output": "a"}', end=False), "cut"),
        (_sse("not json"), "garbage"),
        (_sse("[1, 2]"), "garbage"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "cut"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "cut"),
        ("", "cut"),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", "refused"),
    ],
)
def test_answers_that_are_none(answering: Answer, answer: str, kind: str) -> None:
    with pytest.raises(RequestError) as caught:
        complete(answering(answer), Request(prompt="x"), timeout_s=5)
    assert caught.value.kind == kind


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_texts_survive_the_wire(texts: list[str]) -> None:
    assert unpack("BYTES", pack("t", "BYTES", texts)) == texts


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5))
def test_integers_survive_the_wire(values: list[int]) -> None:
    assert unpack("INT32", pack("t", "INT32", values)) == values


@pytest.mark.parametrize(
    ("dtype", "content"), [("INT32", b"abc"), ("BYTES", b"\x05\0\0\0ab"), ("BYTES", b"\x05\0"), ("FP32", b"\0\0")]
)
def test_broken_tensors_are_noticed(dtype: str, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(dtype, content)


def test_only_fields_that_were_set_are_sent() -> None:
    names = [name for name, _, _ in LAYOUTS["engine"].tensors(Request(prompt="x", temperature=0.0))]
    assert "temperature" in names and "top_p" not in names and "stop_words" not in names


def test_every_layout_keeps_the_prompt_out_of_the_answer() -> None:
    for layout in (link.layout for link in LINKS.values() if link.layout):
        assert [name for name in layout.always if name.endswith(("exclude_input_in_output", "from_output"))], layout


def test_half_a_response_counts_nothing() -> None:
    completion = Completion()
    decoder = DeltaDecoder(LAYOUTS["engine"])
    completion.add(decoder.decode({"text_output": [""], "num_output_tokens": [1]}, 1.0))
    completion.add(decoder.decode({}, 2.0, final=True))
    assert (completion.tokens, completion.text, completion.counted_by) == (1, "", "server")


def test_the_loop_runs_coroutines_for_code_that_has_none() -> None:
    from serving.client.loop import run

    assert run(asyncio.sleep(0, "done")) == "done"
