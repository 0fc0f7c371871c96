"""`trtllm-kit generate`: stream a completion of a deployment to the terminal."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_endpoint, open_store


@click.command()
@click.argument("prompt")
@click.option("--deployment", help="Name of the deployment.  [default: the only one]")
@click.option("--url", help="Address of any Triton instead, e.g. http://127.0.0.1:8000.")
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(min=1))
@click.option("--temperature", type=click.FloatRange(min=0), help="Above 0: sample.  [default: greedy]")
@click.option("--top-k", type=click.IntRange(min=0))
@click.option("--top-p", type=click.FloatRange(min=0, min_open=True, max=1))
@click.option("--seed", type=click.IntRange(min=0))
@click.option("--model-name", help="Triton model to ask.  [default: tensorrt_llm_bls where there is one]")
@click.option("--stop", "stop_words", multiple=True, help="Stop at this text; repeat for more.")
@options.store
@options.output
def generate(
    prompt: str,
    deployment: str | None,
    url: str | None,
    max_tokens: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    model_name: str | None,
    stop_words: tuple[str, ...],
    store_root: Path | None,
    output: str,
) -> None:
    """Stream a completion of PROMPT to the terminal, as the tokens come."""
    from serving.client.request import Completion, Request
    from serving.client.transports import stream

    endpoint = open_endpoint(open_store(store_root), deployment, url)
    if endpoint.transport.startswith("engine"):
        # BLS decodes with what came before, so an emoji made of several tokens arrives whole.
        endpoint = replace(endpoint, model=model_name or "tensorrt_llm_bls")
    request = Request(
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop_words=stop_words,
    )
    completion = Completion()
    for delta in stream(endpoint, request):
        completion.add(delta)
        if output == "text":
            click.echo(delta.text, nl=False)
            sys.stdout.flush()
    if output == "json":
        options.show_json(
            {"text": completion.text, "tokens": completion.tokens, "input_tokens": completion.input_tokens}
        )
        return
    click.echo()
    seconds = completion.finished_s - completion.started_s
    click.echo(f"{completion.tokens} tokens in {seconds:.2f} s", err=True)
