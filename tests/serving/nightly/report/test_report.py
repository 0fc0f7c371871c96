"""A night's page, its JSON and its exit code, through the command that a scheduler calls."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from builder.depot import Depot
from serving.nightly.report import summarize

FAILED = "llama-3.1-8b-fp8-l40s-tp1pp1-pytorch"
REJECTED = "llama-3.1-8b-int4_awq-h100_sxm-tp1pp1-tensorrt"
KILLED = "qwen2.5-7b-fp8-h100_sxm-tp1pp1-tensorrt"
QUIET = "qwen2.5-7b-int4_awq-h100_sxm-tp1pp1-tensorrt"


class Page(HTMLParser):
    """What a reader gets: text, links, anchors; and that every tag is closed."""

    _VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.outside: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag not in self._VOID:
            self._open.append(tag)
        self.links += [known["href"] or ""] if tag == "a" else []
        self.anchors += [known["id"] or ""] if "id" in known else []
        self.outside += [tag] if tag in ("script", "link", "img", "iframe") else []

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open[-1] in ("circle", "line", "polyline"):
            self._open.pop()
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


@pytest.fixture
def mixed(depot: Depot, nights: Any) -> str:
    """Three nights; in the last one a cell failed, one was rejected, one left no record, one was not to be built."""
    nights.write(depot, 0, [nights.cell_result(REJECTED, decision="promote", current=nights.OLD)])
    nights.write(depot, 1, upstream={"trtllm": "1.2.0", "model acme/llama@main": "0" * 40})
    log = f"nights/{nights.night_name(2)}/logs/{FAILED}.log"
    depot.write_text(log, "first line\n" + "…\n" * 50 + "error: <assertion> & the rest\n")
    failed = nights.cell_result(
        FAILED, status="failed", words="trtllm-build: <assertion> failed", exit_code=9, stage="compile", log=log
    )
    rejected = nights.cell_result(
        REJECTED,
        decision="keep",
        words="kept: throughput is worse",
        reasons=("throughput is 15.8 % worse, 5 % are allowed",),
        figures=(nights.throughput(1010.0, 1200.0, status="worse"),),
        artifact=nights.NEW,
        current=nights.OLD,
        changes=("compile.trtllm_version: 1.2.0 → 1.2.1",),
        seconds=60.0,
        started_unix_s=1_792_375_200.0 + 2 * 86400,
    )
    plan = {FAILED: "build", REJECTED: "build", KILLED: "measure", QUIET: "skip"}
    return str(
        nights.write(
            depot,
            2,
            [failed, rejected],
            cells=plan,
            upstream={"trtllm": "1.2.1", "model acme/llama@main": "1" * 40},
        )
    )


def test_the_worst_comes_first_and_nothing_is_needed_beside_the_page(kit: Any, depot: Depot, mixed: str) -> None:
    outcome = kit.run("nightly", "report", "--depot", depot.url, "--out", "pages")
    assert outcome.code == 9
    lines = outcome.out.splitlines()
    assert lines[0] == f"{mixed}: failed; 4 cells: 1 failed, 1 no result, 1 rejected, 1 unchanged; it took 60 min"
    assert lines[3] == f"  ✕ {FAILED}: trtllm-build: <assertion> failed"
    assert [line.split()[1] for line in lines[3:]] == [f"{FAILED}:", f"{KILLED}:", f"{REJECTED}:"]
    page = Page((kit.folder / "pages" / mixed / "report.html").read_text())
    assert page.outside == []
    assert page.text.index("trtllm-build: <assertion> failed") < page.text.index("kept: throughput is worse")
    assert f"{KILLED}: no result: it was killed or never started" in page.text
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.anchors)
    assert {FAILED, REJECTED, KILLED, QUIET} <= set(page.anchors)


def test_the_page_says_why_and_by_how_much(kit: Any, depot: Depot, mixed: str) -> None:
    kit.run("nightly", "report", mixed[:8], "--depot", depot.url, "--out", "pages")
    text = Page((kit.folder / "pages" / mixed / "report.html").read_text()).text
    assert "1,200 → 1,010 tokens/s" in text
    assert "−15.8 %−17.8 % to −13.8 %" in text
    assert "−5.0 %" in text  # what is allowed, in the metric's own direction
    assert "throughput is 15.8 % worse, 5 % are allowed" in text
    assert "compile.trtllm_version: 1.2.0 → 1.2.1" in text
    assert "model acme/llama@main000000000000 → 111111111111" in text


def test_logs_lie_beside_the_page_and_the_end_of_a_failure_is_on_it(kit: Any, depot: Depot, mixed: str) -> None:
    kit.run("nightly", "report", "--depot", depot.url, "--out", "pages")
    folder = kit.folder / "pages" / mixed
    page = Page((folder / "report.html").read_text())
    log = next(link for link in page.links if link.endswith(".log"))
    assert (folder / log).read_text().startswith("first line\n")
    assert "error: <assertion> & the rest" in page.text
    assert "first line" not in page.text


def test_json_says_the_same(kit: Any, depot: Depot, mixed: str) -> None:
    printed = kit.run("nightly", "report", "--depot", depot.url, "--output", "json").json
    assert json.loads((kit.folder / "nightly-report" / mixed / "night.json").read_text()) == printed
    assert printed["verdict"] == "failed"
    assert printed["counts"] == {"failed": 1, "no result": 1, "rejected": 1, "unchanged": 1}
    assert [cell["state"] for cell in printed["cells"]] == ["failed", "no result", "rejected", "unchanged"]
    assert printed["cells"][2]["trends"] == {"output_tokens_per_s": [[mixed, 1200.0]]}
    assert {one["what"] for one in printed["upstream_changes"]} == {"trtllm", "model acme/llama@main"}


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"decision": "promote"}, 0, "promoted"),
        ({"decision": "undecided"}, 0, "undecided"),
        ({"decision": "not_measured"}, 0, "not measured"),
        ({"decision": "keep"}, 7, "rejected"),
        ({"status": "skipped"}, 0, "unchanged"),
        ({"status": "impossible"}, 0, "impossible"),
        ({"status": "lost"}, 0, "lost"),
        ({"status": "failed"}, 9, "failed"),
        ({"status": "failed", "exit_code": 6}, 7, "rejected"),
        ({"status": "timeout"}, 9, "timeout"),
    ],
)
def test_every_outcome_has_a_word_and_an_exit_code(
    fields: dict[str, Any], code: int, word: str, depot: Depot, nights: Any
) -> None:
    nights.write(depot, 0, [nights.cell_result(**fields)])
    summary = summarize(depot)
    assert summary.exit_code == code
    assert summary.sentence == f"1 cell: 1 {word}; it took 60 min"


def test_a_night_that_was_killed_says_so(depot: Depot, nights: Any) -> None:
    done = nights.cell_result(decision="promote")
    nights.write(depot, 0, [done], cells={nights.CELL: "build", KILLED: "build"}, ended=False)
    summary = summarize(depot)
    assert (summary.exit_code, summary.verdict[0]) == (9, "not finished")
    assert "2 cells: 1 no result, 1 promoted; it has no end: it was killed or is still" in summary.sentence


def test_cells_without_a_night_around_them_are_reported_all_the_same(depot: Depot, nights: Any) -> None:
    """Indices of a Kubernetes job run by themselves."""
    row = nights.cell_result(decision="keep", seconds=60, started_unix_s=1_792_375_200.0 + 60)
    depot.write_text(f"nights/{nights.night_name(0)}/cells/{nights.CELL}.json", json.dumps(row.to_json()))
    summary = summarize(depot)
    assert (summary.exit_code, summary.sentence) == (7, "1 cell: 1 rejected; it took 2 min")


def test_the_trend_is_that_of_what_is_in_service(depot: Depot, nights: Any) -> None:
    nights.slower_from(depot, 3, 6, promoted=False)
    values = [value for _, value in summarize(depot).trend(nights.CELL, "output_tokens_per_s")]
    assert len(values) == 6
    assert all(1150 < value < 1250 for value in values)


def test_a_matrix_file_says_where_the_nights_and_the_pages_are(kit: Any, depot: Depot, mixed: str) -> None:
    kit.folder.joinpath("nightly.yaml").write_text(
        f"depot: {depot.url}\nbase: {{model: acme/llama}}\nreport: {{folder: site, prometheus: kit.prom}}\n"
    )
    assert kit.run("nightly", "report").code == 9
    assert (kit.folder / "site" / mixed / "report.html").is_file()
    assert not (kit.folder / "kit.prom").exists()
    kit.run("nightly", "report", "--publish")
    assert "trtllm_kit_nightly_exit_code 9\n" in (kit.folder / "kit.prom").read_text()


def test_words_from_elsewhere_cannot_break_the_page(kit: Any, depot: Depot, nights: Any) -> None:
    nasty = '"><script>alert(1)</script>'
    row = nights.cell_result(status="failed", words=nasty, reasons=(nasty,), changes=(nasty,), node=nasty, stage=nasty)
    name = nights.write(depot, 0, [row], upstream={nasty: nasty}, executor=nasty)
    kit.run("nightly", "report", "--depot", depot.url, "--out", "pages")
    page = Page((kit.folder / "pages" / name / "report.html").read_text())
    assert page.outside == []
    assert page.text.count(nasty) >= 5


def test_what_cannot_be_reported_is_named(kit: Any, depot: Depot, nights: Any, tmp_path: Path) -> None:
    empty = kit.run("nightly", "report", "--depot", str(tmp_path / "empty"))
    assert empty.code == 3
    assert "nightly run" in empty.err
    name = nights.write(depot, 0, [nights.cell_result()])
    unknown = kit.run("nightly", "report", "2031", "--depot", depot.url)
    assert unknown.code == 3
    assert name in unknown.err
    foreign = nights.cell_result(decision="postponed").to_json()
    depot.write_text(f"nights/{name}/cells/{nights.CELL}.json", json.dumps(foreign))
    assert kit.run("nightly", "report", "--depot", depot.url).code == 15
    depot.write_text(f"nights/{name}/cells/{nights.CELL}.json", '{"half": ')
    damaged = kit.run("nightly", "report", "--depot", depot.url)
    assert damaged.code == 15
    assert name in damaged.err
