"""`trtllm-kit validate` as a person runs it, against the mock server: loads, verdicts, bad input, an interrupt."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from serving.load.records import read_records
from serving.validate.sides import read_side

QUICK = ("--ttft-ms", "5", "--itl-ms", "1")
SMALL = ("--check", "throughput", "--requests-per-level", "4", "--input-len", "8", "--output-len", "8")
LLAMA = ("--model", "llama-3.1-8b-instruct", "--precision", "bf16")
HTTP = ("--transport", "engine-http")


@pytest.fixture
def served(start_mock):
    """`served("--itl-ms", "5")`: the options that point `validate` at such a mock."""

    def options(*behaviour: str) -> tuple[str, ...]:
        mock = start_mock(*behaviour)
        return "--url", f"http://{mock.http}", "--grpc", str(mock.grpc)

    return options


def throughput(report):
    return next(check for check in report["checks"] if check["name"] == "throughput")


def test_everything_of_a_result_is_in_its_folder(kit, served) -> None:
    outcome = kit.ok(
        "validate", *served(*QUICK), "--concurrency", "1", "--concurrency", "3", *SMALL[2:], "--report", "r"
    )
    folder = kit.folder / "r"
    report = json.loads((folder / "report.json").read_text())
    assert {check["name"]: check["status"] for check in report["checks"]}["smoke"] == "pass"
    levels = throughput(report)["data"]["levels"]
    assert [level["name"] for level in levels] == ["concurrency 1", "concurrency 3"]
    for level in levels:
        records = list(read_records(folder / level["folder"]))
        assert len(records) == level["requests"] == 4
        assert sum(record.output_tokens for record in records) == level["output_tokens"] == 4 * 8
        exported = json.loads((folder / level["folder"] / "profile_export_aiperf.json").read_text())
        assert exported["request_count"] == {"unit": "requests", "avg": 4}
        assert exported["time_to_first_token"]["p50"] == level["ttft_ms"]["p50"]
        assert exported["inter_token_latency"]["avg"] == level["tpot_ms"]["mean"]
        (phase,) = exported["input_config"]["phases"]  # AIPerf's own model wants all of these
        assert (phase["type"], phase["requests"], phase["concurrency"]) == ("concurrency", 4, level["concurrency"])
        assert exported["input_config"]["models"] == {"items": [{"name": "ensemble"}]}
        assert exported["input_config"]["datasets"][0]["prompts"]["osl"] == {"mean": 8}
    assert "concurrency 3" in outcome.out and "verdict: " in outcome.out
    again = kit.run("validate", *served(*QUICK), "--report", "r")
    assert again.code == 2 and "holds results already" in again.err


@pytest.mark.parametrize("path", ["", "/v1/completions", "/v1/chat/completions"])
def test_the_url_says_how_to_ask(kit, served, start_mock, path: str) -> None:
    url, grpc = served(*QUICK)[1], served(*QUICK)[2:]
    before = len(start_mock(*QUICK).ledger)
    kit.ok("validate", "--url", url + path, *grpc, *SMALL, "--concurrency", "2")
    dialects = {entry["dialect"] for entry in start_mock(*QUICK).ledger[before:]}
    assert dialects == {{"": "grpc", "/v1/completions": "completions", "/v1/chat/completions": "chat"}[path]} or (
        path == "" and len(dialects) == 1
    )


def test_an_open_loop_a_trace_and_given_prompts(kit, served, start_mock) -> None:
    rows = [{"timestamp": 40 * at, "prompt": f"traced {at}", "max_tokens": 3 + at} for at in range(5)]
    (kit.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = (*served(*QUICK), *HTTP, *SMALL, "--output", "json")
    traced = throughput(kit.ok("validate", *options, "--trace", "rows.jsonl", "--slo", "e2e:60s").json)["data"][
        "levels"
    ]
    assert [(level["name"], level["requests"], level["output_tokens"]) for level in traced] == [("trace", 5, 25)]
    assert traced[0]["good_tokens_per_s"] == pytest.approx(traced[0]["output_tokens_per_s"])
    assert traced[0]["good_share"] == 1.0
    before = len(start_mock(*QUICK).ledger)
    kit.ok("validate", *options, "--prompts", "rows.jsonl", "--concurrency", "1", "--seed", "1")
    asked = sorted(entry["asked"] for entry in start_mock(*QUICK).ledger[before + 1 :])  # after one of the warm-up
    assert len(asked) == 4 and set(asked) <= {3, 4, 5, 6, 7}
    (level,) = throughput(
        kit.ok("validate", *options, "--rate", "30", "--arrivals", "constant", "--duration", "1s").json
    )["data"]["levels"]
    assert (level["name"], level["rate"]) == ("30 req/s", 30.0)
    assert 25 <= level["requests"] <= 30, "the schedule, not the answers, decides how many are sent"


def test_the_same_seed_sends_the_same_prompts(kit, served, start_mock) -> None:
    digests = []
    for _ in range(2):
        before = len(start_mock(*QUICK).ledger)
        kit.ok("validate", *served(*QUICK), *HTTP, *SMALL, "--concurrency", "1", "--seed", "7", "--prefix-share", "0.5")
        digests.append([entry["prompt_digest"] for entry in start_mock(*QUICK).ledger[before:]])
    assert digests[0] == digests[1] and len(set(digests[0])) == 5


def test_a_slower_server_fails_the_comparison_and_the_baseline(kit, served) -> None:
    known = ("--sku", "cpu", *LLAMA)
    many = ("--check", "throughput", "--concurrency", "4", "--requests-per-level", "40", "--output-len", "16")
    fast = (*served("--ttft-ms", "20", "--itl-ms", "5"), *HTTP, *many, *known)
    slow = (*served("--ttft-ms", "20", "--itl-ms", "15"), *HTTP, *many, *known)
    assert (
        "baselines/llama-3.1-8b-instruct-bf16-cpu-tp1pp1-served-isl128-osl16"
        in kit.ok("validate", *fast, "--report", "a", "--save-baseline").err
    )
    failed = kit.run("validate", *slow, "--report", "b")
    assert failed.code == 7 and "expectation failed" in failed.err
    assert "against the baseline, at concurrency 4" in failed.out
    compared = kit.run("validate", "compare", "a", "b/report.json", "--output", "json")
    assert compared.code == 7
    rows = {row["metric"]: row for row in compared.json["rows"]}
    assert rows["TPOT p50"]["status"] == "worse" and rows["TPOT p50"]["low"] > 0.5
    kit.ok("validate", "compare", "a", "a")
    kit.ok("validate", "compare", "b", "a")


def test_aiperfs_json_is_a_side_of_a_comparison(kit) -> None:
    def export(itl_ms: float, unit: str, scale: float) -> str:
        metric = {"unit": unit, "avg": itl_ms * scale, "p50": itl_ms * scale, "p99": itl_ms * scale}
        rate = {"unit": "requests/sec", "avg": 2.0}
        return json.dumps(
            {
                "request_throughput": rate,
                "request_count": {"unit": "requests", "avg": 400},
                "inter_token_latency": {**metric, "std": 0.1 * itl_ms * scale},
                "input_config": {"phases": [{"kind": "profiling", "concurrency": 8}]},
            }
        )

    (kit.folder / "a.json").write_text(export(20.0, "ms", 1.0))
    (kit.folder / "b.json").write_text(export(30.0, "sec", 1e-3))
    compared = kit.run("validate", "compare", "a.json", "b.json", "--output", "json")
    rows = {row["metric"]: row for row in compared.json["rows"]}
    assert compared.code == 7
    assert rows["TPOT mean"]["level"] == "concurrency 8"
    assert rows["TPOT mean"]["change"] == pytest.approx(0.5) and rows["TPOT mean"]["status"] == "worse"
    assert rows["TPOT p50"]["status"] == "unknown", "no interval of a median is in that file"
    (kit.folder / "c.json").write_text('{"some": "thing"}')
    assert kit.run("validate", "compare", "a.json", "c.json").code == 3


def test_aiperfs_own_token_counts_give_way_to_the_servers() -> None:
    """A real export of 0.13: 1,714 tokens by its tokenizer, 512 by the server, in 1.278 s."""
    (point,) = read_side(Path(__file__).parent / "golden" / "aiperf_0.13.json").points
    assert point.name == "concurrency 16"
    assert point.level["output_tokens"] == 512
    assert point.level["output_tokens_per_s"] == pytest.approx(512 / 1.2783086, rel=0.02)
    assert not point.level["tpot_ms"] and "1,714 tokens from the text" in point.level["notes"][0]
    assert point.level["ttft_ms"]["p50"] == pytest.approx(231.52, abs=0.01)


def test_slower_than_predicted_fails_with_the_interval(kit, served) -> None:
    options = (*served("--ttft-ms", "20", "--itl-ms", "60"), *SMALL, "--concurrency", "2")
    outcome = kit.run("validate", *options, "--sku", "h100_sxm", *LLAMA, "--output", "json")
    assert outcome.code == 7 and "below the prediction" in outcome.err
    expected = next(check for check in outcome.json["checks"] if check["name"] == "expectation")
    (row,) = expected["data"]["predictions"]
    assert row["measured"] < row["low"] < row["predicted"] < row["high"]
    assert outcome.json["bill"]["per_million"]["usd"] > 0


def test_faster_than_the_memory_is_wrong(kit, served) -> None:
    options = (*served("--ttft-ms", "2", "--itl-ms", "0.1"), *SMALL[:-1], "64", "--concurrency", "2")
    outcome = kit.run("validate", *options, "--sku", "l4", *LLAMA, "--price", "1")
    assert outcome.code == 7
    assert "wrong, not fast: at concurrency 2" in outcome.err and "roofline" in outcome.err


def test_a_sku_that_cannot_be_predicted_is_said_and_no_failure(kit, served) -> None:
    options = (*served(*QUICK), *SMALL, "--concurrency", "1", "--sku", "t4", *LLAMA, "--price", "1")
    outcome = kit.ok("validate", *options, "--output", "json")
    physics = next(check for check in outcome.json["checks"] if check["name"] == "physics")
    assert physics["reasons"][0].startswith("no roofline: no prediction for t4")


def test_a_search_stays_below_what_cannot_hold(kit, served) -> None:
    slots = served("--ttft-ms", "50", "--itl-ms", "50", "--slots", "2")
    options = ("--check", "throughput", "--output-len", "8", "--input-len", "8", "--duration", "1s")
    outcome = kit.run(
        "validate",
        *slots,
        *options,
        "--find-max",
        "concurrency",
        "--find-to",
        "8",
        "--slo",
        "ttft:300ms",
        "--output",
        "json",
    )
    assert outcome.code in (0, 7)  # on a machine that is busy enough nothing holds
    found = throughput(outcome.json)["data"]["search"]
    assert found["beyond"] <= 8, "with four waiting for two slots of 400 ms each, most wait too long"
    assert found["best"] is None or found["best"] < found["beyond"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--slo", "ttft:500"), 2, "no unit of time"),
        (("--slo", "ttft:500kg"), 2, "no unit of time"),
        (("--find-max", "rate"), 2, "needs an SLO"),
        (("--concurrency", "2", "--rate", "3"), 2, "exclude each other"),
        (("--duration", "5 parsecs"), 2, "is no time"),
        (("--input-len", "many"), 2, "is no length"),
        (("--prompts", "empty.jsonl"), 2, "is empty"),
        (("--prompts", "broken.jsonl"), 2, "broken.jsonl:1"),
        (("--prompts", "absent.jsonl"), 2, "does not exist"),
        (("--trace", "timeless.jsonl"), 2, "no timestamp"),
        (("--sku", "h9000"), 3, "h9000"),
        (("--save-baseline",), 2, "--sku, --model and --precision"),
        (("--served-model", "gpt-17"), 2, "no model 'gpt-17'"),
        (("--served-model", "gpt-17", "--transport", "openai-chat"), 2, "no model 'gpt-17'"),
        (("--served-model", "gpt-17", "--transport", "engine-http"), 2, "one of ensemble"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_is_refused_before_anything_is_sent(
    kit, served, start_mock, arguments, code: int, words: str
) -> None:
    (kit.folder / "empty.jsonl").write_text("\n")
    (kit.folder / "broken.jsonl").write_text("{not json\n")
    (kit.folder / "timeless.jsonl").write_text('{"prompt": "x"}\n')
    before = start_mock(*QUICK).totals["requests"]
    outcome = kit.run("validate", *served(*QUICK), "--check", "throughput", *arguments)
    assert (outcome.code, words in outcome.err) == (code, True), outcome.err
    assert start_mock(*QUICK).totals["requests"] == before


def test_nobody_there(kit) -> None:
    for transport in ("engine-grpc", "engine-http", "openai-chat"):
        outcome = kit.run("validate", "--url", "http://127.0.0.1:9", "--transport", transport)
        assert outcome.code == 4 and "no Triton answers" in outcome.err


@pytest.mark.parametrize(
    ("behaviour", "kind", "words"),
    [
        (("--garbage-rate", "1"), "garbage", ""),
        (("--cut-rate", "1"), "cut", "without a final response"),
        (("--hidden-error-rate", "1"), "refused", "KV cache"),
        (("--refuse-rate", "1"), "refused", "exceeds the maximum"),
        (("--stall-rate", "1", "--stall-ms", "60000"), "timeout", "had not finished after 0.5 s"),
    ],
)
def test_a_server_that_fails_ends_in_a_report(kit, served, behaviour, kind: str, words: str) -> None:
    options = (*served(*QUICK, *behaviour), *HTTP, *SMALL, "--concurrency", "2", "--timeout", "500ms")
    outcome = kit.run("validate", *options, "--report", "r", "--output", "json")
    assert outcome.code == 7
    (level,) = throughput(outcome.json)["data"]["levels"]
    assert level["errors"] == {kind: 4} and level["completed"] == 0
    assert words in outcome.err and "ended '" in outcome.err
    assert (kit.folder / "r" / "report.html").is_file()


def test_characters_cut_in_two_are_no_error(kit, served) -> None:
    for transport in ("engine-http", "openai-completions"):
        options = (*served(*QUICK, "--split-utf8"), "--transport", transport, *SMALL, "--concurrency", "2")
        (level,) = throughput(kit.ok("validate", *options, "--output", "json").json)["data"]["levels"]
        assert (level["errors"], level["output_tokens"]) == ({}, 32)


def test_an_interrupt_keeps_and_reports_what_was_measured(kit, served) -> None:
    levels = ("--concurrency", "1", "--concurrency", "2", "--duration", "3s")
    process = kit.start("validate", *served(*QUICK), *SMALL, *levels, "--report", "r", "--output", "text")
    for line in process.stderr:
        if line.startswith("concurrency 1:"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "what was measured is in" in err
    report = json.loads((kit.folder / "r" / "report.json").read_text())
    assert report["interrupted"] and report["verdict"]["status"] == "fail"
    assert throughput(report)["data"]["levels"][0]["completed"] > 0
    assert "interrupted" in (kit.folder / "r" / "report.html").read_text()
    assert "concurrency 1" in out and "interrupted" in out


@pytest.fixture
def deployed(built, tmp_path: Path):
    """A deployment of an artifact that nobody has validated, in a store of its own."""
    store = Path(shutil.copytree(built.store, tmp_path / "own"))
    own = type(built)(folder=built.folder, store=store)
    for manifest in store.glob("artifacts/*/manifest.json"):
        content = json.loads(manifest.read_text())
        content.pop("validations", None)
        manifest.write_text(json.dumps(content))
    started = own.ok("deploy", "--name", "judged", "--output", "json").json
    yield own, started
    own.run("deploy", "stop", "judged")


def test_deploy_asks_for_a_validation_of_this_sku(deployed) -> None:
    own, _ = deployed
    refused = own.run("deploy", "--require-validated", "--name", "second")
    assert refused.code == 5 and "no validation on cpu" in refused.err
    small = ("--concurrency", "1", "--requests-per-level", "2", "--input-len", "8", "--output-len", "4")
    own.ok("validate", "judged", *small, "--check", "smoke")
    assert own.run("deploy", "--require-validated").code == 5, "one check is no validation"
    own.ok("validate", "judged", *small)
    own.ok("artifact", "verify")
    (entry,) = json.loads(own.ok("artifact", "show").out)["validations"]
    assert entry["sku"] == "cpu" and entry["status"] in ("pass", "warn")
    assert entry["checks"]["greedy_parity"] == entry["checks"]["physics"] == "pass"
    own.ok("deploy", "--require-validated", "--name", "second")
    own.ok("deploy", "stop", "second")
