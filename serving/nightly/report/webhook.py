"""One message about a night, POSTed as JSON. Slack and its like show `text`; the other keys are for programs."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from serving.nightly.report.summary import Summary, words_of
from trtllm_kit.console import Talk

_TIMEOUT_S = 10.0
_WAITS_S = (0.5, 2.0)
"""Before each further attempt."""

_CELLS_NAMED = 10
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def payload(summary: Summary) -> dict[str, Any]:
    """What is sent. `cells` holds those that failed or were rejected, no secrets and no paths of this machine."""
    troubles = summary.troubles
    named = [f"• {line}" for line in troubles[:_CELLS_NAMED]]
    more = [f"and {len(troubles) - _CELLS_NAMED} more"] if len(troubles) > _CELLS_NAMED else []
    head = f"Nightly {summary.night.name}: {summary.verdict[0]}. {summary.sentence}"
    return {
        "text": "\n".join([head, *named, *more]),
        "night": summary.night.name,
        "verdict": summary.verdict[0],
        "exit_code": summary.exit_code,
        "duration_s": summary.night.duration_s,
        "counts": dict(summary.counts),
        "upstream_changes": [str(one) for one in summary.upstream],
        "cells": [
            {"identifier": identifier, "state": state.name, "words": words_of(state, result)}
            for identifier, state, result in summary.by_urgency
            if state.exit_code
        ],
    }


def send(url: str, message: dict[str, Any], talk: Talk) -> bool:
    """Whether it arrived; when not after three attempts, that is a warning: a night is no worse for it.

    Args:
        url: http(s), or `${NAME}` of the environment variable that holds it. It is a secret as a rule (Slack's are), so
            only its host is ever said.
    """
    variable = _VARIABLE.fullmatch(url)
    request = _request(os.environ.get(variable[1], "") if variable else url, message)
    if request is None:
        origin = f"the environment variable {variable[1]}" if variable else "its URL"
        talk.warn(f"the webhook was not sent: {origin} holds no http:// or https:// address")
        return False
    why = ""
    for wait_s in (0.0, *_WAITS_S):
        time.sleep(wait_s)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
                return True
        except urllib.error.HTTPError as error:
            with error:
                why = f"HTTP {error.code}"
            if error.code < 500 and error.code != 429:
                break  # it will say the same again
        except (OSError, ValueError) as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
    talk.warn(f"the webhook at {urlsplit(request.full_url).hostname} was not reached: {why}")
    return False


def _request(url: str, message: dict[str, Any]) -> urllib.request.Request | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return urllib.request.Request(
        url, data=json.dumps(message).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
