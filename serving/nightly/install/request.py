"""What an installation is asked for, and what it comes to."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from serving.nightly.install.groups import SkuGroup, groups_of
from serving.nightly.install.schedule import Schedule
from serving.nightly.session import Session


@dataclass(frozen=True, kw_only=True)
class InstallRequest:
    """The matrix, when it runs, and what a target wants to know besides. None: not given."""

    session: Session
    schedule: Schedule
    report_schedule: Schedule  # where nothing waits for the last cell: when the report is made
    out: Path  # absolute
    at_once: int  # cells of one SKU
    image: str | None = None
    namespace: str = "default"
    queue: str | None = None  # Kueue's LocalQueue, or Slurm's partition
    claim: str | None = None  # PersistentVolumeClaim that all pods may write
    secret: str | None = None  # Secret with the keys that pods.py names
    gres: Mapping[str, str] = field(default_factory=dict)  # Slurm's name of a SKU's GPU

    @property
    def matrix(self) -> Path:
        return self.session.nightly.path

    @cached_property
    def groups(self) -> list[SkuGroup]:
        return groups_of(self.session)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Files by their path below the folder, and what a person does next."""

    files: Mapping[str, str]
    executable: tuple[str, ...] = ()
    next_steps: tuple[str, ...]


def kit_command() -> str:
    """Absolute path of the `trtllm-kit` that belongs to this Python: a scheduler has another PATH."""
    beside = Path(sys.executable).with_name("trtllm-kit")
    return str(beside) if beside.is_file() else shutil.which("trtllm-kit") or "trtllm-kit"
