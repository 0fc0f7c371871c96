"""Which files make up a tokenizer, so that every stage carries the same ones."""

from __future__ import annotations

import shutil
from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def copy_tokenizer(checkpoint: Path, out: Path) -> None:
    """Copy those that `checkpoint` has into the new folder `out`."""
    out.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, out / name)
