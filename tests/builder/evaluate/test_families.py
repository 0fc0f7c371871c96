"""Models that differ from Llama in what the stream must know: experts, soft caps, tied embeddings, fused linears."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from builder.evaluate.batch import Batch
from builder.evaluate.documents import Document
from builder.evaluate.sides import BaseSide, QuantizedSide
from builder.evaluate.stream import Stream
from builder.quantize import quantize
from builder.quantize.calibration.runner import workers
from builder.quantize.reader import open_checkpoint
from builder.quantize.recipe import Recipe
from trtllm_kit.console import Silent

MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_act": "gelu_pytorch_tanh",
    "final_logit_softcapping": 3.0,
    "attn_logit_softcapping": 5.0,
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
    "tie_word_embeddings": True,
}
PHI3 = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "pad_token_id": 2, "sliding_window": None}


@pytest.mark.parametrize("family", [{"tie_word_embeddings": True}, MIXTRAL, QWEN3_MOE, GEMMA2, PHI3], ids=str)
def test_both_sides_compute_what_transformers_does(
    family: dict[str, Any], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    """Log-likelihoods of the base by the whole model; and a copy that loses nothing has no divergence."""
    model = make_model(vocab_size=64, **family)
    checkpoint = model.fetch()
    out = tmp_path / "out"
    out.mkdir()
    quantize(checkpoint, Recipe(precision="int8_wo"), layout="hf", tp_size=1, pp_size=1, out=out, talk=Silent())
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(3, 60, (length,), generator=generator).tolist() for length in (40, 23, 31)]
    batch = Batch([Document(slice="own", ids=tuple(document)) for document in ids])
    other = QuantizedSide(open_checkpoint(out), checkpoint.config, "cpu")
    with workers() as pool:
        found = Stream(BaseSide(checkpoint, "cpu"), other, batch, work=tmp_path, pool=pool).run(Silent())
    reference = transformers.AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32).eval()
    for document, score in zip(ids, found.scores, strict=True):
        tokens = torch.tensor([document])
        with torch.inference_mode():
            logits = reference(tokens).logits[0, :-1].double().log_softmax(-1)
        wanted = -logits.gather(1, tokens[0, 1:, None])[:, 0]
        assert torch.allclose(torch.from_numpy(score.nll_base), wanted, atol=1e-4)
        assert 1e-9 < score.kl.mean() < 0.01
    for layer in found.layers:
        assert 0 < layer.own_error < 0.02
        # The whole layer loses about what its groups lose one by one.
        assert sum(group.output_error**2 for group in layer.groups) ** 0.5 == pytest.approx(layer.own_error, rel=0.4)
