"""The options of `validate` that say who is asked, and the endpoint, artifact and metrics that they mean."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from builder.store import Store
from serving.client.links import LINKS
from trtllm_kit.cli import options
from trtllm_kit.cli.session import find_deployment, open_endpoint
from trtllm_kit.errors import UsageError

if TYPE_CHECKING:
    from serving.client.request import Endpoint

_TRANSPORT_BY_PATH = {
    "/v1": "openai-completions",
    "/v1/completions": "openai-completions",
    "/v1/chat/completions": "openai-chat",
}
_OTHERWISE = "engine-grpc"

_OPTIONS = (
    click.argument("deployment", required=False),
    click.option("--url", help="Any server instead, e.g. http://127.0.0.1:8000 or .../v1/chat/completions."),
    click.option("--artifact", help="With --url: the artifact that is served there."),
    click.option("--transport", type=click.Choice(list(LINKS)), help="How to ask.  [default: as deployed; by the URL]"),
    click.option("--grpc", "grpc_address", metavar="HOST:PORT", help="With --url.  [default: its port plus one]"),
    click.option("--served-model", help="The name of the model there."),
    click.option("--ca-file", metavar="PEM", help="With --url https://...: the authority of its certificate."),
    click.option("--insecure", is_flag=True, help="With --url https://...: believe any certificate."),
)

target_options = options.together(*_OPTIONS)
"""All of them, with the argument DEPLOYMENT."""


@dataclass(frozen=True, kw_only=True)
class TargetRequest:
    """The options as click hands them over."""

    deployment: str | None
    url: str | None
    artifact: str | None
    transport: str | None
    grpc_address: str | None
    served_model: str | None
    ca_file: str | None
    insecure: bool

    @classmethod
    def take(cls, keywords: dict[str, Any]) -> TargetRequest:
        """Move its options out of a command's keywords."""
        return cls(**{field.name: keywords.pop(field.name) for field in fields(cls)})

    def endpoint(self, store: Store) -> Endpoint:
        """The deployment's, else the URL's; its path names OpenAI's API where it is one."""
        from serving.client.request import Endpoint
        from serving.client.trust import Trust

        if self.url is None:
            found = open_endpoint(store, self.deployment, None)
            return replace(found, transport=self.transport or found.transport, model=self.served_model)
        path = urlsplit(self.url if "//" in self.url else f"//{self.url}").path.rstrip("/")
        transport = self.transport or _TRANSPORT_BY_PATH.get(path, _OTHERWISE)
        endpoint = Endpoint.from_url(self.url, grpc=self.grpc_address, transport=transport, model=self.served_model)
        if not endpoint.tls and (self.ca_file or self.insecure):
            raise UsageError(f"{self.url} has no certificate to check", expected="--url https://HOST:PORT")
        return replace(endpoint, trust=Trust(ca_file=self.ca_file, verify=not self.insecure))

    def artifact_folder(self, store: Store) -> Path | None:
        """What is served there, where that is known."""
        if self.url is None:
            return Path(find_deployment(store, self.deployment).artifact)
        return store.find_artifact(self.artifact) if self.artifact else None

    def metrics_url(self, store: Store, endpoint: Endpoint) -> str | None:
        """Where the server shows its metrics; None where they are not found."""
        from serving.validate.http_facts import find_metrics

        if self.url is not None:
            return find_metrics(endpoint)
        ports = find_deployment(store, self.deployment).ports
        return f"http://{endpoint.http.rpartition(':')[0]}:{ports.metrics}/metrics"
