"""On a real Triton with the cpu runtime: what the client counts is what the server counted."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace

import pytest

from serving.client.request import Endpoint
from serving.load.dataset import Given
from serving.load.workload import Session, Turn

_TOO_LONG = "word " * 3000  # refused: the example's engine takes 1024 tokens


def responses(url: str) -> int:
    """Triton decodes each response of the engine once; up to four streams, the cpu runtime sends each token alone."""
    with urllib.request.urlopen(f"{url}/v2/models/postprocessing/stats") as answer:
        return int(json.load(answer)["model_stats"][0]["inference_count"])


@pytest.mark.parametrize("transport", ["engine-grpc", "engine-http"])
def test_tokens_equal_the_servers_counter_through_errors_and_cancels(running, load, transport: str) -> None:
    deployment = running().json
    endpoint = replace(Endpoint.from_url(deployment["http_url"], grpc=deployment["grpc_address"]), transport=transport)
    turns = [Turn(text=f"prompt number {at}", max_tokens=24 + at) for at in range(12)]
    turns[3] = turns[8] = Turn(text=_TOO_LONG, max_tokens=4)
    workload = Given(given=[Session(turns=(turn,)) for turn in turns])
    before = responses(deployment["http_url"])
    result = load(
        endpoint,
        workload=workload,
        requests=36,
        concurrency=3,
        conditions={"cancel_share": 0.3, "cancel_after": 4},
    )
    counted = responses(deployment["http_url"]) - before
    errors = result.summary.errors
    # A cancelled generation ends with a response of its own that holds no token.
    assert sum(record.output_tokens for record in result.records()) == counted - errors["cancelled"] > 200
    assert errors["refused"] == 6 and errors["cancelled"] > 3
    assert result.summary.completed + sum(errors.values()) == 36
