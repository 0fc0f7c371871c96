"""Write a night's report: the page and JSON with its logs, metrics for Prometheus, a message to a webhook."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from serving.nightly.night_files import log_path
from serving.nightly.report.nights import LAST_NIGHTS, find_night, night_names, read_nights
from serving.nightly.report.page import html_page
from serving.nightly.report.prometheus import exposition
from serving.nightly.report.summary import Summary
from serving.nightly.report.webhook import payload, send
from trtllm_kit.console import Silent, Talk
from trtllm_kit.files import pretty_json, write_text_atomic

if TYPE_CHECKING:
    from builder.depot.depot import Depot

PAGE, RECORD = "report.html", "night.json"


def summarize(depot: Depot, night: str = "latest") -> Summary:
    """A night (its name, its unique beginning or `latest`) beside those before it; SpecError when there is none."""
    names = night_names(depot)
    at = names.index(find_night(names, night))
    *earlier, wanted = read_nights(depot, names[max(0, at - LAST_NIGHTS + 1) : at + 1])
    return Summary(night=wanted, earlier=earlier)


def write_night(
    depot: Depot,
    night: str,
    *,
    folder: Path | None,
    prometheus: Path | None,
    webhook: str | None,
    talk: Talk | None = None,
) -> list[Path]:
    """`write_summary` of a night by its name."""
    summary = summarize(depot, night)
    return write_summary(depot, summary, folder=folder, prometheus=prometheus, webhook=webhook, talk=talk or Silent())


def write_summary(
    depot: Depot, summary: Summary, *, folder: Path | None, prometheus: Path | None, webhook: str | None, talk: Talk
) -> list[Path]:
    """Write what is asked for; returns the files, the page first.

    Args:
        folder: gets `<night>/report.html`, `<night>/night.json` and `<night>/logs/`.
        prometheus: the metrics' file, which should end in `.prom`; replaced whole.
        webhook: an http(s) URL. That it cannot be reached is a warning and no error.
    """
    written: list[Path] = []
    if folder is not None:
        written += _write_page(depot, summary, folder / summary.night.name)
    if prometheus is not None:
        written.append(_write_metrics(depot, summary, prometheus, ran_unix_s=None))
    if webhook is not None:
        send(webhook, payload(summary), talk)
    return written


def write_metrics(depot: Depot, prometheus: Path) -> None:
    """Say that the nightly ran just now and found nothing to do; the rest as of the last night, if there is one."""
    if night_names(depot):
        _write_metrics(depot, summarize(depot), prometheus, ran_unix_s=time.time())


def _write_metrics(depot: Depot, summary: Summary, path: Path, *, ran_unix_s: float | None) -> Path:
    refs = {cell: version.record for cell, version in depot.read_all().items()}
    write_text_atomic(path, exposition(summary, refs, ran_unix_s=ran_unix_s))
    return path


def _write_page(depot: Depot, summary: Summary, folder: Path) -> list[Path]:
    logs = _logs(depot, summary)
    page = html_page(summary, logs)  # first: it refuses identifiers that are none, which would be names of files
    for identifier, text in logs.items():
        write_text_atomic(folder / "logs" / f"{identifier}.log", text)
    write_text_atomic(folder / RECORD, pretty_json(summary.to_json()))
    write_text_atomic(folder / PAGE, page)
    return [folder / PAGE, folder / RECORD]


def _logs(depot: Depot, summary: Summary) -> dict[str, str]:
    """Texts of the cells' logs by identifier, as far as there are any."""
    paths = {
        identifier: (result.log if result else None) or log_path(summary.night.name, identifier)
        for identifier, _, result in summary.by_urgency
        if result is None or result.log
    }
    texts = depot.read_texts(paths.values())
    return {identifier: texts[path] for identifier, path in paths.items() if path in texts}
