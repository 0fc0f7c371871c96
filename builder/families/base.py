"""What a model family is to the build: its tensors, their names in both worlds, and how each is split among ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from builder.model_config import ModelConfig

Split = Literal["column", "kv", "row", "none"]
"""How tensor parallelism divides a linear: `column` its rows (outputs) evenly, `kv` its rows by key-value head, which
are duplicated where ranks outnumber heads, `row` its columns (inputs), `none` not at all."""

Size = Callable[[ModelConfig], int]
Has = Callable[[ModelConfig], bool]


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One linear layer of a decoder layer. Linears with the same `trtllm` name are fused there in table order."""

    hf: str  # "self_attn.q_proj"
    trtllm: str  # "attention.qkv"
    rows: Size  # out features
    columns: Size  # in features
    split: Split
    bias: Has = lambda config: False


@dataclass(frozen=True, kw_only=True)
class Norm:
    """One norm of a decoder layer, the same on all ranks."""

    hf: str  # "post_attention_layernorm"
    trtllm: str  # "post_layernorm"
    size: Size
    present: Has = lambda config: True


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture of Hugging Face. Its name is TensorRT-LLM's too: upstream maps it to a class of its own."""

    architecture: str  # "LlamaForCausalLM"
    model_type: str  # "llama"
    read_config: Callable[[Mapping[str, Any]], ModelConfig]
    trtllm_extras: Callable[[ModelConfig], dict[str, Any]]  # config.json keys that only this family's class reads
    linears: tuple[Linear, ...]
    norms: tuple[Norm, ...]

    embedding: str = "model.embed_tokens.weight"
    final_norm: str = "model.norm.weight"
    lm_head: str = "lm_head.weight"
    layers: str = "model.layers"

    def layer_shapes(self, config: ModelConfig, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(Hugging Face name, shape) of every tensor of one decoder layer."""
        prefix = f"{self.layers}.{layer}"
        for norm in self.norms_of(config):
            yield f"{prefix}.{norm.hf}.weight", (norm.size(config),)
        for linear in self.linears:
            yield f"{prefix}.{linear.hf}.weight", (linear.rows(config), linear.columns(config))
            if linear.bias(config):
                yield f"{prefix}.{linear.hf}.bias", (linear.rows(config),)

    def shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Shape by Hugging Face name of every tensor that the model needs; no lm_head where it is tied."""
        table = (config.vocab_size, config.hidden_size)
        shapes: dict[str, tuple[int, ...]] = {self.embedding: table}
        for layer in range(config.num_hidden_layers):
            shapes.update(self.layer_shapes(config, layer))
        shapes[self.final_norm] = (config.hidden_size,)
        if not config.tie_word_embeddings:
            shapes[self.lm_head] = table
        return shapes

    def norms_of(self, config: ModelConfig) -> tuple[Norm, ...]:
        """The norms that a model of this config has."""
        return tuple(norm for norm in self.norms if norm.present(config))

    def linear_names(self, config: ModelConfig) -> frozenset[str]:
        """Hugging Face names of the linears' weights: what weight quantization applies to."""
        return frozenset(
            f"{self.layers}.{layer}.{linear.hf}.weight"
            for layer in range(config.num_hidden_layers)
            for linear in self.linears
        )


def hidden(config: ModelConfig) -> int:
    return config.hidden_size


def intermediate(config: ModelConfig) -> int:
    return config.intermediate_size


def query_rows(config: ModelConfig) -> int:
    return config.num_attention_heads * config.head_size


def key_value_rows(config: ModelConfig) -> int:
    return config.num_key_value_heads * config.head_size


def _qkv_bias(config: ModelConfig) -> bool:
    return config.attention_bias


def _output_bias(config: ModelConfig) -> bool:
    return config.attention_output_bias


def _mlp_bias(config: ModelConfig) -> bool:
    return config.mlp_bias


def _head(config: ModelConfig) -> int:
    return config.head_size


def _qk_norm(config: ModelConfig) -> bool:
    return config.qk_norm


_QKV, _QKV_BIAS = "attention.qkv", _qkv_bias

# TensorRT-LLM's `fc` is the projection that the activation applies to, so gate_proj, and its `gate` is up_proj.
GATED_LINEARS = (
    Linear(hf="self_attn.q_proj", trtllm=_QKV, rows=query_rows, columns=hidden, split="column", bias=_QKV_BIAS),
    Linear(hf="self_attn.k_proj", trtllm=_QKV, rows=key_value_rows, columns=hidden, split="kv", bias=_QKV_BIAS),
    Linear(hf="self_attn.v_proj", trtllm=_QKV, rows=key_value_rows, columns=hidden, split="kv", bias=_QKV_BIAS),
    Linear(
        hf="self_attn.o_proj", trtllm="attention.dense", rows=hidden, columns=query_rows, split="row", bias=_output_bias
    ),
    Linear(hf="mlp.gate_proj", trtllm="mlp.fc", rows=intermediate, columns=hidden, split="column", bias=_mlp_bias),
    Linear(hf="mlp.up_proj", trtllm="mlp.gate", rows=intermediate, columns=hidden, split="column", bias=_mlp_bias),
    Linear(hf="mlp.down_proj", trtllm="mlp.proj", rows=hidden, columns=intermediate, split="row", bias=_mlp_bias),
)
PRE_NORMS = (
    Norm(hf="input_layernorm", trtllm="input_layernorm", size=hidden),
    Norm(hf="post_attention_layernorm", trtllm="post_layernorm", size=hidden),
    Norm(hf="self_attn.q_norm", trtllm="attention.q_layernorm", size=_head, present=_qk_norm),
    Norm(hf="self_attn.k_norm", trtllm="attention.k_layernorm", size=_head, present=_qk_norm),
)
