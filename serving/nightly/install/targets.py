"""The table of targets: a new scheduler is one function and one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serving.nightly.install.host import cron, systemd
from serving.nightly.install.kubernetes import kubernetes
from serving.nightly.install.request import InstallRequest, Rendered
from serving.nightly.install.slurm import slurm


@dataclass(frozen=True)
class Target:
    """How one scheduler's files are made, and which options mean anything to it."""

    render: Callable[[InstallRequest], Rendered]
    options: frozenset[str] = frozenset()


TARGETS: Mapping[str, Target] = {
    "cron": Target(cron),
    "systemd": Target(systemd),
    "kubernetes": Target(
        kubernetes, frozenset({"report-schedule", "at-once", "image", "namespace", "queue", "claim", "secret"})
    ),
    "slurm": Target(slurm, frozenset({"at-once", "queue", "gres"})),
}
