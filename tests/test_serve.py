"""Build, deploy, generate, validate and stop, as a person does it: the example on a real tritonserver."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def served(built):
    """One deployment for the tests that only ask."""
    started = built.ok("deploy", "--name", "shared", "--output", "json").json
    yield started
    built.ok("deploy", "stop", "shared")


def test_status_means_that_a_token_came(built, served) -> None:
    rows = {row["name"]: row for row in built.ok("deploy", "status", "--output", "json").json}
    assert rows["shared"]["state"] == "running"
    assert rows["shared"]["first_token_s"] > 0
    assert rows["shared"]["http_url"].startswith("http://127.0.0.1:")


def test_a_completion_streams_and_is_the_same_when_asked_again(built, served) -> None:
    streamed = built.ok("generate", "class socket.socket", "--deployment", "shared", "--max-tokens", "24")
    whole = built.ok(
        "generate", "class socket.socket", "--deployment", "shared", "--max-tokens", "24", "--output", "json"
    )
    assert streamed.out.rstrip("\n") == whole.json["text"].rstrip("\n")
    assert 0 < whole.json["tokens"] <= 24
    assert "tokens in" in streamed.err


def test_sampling_follows_its_seed(built, served) -> None:
    def sample(seed: int) -> str:
        options = (
            "--temperature",
            "1.5",
            "--top-k",
            "50",
            "--top-p",
            "0.99",
            "--seed",
            str(seed),
            "--max-tokens",
            "24",
        )
        return built.ok("generate", "Return", "--url", served["http_url"], *options).out

    assert sample(1) == sample(1) != sample(2)


def test_a_stop_word_ends_the_answer(built, served) -> None:
    free = built.ok("generate", "class socket.socket", "--deployment", "shared", "--output", "json").json
    word = free["text"].split()[1]
    cut = built.ok("generate", "class socket.socket", "--deployment", "shared", "--output", "json", "--stop", word).json
    assert cut["tokens"] < free["tokens"]
    assert free["text"].startswith(cut["text"].rstrip())


def test_a_prompt_that_is_too_long_is_refused_in_words(built, served) -> None:
    outcome = built.run("generate", "word " * 3000, "--deployment", "shared")
    assert outcome.code == 2
    assert "1024" in outcome.err


def test_no_tokens_are_refused_by_the_command(built, served) -> None:
    assert built.run("generate", "x", "--deployment", "shared", "--max-tokens", "0").code == 2


def test_validate_passes_and_leaves_a_report(built, served, tmp_path: Path) -> None:
    small = (
        "--concurrency",
        "1",
        "--concurrency",
        "4",
        "--requests-per-level",
        "4",
        "--input-len",
        "16",
        "--output-len",
        "8",
    )
    outcome = built.ok("validate", "shared", *small, "--report", str(tmp_path / "report"), "--output", "json")
    report = outcome.json
    assert report["verdict"]["status"] in ("pass", "warn")
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    assert statuses["smoke"] == statuses["tokenizer_parity"] == statuses["greedy_parity"] == "pass"
    levels = next(check for check in report["checks"] if check["name"] == "throughput")["data"]["levels"]
    assert [level["concurrency"] for level in levels] == [1, 4]
    assert [level["output_tokens"] for level in levels] == [4 * 8, 4 * 8]
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report
    page = (tmp_path / "report" / "report.html").read_text()
    assert "tiny-llama-bf16-cpu-tp1pp1-cpu" in page
    assert "http://" not in page.replace(served["http_url"], "").replace("http://www.w3.org/2000/svg", "")


def test_a_missed_limit_is_exit_7(built, served) -> None:
    tight = ("--check", "throughput", "--concurrency", "1", "--requests-per-level", "2", "--output-len", "4")
    outcome = built.run("validate", "shared", *tight, "--min-output-tokens-per-s", "1e9")
    assert outcome.code == 7
    assert "fail" in outcome.out


def test_serving_leaves_the_artifact_as_it_was_built(built, served) -> None:
    built.ok("artifact", "verify")


def test_a_second_deployment_beside_the_first(built, served, running) -> None:
    second = running().json
    assert second["name"] != "shared"
    assert second["http_url"] != served["http_url"]
    states = {row["name"]: row["state"] for row in built.ok("deploy", "status", "--output", "json").json}
    assert states == {"shared": "running", second["name"]: "running"}
    assert built.run("generate", "x").code == 3  # two deployments: which one is meant has to be said
    built.ok("deploy", "stop", second["name"])
    assert built.ok("deploy", "status", "--output", "json").json[0]["state"] == "running"


def test_a_taken_name_and_a_taken_port_are_refused(built, served) -> None:
    assert built.run("deploy", "--name", "shared").code == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = built.run("deploy", "--name", "late", "--http-port", str(port))
    assert outcome.code == 4
    assert str(port) in outcome.err
    assert [row["name"] for row in built.ok("deploy", "status", "--output", "json").json] == ["shared"]


def test_a_dead_server_is_called_dead(built) -> None:
    built.ok("deploy", "--name", "doomed", "-q")
    record = json.loads((built.store / "deployments" / "doomed" / "deployment.json").read_text())
    os.kill(record["process"]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        rows = {row["name"]: row for row in built.ok("deploy", "status", "--output", "json").json}
        if rows["doomed"]["state"] == "dead":
            break
    assert rows["doomed"]["state"] == "dead"
    assert built.run("validate", "doomed", "--check", "smoke").code == 4
    assert built.run("generate", "x", "--deployment", "doomed").code == 4
    assert "Started" in built.ok("deploy", "logs", "doomed").out
    built.ok("deploy", "stop", "doomed")
    assert built.run("deploy", "logs", "doomed").code == 2


def test_nobody_there_is_exit_4(built) -> None:
    outcome = built.run("validate", "--url", "http://127.0.0.1:9", "--check", "smoke")
    assert outcome.code == 4
    assert "no Triton answers at 127.0.0.1" in outcome.err
