from __future__ import annotations

import itertools
import json
import random
import statistics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.client.request import Request
from serving.load.arrivals import ClosedLoop, OpenLoop
from serving.load.dataset import read_dataset, read_trace
from serving.load.lengths import parse_lengths
from serving.load.prompts import measure_of
from serving.load.slo import parse_slo
from serving.load.workload import Conversation, Given, Session, Synthetic, Turn
from trtllm_kit.errors import UsageError

QUICK = ("--ttft-ms", "2", "--itl-ms", "0")


def texts(workload, count: int) -> list[str]:
    return [session.turns[0].text for session in itertools.islice(workload.sessions(), count)]


def synthetic(**values) -> Synthetic:
    return Synthetic(**{"input_len": parse_lengths("20"), "output_len": parse_lengths("8"), **values})


def test_the_same_seed_sends_the_same_bytes(start_mock, load) -> None:
    mock = start_mock(*QUICK)

    def sent(seed: int) -> list[tuple[str, int]]:
        before = len(mock.ledger)
        load(mock.endpoint("engine-http"), requests=12, input_len="3-30", output_len="normal:9:3", seed=seed)
        return sorted((entry["prompt_digest"], entry["asked"]) for entry in mock.ledger[before:])

    first = sent(5)
    assert first == sent(5) and first != sent(6) and len(set(first)) == 12


@given(st.integers(0, 2**31), st.integers(1, 200))
def test_prompts_do_not_depend_on_how_many_were_made_before(seed: int, tokens: int) -> None:
    workload = synthetic(input_len=parse_lengths(str(tokens)), seed=seed)
    assert texts(workload, 3)[2] == texts(workload, 5)[2]
    assert all(len(text.split()) == tokens for text in texts(workload, 3))


def test_lengths_are_exact_by_the_tokenizer(tiny_llama: Path) -> None:
    measure = measure_of(tiny_llama)
    for tokens, share in ((5, 0.0), (64, 0.0), (300, 0.5)):
        workload = synthetic(input_len=parse_lengths(str(tokens)), tokenizer_dir=tiny_llama, prefix_share=share)
        assert {measure(text) for text in texts(workload, 10)} == {tokens}


def test_the_shared_part_is_shared_and_the_rest_is_not() -> None:
    words = [text.split() for text in texts(synthetic(input_len=parse_lengths("40"), prefix_share=0.5), 20)]
    assert len({tuple(one[:20]) for one in words}) == 1
    assert len({tuple(one[20:]) for one in words}) == 20
    pooled = [text.split() for text in texts(synthetic(prefix_share=1.0, prefix_pool=3), 60)]
    assert len({tuple(one) for one in pooled}) == 3


def test_prompts_of_different_lengths_share_their_beginning() -> None:
    words = [text.split() for text in texts(synthetic(input_len=parse_lengths("10-90"), prefix_share=0.5), 30)]
    longest = max(words, key=len)
    for one in words:
        shared = round(len(one) * 0.5)
        assert one[:shared] == longest[:shared]


@pytest.mark.parametrize(
    ("text", "mean", "deviation"),
    [("128", 128, 0), ("64-256", 160, 55.7), ("normal:512:64", 512, 64), ("lognormal:512:128", 512, 128)],
)
def test_lengths_have_the_moments_that_were_asked_for(text: str, mean: float, deviation: float) -> None:
    lengths, source = parse_lengths(text), random.Random(1)
    drawn = [lengths.draw(source) for _ in range(20_000)]
    assert statistics.fmean(drawn) == pytest.approx(mean, rel=0.01)
    assert statistics.pstdev(drawn) == pytest.approx(deviation, rel=0.03, abs=1e-9)
    assert min(drawn) >= 1


@pytest.mark.parametrize("text", ["", "0", "-5", "9-3", "normal:5", "cauchy:1:2", "ten", "normal:x:2", "nan", "1:2:3"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"length|ends before"):
        parse_lengths(text)


@pytest.mark.parametrize(
    ("kind", "burstiness", "variation"),
    [("constant", 1, 0.0), ("poisson", 1, 1.0), ("gamma", 4, 0.5), ("gamma", 0.25, 2)],
)
def test_arrivals_have_their_rate_and_burstiness(kind: str, burstiness: float, variation: float) -> None:
    arrivals = OpenLoop(rate=8, kind=kind, burstiness=burstiness, seed=2)
    times = [0.0, *itertools.islice(arrivals.times_s(), 40_000)]
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(1 / 8, rel=0.03)
    assert statistics.pstdev(gaps) * 8 == pytest.approx(variation, rel=0.05, abs=1e-9)
    assert times[1:50] == list(itertools.islice(arrivals.times_s(), 49))


def test_impossible_arrivals_are_refused() -> None:
    for make in (lambda: ClosedLoop(concurrency=0), lambda: OpenLoop(rate=0), lambda: OpenLoop(rate=1, kind="weekly")):
        with pytest.raises(UsageError):
            make()


def write(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_a_dataset_is_read_in_its_many_spellings(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "hi"}]
    path = write(
        tmp_path,
        {"prompt": "a", "max_tokens": 3},
        "",
        {"text_input": "b"},
        {"messages": said, "output_len": 5},
        {"turns": [{"text": "c"}, {"text": "d", "delay_s": 0.5}]},
    )
    given = read_dataset(path, max_tokens=7).given
    assert [(turn.text, turn.max_tokens) for session in given for turn in session.turns] == [
        ("a", 3),
        ("b", 7),
        ("", 5),
        ("c", 7),
        ("d", 7),
    ]
    assert given[2].turns[0].messages == (("user", "hi"),) and given[3].turns[1].delay_s == 0.5


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{nonsense", "rows.jsonl:1 is no JSON"),
        ("[1]", "no object"),
        ({"question": "?"}, "no prompt"),
        ({"prompt": "x", "max_tokens": 0}, "asks for 0"),
        ({"prompt": "x", "max_tokens": "many"}, "cannot be used"),
        ({"messages": [{"role": "user"}]}, "cannot be used"),
        ("", "is empty"),
    ],
)
def test_a_broken_dataset_is_refused_with_its_line(tmp_path: Path, row, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_dataset(write(tmp_path, row), max_tokens=4)


def test_a_shuffled_dataset_is_the_seeds() -> None:
    rows = [Session(turns=(Turn(text=str(at), max_tokens=1),)) for at in range(30)]
    one = texts(Given(given=rows, seed=1), 30)
    assert one == texts(Given(given=rows, seed=1), 30) != texts(Given(given=rows, seed=2), 30)
    assert sorted(one, key=int) == texts(Given(given=rows), 30)


def test_a_trace_is_replayed_at_its_times(start_mock, load, tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"timestamp": 300, "input_length": 600, "output_length": 2, "hash_ids": [1, 3]},
        {"timestamp": 100, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]},
        {"timestamp": 200, "prompt": "x y", "output_length": 1},
    )
    replay, given = read_trace(path, max_tokens=9, speed=2.0)
    assert list(replay.times_s()) == pytest.approx([0.0, 0.05, 0.1])
    first, _, third = (session.turns[0].text.split() for session in given.given)
    assert first[:512] == third[:512] and first[512:] != third[512:] and len(first) == len(third) == 600
    result = load(start_mock(*QUICK).endpoint("engine-http"), arrivals=replay, workload=given, requests=None)
    records = sorted(result.records(), key=lambda record: record.number)
    assert result.reason == "exhausted"
    assert [record.scheduled_ns / 1e9 for record in records] == pytest.approx([0.0, 0.05, 0.1])
    assert [record.input_tokens for record in records] == [600, 2, 600]


def test_a_trace_without_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="timestamp"):
        read_trace(write(tmp_path, {"prompt": "x"}), max_tokens=1)


def test_a_conversation_takes_the_answers_with_it(start_mock, load) -> None:
    mock = start_mock(*QUICK, "--seed", "4")
    workload = synthetic(turns=3, input_len=parse_lengths("10"), output_len=parse_lengths("6"), think_s=0.01)
    for transport in ("openai-chat", "engine-grpc"):
        result = load(mock.endpoint(transport), workload=workload, requests=4, concurrency=2)
        by_turn = {turn: [r.input_tokens for r in result.records() if r.turn == turn] for turn in range(3)}
        # Each turn holds what was said before: ten words asked and six answered, again and again.
        assert by_turn == {0: [10] * 4, 1: [26] * 4, 2: [42] * 4}, transport


def test_a_conversation_builds_messages() -> None:
    session = Session(turns=(Turn(text="one", max_tokens=1), Turn(text="two", max_tokens=2)))
    conversation = Conversation(number=7, session=session, template=Request(request_id="r"))
    assert conversation.next_request().messages == (("user", "one"),)
    conversation.answered("yes")
    request = conversation.next_request()
    assert request.messages == (("user", "one"), ("assistant", "yes"), ("user", "two"))
    assert (request.request_id, request.max_tokens, request.prompt) == ("r7-1", 2, "one\nyes\ntwo")
    assert conversation.next_delay_s is None


@pytest.mark.parametrize("text", ["ttft:500", "ttft:ms", "latency:5ms", "ttft:5min", "", "ttft:1.2.3s"])
def test_a_wrong_objective_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_slo(text)


@settings(max_examples=30)
@given(st.floats(0.01, 1), st.floats(0.001, 0.1))
def test_an_objective_is_met_to_the_limit(ttft_s: float, itl_s: float) -> None:
    from serving.load.records import Record

    gap_us = round(itl_s * 1e6)
    made = Record(
        number=0,
        session=0,
        turn=0,
        scheduled_ns=0,
        sent_ns=0,
        first_ns=int(ttft_s * 1e9),
        ended_ns=0,
        asked_input=None,
        asked_output=3,
        input_tokens=None,
        output_tokens=3,
        counted_by="server",
        error=None,
        message="",
        gaps_us=(gap_us, gap_us),
        counts=(),
    )
    assert parse_slo(f"ttft:{ttft_s * 1e3 + 0.01:.6f}ms,tpot:{gap_us}us,e2e:9s").met_by(made)
    assert not parse_slo(f"ttft:{ttft_s * 1e3 * 0.99:.6f}ms").met_by(made)
    assert not parse_slo(f"tpot:{gap_us - 1}us").met_by(made)
