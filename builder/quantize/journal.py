"""How far a run came, in a folder that outlives it: a killed run goes on at the layer where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtllm_kit.files import canonical_json, write_text_atomic

_NAME = "journal.json"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Journal:
    """Of one run, known by its `key`. What another run left in the folder is removed.

    Hidden states are not brought to the disk layer by layer: a killed process leaves them whole, a power cut does not.
    So after a new boot the layers before `layer` are computed again, though not quantized.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._path, self._key = folder / _NAME, key
        found = _read(self._path)
        if found.get("key") != key:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            found = {}
        self.layer: int = found.get("layer", 0)
        """The first that is not finished."""
        self.figures: dict[str, Mapping[str, float]] = found.get("figures", {})
        """Of the layers before that."""
        self.has_hidden: bool = bool(found) and found["boot"] == _boot()
        """Whether the hidden states that `layer` reads are there."""

    def record(self, layer: int, figures: Mapping[str, Mapping[str, float]]) -> None:
        """All before `layer` is in the files."""
        self.layer, self.has_hidden = layer, True
        self.figures.update(figures)
        state = {"key": self._key, "boot": _boot(), "layer": layer, "figures": self.figures}
        write_text_atomic(self._path, canonical_json(state).decode())


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.is_file() else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
