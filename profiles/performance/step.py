"""How long one step of in-flight batching takes: a roofline for each class of operation.

A step decodes one token of each sequence and may carry prompt tokens of new ones. Times are seconds of one pipeline
stage. Each class takes the longer of its arithmetic and its memory traffic, blended where both are near.

Sources: roofline, Williams, Waterman, Patterson, CACM 52 (2009); arithmetic of transformer inference, Pope et al.,
MLSys 2023 (arXiv:2211.05102); ring all-reduce 2(g-1)/g, Patarasuk and Yuan, JPDC 69 (2009); in-flight batching, Yu et
al. (Orca), OSDI 2022.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from profiles.performance.columns import Array, Columns
from profiles.performance.constants import at_most_one

Constants = Mapping[str, Array]

_HALF = 2  # bytes of an element in 16 bits
_PIPELINE_HOP_S = 20e-6  # a point-to-point send between stages, besides its bytes
_FEWEST_FOR_EACH = 0.1  # tokens of an expert, on average


def longer(compute: Array, memory: Array) -> Array:
    """The longer of two times, a little more where they are near: overlap is never perfect."""
    return np.asarray((compute**4 + memory**4) ** 0.25)


def step_s(c: Columns, k: Constants, sequences: Array, prompt_tokens: Array, share: Array) -> Array:
    """One average step of a stage.

    `sequences` decode on each attention rank; `prompt_tokens` is the average number of prompt tokens for each rank
    and step; `share` of the steps carry them all.
    """
    mixed = sequences + prompt_tokens / share
    linears = (1 - share) * linear_s(c, k, sequences) + share * linear_s(c, k, mixed)
    tokens = sequences + prompt_tokens
    return np.asarray(
        linears
        + decode_attention_s(c, k, sequences)
        + prefill_attention_s(c, k, prompt_tokens)
        + elementwise_s(c, k, tokens)
        + communication_s(c, k, tokens)
        + head_s(c, k, sequences * c.dp)
        + sequences * c.dp * k["sequence_overhead_s"]
        + overhead_s(c, k)
    )


def linear_s(c: Columns, k: Constants, tokens: Array) -> Array:
    """All GEMMs of a stage's layers for `tokens` on each attention rank."""
    everyone = tokens * c.dp
    attention = _gemm_s(c, k, c.attention_params / c.tp, tokens)
    dense = _gemm_s(c, k, c.mlp_params / c.gpus, everyone)
    routed = c.moe_layers * _experts_s(c, k, everyone) if c.moe_layers.any() else 0.0
    return np.asarray((c.layers * attention + c.dense_layers * dense + routed) / c.pp)


def decode_attention_s(c: Columns, k: Constants, sequences: Array) -> Array:
    """Reading the KV cache of `sequences` halfway through their outputs, and the products with it."""
    tokens = sequences * attended(c, c.isl + c.osl / 2) * c.layers / c.pp
    elements = tokens * kv_elements(c)
    read = elements * c.kv_bytes / (c.bandwidth * k["kv_read_efficiency"])
    # some kernels have no tensor cores, and 8 bits are converted: elements come no faster than instructions
    issue = elements * c.kv_passes / (c.flops16 * k["kv_elements_per_flop"])
    products = 4 * tokens * c.heads * c.decode_head / c.tp / (c.flops16 * k["prefill_attention_efficiency"])
    return longer(longer(issue, products), read)


def prefill_attention_s(c: Columns, k: Constants, prompt_tokens: Array) -> Array:
    """Causal attention among the tokens of whole prompts, of which `prompt_tokens` are in this step."""
    products = 2 * prompt_tokens * attended(c, c.isl) * c.heads * c.prefill_head * c.layers / c.pp / c.tp
    return np.asarray(products / (c.flops16 * k["prefill_attention_efficiency"]))


def elementwise_s(c: Columns, k: Constants, tokens: Array) -> Array:
    """Norms, rotations, activations, quantization and residuals; for experts also the permutation of tokens."""
    plain = tokens * c.hidden * k["activation_vectors"] * c.layers
    routed = tokens * c.dp / c.gpus * c.top_k * (2 * c.hidden + c.expert_params / c.hidden) * k["expert_vectors"]
    return np.asarray(_HALF * (plain + routed * c.moe_layers) / c.pp / c.bandwidth)


def communication_s(c: Columns, k: Constants, tokens: Array) -> Array:
    """Two all-reduces for each layer, or what attention data parallelism has instead; and the hop to the next stage.

    With attention data parallelism a layer of experts gathers the tokens, quantized, and scatters the sums in 16 bits.
    """
    link = c.link * k["link_efficiency"]  # above 1 where the switch does the sums
    latency = k["allreduce_latency_s"] * np.log2(np.maximum(c.gpus, 2)) / 2
    exchanges = np.where(c.dp > 1, c.moe_layers, 2 * c.layers) / c.pp
    vectors = tokens * c.dp * c.hidden
    each = latency + (c.gpus - 1) / c.gpus * vectors * np.where(c.dp > 1, c.sent_bytes + _HALF, 2 * _HALF) / link
    hop = np.where(c.pp > 1, tokens * c.hidden * _HALF / link + _PIPELINE_HOP_S, 0)
    return np.asarray(np.where(c.gpus > 1, exchanges * each, 0) + hop)


def head_s(c: Columns, k: Constants, sequences: Array) -> Array:
    """The LM head, in 16 bits, for the last token of each of the stage's `sequences`."""
    params = c.vocab * c.hidden / c.gpus
    compute = 2 * sequences * params / (c.flops16 * _gemm_efficiency(c, k))
    return longer(compute, _HALF * params / (c.bandwidth * k["weight_read_efficiency"]))


def overhead_s(c: Columns, k: Constants) -> Array:
    """What a step costs however few sequences it has, weights aside."""
    return np.asarray(k["step_overhead_s"] + k["layer_overhead_s"] * c.layers / c.pp)


def fixed_s(c: Columns, k: Constants) -> Array:
    """The same with the weights that every step reads."""
    params = (c.layers * c.attention_params / c.tp + c.dense_layers * c.mlp_params / c.gpus) / c.pp
    return np.asarray(overhead_s(c, k) + params * c.weight_bytes / (c.bandwidth * k["weight_read_efficiency"]))


def roofline_s(c: Columns, sequences: Array, prompt_tokens: Array) -> Array:
    """No step of a stage can be faster: all products at the peak rate, weights and KV cache read once at full speed.

    Prompts may all come in a few steps, so the others read no expert for them.
    """
    tokens = sequences + prompt_tokens
    everyone = tokens * c.dp
    attention = c.layers * c.attention_params / c.tp
    dense = c.dense_layers * c.mlp_params / c.gpus
    flops = 2 * (tokens * attention + everyone * (dense + c.moe_layers * (c.top_k * c.expert_params) / c.gpus)) / c.pp
    experts = c.moe_layers * _touched(c, sequences * c.dp) * c.expert_params / c.gpus
    weights = (attention + dense + experts) / c.pp * c.weight_bytes
    kv = sequences * attended(c, c.isl + c.osl / 2) * kv_elements(c) * c.layers / c.pp * c.kv_bytes
    return np.asarray(np.maximum(flops / c.flops, (weights + kv) / c.bandwidth))


def attended(c: Columns, context: Array) -> Array:
    """Tokens that the average layer attends to out of `context`."""
    return np.asarray(context - c.window_share * np.maximum(context - c.window, 0))


def kv_elements(c: Columns) -> Array:
    """Elements of the KV cache for one token in one layer on one GPU: heads are dealt out, MLA latents copied."""
    heads = c.kv_elements * np.ceil(c.kv_heads / c.tp) / c.kv_heads
    return np.where(c.mla > 0, c.kv_elements, heads)


def _gemm_s(c: Columns, k: Constants, params: Array, tokens: Array) -> Array:
    compute = 2 * params * (tokens + k["gemm_half_tokens"]) / (c.flops * _gemm_efficiency(c, k))
    return longer(compute, params * c.weight_bytes / (c.bandwidth * k["weight_read_efficiency"]))


def _experts_s(c: Columns, k: Constants, tokens: Array) -> Array:
    """A layer's routed and shared experts for all `tokens` of the stage."""
    for_each = np.maximum(tokens * c.top_k / c.experts, _FEWEST_FOR_EACH)
    imbalance = np.where(c.dp > 1, 1 + k["expert_imbalance"], 1)
    rate = c.flops * at_most_one(k["gemm_efficiency"] * c.power ** k["power_exponent"] / k["expert_slowdown"])
    work = 2 * tokens * c.top_k * c.expert_params / c.gpus * imbalance
    width = c.expert_width * c.ep / c.gpus  # TP cuts every expert, EP none
    compute = work * (1 + k["expert_half_tokens"] / for_each) * (1 + k["expert_half_width"] / width) / rate
    read = _touched(c, tokens) * c.expert_params / c.gpus * c.weight_bytes / (c.bandwidth * k["weight_read_efficiency"])
    return np.asarray(longer(compute, read) + _gemm_s(c, k, c.shared_params / c.gpus, tokens))


def _touched(c: Columns, tokens: Array) -> Array:
    """Experts that `tokens` reach when they choose `top_k` of them at random."""
    return np.asarray(c.experts * (1 - (1 - c.top_k / c.experts) ** tokens))


def _gemm_efficiency(c: Columns, k: Constants) -> Array:
    return np.asarray(at_most_one(k["gemm_efficiency"] * c.power ** k["power_exponent"]))
