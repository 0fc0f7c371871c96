"""`trtllm-kit nightly`: every night, rebuild what changed, prove it no worse, promote it or keep the incumbent."""

from __future__ import annotations

import click

from trtllm_kit.cli.lazy_group import LazyGroup

_COMMANDS = {
    "init": ("trtllm_kit.cli.nightly_init:init", "Write a commented nightly.yaml."),
    "plan": ("trtllm_kit.cli.nightly_plan:plan", "Show every cell: build, skip or impossible, and why."),
    "run": ("trtllm_kit.cli.nightly_run:run", "Build what changed, compare it, promote it or keep the incumbent."),
    "report": ("trtllm_kit.cli.nightly_report:report", "The night on one page, as JSON and for Prometheus."),
    "history": ("trtllm_kit.cli.nightly_history:history", "Since when a cell is slower, and what changed that night."),
    "watch": ("trtllm_kit.cli.nightly_watch:watch", "What upstream changed since the last night, without building."),
    "install": ("trtllm_kit.cli.nightly_install:install", "Write it for cron, systemd, Kubernetes or Slurm."),
    "rollback": ("trtllm_kit.cli.nightly_rollback:rollback", "Put a cell's previous build in service again."),
    "cell": ("trtllm_kit.cli.nightly_cell:cell", "Run one cell of a night, as executors do."),
}


@click.group(cls=LazyGroup, table=_COMMANDS)
def nightly() -> None:
    """Rebuild what changed, measure it against what is in service, promote it or keep what is there.

    \b
    trtllm-kit nightly init                write nightly.yaml
    trtllm-kit nightly plan                what tonight would do, and why
    trtllm-kit nightly run                 do it
    trtllm-kit nightly report              read it
    trtllm-kit nightly install --target cron
    """
