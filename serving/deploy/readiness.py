"""Ready means: a token came. A server can answer 200 on /health with a model that never will."""

from __future__ import annotations

import time

from serving.client.errors import RequestError
from serving.client.request import Endpoint, Request
from serving.client.transports import complete
from serving.deploy.state import Deployment

_PROBE = Request(prompt="ready?", max_tokens=1, stream=False)


def endpoint_of(deployment: Deployment) -> Endpoint:
    """Where and how to ask a deployment."""
    return Endpoint.from_url(deployment.http_url, grpc=deployment.grpc_address, transport=deployment.transport)


def probe(endpoint: Endpoint, *, timeout_s: float) -> float:
    """Seconds until one generated token came, through the same models that users ask; RequestError when none did."""
    started = time.perf_counter()
    completion = complete(endpoint, _PROBE, timeout_s=timeout_s)
    # A model may answer its very first token with the end of the sequence: a final response with no text is an answer
    # of the llmapi layout, which counts nothing, but a counted zero is not.
    if completion.tokens == 0 and completion.counted_by == "server" and not endpoint.transport.startswith("llmapi"):
        raise RequestError("failed", "the server answered without a token", expected="one generated token")
    return time.perf_counter() - started
