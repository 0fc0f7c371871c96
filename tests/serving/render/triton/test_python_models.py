"""The rendered Python models in a real tritonserver: Hugging Face's ids, deltas that re-join, clear refusals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

EMOJI = "naïve 👩‍👩‍👧 東京 🦙🦙 Ж — café 🏳️‍🌈!"


def words(*texts: str | bytes) -> np.ndarray:
    return np.array([texts], np.object_)


def milliseconds(value: int) -> np.ndarray:
    """The stand-in's pause between two tokens, carried by `seed`."""
    return np.array([[value]], np.uint64)


def texts(results: list[Any], beam: int = 0) -> list[str]:
    return [result.as_numpy("text_output")[0, beam].decode() for result in results]


def engine_requests(served: Any) -> list[dict[str, Any]]:
    return [line["inputs"] for line in served.asked() if "inputs" in line]


@pytest.fixture(scope="module")
def whole(serve, tmp_path_factory) -> Iterator[Any]:
    """Not decoupled, and the layout of an older release."""
    folder = tmp_path_factory.mktemp("whole")
    with serve(folder, serving__decoupled_mode=False, trtllm_version="0.19.0") as served:
        yield served


def test_ids_are_those_of_hugging_face(streaming) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(streaming.root / "tokenizer")
    reference_texts = [EMOJI, "a", " leading", "<|turn|>hi<|end|>", "x" * 300, "line\nline\t end "]
    for text in reference_texts:
        answer = streaming.infer("preprocessing", QUERY=text, REQUEST_OUTPUT_LEN=4)
        assert answer.as_numpy("INPUT_ID")[0].tolist() == reference(text)["input_ids"], text
        assert answer.as_numpy("REQUEST_INPUT_LEN").tolist() == [[len(reference(text)["input_ids"])]]


def sequences(rows: np.ndarray) -> list[list[int]]:
    """Token sequences of a [1, 2, -1] tensor: ids in a row, and where each sequence ends, padded with -1."""
    ids, ends = rows[0].tolist()
    assert len(ids) == len(ends)
    ends = [end for end in ends if end >= 0]
    assert ends[-1] == len(ids)
    return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def test_preprocessing_fills_in_what_tensorrt_llm_wants(streaming, tokenizer) -> None:
    end, turn = (tokenizer.token_to_id(token) for token in ("<|end|>", "<|turn|>"))
    plain = streaming.infer("preprocessing", QUERY="hello", REQUEST_OUTPUT_LEN=4)
    asked = streaming.infer(
        "preprocessing",
        QUERY="hello",
        REQUEST_OUTPUT_LEN=4,
        STOP_WORDS_DICT=words("fox", "dog. "),
        BAD_WORDS_DICT=words("東京", ""),
        EMBEDDING_BIAS_WORDS=words("a", "a"),
        EMBEDDING_BIAS_WEIGHTS=np.array([[1.5, 2.0]], np.float32),
        END_ID=7,
        PAD_ID=9,
    )
    assert plain.as_numpy("OUT_END_ID").tolist() == plain.as_numpy("OUT_PAD_ID").tolist() == [[end]]
    assert plain.as_numpy("STOP_WORDS_IDS").tolist() == [[[turn], [1]]]  # the model's second end token
    assert plain.as_numpy("BAD_WORDS_IDS").shape == (1, 2, 0)
    assert plain.as_numpy("EMBEDDING_BIAS").shape == (1, 0)
    assert sequences(asked.as_numpy("STOP_WORDS_IDS")) == [
        tokenizer.encode(text, add_special_tokens=False).ids for text in ("fox", " fox", "dog. ", " dog. ")
    ]
    assert sequences(asked.as_numpy("BAD_WORDS_IDS"))[0] == tokenizer.encode("東京", add_special_tokens=False).ids
    bias = asked.as_numpy("EMBEDDING_BIAS")[0]
    assert len(bias) == 512  # the engine's vocabulary, not the tokenizer's
    assert {int(place): float(bias[place]) for place in bias.nonzero()[0]} == {tokenizer.token_to_id("a"): 3.5}
    assert (asked.as_numpy("OUT_END_ID").item(), asked.as_numpy("OUT_PAD_ID").item()) == (7, 9)


def test_a_batch_of_prompts_is_padded_on_the_right(streaming, tokenizer) -> None:
    both = np.array([["fox"], ["The quick brown fox jumps"]], np.object_)
    lengths = np.array([[4], [5]], np.int32)
    answer = streaming.infer("preprocessing", QUERY=both, REQUEST_OUTPUT_LEN=lengths)
    rows, sizes = answer.as_numpy("INPUT_ID"), answer.as_numpy("REQUEST_INPUT_LEN").reshape(-1)
    for row, size, text in zip(rows, sizes, both.reshape(-1), strict=True):
        assert row[:size].tolist() == tokenizer.encode(text).ids
        assert set(row[size:].tolist()) <= {tokenizer.token_to_id("<|end|>")}
    assert answer.as_numpy("REQUEST_OUTPUT_LEN").tolist() == [[4], [5]]


@pytest.mark.parametrize("model", ["tensorrt_llm_bls", "ensemble"])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text_input": b"\xff\xfe"}, "the prompt is not UTF-8"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"max_tokens": -3}, "got -3"),
        ({"stop_words": words(b"\xc3")}, "stop or bad word is not UTF-8"),
        ({"embedding_bias_words": words("a", "b"), "embedding_bias_weights": np.ones((1, 1), np.float32)}, "length"),
    ],
)
def test_bad_input_is_refused_in_words(streaming, model: str, changes: dict[str, Any], says: str) -> None:
    arrays = {"text_input": "fox", "max_tokens": 3, "stream": True, **changes}
    with pytest.raises(InferenceServerException, match=says):
        streaming.stream(model, **arrays)
    assert texts(streaming.stream(model, text_input="fox", max_tokens=3))  # and the model lives on


def test_an_empty_prompt_without_special_tokens_is_refused(serve, tmp_path) -> None:
    with serve(tmp_path, serving__add_special_tokens=False, serving__accumulate_tokens=False) as served:
        with pytest.raises(InferenceServerException, match="the prompt is empty"):
            served.stream("tensorrt_llm_bls", text_input="", max_tokens=3)
        parts = texts(served.stream("tensorrt_llm_bls", text_input="🦙", max_tokens=4, stream=True))
        assert len(parts) == 4
        assert set("".join(parts)) == {"\ufffd"}  # every response decoded by itself, as asked


@pytest.mark.parametrize("prompt", [EMOJI, "The quick brown fox", "🦙" * 20])
def test_streamed_deltas_rejoin_exactly(streaming, tokenizer, prompt: str) -> None:
    count = len(tokenizer.encode(prompt).ids)
    results = streaming.stream(
        "tensorrt_llm_bls", text_input=prompt, max_tokens=count, stream=True, return_num_output_tokens=True
    )
    assert "".join(texts(results)) == prompt
    assert [result.as_numpy("num_output_tokens").item() for result in results] == [1] * count
    assert not any("\ufffd" in text for text in texts(results))


def test_text_that_ends_inside_a_character_is_flushed(streaming, tokenizer) -> None:
    ids = tokenizer.encode("fox 🦙").ids
    parts = texts(streaming.stream("tensorrt_llm_bls", text_input="fox 🦙", max_tokens=len(ids) - 1, stream=True))
    assert "".join(parts) == tokenizer.decode(ids[:-1]) == "fox \ufffd"


def test_a_whole_answer_is_one_response(streaming, tokenizer) -> None:
    count = len(tokenizer.encode(EMOJI).ids)
    (result,) = streaming.stream(
        "tensorrt_llm_bls",
        text_input=EMOJI,
        max_tokens=count,
        return_num_output_tokens=True,
        return_num_input_tokens=True,
        return_log_probs=True,
    )
    assert texts([result]) == [EMOJI]
    assert result.as_numpy("num_output_tokens").item() == result.as_numpy("num_input_tokens").item() == count
    assert result.as_numpy("cum_log_probs").tolist() == [[-1.5]]


def test_the_ensemble_answers_the_same_text_when_whole(streaming, tokenizer) -> None:
    count = len(tokenizer.encode(EMOJI).ids)
    assert texts(streaming.stream("ensemble", text_input=EMOJI, max_tokens=count)) == [EMOJI]
    parts = texts(streaming.stream("ensemble", text_input="The quick fox", max_tokens=30, stream=True))
    assert len(parts) == 30
    assert "".join(parts).startswith("The quick foxThe quick fox")


def test_stop_words_and_end_ids_reach_the_engine(streaming) -> None:
    said = texts(
        streaming.stream(
            "tensorrt_llm_bls", text_input="one two", max_tokens=50, stop_words=words("nothing", "one two")
        )
    )
    assert said == ["one two"]
    ended = texts(streaming.stream("tensorrt_llm_bls", text_input="one<|turn|>two", max_tokens=50))
    assert ended == ["one"]  # the second of the model's two end tokens
    given = texts(streaming.stream("tensorrt_llm_bls", text_input="one<|turn|>two", max_tokens=5, end_id=511))
    assert given != ended  # a request that names its own end gets only that


def test_every_optional_input_reaches_tensorrt_llm_under_its_own_name(streaming) -> None:
    streaming.stream(
        "tensorrt_llm_bls",
        text_input="fox",
        max_tokens=3,
        top_k=5,
        top_p=0.5,
        length_penalty=1.25,
        temperature=0.75,
        repetition_penalty=1.5,
        min_tokens=2,
        frequency_penalty=0.125,
        exclude_input_in_output=True,
        bad_words=words("dog"),
        seed=milliseconds(1),
        stream=True,
    )
    asked = engine_requests(streaming)[-1]
    expected = {
        "runtime_top_k": 5,
        "runtime_top_p": 0.5,
        "len_penalty": 1.25,
        "temperature": 0.75,
        "repetition_penalty": 1.5,
        "min_tokens": 2,
        "frequency_penalty": 0.125,
        "exclude_input_in_output": True,
        "seed": 1,
        "streaming": True,
        "request_output_len": 3,
    }
    assert {name: np.array(asked[name]).item() for name in expected} == expected
    assert "bad_words_list" in asked
    assert not {"embedding_bias", "decoder_input_ids", "prompt_table_extra_ids"} & asked.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_draft_tokens", 2), ("image_input", np.ones((1, 1, 3, 1, 1), np.float16)), ("use_draft_logits", True)],
)
def test_what_the_model_cannot_do_is_said(streaming, name: str, value: Any) -> None:
    with pytest.raises(InferenceServerException, match=name):
        streaming.stream("tensorrt_llm_bls", text_input="fox", max_tokens=3, **{name: value})


def test_an_error_of_the_engine_reaches_the_client(streaming) -> None:
    for model in ("tensorrt_llm_bls", "ensemble"):
        with pytest.raises(InferenceServerException, match="asked to fail"):
            streaming.stream(model, text_input="fail<|end|>", max_tokens=3, stream=True)


def test_one_instance_serves_requests_at_the_same_time(streaming) -> None:
    with streaming.open() as slow, streaming.open() as fast:
        slow.send("tensorrt_llm_bls", text_input="slow", max_tokens=100, stream=True, seed=milliseconds(100))
        slow.next()
        fast.send("tensorrt_llm_bls", "fast", text_input="fast", max_tokens=3, stream=True)
        assert len(list(fast.rest())) == 3
        assert slow.next().get_response().outputs


def test_several_prompts_in_one_request_keep_their_own_text(streaming, tokenizer) -> None:
    prompts = np.array([["東京 fox"], ["🦙 dog"]], np.object_)
    results = streaming.stream(
        "tensorrt_llm_bls",
        text_input=prompts,
        max_tokens=np.array([[len(tokenizer.encode(row[0]).ids)] for row in prompts], np.int32),
        stream=np.array([[True], [True]]),
    )
    said = {0: "", 1: ""}
    for result in results:
        said[result.as_numpy("batch_index").item()] += texts([result])[0]
    assert list(said.values()) == ["東京 fox", "🦙 dog"]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_cancelled_client_stops_the_engine(streaming, streamed: bool) -> None:
    name = f"cancelled-{streamed}"
    with streaming.open() as opened:
        opened.send(
            "tensorrt_llm_bls", name, text_input="on and on", max_tokens=3000, stream=streamed, seed=milliseconds(20)
        )
        _until(lambda: any(line["id"] == name for line in streaming.asked()))
        opened.cancel()
    _until(lambda: {"id": name, "ended": "stopped"} in streaming.asked())
    assert texts(streaming.stream("tensorrt_llm_bls", text_input="fox", max_tokens=3))


def test_stop_at_the_engine_by_the_clients_own_id_ends_the_request(streaming) -> None:
    one = np.ones((1, 1), np.int32)
    with streaming.open() as opened, streaming.open() as other:
        opened.send("tensorrt_llm_bls", "mine", text_input="on", max_tokens=3000, stream=True, seed=milliseconds(20))
        opened.next()
        other.send(
            "tensorrt_llm", "mine", input_ids=one, input_lengths=one, request_output_len=one, stop=np.array([[True]])
        )
        assert len(list(opened.rest())) < 3000
    assert {"id": "mine", "ended": "stopped"} in streaming.asked()


def test_requests_without_an_id_get_different_ones(streaming) -> None:
    for _ in range(2):
        streaming.stream("tensorrt_llm_bls", text_input="fox", max_tokens=1)
    first, second = [line["id"] for line in streaming.asked() if "inputs" in line][-2:]
    assert first != second
    assert first and second


def test_a_deployment_that_is_not_decoupled_answers_in_one_piece(whole, tokenizer) -> None:
    count = len(tokenizer.encode(EMOJI).ids)
    for model in ("tensorrt_llm_bls", "ensemble"):
        answer = whole.infer(model, text_input=EMOJI, max_tokens=count, random_seed=milliseconds(0))
        assert texts([answer]) == [EMOJI]
    with pytest.raises(InferenceServerException, match="decoupled_mode"):
        whole.infer("tensorrt_llm_bls", text_input="fox", max_tokens=3, stream=True)
    two = np.array([["fox"], ["dog"]], np.object_)
    with pytest.raises(InferenceServerException, match="decoupled_mode"):
        whole.infer("tensorrt_llm_bls", text_input=two, max_tokens=np.array([[3], [3]], np.int32))
    with pytest.raises(InferenceServerException, match="asked to fail"):
        whole.infer("tensorrt_llm_bls", text_input="fail<|end|>", max_tokens=3)


def _until(holds: Any) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
