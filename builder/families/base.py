"""What a model family is to the build: its tensors, their names in both worlds, and how each is split among ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from builder.model_config import ModelConfig

Split = Literal["column", "kv", "row", "none"]
"""How tensor parallelism divides a linear: `column` its rows (outputs) evenly, `kv` its rows by key-value head, which
are duplicated where ranks outnumber heads, `row` its columns (inputs), `none` not at all."""

Role = Literal["query", "key", "value", "output", "gate", "up", "down", "router"]
"""What a linear is to the decoder layer. The activation applies to `gate`; `router` chooses a token's experts."""

Size = Callable[[ModelConfig], int]
Has = Callable[[ModelConfig], bool]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows of a linear with a role of their own, such as the keys in Phi-3's `qkv_proj`."""

    role: Role
    rows: Size  # how many
    split: Split
    start: Size = lambda config: 0


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One linear layer of a decoder layer. Linears with the same `trtllm` name are fused there in table order."""

    hf: str  # "self_attn.q_proj"; with `{e}` for the number of the expert: "mlp.experts.{e}.up_proj"
    trtllm: str  # "attention.qkv"; stacked there by expert, if each expert has one
    columns: Size  # in features
    slices: tuple[Slice, ...]  # all its rows, in the order in which TensorRT-LLM has them
    bias: Has = lambda config: False
    norm: str | None = None  # the norm whose output it reads, if nothing but linears of the same norm read it
    reads: str | None = None  # linears with the same word share an input that is not the output of a foldable norm
    experts: bool = False  # one for each expert
    quantized: bool = True  # false: it stays as it is, by every scheme
    trtllm_dtype: str | None = None  # safetensors dtype that TensorRT-LLM's file needs; None: as all the rest

    def rows(self, config: ModelConfig) -> int:
        """Out features."""
        return sum(part.rows(config) for part in self.slices)


@dataclass(frozen=True, kw_only=True)
class Module:
    """A linear of one decoder layer by its full Hugging Face name."""

    name: str  # "model.layers.0.mlp.experts.3.up_proj"
    linear: Linear
    expert: int | None = None  # where every expert has one


@dataclass(frozen=True, kw_only=True)
class LinearGroup:
    """Linears of one decoder layer that read the same input, by full Hugging Face name."""

    modules: tuple[str, ...]
    norm: str | None  # full name of the norm's weight, when scales of the input can be folded into it


@dataclass(frozen=True, kw_only=True)
class Norm:
    """One norm of a decoder layer, the same on all ranks."""

    hf: str  # "post_attention_layernorm"
    trtllm: str  # "post_layernorm"
    size: Size
    present: Has = lambda config: True
    offset: float = 0.0  # what the model adds to the stored weight: 1 in Gemma


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
    final_norm_offset: float = 0.0  # as `Norm.offset`
    lm_head: str = "lm_head.weight"
    layers: str = "model.layers"
    parallel_embedding: bool = False  # engines of tp_size > 1 split the embedding's rows, whatever their config says
    unserved: Mapping[tuple[str, str | None], str] = field(default_factory=dict)
    """Why a runtime cannot serve this family in a precision; precision None: in any."""

    def refusal(self, runtime: str, precision: str) -> str | None:
        """Why `runtime` cannot serve this family in `precision`; None where it can."""
        return self.unserved.get((runtime, precision), self.unserved.get((runtime, None)))

    def modules(self, config: ModelConfig, layer: int) -> Iterator[Module]:
        """Every linear of one decoder layer in table order; all experts of one row together."""
        prefix = f"{self.layers}.{layer}"
        for linear in self.linears:
            if not linear.experts:
                yield Module(name=f"{prefix}.{linear.hf}", linear=linear)
                continue
            for expert in range(config.num_experts):
                yield Module(name=f"{prefix}.{linear.hf.format(e=expert)}", linear=linear, expert=expert)

    def layer_shapes(self, config: ModelConfig, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(Hugging Face name, shape) of every tensor of one decoder layer."""
        for norm in self.norms_of(config):
            yield f"{self.layers}.{layer}.{norm.hf}.weight", (norm.size(config),)
        for module in self.modules(config, layer):
            rows = module.linear.rows(config)
            yield f"{module.name}.weight", (rows, module.linear.columns(config))
            if module.linear.bias(config):
                yield f"{module.name}.bias", (rows,)

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

    def groups(self, config: ModelConfig, layer: int) -> tuple[LinearGroup, ...]:
        """The linears of one decoder layer that quantization applies to, those that share their input together.

        In table order, expert by expert. An expert's gate and up projection form a group of their own, though all
        experts read the same norm: each sees only the tokens that were sent to it.
        """
        found: dict[tuple[str, int | None], list[Module]] = {}
        for module in self.modules(config, layer):
            linear = module.linear
            if linear.quantized:
                found.setdefault((linear.norm or linear.reads or linear.hf, module.expert), []).append(module)
        return tuple(
            LinearGroup(
                modules=tuple(module.name for module in modules),
                norm=f"{self.layers}.{layer}.{norm}.weight" if (norm := modules[0].linear.norm) else None,
            )
            for modules in found.values()
        )

    def norms_of(self, config: ModelConfig) -> tuple[Norm, ...]:
        """The norms that a model of this config has."""
        return tuple(norm for norm in self.norms if norm.present(config))

    def norm_offset(self, name: str) -> float:
        """What the model adds to the stored weight `name`; 0 for what is no norm."""
        if name == self.final_norm:
            return self.final_norm_offset
        return next((norm.offset for norm in self.norms if name.endswith(f".{norm.hf}.weight")), 0.0)

    def linear_names(self, config: ModelConfig) -> frozenset[str]:
        """Hugging Face names of the linears' weights: what weight quantization applies to."""
        return frozenset(
            f"{module.name}.weight"
            for layer in range(config.num_hidden_layers)
            for module in self.modules(config, layer)
            if module.linear.quantized
        )
