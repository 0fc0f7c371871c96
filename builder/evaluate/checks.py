"""Whether two checkpoints can be compared at all: told from configs and tokenizers, before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builder.checkpoint import Checkpoint
from builder.model_config import ModelConfig
from trtllm_kit.errors import SpecError
from trtllm_kit.files import read_json

_SHAPE = (
    "architecture", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_size", "vocab_size", "tie_word_embeddings",
)  # fmt: skip
_FIX = "give the checkpoint that it was made from with --against"


def check_base(base: Checkpoint) -> None:
    """SpecError for a base that is quantized itself: there would be nothing to measure a loss from."""
    if base.quantized is not None:
        raise SpecError(
            f"{base.source} is quantized itself, to {base.quantized.precision}",
            expected="the checkpoint in 16 or 32 bits that the other was made from",
            fix=_FIX,
        )


def check_same_model(base: ModelConfig, other: ModelConfig) -> None:
    """SpecError naming what differs between the two architectures."""
    different = [
        f"{key} {getattr(other, key)} against {getattr(base, key)}"
        for key in _SHAPE
        if getattr(base, key) != getattr(other, key)
    ]
    if different:
        raise SpecError(
            "the two checkpoints are different models: " + ", ".join(different),
            expected="the same architecture and shapes",
            fix=_FIX,
        )


def check_same_tokenizer(base: Path, other: Path) -> None:
    """SpecError when `other` brings a tokenizer that makes other ids of a text; one without any is taken as it is."""
    name = "tokenizer.json"
    if not (other / name).is_file() or (other / name).read_bytes() == (base / name).read_bytes():
        return
    trees = [_meaning(read_json(folder / name, "the tokenizer")) for folder in (base, other)]
    parts = sorted(key for key in trees[0].keys() | trees[1].keys() if trees[0].get(key) != trees[1].get(key))
    if parts:
        raise SpecError(
            f"the tokenizers differ in {', '.join(parts)}: the same text would be other tokens",
            expected="one tokenizer for both checkpoints",
            fix=_FIX,
        )


def _meaning(tree: Any) -> dict[str, Any]:
    """What decides about ids; truncation and padding are settings of the last call."""
    return {key: value for key, value in tree.items() if key not in ("version", "truncation", "padding")}
