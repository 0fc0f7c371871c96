"""Garbage collection: what no ref, no deployment and no kept artifact needs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from builder.stages import RECORD, stage_key
from builder.store import Store
from trtllm_kit.stamps import stamped_unix_s


def collect(store: Store, *, keep_days: float, dry_run: bool) -> list[Path]:
    """Remove (or only name) unneeded artifacts, stage outputs, unfinished work, and results of `validate` older than
    `keep_days`; returns their folders."""
    store.sweep()
    wanted = {str(record["artifact"]) for record in store.refs().values()} | _deployed(store)
    doomed = [store.artifact_folder(digest) for digest in store.artifacts() if digest not in wanted]
    keys = {
        (name, stage_key(name, inputs))
        for record in store.refs().values()
        for name, inputs in record.get("stages", {}).items()
    }
    for folder in sorted((store.root / "stages").glob("*/*")):
        if (folder / RECORD).is_file() and (folder.parent.name, folder.name) not in keys:
            doomed.append(folder)
    # No build is at work in a folder whose lock is free: it failed or was killed, and nobody took it up again.
    doomed += [folder for folder in sorted((store.root / "work").glob("*")) if not store.is_locked(folder.name)]
    doomed += _old_validations(store, time.time() - keep_days * 86400)
    if not dry_run:
        for folder in doomed:
            shutil.rmtree(folder)
    return doomed


def _deployed(store: Store) -> set[str]:
    digests = set()
    for path in store.deployments.glob("*/deployment.json"):
        try:
            digests.add(str(json.loads(path.read_text(encoding="utf-8"))["digest"]))
        except (OSError, ValueError, KeyError):
            continue
    return digests


def _old_validations(store: Store, before_unix_s: float) -> Iterator[Path]:
    """By the time in their name. No baseline needs them: a baseline is a copy."""
    for folder in sorted((store.root / "validations").glob("*")):
        started = stamped_unix_s(f"{folder.name.partition('-')[0]}Z")  # of a name that does not say its zone
        if started is not None and started < before_unix_s:
            yield folder
