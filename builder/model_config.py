"""A model's shape, the same words for every family: read from a Hugging Face `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtllm_kit.errors import SpecError

_FIX = "check that config.json belongs to these weights"
_DTYPES = ("bfloat16", "float16", "float32")
_ALIASES = {"silu": "swish"}
_HUGE = 1e38  # also keeps NaN and infinity out, which Python's JSON reads
_ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding. `scaling` is Hugging Face's dict (`rope_type`, `factor`, ...) or empty for none."""

    theta: float
    scaling: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0  # of each head's features, the first ones, that are rotated

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

    # Mixture of experts; 0 experts: one dense MLP a layer.
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0  # of one expert
    norm_topk_prob: bool = False  # the weights of a token's experts add up to 1

    # Gemma.
    full_attention_layers: frozenset[int] = frozenset()  # that look back beyond `sliding_window`
    local_rope: Rope | None = None  # of the layers that do not, where it is another
    query_pre_attn_scalar: float | None = None  # scores are divided by its root, not by that of the head size
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    embedding_scale: float = 1.0
    sandwich_norms: bool = False  # a norm after attention and MLP too, before their residual

    @property
    def mlp_size(self) -> int:
        """Features inside an MLP or an expert: what tensor parallelism divides."""
        return self.moe_intermediate_size or self.intermediate_size

    def window(self, layer: int) -> int | None:
        """How many tokens, itself included, a token of this layer looks back on; None for all."""
        return None if layer in self.full_attention_layers else self.sliding_window

    def rope_of(self, layer: int) -> Rope:
        """The rotary embedding of one layer."""
        return self.rope if self.local_rope is None or layer in self.full_attention_layers else self.local_rope

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
        partial_rope: bool = False,
        rope: Rope | None = None,
        activation: tuple[str, str] = ("hidden_act", "silu"),
    ) -> ModelConfig:
        """Normalise a `config.json` of transformers 4 or 5; SpecError names the key that is missing or impossible.

        The arguments are what the family knows: `mlp_bias` None reads it from `raw`, `sliding` says whether a
        `sliding_window` in `raw` is in use, `partial_rope` whether a head may be rotated in part, `rope` None reads it
        from `raw`, and `activation` is (its key, the only value that the family's models have).
        """
        _check_activation(raw, *activation)
        heads, kv_heads = _heads(raw)
        hidden = count(raw, "hidden_size")
        return cls(
            architecture=raw["architectures"][0],
            model_type=str(raw.get("model_type", "?")),
            dtype=_dtype(raw),
            hidden_size=hidden,
            intermediate_size=count(raw, "intermediate_size"),
            num_hidden_layers=count(raw, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_size=count(raw, "head_dim", hidden // heads),
            vocab_size=count(raw, "vocab_size"),
            max_position_embeddings=count(raw, "max_position_embeddings"),
            rms_norm_eps=number(raw, "rms_norm_eps", 1e-6),
            hidden_act=activation[1],
            rope=rope or read_rope(raw, raw, partial=partial_rope),
            tie_word_embeddings=flag(raw, "tie_word_embeddings"),
            attention_bias=attention_bias,
            attention_output_bias=attention_output_bias,
            mlp_bias=flag(raw, "mlp_bias") if mlp_bias is None else mlp_bias,
            qk_norm=qk_norm,
            sliding_window=count(raw, "sliding_window") if sliding and raw.get("sliding_window") is not None else None,
            bos_token_id=next(iter(_ids(raw, "bos_token_id")), None),
            eos_token_ids=_ids(raw, "eos_token_id"),
            raw=raw,
        )


def flag(raw: Mapping[str, Any], key: str) -> bool:
    """A boolean of `config.json` that is false when absent or null; SpecError for any other kind of value."""
    value = raw.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise refuse(key, value, "true or false")


def refuse(key: str, value: Any, expected: str) -> SpecError:
    """The error for an impossible value of `config.json`."""
    return SpecError(f"config.json: '{key}' is {value!r}", expected=expected, fix=_FIX)


def count(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A positive whole number of `config.json`; SpecError for anything else."""
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise refuse(key, value, "a positive whole number")
    return value


def number(raw: Mapping[str, Any], key: str, default: float) -> float:
    """A positive number of `config.json`; SpecError for anything else."""
    value = raw.get(key)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _HUGE:
        raise refuse(key, value, "a positive number")
    return float(value)


def _ids(raw: Mapping[str, Any], key: str) -> tuple[int, ...]:
    value = raw.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(not isinstance(item, int) or isinstance(item, bool) for item in ids):
        raise refuse(key, value, "a token id or a list of them")
    return tuple(ids)


def _heads(raw: Mapping[str, Any]) -> tuple[int, int]:
    heads = count(raw, "num_attention_heads")
    kv_heads = count(raw, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise SpecError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}",
            expected="whole groups of query heads for each key-value head",
            fix=_FIX,
        )
    if raw.get("head_dim") is None and count(raw, "hidden_size") % heads:
        raise refuse("hidden_size", raw["hidden_size"], f"a multiple of num_attention_heads {heads}, or a `head_dim`")
    return heads, kv_heads


def _dtype(raw: Mapping[str, Any]) -> str:
    name = str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch.")
    if name not in _DTYPES:
        raise refuse("dtype" if "dtype" in raw else "torch_dtype", name, "one of " + ", ".join(_DTYPES))
    return name


def _check_activation(raw: Mapping[str, Any], key: str, known: str) -> None:
    """Another activation in the gated MLP would run, and be wrong."""
    name = raw.get(key) or known
    if name not in (known, _ALIASES.get(known)):
        raise refuse(key, name, f"{known}, which the family's models have")


def read_rope(source: Mapping[str, Any], raw: Mapping[str, Any], *, partial: bool = False) -> Rope:
    """The rotary embedding that `source` describes, a part of the `config.json` `raw` or all of it.

    transformers 5 keeps everything in `rope_parameters`; 4 had `rope_theta` beside `rope_scaling`. `partial` says
    whether the family may rotate only the first features of a head.
    """
    key = "rope_parameters" if source.get("rope_parameters") else "rope_scaling"
    found = source.get(key) or {}
    if not isinstance(found, Mapping):
        raise refuse(key, found, "an object with `rope_type` and its parameters")
    merged = dict(found)
    theta = number(merged if merged.get("rope_theta") is not None else source, "rope_theta", 10000.0)
    merged.pop("rope_theta", None)
    share = number(merged if merged.get("partial_rotary_factor") is not None else raw, "partial_rotary_factor", 1.0)
    merged.pop("partial_rotary_factor", None)
    if share > 1 or (share != 1 and not partial):
        raise refuse("partial_rotary_factor", share, "1: the whole head is rotated")
    rope = Rope(theta=theta, scaling=merged, share=share)
    if rope.kind not in _ROPE_KINDS:
        raise refuse(f"{key}.rope_type", rope.kind, "one of " + ", ".join(_ROPE_KINDS))
    return Rope(theta=theta, share=share) if rope.kind == "default" else rope
