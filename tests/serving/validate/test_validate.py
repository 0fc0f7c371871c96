from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import threading
import time
import urllib.request
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from builder.plan import ValidationPlan
from serving.client.errors import RequestError
from serving.client.request import Endpoint
from serving.deploy.server import RunningServer, running_server
from serving.load.workload import Given, Session, Turn
from serving.validate import run as entry
from serving.validate.load import Load
from serving.validate.report import html_page, write_report
from serving.validate.results import CheckResult
from serving.validate.run import Subject, validate
from serving.validate.smoke import smoke
from serving.validate.table import print_report
from serving.validate.tokenizer_parity import tokenizer_parity
from trtllm_kit.console import Silent
from trtllm_kit.errors import PerformanceError, QualityError, RolloutError, UsageError

PLAN = ValidationPlan(
    concurrencies=(1, 4),
    requests_per_level=6,
    input_len=5,
    output_len=12,
    ttft_p95_ms=None,
    tpot_p95_ms=None,
    min_output_tokens_per_s=None,
)


def prompts(*texts: str) -> Given:
    """These prompts in turn, over and over."""
    return Given(given=[Session(turns=(Turn(text=text, max_tokens=12),)) for text in texts])


@pytest.fixture
def check(tmp_path: Path):
    """`check(endpoint, plan, ...)`: a validation with its results in a folder of the test."""

    def run(endpoint: Endpoint, plan: ValidationPlan = PLAN, *, given: Given | None = None, **rest):
        return validate(endpoint, Load(plan=plan, given=given), results=tmp_path, talk=Silent(), **rest)

    return run


@pytest.fixture
def loaded(check):
    """`loaded(endpoint, plan, ...)`: the throughput check alone."""
    return lambda endpoint, plan=PLAN, **rest: check(endpoint, plan, checks=["throughput"], **rest).checks[0]


def test_a_good_server_passes_with_exact_counts(endpoint: Endpoint, check) -> None:
    report = check(endpoint)
    assert [(check.name, check.status) for check in report.checks] == [
        ("smoke", "pass"),
        ("tokenizer_parity", "skipped"),
        ("greedy_parity", "skipped"),
        ("throughput", report.checks[3].status),
        ("physics", "pass"),
        ("expectation", "skipped"),
    ]
    assert report.verdict.status in ("pass", "warn"), "a machine that is shared is a warning"
    assert report.endpoint["models"] == ["ensemble", "postprocessing", "preprocessing", "tensorrt_llm"]
    report.raise_for_failure()
    levels = report.checks[3].data["levels"]
    assert [level["output_tokens"] for level in levels] == [6 * 12, 6 * 12]
    for level in levels:
        assert level["completed"] == level["requests"] == 6
        assert level["input_tokens"] > 0 and level["counted_by"] == "server"
        assert level["itl_ms"]["count"] == 6 * 11
        assert 0 < level["ttft_ms"]["p50"] <= level["ttft_ms"]["p95"] <= level["ttft_ms"]["p99"]
        assert level["e2e_ms"]["p50"] >= 12 * 2.0 * 0.998, "the model sleeps 2 ms before each of 12 tokens"
        assert level["output_tokens_per_s"] == pytest.approx(72 / level["duration_s"])


def test_http_measures_the_same_tokens(endpoint: Endpoint, loaded) -> None:
    result = loaded(replace(endpoint, transport="engine-http"))
    assert [level["output_tokens"] for level in result.data["levels"]] == [72, 72]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"ttft_p95_ms": 0.001}, "TTFT p95"),
        ({"tpot_p95_ms": 1.0}, "TPOT p95"),
        ({"min_output_tokens_per_s": 1e6}, "output tokens/s"),
    ],
)
def test_a_missed_limit_fails_and_says_by_how_much(endpoint: Endpoint, check, limits, words: str) -> None:
    report = check(endpoint, replace(PLAN, **limits), checks=["throughput"])
    assert report.verdict.status == "fail"
    assert any(words in reason and "the limit is" in reason for reason in report.verdict.reasons)
    with pytest.raises(PerformanceError) as caught:
        report.raise_for_failure()
    assert caught.value.exit_code == 7
    assert report.limits == limits


def test_met_limits_do_not_fail(endpoint: Endpoint, loaded) -> None:
    limits = {"ttft_p95_ms": 60_000.0, "tpot_p95_ms": 60_000.0, "min_output_tokens_per_s": 0.1}
    assert loaded(endpoint, replace(PLAN, **limits)).status != "fail"


@pytest.mark.parametrize(
    ("texts", "status", "words"),
    [
        (["hello", "hello", "refuse"], "fail", "2 of 6 requests ended 'refused'"),
        (["overflow"], "fail", "6 of 6 requests ended 'overloaded'"),
        (["short"], "warn", "6 answers ended before 12 tokens"),
    ],
)
def test_faults_are_seen_and_counted(endpoint: Endpoint, loaded, texts: list[str], status: str, words: str) -> None:
    result = loaded(endpoint, replace(PLAN, concurrencies=(2,)), given=prompts(*texts))
    assert result.status == status
    assert any(words in reason for reason in result.reasons), result.reasons


def test_more_tokens_than_asked_for_are_called_wrong(endpoint: Endpoint, check) -> None:
    plan = replace(PLAN, concurrencies=(2,))
    report = check(endpoint, plan, given=prompts("toolong"), checks=["throughput"])
    physics = report.check("physics")
    assert physics.status == "fail"
    assert physics.reasons[0] == (
        "wrong, not fast: at concurrency 2, 6 answers have more tokens than asked for (14 of 12)"
    )
    with pytest.raises(PerformanceError, match="wrong, not fast"):
        report.raise_for_failure()


def test_tokens_of_failed_requests_are_not_throughput(endpoint: Endpoint, loaded) -> None:
    result = loaded(endpoint, replace(PLAN, concurrencies=(1,)), given=prompts("hello", "breaks"))
    (level,) = result.data["levels"]
    assert (level["completed"], level["output_tokens"], sum(level["errors"].values())) == (3, 36, 3)
    # Seldom the error overtakes the tokens before it in Triton's ensemble: then it looks like a refusal.
    assert set(level["errors"]) <= {"failed", "refused"}
    assert result.status == "fail"


def test_early_ends_are_counted_as_they_came(endpoint: Endpoint, loaded) -> None:
    result = loaded(endpoint, replace(PLAN, concurrencies=(1,)), given=prompts("short"))
    (level,) = result.data["levels"]
    assert (level["output_tokens"], level["ended_early"]) == (6 * 3, 6)


def test_smoke_notices_that_streamed_and_plain_differ(endpoint: Endpoint) -> None:
    result = smoke(endpoint, prompt="twofaced")
    assert result.status == "fail" and "part at character 0" in result.reasons[0]


def test_smoke_without_decoupled_mode_tries_the_plain_one_only(endpoint: Endpoint) -> None:
    result = smoke(endpoint, decoupled=False)
    assert result.status == "pass" and "not tried" in result.reasons[0]


@pytest.mark.parametrize(("prompt", "words"), [("refuse", "exceeds the maximum"), ("toolong", "26 tokens")])
def test_smoke_fails_on_refusals_and_on_tokens_nobody_asked_for(endpoint: Endpoint, prompt: str, words: str) -> None:
    result = smoke(endpoint, prompt=prompt)
    assert result.status == "fail" and words in result.reasons[0]


def test_a_dead_server_is_said_at_once(check) -> None:
    from serving.deploy.ports import choose_ports

    address = f"127.0.0.1:{choose_ports().grpc}"
    with pytest.raises(RequestError, match="no Triton answers") as caught:
        check(Endpoint(http=address, grpc=address))
    assert caught.value.exit_code == 4


def _kill_under_load(server: RunningServer, requests: int) -> None:
    """Once so many requests were answered, by the server's own count."""
    answered = re.compile(r'nv_inference_request_success\{model="tensorrt_llm",version="1"\} (\d+)')
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.ports.metrics}/metrics", timeout=10) as page:
            found = answered.search(page.read().decode())
        if found and int(found[1]) >= requests:
            return os.kill(server.process.pid, signal.SIGKILL)
        time.sleep(0.01)


@pytest.mark.usefixtures("triton_installed")
def test_a_server_that_dies_under_load_ends_in_a_report(artifact: Path, check) -> None:
    plan = replace(PLAN, concurrencies=(4,), requests_per_level=400, output_len=50)
    with running_server(artifact) as server:
        endpoint = Endpoint(http=server.http_url.removeprefix("http://"), grpc=server.grpc_address)
        threading.Thread(target=_kill_under_load, args=(server, 40), daemon=True).start()
        report = check(endpoint, plan, checks=["throughput"])
    (level,) = report.checks[0].data["levels"]
    assert report.verdict.status == "fail"
    assert "the server was gone" in report.checks[0].reasons[-1]
    assert set(level["errors"]) <= {"cut", "unreachable"}
    assert 0 < level["completed"] < level["requests"] < 400
    assert level["output_tokens"] == level["completed"] * 50


def test_unknown_check(endpoint: Endpoint, check) -> None:
    with pytest.raises(UsageError, match="smoke, tokenizer_parity"):
        check(endpoint, checks=["spelling"])


class _Sources(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "br", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag == self.open[-1]:
            self.open.pop()


def test_the_report_is_whole_and_needs_nothing_beside_it(endpoint: Endpoint, check, tmp_path: Path) -> None:
    about = {"identifier": "<script>alert(1)</script>"}
    report = check(endpoint, subject=Subject(about=about), checks=["smoke", "throughput"])
    page = write_report(report, tmp_path).read_text()
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report.to_json()))
    parser = _Sources()
    parser.feed(page)
    assert parser.loaded == [] and parser.open == []
    assert "<script" not in page and "http://" not in page and "https://" not in page
    figures = ("Time to first token", "Time per output token", "Gap between tokens", "Tokens over time")
    assert all(f"<figcaption>{title} " in page for title in figures)
    assert (
        page.count("<polyline") == page.count(" points=") >= 2 * 3 + 2 * 2 + 2 and "prefers-color-scheme:dark" in page
    )


def test_the_page_of_a_report_without_throughput(endpoint: Endpoint, check, tmp_path: Path) -> None:
    page = html_page(check(endpoint, checks=["smoke"]), tmp_path)
    assert "<svg" not in page and "smoke" in page


def test_the_terminal_shows_verdict_and_figures(endpoint: Endpoint, check) -> None:
    from rich.console import Console

    report = check(endpoint, replace(PLAN, tpot_p95_ms=0.5), checks=["smoke", "throughput"])
    console = Console(width=140, record=True, file=io.StringIO())
    print_report(report, console)
    text = console.export_text()
    assert "verdict: fail" in text and "pass  smoke" in text and "6/6" in text and "the limit is 0.5 ms" in text


def test_every_check_has_an_error_of_its_own() -> None:
    from serving.validate.results import ValidationReport, Verdict

    for name in (*entry.CHECKS, "physics", "expectation"):
        failed = CheckResult(name=name, status="fail", reasons=("x",))
        report = ValidationReport(
            endpoint={}, started_unix_s=0, duration_s=0, checks=(failed,), verdict=Verdict(status="fail"), limits={}
        )
        with pytest.raises((QualityError, PerformanceError, RolloutError), match=name):
            report.raise_for_failure()


@pytest.fixture(scope="module")
def code_point_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face tokenizer whose ids are code points, as the rule-driven preprocessing makes them."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("tokenizer")
    from serving.validate.corpus import CORPUS

    characters = {chr(code) for code in range(32, 127)} | set("".join(text for _, text in CORPUS))
    model = tokenizers.models.WordLevel({character: ord(character) for character in characters}, unk_token="?")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


def test_equal_token_ids_pass(endpoint: Endpoint, code_point_tokenizer: Path) -> None:
    result = tokenizer_parity(endpoint, code_point_tokenizer)
    assert (result.status, result.reasons) == ("pass", ())
    assert result.data["texts"] > 20


def test_a_single_drifting_text_is_shown_with_its_first_difference(
    endpoint: Endpoint, code_point_tokenizer: Path
) -> None:
    result = tokenizer_parity(endpoint, code_point_tokenizer, corpus=(("good", "hello"), ("bad", "drift")))
    shown = result.data["mismatches"]
    assert result.status == "fail"
    assert {row["text"] for row in shown} == {"bad", "long text"}
    assert shown[0] == {"text": "bad", "at": 0, "server": [1, *map(ord, "drift")], "hugging_face": [*map(ord, "drift")]}
    assert "'bad' differs from id 0 on" in result.reasons[0]


def test_the_whole_run_ends_with_the_quality_exit_code(endpoint: Endpoint, check, code_point_tokenizer: Path) -> None:
    # The server adds nothing to a text; claiming that it was rendered with another tokenizer must be noticed.
    tokenizer = code_point_tokenizer.parent / "other"
    shutil.copytree(code_point_tokenizer, tokenizer)
    tree = json.loads((tokenizer / "tokenizer.json").read_text())
    tree["model"]["vocab"]["H"], tree["model"]["vocab"]["e"] = ord("e"), ord("H")
    (tokenizer / "tokenizer.json").write_text(json.dumps(tree))
    subject = Subject(tokenizer_dir=tokenizer)
    report = check(endpoint, subject=subject, checks=["tokenizer_parity"])
    with pytest.raises(QualityError) as caught:
        report.raise_for_failure()
    assert caught.value.exit_code == 6


def test_tokens_that_transformers_would_not_pick_fail_with_place_and_gap(
    endpoint: Endpoint, check, code_point_tokenizer: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from serving.validate.greedy_parity import PROMPTS, TIE

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    # The rule-driven model repeats the prompt, a random Llama does not.
    subject = Subject(tokenizer_dir=code_point_tokenizer, checkpoint=tmp_path)
    report = check(endpoint, subject=subject, checks=["greedy_parity"])
    partings = report.checks[0].data["partings"]
    assert report.verdict.status == "fail" and len(partings) == len(PROMPTS)
    for parting in partings:
        assert parting["engine"] == ord(parting["prompt"][parting["at"]])
        assert parting["engine"] != parting["transformers"] and parting["logit_gap"] > TIE
    with pytest.raises(QualityError, match="logit gap"):
        report.raise_for_failure()


def test_warm_up_prompts_are_not_measured_again(start_mock, loaded) -> None:
    mock = start_mock("--ttft-ms", "2", "--itl-ms", "0")
    plan = replace(PLAN, concurrencies=(2,), requests_per_level=4, output_len=20)
    result = loaded(mock.endpoint("engine-http"), plan)
    asked = [(entry["asked"], entry["prompt_digest"]) for entry in mock.ledger]
    assert sorted(tokens for tokens, _ in asked) == [8, 8, 20, 20, 20, 20]
    assert len({digest for _, digest in asked}) == 6
    assert result.data["levels"][0]["output_tokens"] == 4 * 20
