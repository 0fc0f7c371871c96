from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.client.http_speech import HttpSpeech
from serving.client.pool import Pool
from serving.load.histogram import Histogram
from serving.load.records import Record, RecordWriter, read_records, write_parquet
from serving.load.rest import Rest
from serving.load.server_side import parse_metrics
from serving.load.slices import Slices
from serving.load.slo import parse_slo
from serving.load.steady import block_means, half_width, independent_blocks, mser_cut
from serving.load.summary import summarise
from serving.load.until import Until


@given(st.lists(st.floats(2e3, 1e12), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_quantiles_are_those_of_the_values(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    assert histogram.quantile_ns(share) == pytest.approx(np.quantile(values, share, method="inverted_cdf"), rel=0.0011)
    assert histogram.mean_ns == pytest.approx(statistics.fmean(values))
    assert histogram.max_ns == max(values) and histogram.count == len(values)


@given(st.lists(st.floats(2e3, 1e10), max_size=50), st.lists(st.floats(2e3, 1e10), max_size=50))
def test_merged_histograms_are_the_histogram_of_all(one: list[float], other: list[float]) -> None:
    parts, all_ = (Histogram(), Histogram()), Histogram()
    for part, values in zip(parts, (one, other), strict=True):
        for value in values:
            part.add(value, 2.0)
            all_.add(value, 2.0)
    parts[0].merge(parts[1])
    assert parts[0].to_json() == all_.to_json() and parts[0].max_ns == all_.max_ns


def test_a_histograms_memory_does_not_grow_with_its_values() -> None:
    histogram, source = Histogram(), random.Random(1)
    for _ in range(100_000):
        histogram.add(source.gauss(20e6, 1e6))
    assert len(histogram.to_json()["buckets_ms"]) < 400


def test_mser_cuts_a_ramp_and_nothing_of_a_level_series() -> None:
    source = random.Random(3)
    level = [100 + source.gauss(0, 2) for _ in range(200)]
    ramp = [100 * at / 20 for at in range(20)]
    assert 18 <= mser_cut(ramp + level) <= 30
    assert mser_cut(level) < 20
    assert mser_cut([float(at) for at in range(100)]) is None, "a queue that grows to the end has no steady part"


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    source, held = random.Random(4), 0
    for _ in range(1000):
        blocks = [source.gauss(10, 3) for _ in range(10)]
        held += abs(statistics.fmean(blocks) - 10) <= half_width(blocks)
    assert 930 <= held <= 970


def test_half_width_is_students() -> None:
    # t(0.975, 4) = 2.776; the deviation of 1..5 is sqrt(2.5)
    assert half_width([1, 2, 3, 4, 5]) == pytest.approx(2.776 * math.sqrt(2.5 / 5))
    assert half_width([1, 2, 3, 4]) is None


def test_correlated_series_are_cut_into_fewer_blocks() -> None:
    source, value, walk = random.Random(5), 0.0, []
    for _ in range(200):
        value = 0.97 * value + source.gauss(0, 1)
        walk.append(value)
    assert independent_blocks(walk) < independent_blocks([source.gauss(0, 1) for _ in range(200)]) == 20
    assert block_means([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0]


def test_figures_of_a_steady_run_are_exact(record) -> None:
    """Ten requests a second for a minute, each of 10 tokens: 100 tokens/s, 10 requests/s, intervals near nothing."""
    records = [record(at_s=at / 10, number=at) for at in range(600)]
    summary = summarise(lambda: records, slo=parse_slo("ttft:100ms,tpot:20ms"))
    assert summary.window.steady and summary.window.blocks >= 5
    assert summary.output_tokens_per_s.value == pytest.approx(100, rel=0.01)
    assert summary.requests_per_s.value == pytest.approx(10, rel=0.01)
    assert summary.input_tokens_per_s.value == pytest.approx(40, rel=0.01)
    assert summary.total_tokens_per_s.value == pytest.approx(140, rel=0.01)
    assert summary.goodput_per_s.value == summary.requests_per_s.value and summary.good_share == 1.0
    for name, value in (("ttft_ms", 100), ("tpot_ms", 20), ("itl_ms", 20), ("icl_ms", 20), ("e2e_ms", 280)):
        found = summary.latency[name]
        assert found.mean == pytest.approx(value) and found.p99 == pytest.approx(value, rel=1e-3)
        assert found.ci["mean"] == pytest.approx(0, abs=1e-6)
    assert summary.output_tokens_per_s.ci < 2


def test_goodput_counts_only_requests_that_meet_every_objective(record) -> None:
    slow = [record(at_s=at / 2, ttft_s=0.3) for at in range(40)]
    choppy = [record(at_s=at / 2, itl_s=0.05) for at in range(40)]
    failed = [record(at_s=at / 2, error="failed") for at in range(20)]
    good = [record(at_s=at / 2) for at in range(100)]
    summary = summarise(lambda: slow + choppy + failed + good, slo=parse_slo("ttft:200ms,tpot:30ms"), whole=True)
    assert summary.good_share == pytest.approx(0.5)
    assert summary.goodput_per_s.value == pytest.approx(100 / summary.window.seconds)


def test_tpot_is_the_fields(record) -> None:
    """(e2e - TTFT) / (output tokens - 1), with several tokens in a response as well."""
    packed = record(tokens=12, gaps_us=(80_000, 80_000), counts=(4, 4, 4), ended_ns=10**9)
    assert packed.tpot_ns == pytest.approx(160e6 / 11)
    assert list(packed.token_gaps()) == [(20e6, 4), (20e6, 4)]


def test_a_known_total_is_shared_among_responses(record) -> None:
    packed = record(tokens=12, gaps_us=(80_000, 80_000), counts=(), counted_by="usage", ended_ns=10**9)
    assert [tokens for _, tokens in packed.arrivals()] == [4, 4, 4]


@given(
    st.lists(st.integers(0, 3_000_000), max_size=30),
    st.lists(st.integers(0, 5), min_size=31, max_size=31),
    st.booleans(),
    st.lists(st.integers(-(10**9), 10**10), min_size=2, max_size=9, unique=True),
)
def test_tokens_between_edges_are_the_arrivals_there(gaps_us, counts, known: bool, edges) -> None:
    counts = tuple(counts[: len(gaps_us) + 1])
    total = sum(counts) if known else 3 * len(counts) + 1
    one, edges = record_of_gaps(gaps_us, counts, total), sorted(edges)
    arrived = list(one.arrivals())
    assert sum(tokens for _, tokens in arrived) == pytest.approx(total if len(counts) > 1 else counts[0])
    found = dict(one.tokens_between(edges))
    for at, (low, high) in enumerate(itertools.pairwise(edges)):
        expected = sum(tokens for at_ns, tokens in arrived if low <= at_ns < high)
        assert found.get(at, 0) == pytest.approx(expected)


def record_of_gaps(gaps_us, counts, tokens: int) -> Record:
    values = {"number": 0, "session": 0, "turn": 0, "scheduled_ns": 0, "sent_ns": 0, "first_ns": 10**6}
    values |= {"ended_ns": 10**6 + 1000 * sum(gaps_us), "asked_input": 1, "asked_output": tokens, "input_tokens": 1}
    values |= {"output_tokens": tokens, "counted_by": "usage", "error": None, "message": ""}
    return Record(**values, gaps_us=tuple(gaps_us), counts=counts)


@given(st.lists(st.lists(st.integers(0, 10**7), max_size=50), max_size=8))
def test_values_that_come_together_are_counted_like_single_ones(parts) -> None:
    together, single = Histogram(), Histogram()
    for part in parts:
        together.add_us(part)
        for value in part:
            single.add(1000 * value)
    assert together.to_json() == single.to_json()
    assert together.count == single.count and together.max_ns == single.max_ns
    assert together.total_ns == pytest.approx(single.total_ns)
    if single.count:
        assert together.quantile_ns(0.9) == single.quantile_ns(0.9)


def test_answers_rest_only_where_the_kernel_stamps_them_and_never_for_long(record) -> None:
    async def naps() -> list[float]:
        pool, found = Pool("127.0.0.1:1", HttpSpeech), []
        rest = Rest(pool)
        rest.ended(record(ttft_s=1.0, itl_s=0.02, tokens=100))
        found.append(pool.poller.nap_s)
        pool.clock.stamped = True
        rest = Rest(pool)
        rest.aged(10**8)
        found.append(pool.poller.nap_s)
        rest.aged(10**10)
        found.append(pool.poller.nap_s)
        for one in (
            record(ttft_s=9.0, itl_s=0.1, tokens=100),  # neither its length nor its gaps bind
            record(ttft_s=1.0, itl_s=0.01, tokens=100),  # a fifth of the gap
            record(ttft_s=0.3, itl_s=0.1, tokens=3),  # a four-hundredth of the answer
            record(ttft_s=9.0, itl_s=0.1, tokens=100),  # the shortest stays the measure
        ):
            rest.ended(one)
            found.append(pool.poller.nap_s)
        rest.aged(10**10)
        found.append(pool.poller.nap_s)
        pool.close()
        return found

    assert asyncio.run(naps()) == pytest.approx([0, 0.00025, 0.0005, 0.004, 0.002, 0.00125, 0.00125, 0.00125])


def test_a_growing_queue_is_called_unsteady(record) -> None:
    records = [record(at_s=at / 4, ttft_s=0.1 + at / 50, tokens=2) for at in range(240)]
    window = summarise(lambda: records).window
    assert not window.steady and window.why.startswith("not steady")


def test_a_short_run_says_that_it_is_short(record) -> None:
    window = summarise(lambda: [record(at_s=at / 10) for at in range(10)]).window
    assert not window.steady and "too short" in window.why


def test_nothing_sent_gives_no_figures() -> None:
    assert summarise(list) is None


def test_precision_ends_a_run_when_intervals_are_narrow_and_not_before(record) -> None:
    until = Until(duration_s=100, precision=0.05, min_s=10)
    steady, noisy = Slices(), Slices()
    source = random.Random(6)
    for at in range(400):
        steady.add(record(at_s=at / 10))
        noisy.add(record(at_s=at / 10, ttft_s=source.expovariate(1 / 0.2)))
    assert until.narrow_enough(steady, int(40e9))
    assert not until.narrow_enough(steady, int(5e9)), "not before its least time"
    assert not until.narrow_enough(noisy, int(40e9))


def test_a_run_stops_once_it_is_precise(start_mock, load) -> None:
    mock = start_mock("--ttft-ms", "20", "--itl-ms", "5")
    until = Until(duration_s=60, precision=0.5, min_s=1)
    result = load(mock.endpoint("engine-http"), until=until, output_len="10", whole=False)
    assert result.reason == "precise"
    assert json.loads((result.folder / "run.json").read_text())["reason"].startswith("precise")


def test_records_are_the_same_read_back(record, tmp_path: Path) -> None:
    written = [record(number=at, message="ünsafe \n", counts=(3, 2), gaps_us=(5,)) for at in range(3)]
    writer = RecordWriter(tmp_path)
    for one in written:
        writer.write(one)
    writer.close()
    assert list(read_records(tmp_path)) == written


def test_parquet_has_the_same_records(record, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    writer = RecordWriter(tmp_path)
    for at in range(5):
        writer.write(record(number=at))
    writer.close()
    rows = parquet.read_table(write_parquet(tmp_path)).to_pylist()
    assert [row["number"] for row in rows] == list(range(5)) and rows[0]["gaps_us"] == [20_000] * 9


def test_a_pyarrow_that_does_not_import_costs_only_the_parquet(record, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "pyarrow").mkdir()
    (tmp_path / "pyarrow" / "__init__.py").write_text("raise ImportError('pyarrow requires NumPy 2.0 or newer')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    writer = RecordWriter(tmp_path)
    writer.write(record())
    writer.close()
    assert write_parquet(tmp_path) is None and len(list(read_records(tmp_path))) == 1


def test_metrics_are_read_by_their_names() -> None:
    text = (
        '# HELP x\n# TYPE nv_a gauge\nnv_inference_count{model="m",version="1"} 7\nother 3\nnv_trt_llm_x{a="b c"} 1.5\n'
    )
    assert parse_metrics(text) == {'nv_inference_count{model="m",version="1"}': 7.0, 'nv_trt_llm_x{a="b c"}': 1.5}


def test_the_servers_counters_are_kept_beside_the_clients(start_mock, load) -> None:
    mock = start_mock("--ttft-ms", "2", "--itl-ms", "0", "--seed", "8")
    result = load(mock.endpoint("engine-http"), requests=9, metrics_url=f"http://{mock.http}/metrics")
    assert result.server['mock_output_tokens{model="ensemble",version="1"}'] == 9 * 8
    assert any(
        "metrics" in warning
        for warning in load(mock.endpoint("engine-http"), requests=1, metrics_url="http://127.0.0.1:9/metrics").warnings
    )


def test_what_the_client_measured_is_what_the_mock_did(start_mock, load) -> None:
    """Arrivals never precede their sending, and answers last as long as the ledger says."""
    mock = start_mock("--ttft-ms", "20", "--itl-ms", "10", "--jitter", "0.3")
    result = load(mock.endpoint("engine-http"), requests=20, output_len="20", conditions=None)
    origin_ns = json.loads((result.folder / "run.json").read_text())["origin_ns"]
    sent = {entry["request_id"]: entry["sent_ns"] for entry in mock.ledger}
    apart: list[int] = []
    for record in result.records():
        times = sent[f"load-{record.session}-0"]
        arrived = [at_ns + origin_ns for at_ns, _ in record.arrivals()]
        # The record keeps microseconds, the kernel's stamp passes through the wall clock.
        assert all(at >= before - 100_000 for at, before in zip(arrived, times, strict=True))
        mine, theirs = arrived[-1] - arrived[0], times[-1] - times[0]
        apart.append(abs(mine - theirs))
        assert list(itertools.accumulate(record.gaps_us))[-1] == pytest.approx(mine / 1e3, abs=1)
    # Some may be far apart: the mock notes a sending right before it, and may lose the CPU in between.
    assert statistics.median(apart) < 5e6


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_no_request_falls_out_of_the_whole_of_a_run(times_ns: list[int]) -> None:
    from serving.load.records import Record

    records = [
        Record(
            number=at,
            session=at,
            turn=0,
            scheduled_ns=time_ns,
            sent_ns=time_ns,
            first_ns=time_ns + 7,
            ended_ns=time_ns + 7,
            asked_input=None,
            asked_output=1,
            input_tokens=1,
            output_tokens=1,
            counted_by="server",
            error=None,
            message="",
            gaps_us=(),
            counts=(),
        )
        for at, time_ns in enumerate(times_ns)
    ]
    summary = summarise(lambda: records, whole=True)
    assert summary.requests == summary.completed == summary.output_tokens == len(times_ns)
