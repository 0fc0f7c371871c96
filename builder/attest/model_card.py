"""The licence of a model, as its card on the hub states it."""

from __future__ import annotations

from pathlib import Path

import yaml

from trtllm_kit.errors import SpecError


def licence_of(card: Path) -> str:
    """`license` of a card's YAML head, `license_name` where that is "other"; SpecError when the card states none."""
    try:
        text = card.read_text(encoding="utf-8")
        head = text.split("---", 2)[1] if text.startswith("---") else ""
        tree = yaml.safe_load(head)
    except (OSError, ValueError, IndexError, yaml.YAMLError) as error:
        raise SpecError(f"the model card {card} cannot be read: {error}", expected="README.md of the model") from None
    stated = tree.get("license") if isinstance(tree, dict) else None
    if stated == "other":
        stated = tree.get("license_name", stated)
    if not isinstance(stated, str):
        raise SpecError(
            f"the model card {card} states no licence",
            expected="`license:` in the YAML between two lines of ---",
            fix="sign without --model-card",
        )
    return stated
