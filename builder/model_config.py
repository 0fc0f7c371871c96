"""A model's shape, the same words for every family: read from a Hugging Face `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtllm_kit.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding. `scaling` is Hugging Face's dict (`rope_type`, `factor`, ...) or empty for none."""

    theta: float
    scaling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`default`, `linear`, `dynamic`, `llama3`, `yarn`, ..."""
        return str(self.scaling.get("rope_type") or self.scaling.get("type") or "default")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of a decoder-only model. Sizes are counts of features, heads, layers or tokens."""

    architecture: str  # "LlamaForCausalLM"
    model_type: str  # "llama"
    dtype: str  # of the checkpoint's weights: "bfloat16" | "float16" | "float32"
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    hidden_act: str
    rope: Rope
    tie_word_embeddings: bool
    attention_bias: bool  # on q, k, v
    attention_output_bias: bool  # on o
    mlp_bias: bool
    qk_norm: bool
    sliding_window: int | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    raw: Mapping[str, Any] = field(repr=False)  # the config.json itself

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], *, attention_bias: bool, attention_output_bias: bool, qk_norm: bool) -> ModelConfig:
        """Normalise a `config.json` of transformers 4 or 5; SpecError names the key that is missing or impossible."""
        heads = _count(raw, "num_attention_heads")
        hidden = _count(raw, "hidden_size")
        kv_heads = _count(raw, "num_key_value_heads", heads)
        if heads % kv_heads:
            raise SpecError(
                f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}",
                expected="whole groups of query heads for each key-value head",
                fix="check that config.json belongs to these weights",
            )
        window = raw.get("sliding_window") if raw.get("use_sliding_window", True) else None
        eos = raw.get("eos_token_id")
        return cls(
            architecture=(raw.get("architectures") or ["?"])[0],
            model_type=str(raw.get("model_type", "?")),
            dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch."),
            hidden_size=hidden,
            intermediate_size=_count(raw, "intermediate_size"),
            num_hidden_layers=_count(raw, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_size=_count(raw, "head_dim", hidden // heads),
            vocab_size=_count(raw, "vocab_size"),
            max_position_embeddings=_count(raw, "max_position_embeddings"),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            hidden_act=str(raw.get("hidden_act", "silu")),
            rope=_rope(raw),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=attention_bias,
            attention_output_bias=attention_output_bias,
            mlp_bias=bool(raw.get("mlp_bias", False)),
            qk_norm=qk_norm,
            sliding_window=window,
            bos_token_id=raw.get("bos_token_id"),
            eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (int(eos),),
            raw=raw,
        )


def _count(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or value <= 0:
        raise SpecError(
            f"config.json: '{key}' is {value!r}",
            expected="a positive whole number",
            fix="check that config.json belongs to these weights",
        )
    return value


def _rope(raw: Mapping[str, Any]) -> Rope:
    """transformers 5 keeps everything in `rope_parameters`; 4 had `rope_theta` beside `rope_scaling`."""
    merged = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = float(merged.pop("rope_theta", None) or raw.get("rope_theta") or 10000.0)
    plain = (merged.get("rope_type") or merged.get("type") or "default") == "default"
    return Rope(theta=theta, scaling={} if plain else merged)
