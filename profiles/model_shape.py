"""Counts of a decoder-only model: how many parameters and KV elements it has, dense, mixture of experts or MLA."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from profiles.tables import rows
from trtllm_kit.errors import SpecError

_SUFFIX = re.compile(
    r"-(instruct|chat|it|hf|base|fp8|fp4|nvfp4|mxfp4|bf16|fp16|dynamic|thinking|\d{4}|v0-?\.?\d|17b|16e|128e)$"
)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes are counts of features, heads, layers, experts or tokens; 0 where a model has none of the kind."""

    name: str = ""
    hidden_size: int
    intermediate_size: int  # of a dense layer's MLP
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    vocab_size: int
    tie_word_embeddings: bool = False
    gated_mlp: bool = True  # three matrices (SwiGLU); False: two
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0  # of one expert
    shared_intermediate_size: int = 0  # of all shared experts of a layer together
    num_moe_layers: int = 0  # the other layers have a dense MLP
    q_lora_rank: int = 0
    kv_lora_rank: int = 0  # more than 0: multi-head latent attention
    qk_rope_head_dim: int = 0
    qk_nope_head_dim: int = 0
    sliding_window: int = 0  # tokens that a sliding layer attends to
    num_sliding_layers: int = 0

    @classmethod
    def from_config(cls, raw: Mapping[str, Any], name: str = "") -> ModelShape:
        """From a Hugging Face `config.json`; SpecError names the key that is missing."""
        inner = raw.get("text_config")  # of a model that also sees images
        return _from_config(inner if isinstance(inner, Mapping) else raw, name)

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes its tokens to experts."""
        return self.num_moe_layers > 0

    @property
    def is_mla(self) -> bool:
        """Whether the KV cache holds latent vectors (DeepSeek) in place of keys and values."""
        return self.kv_lora_rank > 0

    @property
    def attention_params(self) -> int:
        """Parameters of one layer's attention projections."""
        hidden, heads, head = self.hidden_size, self.num_attention_heads, self.head_size
        if not self.is_mla:
            return hidden * head * 2 * (heads + self.num_key_value_heads)
        queries = heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        down = hidden * (self.q_lora_rank + self.kv_lora_rank + self.qk_rope_head_dim)
        up = (self.q_lora_rank or hidden) * queries + self.kv_lora_rank * heads * (self.qk_nope_head_dim + head)
        return down + up + heads * head * hidden

    @property
    def dense_mlp_params(self) -> int:
        """Parameters of one dense layer's MLP."""
        return self._mlp_params(self.intermediate_size)

    @property
    def expert_params(self) -> int:
        """Parameters of one routed expert."""
        return self._mlp_params(self.moe_intermediate_size)

    @property
    def shared_expert_params(self) -> int:
        """Parameters of one layer's shared experts, which every token passes."""
        return self._mlp_params(self.shared_intermediate_size)

    @property
    def router_params(self) -> int:
        """Parameters of one layer's router."""
        return self.hidden_size * self.num_experts

    @property
    def num_dense_layers(self) -> int:
        """Layers without experts."""
        return self.num_hidden_layers - self.num_moe_layers

    @property
    def linear_params(self) -> int:
        """Parameters of all layers' linears: what a precision quantizes, and the routers, which it does not."""
        return self._linear_params(self.num_experts)

    @property
    def active_linear_params(self) -> int:
        """Of `linear_params`, those that one token passes."""
        return self._linear_params(self.experts_per_token)

    @property
    def embedding_params(self) -> int:
        """Parameters of the token embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def head_params(self) -> int:
        """Parameters of the LM head's product; tied or not, every token passes it."""
        return self.vocab_size * self.hidden_size

    @property
    def total_params(self) -> int:
        """All parameters but norms and biases."""
        return self.linear_params + self.embedding_params * (1 if self.tie_word_embeddings else 2)

    @property
    def kv_elements_per_layer(self) -> int:
        """Elements of the KV cache for one token in one layer, of the whole model."""
        if self.is_mla:
            return self.kv_lora_rank + self.qk_rope_head_dim
        return 2 * self.num_key_value_heads * self.head_size

    @property
    def kv_elements_per_token(self) -> int:
        """Elements of the KV cache for one token, all layers; sliding layers counted in full, as paged by default."""
        return self.num_hidden_layers * self.kv_elements_per_layer

    def kv_elements_per_rank(self, tp_size: int = 1, pp_size: int = 1) -> int:
        """Elements for one token on the fullest rank: heads are dealt out, then copied; MLA latents are always copied.

        Attention data parallelism holds other tokens on each rank: pass `tp_size` 1 for it.
        """
        layers = -(-self.num_hidden_layers // pp_size)
        if self.is_mla:
            return layers * self.kv_elements_per_layer
        return layers * 2 * -(-self.num_key_value_heads // tp_size) * self.head_size

    def _mlp_params(self, intermediate_size: int) -> int:
        return (3 if self.gated_mlp else 2) * self.hidden_size * intermediate_size

    def _linear_params(self, experts: int) -> int:
        moe_layer = experts * self.expert_params + self.shared_expert_params + self.router_params
        return (
            self.num_hidden_layers * self.attention_params
            + self.num_dense_layers * self.dense_mlp_params
            + self.num_moe_layers * moe_layer
        )


@functools.cache
def known_models() -> Mapping[str, ModelShape]:
    """Shapes of public models by name, e.g. "llama-3.1-70b"; sources in `data/model_shapes.csv`."""
    return {row["name"]: _shape(row) for row in rows("model_shapes")}


def find(name: str) -> ModelShape:
    """The shape of a model by any usual spelling ("meta-llama/Llama-3.1-8B-Instruct"); SpecError names the nearest."""
    known, wanted = known_models(), normalized(name)
    shape = next((known[key] for key in known if normalized(key) == wanted), None)
    if shape is not None:
        return shape
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.0)
    raise SpecError(
        f"unknown model '{name}'",
        expected="one of " + ", ".join(known),
        fix=f"did you mean {' or '.join(near)}? Any other model works by its own config.json",
    )


def normalized(name: str) -> str:
    """A model's plain name: no owner, no revision, no suffix that leaves the shape as it is."""
    plain = name.split("@", 1)[0].rstrip("/").rsplit("/", 1)[-1].strip().lower()
    plain = re.sub(r"[\s_]+", "-", plain)
    plain = re.sub(r"^(meta-|nvidia-)", "", plain)
    plain = re.sub(r"-v(?=[1-9])", "-", plain)
    while (shorter := _SUFFIX.sub("", plain)) != plain:
        plain = shorter
    return plain


def _shape(row: Mapping[str, str]) -> ModelShape:
    values: dict[str, Any] = {"name": row["name"]}
    for column in fields(ModelShape):
        if column.name != "name":
            cell = row[column.name]
            values[column.name] = cell == "yes" if column.type == "bool" else int(cell)
    return ModelShape(**values)


def _from_config(raw: Mapping[str, Any], name: str) -> ModelShape:
    hidden = _count(raw, "hidden_size", "n_embd")
    heads = _count(raw, "num_attention_heads", "n_head")
    layers = _count(raw, "num_hidden_layers", "n_layer")
    gated = raw.get("model_type") not in ("gptj", "falcon", "gpt2", "gpt_neox")
    experts = _count(raw, "num_local_experts", "n_routed_experts", "num_experts", default=0)
    expert_size = _count(raw, "moe_intermediate_size", "intermediate_size", "n_inner", default=4 * hidden)
    inner = ("intermediate_size_mlp", "intermediate_size", "ffn_hidden_size", "n_inner")
    mla = bool(raw.get("kv_lora_rank"))
    sliding, window = _sliding(raw, layers)
    return ModelShape(
        name=name,
        hidden_size=hidden,
        intermediate_size=_count(raw, *inner, default=4 * hidden),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=_count(raw, "num_key_value_heads", "num_kv_heads", default=heads),
        head_size=_count(raw, "v_head_dim" if mla else "head_dim", default=hidden // heads),
        vocab_size=_count(raw, "vocab_size"),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        gated_mlp=gated,
        num_experts=experts,
        experts_per_token=_count(raw, "num_experts_per_tok", "experts_per_token", default=1) if experts else 0,
        moe_intermediate_size=expert_size if experts else 0,
        shared_intermediate_size=_shared(raw, expert_size) if experts else 0,
        num_moe_layers=_moe_layers(raw, layers) if experts else 0,
        q_lora_rank=_count(raw, "q_lora_rank", default=0) if mla else 0,
        kv_lora_rank=_count(raw, "kv_lora_rank", default=0),
        qk_rope_head_dim=_count(raw, "qk_rope_head_dim", default=0) if mla else 0,
        qk_nope_head_dim=_count(raw, "qk_nope_head_dim", default=0) if mla else 0,
        sliding_window=window,
        num_sliding_layers=sliding,
    )


def _count(raw: Mapping[str, Any], *keys: str, default: int | None = None) -> int:
    """The first of the keys that is set; families spell the same count differently."""
    value = next((raw[key] for key in keys if raw.get(key) is not None), default)
    if not isinstance(value, int) or isinstance(value, bool) or value < (1 if default is None else 0):
        raise SpecError(
            f"config.json: '{' or '.join(keys)}' is {value!r}",
            expected="a positive whole number",
            fix="check that config.json is that of a decoder-only language model",
        )
    return value


def _shared(raw: Mapping[str, Any], expert_size: int) -> int:
    if raw.get("model_type") == "llama4_text":  # always one shared expert; its config has no key for it
        return expert_size
    given = raw.get("shared_expert_intermediate_size")
    return int(given) if given else _count(raw, "n_shared_experts", default=0) * expert_size


def _moe_layers(raw: Mapping[str, Any], layers: int) -> int:
    dense_first = _count(raw, "first_k_dense_replace", default=0)
    step = _count(raw, "interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq", default=1)
    return (layers - dense_first) // max(step, 1)


def _sliding(raw: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """(sliding layers, window in tokens)."""
    kinds = raw.get("layer_types")
    window = _count(raw, "sliding_window", "attention_chunk_size", default=0)
    if not window or raw.get("use_sliding_window") is False:
        return 0, 0
    if isinstance(kinds, list):
        return sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds), window
    if raw.get("attention_chunk_size"):
        return layers * 3 // 4, window  # Llama 4: every fourth layer attends to all tokens
    return layers, window
