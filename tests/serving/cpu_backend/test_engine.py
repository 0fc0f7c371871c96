"""The engine without Triton: in-flight batching, ends, refusals, cancellation, failure."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from serving.cpu_backend.engine import Engine
from serving.cpu_backend.flight import Finish
from serving.cpu_backend.pipeline import EngineOptions
from serving.cpu_backend.request import QueueFullError, RequestError
from trtllm_kit.errors import HostError, IncompatibleError, KitError

PROMPT = list(range(5, 45))


def sampled(seed: int, /, **fields: Any) -> dict[str, Any]:
    return {"input_ids": PROMPT, "max_tokens": 24, "top_k": 40, "top_p": 0.95, "seed": seed, **fields}


def test_a_seed_gives_the_same_tokens_alone_and_in_a_crowd(engine: Engine, stream: Callable[..., Any]) -> None:
    alone = [stream(engine, **sampled(seed)).tokens() for seed in range(6)]
    crowd = [stream(engine, **sampled(seed, streaming=bool(seed % 2))) for seed in range(6)]
    assert [one.tokens() for one in crowd] == alone
    assert len({tuple(tokens) for tokens in alone}) == 6


def test_greedy_unless_asked_to_sample(engine: Engine, stream: Callable[..., Any]) -> None:
    base = {"input_ids": PROMPT, "max_tokens": 12}
    greedy = stream(engine, **base).tokens()
    assert greedy == stream(engine, **base, top_k=1, top_p=0.9, seed=3).tokens()
    assert greedy == stream(engine, **base, temperature=0.0, top_k=50).tokens()
    assert greedy != stream(engine, **base, top_k=50, seed=3).tokens()


def test_streams_deltas_and_plain_requests_get_one_answer(engine: Engine, stream: Callable[..., Any]) -> None:
    streamed = stream(engine, **sampled(1, streaming=True, log_probs=True)).all()
    plain = stream(engine, **sampled(1, log_probs=True)).all()
    assert [len(delta.tokens) for delta in streamed] == [1] * 24
    assert [delta.finish for delta in streamed] == [None] * 23 + [Finish.LENGTH]
    assert len(plain) == 1
    assert [token for delta in streamed for token in delta.tokens] == plain[0].tokens
    assert len(plain[0].log_probs) == 24
    assert all(value < 0 for value in plain[0].log_probs)


@pytest.mark.parametrize("streaming", [False, True])
def test_ends(engine: Engine, stream: Callable[..., Any], streaming: bool) -> None:
    """Stop words are part of the output, the end token is not."""
    full = stream(engine, **sampled(2)).tokens()
    single, pair = full[9], tuple(full[12:14])
    first = full.index(single)

    def run(**fields: Any) -> tuple[list[int], Finish]:
        deltas = stream(engine, **sampled(2, streaming=streaming, **fields)).all()
        return [token for delta in deltas for token in delta.tokens], deltas[-1].finish

    assert run(stop_words=((single,),)) == (full[: first + 1], Finish.STOP)
    assert run(end_id=single) == (full[:first], Finish.END)
    assert run(stop_words=(pair,)) == (full[:14], Finish.STOP)
    assert run(stop_words=(pair, (single,))) == (full[: first + 1], Finish.STOP)
    assert run(stop_words=((319, 319, 319),)) == (full, Finish.LENGTH)


def test_min_tokens_holds_the_end_back_but_no_stop_word(engine: Engine, stream: Callable[..., Any]) -> None:
    full = stream(engine, **sampled(2)).tokens()
    end = full[3]
    held = stream(engine, **sampled(2, end_id=end, min_tokens=8)).tokens()
    assert end not in held[:8]
    assert len(held) >= 8
    stopped = stream(engine, **sampled(2, end_id=319, min_tokens=8, stop_words=((full[1],),))).all()[-1]
    assert stopped.finish is Finish.STOP
    assert stopped.tokens == full[: full.index(full[1]) + 1]


def test_repetition_penalty_is_that_of_transformers(
    engine: Engine, engine_folder: Path, stream: Callable[..., Any]
) -> None:
    """Scores of tokens seen before are divided by it where positive, multiplied where negative."""
    options = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    compiled = openvino.Core().compile_model(engine_folder / "openvino_model.xml", "CPU", options)
    ids = list(PROMPT)
    for _ in range(16):
        feeds = {"input_ids": [ids], "attention_mask": [[1] * len(ids)], "position_ids": [list(range(len(ids)))]}
        feeds = {name: np.array(value, np.int64) for name, value in feeds.items()} | {"beam_idx": np.zeros(1, np.int32)}
        scores = compiled.create_infer_request().infer(feeds)["logits"][0, -1].copy()
        seen = list(set(ids))
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / 1.5, scores[seen] * 1.5)
        ids.append(int(scores.argmax()))
    assert stream(engine, input_ids=PROMPT, max_tokens=16, repetition_penalty=1.5).tokens() == ids[len(PROMPT) :]


def test_a_late_short_request_ends_before_the_long_ones(engine: Engine, stream: Callable[..., Any]) -> None:
    ends: list[str] = []
    long = [stream(engine, **sampled(seed, max_tokens=150, streaming=True)) for seed in range(4)]
    for one in long:
        assert one.next().finish is None  # all four are generating
    short = stream(engine, **sampled(9, max_tokens=3))
    done = threading.Event()

    def watch(name: str, one: Any) -> None:
        one.all()
        ends.append(name)
        done.set()

    threads = [threading.Thread(target=watch, args=("long", one)) for one in long]
    threads.append(threading.Thread(target=watch, args=("short", short)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends[0] == "short"


def test_cancelling_ends_one_and_leaves_its_neighbour(engine: Engine, stream: Callable[..., Any]) -> None:
    expected = stream(engine, **sampled(5)).tokens()
    victim = stream(engine, **sampled(4, max_tokens=200, streaming=True))
    neighbour = stream(engine, **sampled(5))
    victim.next()
    engine.cancel(victim.flight)
    assert victim.all()[-1].finish is Finish.CANCELLED
    assert neighbour.tokens() == expected
    engine.cancel(victim.flight)  # once more does nothing
    assert engine.stats().active_requests == 0


def test_cancelling_a_waiting_request_ends_it_at_once(engine_folder: Path, stream: Callable[..., Any]) -> None:
    with Engine.open(engine_folder, EngineOptions(max_batch_size=1)) as engine:
        running = stream(engine, **sampled(1, max_tokens=200, streaming=True))
        running.next()
        waiting = stream(engine, **sampled(2))
        engine.cancel(waiting.flight)
        assert waiting.all()[-1].finish is Finish.CANCELLED
        assert not running.flight.ended


def test_closing_cancels_what_is_in_flight(engine_folder: Path, stream: Callable[..., Any]) -> None:
    engine = Engine.open(engine_folder)
    running = [stream(engine, **sampled(seed, max_tokens=200)) for seed in range(12)]
    engine.close()
    assert {one.all()[-1].finish for one in running} <= {Finish.CANCELLED, Finish.LENGTH}
    with pytest.raises(RequestError, match="closing"):
        stream(engine, **sampled(1))
    engine.close()


REFUSED = {
    "empty prompt": ({"input_ids": []}, "prompt is empty"),
    "no tokens asked": ({"max_tokens": 0}, "at least 1"),
    "negative tokens": ({"max_tokens": -5}, "at least 1"),
    "beyond max_seq_len": ({"max_tokens": 217}, "max_seq_len 256"),
    "negative id": ({"input_ids": [3, -1]}, "outside the vocabulary"),
    "alien id": ({"input_ids": [3, 320]}, "outside the vocabulary"),
    "alien stop word": ({"stop_words": ((3, 320),)}, "stop_words"),
    "empty stop word": ({"stop_words": ((),)}, "stop_words"),
    "alien end": ({"end_id": 320}, "end_id 320"),
    "bad words": ({"bad_words": ((3,),)}, "bad words"),
    "top_p zero": ({"top_p": 0.0}, "top_p"),
    "top_p above one": ({"top_p": 1.01}, "top_p"),
    "top_p nan": ({"top_p": float("nan")}, "top_p"),
    "temperature": ({"temperature": -0.1}, "temperature"),
    "temperature nan": ({"temperature": float("nan")}, "temperature"),
    "top_k": ({"top_k": -1}, "top_k"),
    "repetition": ({"repetition_penalty": 0.0}, "repetition_penalty"),
    "presence": ({"presence_penalty": 0.5}, "presence_penalty"),
    "frequency": ({"frequency_penalty": -0.5}, "frequency_penalty"),
    "min above max": ({"min_tokens": 25}, "min_tokens"),
    "beams": ({"beam_width": 2}, "beam_width"),
    "sequences": ({"num_return_sequences": 2}, "num_return_sequences"),
    "seed": ({"seed": -1}, "seed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_before_the_engine(name: str, engine: Engine, stream: Callable[..., Any]) -> None:
    change, says = REFUSED[name]
    with pytest.raises(RequestError, match=says) as refused:
        stream(engine, **sampled(1, **change))
    assert refused.value.fix
    assert engine.stats().active_requests == 0


def test_the_longest_request_that_fits_is_served(engine: Engine, stream: Callable[..., Any]) -> None:
    assert len(stream(engine, **sampled(1, max_tokens=256 - len(PROMPT))).tokens()) == 256 - len(PROMPT)


def test_refuses_what_the_kv_cache_could_never_hold(engine_folder: Path, stream: Callable[..., Any]) -> None:
    with (
        Engine.open(engine_folder, EngineOptions(attention_window=64, kv_tokens=64)) as engine,
        pytest.raises(RequestError, match="max_seq_len 64"),
    ):
        stream(engine, **sampled(1, max_tokens=40))
    with pytest.raises(IncompatibleError, match="cannot hold one request"):
        Engine.open(engine_folder, EngineOptions(kv_tokens=64))


def test_a_full_queue_refuses_and_takes_again_later(engine_folder: Path, stream: Callable[..., Any]) -> None:
    with Engine.open(engine_folder, EngineOptions(max_batch_size=2, max_queue_size=3)) as engine:
        admitted = [stream(engine, **sampled(seed, max_tokens=200)) for seed in range(5)]
        with pytest.raises(QueueFullError, match="Exceeds maximum queue size"):
            stream(engine, **sampled(6))
        for one in admitted:
            assert len(one.tokens()) == 200
        assert len(stream(engine, **sampled(6)).tokens()) == 24


def test_more_requests_than_kv_blocks_all_finish(engine: Engine, stream: Callable[..., Any]) -> None:
    running = [stream(engine, **sampled(seed, max_tokens=180)) for seed in range(16)]
    assert [len(one.tokens()) for one in running] == [180] * 16


def test_cancelling_in_a_full_kv_cache_harms_nobody(engine: Engine, stream: Callable[..., Any]) -> None:
    """Six requests ask for half as many blocks again as there are; the library would drop bystanders."""
    expected = stream(engine, **sampled(99)).tokens()
    for round_ in range(12):
        victims = [stream(engine, **sampled(seed, max_tokens=210, streaming=True)) for seed in range(6)]
        for _ in range(100 + 8 * round_):
            victims[0].next()
        bystander = stream(engine, **sampled(99))
        for victim in victims:
            engine.cancel(victim.flight)
        assert bystander.tokens() == expected
        assert {victim.all()[-1].finish for victim in victims} == {Finish.CANCELLED}


def test_stats_see_the_batch(engine_folder: Path, stream: Callable[..., Any]) -> None:
    with Engine.open(engine_folder, EngineOptions(max_batch_size=2)) as engine:
        seen = []
        engine.every(0.0, lambda: seen.append(engine.stats()))
        for one in [stream(engine, **sampled(seed, max_tokens=30)) for seed in range(4)]:
            one.all()
        engine.close()
    assert max(stats.scheduled_requests for stats in seen) == 2
    assert any(stats.scheduled_requests == stats.waiting_requests == 2 for stats in seen)
    assert max(stats.used_blocks for stats in seen) >= 4
    assert all(stats.free_blocks + stats.used_blocks == stats.max_blocks == 33 for stats in seen)
    assert seen[-1].active_requests == seen[-1].scheduled_requests == 0
    assert seen[-1].iteration >= 60


class FailingPipeline:
    """The real pipeline until its third step, which fails as the library's own do. No input makes a real one fail."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def step(self) -> None:
        self._steps += 1
        if self._steps >= 3:
            raise RuntimeError("Check 'memory' failed")
        self._real.step()


def test_a_failed_step_fails_everybody_instead_of_hanging(engine_folder: Path, stream: Callable[..., Any]) -> None:
    healthy = Engine.open(engine_folder)
    with Engine(FailingPipeline(healthy._pipeline), healthy.settings) as engine:
        running = [stream(engine, **sampled(seed)) for seed in range(10)]
        for one in running:
            last = one.all()[-1]
            assert last.finish is Finish.FAILED
            assert "memory" in last.error
        with pytest.raises(RequestError, match="failed step"):
            stream(engine, **sampled(1))
    healthy.close()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        ("engine.json", KitError),
        ("openvino_model.xml", HostError),
        ("openvino_model.bin", HostError),
    ],
)
def test_refuses_a_damaged_engine(damage: str, error: type[KitError], engine_folder: Path, tmp_path: Path) -> None:
    for file in engine_folder.iterdir():
        (tmp_path / file.name).write_bytes(b"" if file.name == damage else file.read_bytes())
    with pytest.raises(error):
        Engine.open(tmp_path)


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_two_thousand_mixed_requests_leave_memory_flat(engine: Engine, stream: Callable[..., Any]) -> None:
    """Lengths, sampling and ends of all kinds, every fifth one cancelled on its way."""
    chance = random.Random(0)

    def wave(count: int) -> int:
        finished, running = 0, []
        for number in range(count):
            prompt = [chance.randrange(320) for _ in range(chance.randrange(1, 60))]
            fields = sampled(number, input_ids=prompt, max_tokens=chance.randrange(1, 10))
            fields |= {"streaming": chance.random() < 0.5, "end_id": chance.choice([None, 2])}
            running.append(stream(engine, **fields))
            if number % 5 == 0:
                engine.cancel(running[-1].flight)
            if len(running) == 24:
                finished += sum(one.all()[-1].finish is not None for one in running)
                running = []
        return finished + sum(one.all()[-1].finish is not None for one in running)

    assert wave(600) == 600
    before = rss_bytes()
    assert wave(1400) == 1400
    assert rss_bytes() - before < 12 * 2**20
    assert engine.stats().active_requests == 0
