"""Lean counting says the same as parsing everything, and what is no count is none."""

from __future__ import annotations

import json
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.client.errors import RequestError
from serving.client.layouts import LAYOUTS
from serving.client.readers import CumulativeReader, EngineReader, GrpcReader, OpenAIReader
from serving.client.tensors import pack

TRICKY = st.sampled_from(['"', "\\", '\\"', '","num_output_tokens":2,"x":"', '"}],"usage":{', "\n", "}", " "])
TEXT = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.lists(TRICKY).map("".join))
TEXTS = st.lists(TEXT, max_size=8)
engine = partial(EngineReader, LAYOUTS["engine"])


@given(TEXTS, st.lists(st.sampled_from([0, 1, 1, 1, 2, 300]), min_size=8), st.booleans(), st.booleans())
def test_engine_events_are_counted_as_they_parse(texts, counts, spaced: bool, last: bool) -> None:
    lean, full, so_far = engine(), engine(), 0
    for text, count in zip(texts, counts, strict=False):
        body = {"text_output": text, "num_output_tokens": count, "num_input_tokens": 7}
        if last:
            body = dict(reversed(body.items()))
        event = json.dumps(body, separators=None if spaced else (",", ":"), ensure_ascii=False).encode()
        expected = full.tokens_of(full.delta(event, 0.0, so_far))
        assert lean.count(event, so_far) == expected == count
        so_far += count
        assert lean.input_tokens in (7, None) and (so_far == 0 or lean.input_tokens == 7)


@pytest.mark.parametrize(
    "text", ['"num_output_tokens":9,', '\\"num_output_tokens\\":1,', '"error": "no"', '{"error":1}', "\\", '"']
)
def test_no_text_can_pass_for_a_key(text: str) -> None:
    for so_far in (0, 3):
        event = json.dumps({"text_output": text, "num_output_tokens": 2}, separators=(",", ":")).encode()
        assert engine().count(event, so_far) == 2
        only = json.dumps({"text_output": text}, separators=(",", ":")).encode()
        reader = engine()
        assert reader.count(only, so_far) == 1 and reader.counted_by == "responses"
    chat = json.dumps({"choices": [{"delta": {"content": text}}]}, separators=(",", ":")).encode()
    assert OpenAIReader().count(chat, 0) == 1


def test_an_event_without_a_count_and_without_text_is_no_token() -> None:
    assert engine().count(b'{"aaaaaaaaaaaaaaa":1,"text_output":""}', 5) == 0


@given(TEXTS)
def test_cumulative_text_counts_its_changes(texts: list[str]) -> None:
    lean, full, so_far, whole = CumulativeReader(LAYOUTS["llmapi"]), CumulativeReader(LAYOUTS["llmapi"]), "", ""
    for text in texts:
        so_far += text
        event = json.dumps({"text_output": so_far}).encode()
        delta = full.delta(event, 0.0, 0)
        whole += delta.text
        assert lean.count(event, 0) == int(bool(text)) == full.tokens_of(delta)
    assert whole == so_far


@pytest.mark.parametrize(
    ("event", "tokens"),
    [
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, 0),
        ({"choices": [{"delta": {"content": None}, "finish_reason": "stop"}]}, 0),
        ({"choices": [{"delta": {"reasoning_content": "hm"}}]}, 1),
        ({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "{"}}]}}]}, 1),
        ({"choices": [{"text": "x"}], "usage": None}, 1),
        ({"choices": [{"text": "x"}], "usage": {"prompt_tokens": 3, "completion_tokens": 7}}, 4),
        ({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}, 0),
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_openai_chunks(event, tokens: int, separators) -> None:
    reader = OpenAIReader()
    assert reader.count(json.dumps(event, separators=separators).encode(), 3) == tokens
    assert not reader.ended
    assert reader.count(b"[DONE]", 3) == 0 and reader.ended


@given(TEXTS, st.sampled_from(["text", "content", "reasoning_content"]), st.booleans())
def test_openai_chunks_that_follow_each_other_are_counted_as_each_alone(texts, key: str, spaced: bool) -> None:
    reader = OpenAIReader()
    for text in [*texts, "", *texts]:
        choice = {"text": text} if key == "text" else {"delta": {key: text}}
        body = {"id": "1", "choices": [{"index": 0, **choice, "finish_reason": None}]}
        event = json.dumps(body, separators=None if spaced else (",", ":"), ensure_ascii=False).encode()
        assert reader.count(event, 3) == OpenAIReader().count(event, 3) == int(bool(text))


def test_a_likeness_ends_where_more_than_the_text_differs() -> None:
    reader, event = OpenAIReader(), b'{"choices":[{"text":"a"}]}'
    assert [reader.count(event, 0), reader.count(event.replace(b'"a"', b'"b c"'), 1)] == [1, 1]
    usage = event.replace(b"}]}", b'}],"usage":{"prompt_tokens":3,"completion_tokens":7}}')
    assert reader.count(usage, 2) == 5 and reader.total == 7
    with pytest.raises(RequestError, match="out of blocks"):
        reader.count(b'{"error":{"message":"out of blocks"}}', 7)
    with pytest.raises(RequestError, match="the server sent"):
        reader.count(event[:-1].replace(b"choices", b"voices"), 7)
    for size in range(len(event)):
        with pytest.raises(RequestError, match="the server sent"):
            reader.count(b"x" * size, 7)


def test_usage_is_the_last_word_on_the_count() -> None:
    reader = OpenAIReader()
    assert reader.count(b'{"choices":[{"text":"two tokens"}]}', 0) == 1
    reader.count(b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}', 1)
    assert (reader.total, reader.input_tokens, reader.counted_by) == (2, 5, "usage")


@pytest.mark.parametrize("make", [engine, partial(CumulativeReader, LAYOUTS["llmapi"]), OpenAIReader])
@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (b'{"error": "boom"}', "failed"),
        (b'{"error":{"message":"boom"}}', "failed"),
        (b'{"error": "Exceeds maximum queue size"}', "overloaded"),
        (b'{"text_output": "cut', "garbage"),
        (b"[1]", "garbage"),
    ],
)
def test_errors_and_garbage_are_told_apart(make, event: bytes, kind: str) -> None:
    with pytest.raises(RequestError) as caught:
        make().count(event, 2)
    assert (caught.value.kind, caught.value.tokens) == (kind, 2)


def _message(*rows: tuple[str, str, list], final: bool = False) -> bytes:
    from tritonclient.grpc import service_pb2

    answer = service_pb2.ModelStreamInferResponse()
    response = answer.infer_response
    for name, dtype, values in rows:
        response.outputs.add(name=name, datatype=dtype, shape=[1, len(values)])
        response.raw_output_contents.append(pack(name, dtype, values))
    response.parameters["triton_final_response"].bool_param = final
    return answer.SerializeToString()


def test_grpc_tensors_are_found_wherever_they_stand() -> None:
    text, count = ("text_output", "BYTES", ["x"]), ("num_output_tokens", "INT32", [3])
    reader = GrpcReader(LAYOUTS["engine"])
    messages = [_message(text, count), _message(count, text), _message(text, ("num_input_tokens", "INT32", [9]), count)]
    assert [reader.count(message, at) for at, message in enumerate(messages * 2)] == [3] * 6
    assert reader.input_tokens == 9 and not reader.ended
    assert reader.count(_message(final=True), 18) == 0 and reader.ended
    assert GrpcReader(LAYOUTS["engine"]).count(_message(text), 0) == 1, "without a count, a response is a token"


def test_a_grpc_error_message_is_an_error() -> None:
    from tritonclient.grpc import service_pb2

    reader = GrpcReader(LAYOUTS["engine"])
    reader.count(_message(("num_output_tokens", "INT32", [1])), 0)
    with pytest.raises(RequestError, match="out of blocks"):
        reader.count(service_pb2.ModelStreamInferResponse(error_message="out of blocks").SerializeToString(), 1)
    with pytest.raises(RequestError, match="broken tensor"):
        broken = service_pb2.ModelStreamInferResponse()
        broken.infer_response.outputs.add(name="text_output", datatype="BYTES", shape=[1, 1])
        broken.infer_response.raw_output_contents.append(b"\x09\0\0\0ab")
        GrpcReader(LAYOUTS["engine"]).count(broken.SerializeToString(), 0)
