"""What a server tells about itself over HTTP: Triton's metadata, OpenAI's list of models, and where its metrics are."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from serving.client.errors import RequestError, unreachable
from serving.client.links import tls_of
from serving.client.request import Endpoint
from serving.client.trust import words_of
from trtllm_kit.errors import UsageError

_TIMEOUT_S, _PROBE_S = 30.0, 1.0
_METRICS_OFFSET = 2  # Triton's default ports are 8000 and 8002


def triton_facts(endpoint: Endpoint, model: str) -> tuple[str, bool, tuple[str, ...]]:
    """(version, decoupled, models) of a Triton; UsageError when it does not serve `model`."""
    server = _get(endpoint, "/v2")
    index = _get(endpoint, "/v2/repository/index", post=True) or []
    names = tuple(sorted(str(row["name"]) for row in index if isinstance(row, Mapping) and "name" in row))
    config = _get(endpoint, f"/v2/models/{quote(model)}/config")
    if server is None or config is None:
        raise no_such_model(endpoint.http, model, names)
    policy = config.get("model_transaction_policy") or {}
    return str(server.get("version", "")), bool(policy.get("decoupled")), names


def openai_facts(endpoint: Endpoint, model: str) -> tuple[str, bool, tuple[str, ...]]:
    """The same of a server that speaks OpenAI's API; one that keeps no list of models is believed."""
    listed = _get(endpoint, "/v1/models")
    rows = listed.get("data", ()) if isinstance(listed, Mapping) else ()
    names = tuple(sorted(str(row["id"]) for row in rows if isinstance(row, Mapping) and "id" in row))
    if names and model not in names:
        raise no_such_model(endpoint.http, model, names)
    return "", True, names


def no_such_model(address: str, model: str, known: tuple[str, ...]) -> UsageError:
    """The server is there, the model is not."""
    return UsageError(
        f"the server at {address} has no model '{model}'",
        expected="one of " + ", ".join(known) if known else "a model that it serves",
        fix="give its name with --served-model, or another --transport",
    )


def find_metrics(endpoint: Endpoint) -> str | None:
    """Where the server shows Prometheus metrics: Triton's usual port beside its HTTP port, or the same one."""
    host, _, port = endpoint.http.rpartition(":")
    for candidate in (int(port) + _METRICS_OFFSET, int(port)):
        url = f"{_scheme(endpoint)}://{host}:{candidate}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=_PROBE_S, context=tls_of(endpoint, "http/1.1")) as answer:
                if b"nv_" in answer.read(1 << 20):
                    return url
        except (OSError, ValueError):
            continue
    return None


def _get(endpoint: Endpoint, path: str, *, post: bool = False) -> Any:
    """Parsed JSON; None for an answer that is none or an error status; RequestError when nobody answers."""
    url, tls = f"{_scheme(endpoint)}://{endpoint.http}{path}", tls_of(endpoint, "http/1.1")
    try:
        with urllib.request.urlopen(url, b"" if post else None, timeout=_TIMEOUT_S, context=tls) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise RequestError("refused", f"the server at {endpoint.http} wants other credentials") from None
        return None
    except ValueError:
        return None
    except OSError as error:
        reason = getattr(error, "reason", error)
        detail = words_of(reason) if isinstance(reason, OSError) else str(reason)
        raise unreachable(endpoint.http, detail) from None


def _scheme(endpoint: Endpoint) -> str:
    return "https" if endpoint.tls else "http"
