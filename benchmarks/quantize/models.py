"""Random Llamas of a given shape, sharded, written shard by shard: the same bytes for the same seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

STD = 0.02
SHARD_BYTES = 500_000_000


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a Llama."""

    hidden: int
    inter: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int = 32_000

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shape by name of every tensor."""
        head = self.hidden // self.heads
        linears = {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (self.kv_heads * head, self.hidden),
            "self_attn.v_proj": (self.kv_heads * head, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.inter, self.hidden),
            "mlp.up_proj": (self.inter, self.hidden),
            "mlp.down_proj": (self.hidden, self.inter),
        }
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in linears.items()}
            for norm in ("input_layernorm", "post_attention_layernorm"):
                found[f"model.layers.{layer}.{norm}.weight"] = (self.hidden,)
        return found | {"model.norm.weight": (self.hidden,), "lm_head.weight": (self.vocabulary, self.hidden)}

    def config(self) -> dict[str, Any]:
        """`config.json`, in keys that transformers 4 and 5 both read."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.inter,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden // self.heads,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        }


SHAPES = {
    "160m": Shape(hidden=768, inter=3072, layers=12, heads=12, kv_heads=12),
    "1.1b": Shape(hidden=2048, inter=5632, layers=22, heads=32, kv_heads=4),
    "1.1b-44": Shape(hidden=2048, inter=5632, layers=44, heads=32, kv_heads=4),
    "8b": Shape(hidden=4096, inter=14336, layers=32, heads=32, kv_heads=8, vocabulary=128_256),
    "8b-2": Shape(hidden=4096, inter=14336, layers=2, heads=32, kv_heads=8, vocabulary=32_000),
}


def make(name: str, folder: Path) -> Path:
    """The model `name` below `folder`, made if it is not there."""
    final = folder / name
    if final.is_dir():
        return final
    shape, made = SHAPES[name], folder / f".{name}.tmp"
    made.mkdir(parents=True, exist_ok=True)
    (made / "config.json").write_text(json.dumps(shape.config(), indent=2))
    _write_tokenizer(made, shape.vocabulary)
    generator = torch.Generator().manual_seed(0)
    shards = _shards(shape.tensors())
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        drawn = {key: _draw(key, size, generator) for key, size in tensors.items()}
        save_file(drawn, made / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(drawn, file)
    (made / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    made.rename(final)
    return final


def _draw(name: str, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(size, dtype=torch.bfloat16)
    return torch.empty(size, dtype=torch.bfloat16).normal_(0, STD, generator=generator)


def _shards(tensors: dict[str, tuple[int, ...]]) -> list[dict[str, tuple[int, ...]]]:
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, size in tensors.items():
        count = 2 * int(torch.Size(size).numel())
        if shards[-1] and filled + count > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = size
        filled += count
    return shards


def _write_tokenizer(folder: Path, size: int) -> None:
    """Words are numbers: the text of the benchmark is random, so that all tools get the same token ids."""
    vocab = {f"<{number}>": number for number in range(size)}
    added = [{"id": size - 1, "content": f"<{size - 1}>", "special": True}]
    tree = {"version": "1.0", "added_tokens": added, "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
