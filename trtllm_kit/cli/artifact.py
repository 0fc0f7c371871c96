"""`trtllm-kit artifact`: what has been built, whether it is intact and by whom, where it goes, and what can go."""

from __future__ import annotations

import click

from trtllm_kit.cli.lazy_group import LazyGroup

_COMMANDS = {
    "list": ("trtllm_kit.cli.artifact_local:list_", "The artifacts in the store."),
    "show": ("trtllm_kit.cli.artifact_local:show", "An artifact's manifest."),
    "verify": ("trtllm_kit.cli.artifact_verify:verify", "Read every byte; with --key, check the signature too."),
    "sign": ("trtllm_kit.cli.artifact_sign:sign", "Write bill of materials and provenance, and sign."),
    "push": ("trtllm_kit.cli.artifact_push:push", "To a depot or an OCI registry."),
    "pull": ("trtllm_kit.cli.artifact_pull:pull", "From a depot or an OCI registry, verified."),
    "refs": ("trtllm_kit.cli.artifact_refs:refs", "What is candidate, current and previous in a depot."),
    "gc": ("trtllm_kit.cli.artifact_gc:gc", "Remove what no ref, no deployment and no age protects."),
}


@click.group(cls=LazyGroup, table=_COMMANDS)
def artifact() -> None:
    """List, show, verify, sign, push, pull and collect artifacts."""
