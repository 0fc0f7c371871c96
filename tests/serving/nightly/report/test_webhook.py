"""The message about a night, to a real server: what it says, how often it is tried, what is never said."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from builder.depot import Depot
from serving.nightly.report import summarize, webhook


class Heard:
    """A server that answers with the given statuses, one after another, and keeps what it got."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.got: list[dict[str, Any]] = []
        heard = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/json"
                heard.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(heard.statuses.pop(0) if heard.statuses else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/T0/B0/secret"


class Told:
    """A Talk that remembers its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, done: float, total: float, what: str) -> None: ...


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    monkeypatch.setattr(webhook, "_WAITS_S", (0.0, 0.0))
    server = Heard()
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.server.shutdown()
    thread.join()
    server.server.server_close()


@pytest.fixture
def message(depot: Depot, nights: Any) -> dict[str, Any]:
    broken = nights.cell_result(status="failed", words="the checkpoint is damaged")
    fine = nights.cell_result("llama-3.1-8b-fp8-l40s-tp1pp1-pytorch", decision="promote")
    nights.write(depot, 0, [broken, fine])
    return webhook.payload(summarize(depot))


def test_the_text_is_for_people_and_the_keys_for_programs(message: dict[str, Any], nights: Any) -> None:
    name = nights.night_name(0)
    assert message["text"] == (
        f"Nightly {name}: failed. 2 cells: 1 failed, 1 promoted; it took 60 min\n"
        f"• {nights.CELL}: the checkpoint is damaged"
    )
    assert message["cells"] == [{"identifier": nights.CELL, "state": "failed", "words": "the checkpoint is damaged"}]
    assert (message["verdict"], message["exit_code"]) == ("failed", 9)


def test_it_is_sent_once(heard: Heard, message: dict[str, Any]) -> None:
    told = Told()
    assert webhook.send(heard.url, message, told)
    assert heard.got == [message]
    assert told.warnings == []


def test_a_server_that_is_busy_is_asked_again(heard: Heard, message: dict[str, Any]) -> None:
    heard.statuses = [503, 429]
    assert webhook.send(heard.url, message, Told())
    assert len(heard.got) == 3


@pytest.mark.parametrize(("statuses", "attempts"), [([500, 500, 500, 200], 3), ([404, 200], 1)])
def test_in_the_end_it_is_a_warning_without_the_secret(
    statuses: list[int], attempts: int, heard: Heard, message: dict[str, Any]
) -> None:
    heard.statuses, told = statuses[:], Told()
    assert not webhook.send(heard.url, message, told)
    assert len(heard.got) == attempts
    assert told.warnings == [f"the webhook at 127.0.0.1 was not reached: HTTP {statuses[0]}"]


def test_the_address_can_be_a_secret_of_the_environment(
    heard: Heard, message: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLACK_URL", heard.url)
    assert webhook.send("${SLACK_URL}", message, Told())
    monkeypatch.delenv("SLACK_URL")
    told = Told()
    assert not webhook.send("${SLACK_URL}", message, told)
    assert told.warnings == [
        "the webhook was not sent: the environment variable SLACK_URL holds no http:// or https:// address"
    ]
    assert len(heard.got) == 1


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "slack", "http://", "http://[::1/x", "https://127.0.0.1:1/secret"]
)
def test_no_address_can_do_more_than_fail(url: str, message: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_WAITS_S", ())
    told = Told()
    assert not webhook.send(url, message, told)
    assert len(told.warnings) == 1
    assert "secret" not in told.warnings[0]
