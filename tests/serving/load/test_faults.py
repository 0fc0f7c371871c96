"""A server that fails in every way, an interrupt, and a client that leaves: results so far are kept and counted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from serving.client.request import Endpoint
from serving.deploy.ports import choose_ports
from serving.load.records import RecordWriter, read_records
from serving.load.until import Until
from serving.load.workload import Given, Session, Turn
from trtllm_kit.errors import UsageError

QUICK = ("--ttft-ms", "5", "--itl-ms", "1")
ALL_FAULTS = ("--refuse-rate", "0.1", "--hidden-error-rate", "0.1", "--late-error-rate", "0.1", "--cut-rate", "0.1")
KINDS = {"refused": "refused", "hidden_error": "refused", "late_error": "failed", "cut": "cut", "garbage": "garbage"}


@pytest.mark.parametrize("transport", ["engine-http", "engine-grpc", "openai-completions", "openai-chat"])
def test_every_fault_is_counted_by_its_kind(start_mock, load, transport: str) -> None:
    mock = start_mock(*QUICK, *ALL_FAULTS, "--garbage-rate", "0.1")
    before = mock.totals
    result = load(mock.endpoint(transport), requests=60, concurrency=8, output_len="6")
    after = mock.totals
    expected: dict[str, int] = {}
    for end, count in after["ends"].items():
        if (count := count - before["ends"].get(end, 0)) and end in KINDS:
            expected[KINDS[end]] = expected.get(KINDS[end], 0) + count
    assert result.summary.errors == dict(sorted(expected.items())) and len(expected) == 4
    assert result.summary.completed == 60 - sum(expected.values())
    got = sum(record.output_tokens for record in result.records() if record.error != "cut")
    sent = after["output_tokens"] - before["output_tokens"]
    # A connection that is cut may take tokens with it that the server had sent; nothing else may differ.
    assert got <= sent <= got + 6 * expected["cut"]


@pytest.mark.parametrize("transport", ["engine-http", "engine-grpc"])
def test_cancelled_requests_are_counted_to_the_last_token(start_mock, load, transport: str) -> None:
    mock = start_mock("--ttft-ms", "5", "--itl-ms", "10")
    before = mock.totals
    conditions = {"cancel_share": 0.5, "cancel_after": 3}
    result = load(mock.endpoint(transport), requests=16, output_len="30", conditions=conditions)
    cancelled = [record for record in result.records() if record.error == "cancelled"]
    assert 0 < len(cancelled) < 16
    assert all(3 <= record.output_tokens < 30 for record in cancelled)
    total = sum(record.output_tokens for record in result.records())
    assert total == mock.totals["output_tokens"] - before["output_tokens"]


def test_a_stalled_answer_times_out(start_mock, load) -> None:
    mock = start_mock(*QUICK, "--stall-rate", "1", "--stall-ms", "60000")
    result = load(mock.endpoint("engine-http"), requests=2, output_len="9", conditions={"timeout_s": 0.3})
    assert result.summary.errors == {"timeout": 2}
    assert all(record.output_tokens > 0 for record in result.records())


@pytest.mark.parametrize("transport", ["engine-http", "engine-grpc"])
def test_nobody_there_ends_the_run(load, transport: str) -> None:
    port = choose_ports().http
    dead = Endpoint(http=f"127.0.0.1:{port}", grpc=f"127.0.0.1:{port}", transport=transport)
    result = load(dead, requests=100_000)
    assert result.reason == "unreachable" and set(result.summary.errors) == {"unreachable"}
    assert "deploy status" in "".join(str(record.message) for record in result.records()) or result.summary.messages


def test_a_server_that_dies_leaves_what_was_measured(start_mock, load) -> None:
    mock = start_mock("--ttft-ms", "5", "--itl-ms", "2", "--seed", "99")
    killer = subprocess.Popen([sys.executable, "-c", f"import os,time; time.sleep(1); os.kill({mock.process.pid}, 9)"])
    result = load(mock.endpoint("engine-grpc"), requests=100_000, output_len="20")
    killer.wait()
    assert result.reason == "unreachable"
    assert result.summary.completed > 0 and set(result.summary.errors) <= {"cut", "unreachable"}


def test_an_interrupt_keeps_and_reports_what_was_measured(start_mock, tmp_path: Path) -> None:
    mock = start_mock("--ttft-ms", "5", "--itl-ms", "5")
    script = f"""
from pathlib import Path
from serving.client.request import Endpoint
from serving.load.arrivals import ClosedLoop
from serving.load.lengths import parse_lengths
from serving.load.run import LoadPlan, run_load
from serving.load.until import Until
from serving.load.workload import Given, Session, Turn
from trtllm_kit.errors import UsageError
from serving.load.workload import Synthetic
from trtllm_kit.console import Silent
plan = LoadPlan(
    workload=Synthetic(input_len=parse_lengths("4"), output_len=parse_lengths("20")),
    arrivals=ClosedLoop(concurrency=2),
    until=Until(duration_s=120),
)
result = run_load(Endpoint(http="{mock.http}", grpc="{mock.grpc}"), plan, folder=Path("{tmp_path}"), talk=Silent())
print(result.reason, result.summary.completed)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    while mock.totals["ends"].get("complete", 0) < 5:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    reason, completed = out.split()
    assert process.returncode == 0 and reason == "interrupted" and int(completed) >= 5
    assert json.loads((tmp_path / "run.json").read_text())["reason"].startswith("interrupted")
    assert sum(record.error is None for record in read_records(tmp_path)) >= int(completed)


def test_a_record_that_a_crash_cut_off_is_left_out(record, tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.write(record(number=1))
    writer.write(record(number=2))
    writer.close()
    file = tmp_path / "records.jsonl"
    file.write_text(file.read_text()[:-20])
    assert [found.number for found in read_records(tmp_path)] == [1]


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(UsageError, match="never end"):
        Until()
    with pytest.raises(UsageError, match="precision"):
        Until(requests=5, precision=0.1)


@pytest.mark.parametrize("transport", ["engine-http", "engine-grpc"])
def test_a_prompt_that_cannot_be_sent_ends_the_run_with_a_word(start_mock, load, transport: str) -> None:
    workload = Given(given=[Session(turns=(Turn(text=text, max_tokens=2),)) for text in ("fine", "\ud800", "fine")])
    with pytest.raises(UsageError, match="Unicode"):
        load(start_mock(*QUICK).endpoint(transport), workload=workload, requests=50)


def test_more_streams_than_files_may_be_open_are_refused(start_mock, load) -> None:
    with pytest.raises(UsageError, match="ulimit"):
        load(start_mock(*QUICK).endpoint("engine-http"), concurrency=10_000_000)


def test_a_wrong_model_name_is_an_error_of_every_request(start_mock, load) -> None:
    endpoint = replace(start_mock(*QUICK).endpoint("engine-http"), model="nonsense")
    result = load(endpoint, requests=3)
    assert result.summary.errors == {"refused": 3} and "nonsense" in result.summary.messages["refused"]
