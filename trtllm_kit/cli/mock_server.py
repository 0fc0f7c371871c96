"""`trtllm-kit mock-server`: a server with known latencies and faults, to check clients and load tests with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

_RATE = click.FloatRange(min=0, max=1)
_MS = click.FloatRange(min=0)


@click.command("mock-server")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind; others can reach 0.0.0.0.")
@click.option("--http-port", default=8000, show_default=True, help="Triton HTTP and OpenAI; 0 takes a free one.")
@click.option("--grpc-port", default=8001, show_default=True, help="Triton gRPC; 0 takes a free one.")
@click.option("--no-grpc", is_flag=True, help="HTTP only.")
@click.option("--layout", type=click.Choice(["engine", "llmapi"]), default="engine", show_default=True)
@click.option("--ttft-ms", default=100.0, show_default=True, type=_MS, help="Until the first token.")
@click.option("--ttft-per-input-token-ms", default=0.0, show_default=True, type=_MS, help="Added for each, as prefill.")
@click.option("--itl-ms", default=20.0, show_default=True, type=_MS, help="Between tokens.")
@click.option("--jitter", default=0.0, show_default=True, type=_MS, help="Standard deviation, as a share of each wait.")
@click.option("--tokens-per-chunk", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--slots", default=0, show_default=True, type=click.IntRange(min=0), help="Served at once; 0: no limit.")
@click.option("--split-utf8", is_flag=True, help="Non-ASCII text that arrives with its characters cut in two.")
@click.option("--refuse-rate", default=0.0, type=_RATE, help="Share of requests answered with an error status.")
@click.option("--hidden-error-rate", default=0.0, type=_RATE, help="... with an error inside an HTTP 200.")
@click.option("--late-error-rate", default=0.0, type=_RATE, help="... with an error after some tokens.")
@click.option("--cut-rate", default=0.0, type=_RATE, help="... whose connection ends after some tokens.")
@click.option("--garbage-rate", default=0.0, type=_RATE, help="... with bytes that are no answer after some tokens.")
@click.option("--stall-rate", default=0.0, type=_RATE, help="... with a pause of --stall-ms between two tokens.")
@click.option("--stall-ms", default=1000.0, show_default=True, type=_MS)
@click.option("--seed", default=0, show_default=True, help="The same seed does the same to the same requests.")
@click.option(
    "--ledger", "ledger_file", type=click.Path(path_type=Path, dir_okay=False), help="Write it here as JSONL."
)
def mock_server(
    host: str,
    http_port: int,
    grpc_port: int,
    no_grpc: bool,
    layout: str,
    ledger_file: Path | None,
    **behaviour: Any,
) -> None:
    """Serve Triton HTTP and gRPC and OpenAI with set latencies and faults, until interrupted.

    What it did is at /mock/ledger and /mock/totals; the addresses are printed as one line of JSON.
    """
    from serving.mock.behaviour import Behaviour
    from serving.mock.server import Addresses, serve

    def ready(addresses: Addresses) -> None:
        click.echo(json.dumps({"http": addresses.http, "grpc": addresses.grpc}))

    ledger = serve(
        Behaviour(**behaviour),
        host=host,
        http_port=http_port,
        grpc_port=None if no_grpc else grpc_port,
        layout=layout,
        ledger_file=ledger_file,
        ready=ready,
    )
    click.echo(json.dumps(ledger.totals()), err=True)
