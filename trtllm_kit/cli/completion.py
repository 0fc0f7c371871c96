"""`trtllm-kit completion`: click's own completion script, for a shell's start-up file."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script: eval "$(trtllm-kit completion bash)"."""
    from trtllm_kit.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "trtllm-kit", "_TRTLLM_KIT_COMPLETE").source())
