"""What was rendered, brought to disk; what a person changed there since is never overwritten unasked."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from serving.nightly.install.request import Rendered
from trtllm_kit.errors import SpecError
from trtllm_kit.files import disk_errors, pretty_json, write_text_atomic

RECORD = ".installed.json"
"""sha256 of every file as it was written, so that our own old text is told from a person's."""

_DIFFERENCE_LINES = 20


def write(rendered: Rendered, out: Path, *, force: bool) -> list[Path]:
    """Bring the folder to what was rendered; files that an earlier installation left and this one has not go.

    Returns what was written or removed. Raises SpecError with the difference when a file was edited by hand, before
    anything is touched.
    """
    written = _record(out)
    stale = [name for name in written if name not in rendered.files and (out / name).is_file()]
    if not force:
        _refuse_edited(out, rendered.files, written, stale)
    changed = [name for name, text in rendered.files.items() if _on_disk(out / name) != text]
    for name in changed:
        write_text_atomic(out / name, rendered.files[name])
    with disk_errors(out):
        for name in rendered.executable:
            (out / name).chmod(0o755)
        for name in stale:
            (out / name).unlink()
    write_text_atomic(out / RECORD, pretty_json({name: _digest(text) for name, text in rendered.files.items()}))
    return [out / name for name in (*changed, *stale)]


def _refuse_edited(out: Path, files: Mapping[str, str], written: Mapping[str, str], stale: Iterable[str]) -> None:
    for name in (*files, *stale):
        there, new = _on_disk(out / name), files.get(name, "")
        if there is None or there == new or _digest(there) == written.get(name):
            continue
        lines = list(
            difflib.unified_diff(there.splitlines(), new.splitlines(), "as it is", "as it would be", lineterm="")
        )
        shown = "\n  ".join(lines[:_DIFFERENCE_LINES])
        raise SpecError(
            f"{out / name} was edited by hand:\n  {shown}",
            expected="files as they were written, or an empty folder",
            fix="take the change over into nightly.yaml or the options, choose another --out, or use --force",
        )


def _record(out: Path) -> dict[str, str]:
    text = _on_disk(out / RECORD)
    try:
        return dict(json.loads(text)) if text else {}
    except ValueError:
        return {}  # then every file that differs counts as edited


def _on_disk(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
