"""A model's shape, the same words for every family: read from a Hugging Face `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtllm_kit.errors import SpecError

_FIX = "check that config.json belongs to these weights"
_DTYPES = ("bfloat16", "float16", "float32")
_HUGE = 1e38  # also keeps NaN and infinity out, which Python's JSON reads
_ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


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
    def from_hf(
        cls,
        raw: Mapping[str, Any],
        *,
        attention_bias: bool,
        attention_output_bias: bool,
        qk_norm: bool,
        mlp_bias: bool | None = None,
        sliding: bool = True,
    ) -> ModelConfig:
        """Normalise a `config.json` of transformers 4 or 5; SpecError names the key that is missing or impossible.

        The arguments are what the family knows: `mlp_bias` None reads it from `raw`, and `sliding` says whether a
        `sliding_window` in `raw` is in use.
        """
        heads, kv_heads = _heads(raw)
        hidden = _count(raw, "hidden_size")
        return cls(
            architecture=raw["architectures"][0],
            model_type=str(raw.get("model_type", "?")),
            dtype=_dtype(raw),
            hidden_size=hidden,
            intermediate_size=_count(raw, "intermediate_size"),
            num_hidden_layers=_count(raw, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_size=_count(raw, "head_dim", hidden // heads),
            vocab_size=_count(raw, "vocab_size"),
            max_position_embeddings=_count(raw, "max_position_embeddings"),
            rms_norm_eps=_number(raw, "rms_norm_eps", 1e-6),
            hidden_act=_silu(raw),
            rope=_rope(raw),
            tie_word_embeddings=flag(raw, "tie_word_embeddings"),
            attention_bias=attention_bias,
            attention_output_bias=attention_output_bias,
            mlp_bias=flag(raw, "mlp_bias") if mlp_bias is None else mlp_bias,
            qk_norm=qk_norm,
            sliding_window=_count(raw, "sliding_window") if sliding and raw.get("sliding_window") is not None else None,
            bos_token_id=next(iter(_ids(raw, "bos_token_id")), None),
            eos_token_ids=_ids(raw, "eos_token_id"),
            raw=raw,
        )


def flag(raw: Mapping[str, Any], key: str) -> bool:
    """A boolean of `config.json` that is false when absent or null; SpecError for any other kind of value."""
    value = raw.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _refuse(key, value, "true or false")


def _refuse(key: str, value: Any, expected: str) -> SpecError:
    return SpecError(f"config.json: '{key}' is {value!r}", expected=expected, fix=_FIX)


def _count(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _refuse(key, value, "a positive whole number")
    return value


def _number(raw: Mapping[str, Any], key: str, default: float) -> float:
    value = raw.get(key)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _HUGE:
        raise _refuse(key, value, "a positive number")
    return float(value)


def _ids(raw: Mapping[str, Any], key: str) -> tuple[int, ...]:
    value = raw.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(not isinstance(item, int) or isinstance(item, bool) for item in ids):
        raise _refuse(key, value, "a token id or a list of them")
    return tuple(ids)


def _heads(raw: Mapping[str, Any]) -> tuple[int, int]:
    heads = _count(raw, "num_attention_heads")
    kv_heads = _count(raw, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise SpecError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}",
            expected="whole groups of query heads for each key-value head",
            fix=_FIX,
        )
    if raw.get("head_dim") is None and _count(raw, "hidden_size") % heads:
        raise _refuse("hidden_size", raw["hidden_size"], f"a multiple of num_attention_heads {heads}, or a `head_dim`")
    return heads, kv_heads


def _dtype(raw: Mapping[str, Any]) -> str:
    name = str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch.")
    if name not in _DTYPES:
        raise _refuse("dtype" if "dtype" in raw else "torch_dtype", name, "one of " + ", ".join(_DTYPES))
    return name


def _silu(raw: Mapping[str, Any]) -> str:
    """The gated MLP of every known family and runtime is SwiGLU; another activation would run and be wrong."""
    name = raw.get("hidden_act") or "silu"
    if name not in ("silu", "swish"):
        raise _refuse("hidden_act", name, "silu, which the kit's families have")
    return "silu"


def _rope(raw: Mapping[str, Any]) -> Rope:
    """transformers 5 keeps everything in `rope_parameters`; 4 had `rope_theta` beside `rope_scaling`."""
    key = "rope_parameters" if raw.get("rope_parameters") else "rope_scaling"
    found = raw.get(key) or {}
    if not isinstance(found, Mapping):
        raise _refuse(key, found, "an object with `rope_type` and its parameters")
    merged = dict(found)
    theta = _number(merged if merged.get("rope_theta") is not None else raw, "rope_theta", 10000.0)
    merged.pop("rope_theta", None)
    if any(source.get("partial_rotary_factor") not in (None, 1, 1.0) for source in (raw, merged)):
        raise _refuse("partial_rotary_factor", raw.get("partial_rotary_factor"), "1: the whole head is rotated")
    rope = Rope(theta=theta, scaling=merged)
    if rope.kind not in _ROPE_KINDS:
        raise _refuse(f"{key}.rope_type", rope.kind, "one of " + ", ".join(_ROPE_KINDS))
    return Rope(theta=theta) if rope.kind == "default" else rope
