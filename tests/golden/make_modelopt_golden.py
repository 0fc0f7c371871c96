"""Make `tests/golden/modelopt`: a tiny Llama and what NVIDIA ModelOpt writes for it, to compare our exports with.

ModelOpt wants another transformers than the kit, so it runs in environments of its own. 0.37, the version that goes
with TensorRT-LLM 1.2, has no INT8 weight-only configuration and packs NVFP4 on a GPU only; 0.47 does both on the CPU.

    pip install torch==2.13.0 nvidia-modelopt==0.37.0 'transformers>=4.57,<4.58' safetensors   # one environment
    python tests/golden/make_modelopt_golden.py --schemes bf16 fp16 fp8 fp8_kv fp8_pc_pt int8_sq int4_awq w4a8_awq
    pip install torch==2.13.0 nvidia-modelopt==0.47.0 'transformers>=4.57,<4.58' safetensors   # another one
    python tests/golden/make_modelopt_golden.py --schemes int8_wo nvfp4

The model is random with a fixed seed, and its features are multiples of 128, which TensorRT-LLM's kernels ask for. It
has fewer key-value heads than attention heads, so that the fused qkv is put to the test. AWQ has groups of 64, because
128 features on two ranks are no more than that.

ModelOpt computes in the model's dtype. A bfloat16 model rounds twice where it divides by a scale, so the engine's
checkpoints are made of a float32 copy, whose codes can be compared to the bit; the unified ones, which copy the dtype
of the model into the file, are made of the bfloat16 model, as they are in practice.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

SEED = 20260101
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CONFIGS = {
    "int8_wo": "INT8_WEIGHT_ONLY_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
    "int4_awq": "INT4_AWQ_CFG",
    "w4a8_awq": "W4A8_AWQ_BETA_CFG",
    "fp8": "FP8_DEFAULT_CFG",
    "fp8_kv": "FP8_DEFAULT_CFG",
    "fp8_pc_pt": "FP8_PER_CHANNEL_PER_TOKEN_CFG",
    "nvfp4": "NVFP4_DEFAULT_CFG",
}
GROUP_SIZE = 64


def make_model() -> LlamaForCausalLM:
    """A seeded Llama with norms that are not all one, so that a forgotten norm is seen."""
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(architectures=["LlamaForCausalLM"], **SHAPE))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(torch.bfloat16).eval()


def quantized(model: LlamaForCausalLM, scheme: str, dtype: torch.dtype) -> LlamaForCausalLM:
    """A copy of `model` in the scheme's dtype, or quantized in `dtype` and calibrated on a few random tokens."""
    import modelopt.torch.quantization as mtq

    if scheme in DTYPES:
        return copy.deepcopy(model).to(DTYPES[scheme])
    ids = torch.randint(2, SHAPE["vocab_size"], (4, 32), generator=torch.Generator().manual_seed(SEED))
    return mtq.quantize(copy.deepcopy(model).to(dtype), configuration(scheme), forward_loop=lambda made: made(ids))


def configuration(scheme: str) -> dict[str, Any]:
    """ModelOpt's own for the scheme, with small groups, and with an FP8 KV cache where that is asked for."""
    import modelopt.torch.quantization as mtq

    config: dict[str, Any] = copy.deepcopy(getattr(mtq, CONFIGS[scheme]))
    if scheme.endswith("awq"):
        weights = config["quant_cfg"]["*weight_quantizer"]
        for quantizer in weights if isinstance(weights, list) else [weights]:
            if "block_sizes" in quantizer:
                quantizer["block_sizes"][-1] = GROUP_SIZE
    if scheme.endswith("_kv"):
        config["quant_cfg"].update(mtq.FP8_KV_CFG["quant_cfg"])
    return config


def export_hf(model: LlamaForCausalLM, scheme: str, out: Path) -> None:
    from modelopt.torch.export import export_hf_checkpoint

    with torch.inference_mode():
        export_hf_checkpoint(quantized(model, scheme, torch.bfloat16), dtype=torch.bfloat16, export_dir=out)


def export_trtllm(model: LlamaForCausalLM, scheme: str, tp_size: int, out: Path) -> None:
    from modelopt.torch.export import export_tensorrt_llm_checkpoint

    with torch.inference_mode():
        export_tensorrt_llm_checkpoint(
            quantized(model, scheme, torch.float32),
            "llama",
            DTYPES.get(scheme, torch.bfloat16),
            export_dir=out,
            inference_tensor_parallel=tp_size,
            inference_pipeline_parallel=1,
        )


def tidy(folder: Path) -> None:
    """Keep what is compared, with sorted keys and tensors, so that a second run gives the same bytes."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".json":
            path.write_text(json.dumps(json.loads(path.read_text()), indent=2, sort_keys=True) + "\n")
        elif path.suffix == ".safetensors":
            save_file(
                {name: tensor.contiguous() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"}
            )
        elif path.is_file():
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the ModelOpt reference checkpoints of the tests.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "modelopt")
    parser.add_argument("--schemes", nargs="+", required=True, choices=[*DTYPES, *CONFIGS])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    model = make_model()
    model.save_pretrained(arguments.out / "source")
    tidy(arguments.out / "source")
    for scheme in arguments.schemes:
        if scheme != "fp16":  # the unified layout of a plain cast holds nothing that bf16's does not
            export_hf(model, scheme, arguments.out / f"hf-{scheme}")
            tidy(arguments.out / f"hf-{scheme}")
        for tp_size in (1, 2):
            folder = arguments.out / f"trtllm-{scheme}-tp{tp_size}"
            export_trtllm(model, scheme, tp_size, folder)
            tidy(folder)


if __name__ == "__main__":
    main()
