"""Make `tests/golden/modelopt`: a tiny Llama and what NVIDIA ModelOpt writes for it, to compare our exports with.

ModelOpt wants another transformers than the kit, so it runs in environments of its own. 0.37, the version that goes
with TensorRT-LLM 1.2, has no INT8 weight-only configuration; 0.47 has one, and both write the same layouts.

    pip install torch==2.13.0 nvidia-modelopt==0.37.0 'transformers>=4.57,<4.58' safetensors   # one environment
    python tests/golden/make_modelopt_golden.py --schemes bf16 fp16
    pip install torch==2.13.0 nvidia-modelopt==0.47.0 'transformers>=4.57,<4.58' safetensors   # another one
    python tests/golden/make_modelopt_golden.py --schemes int8_wo

The model is random with a fixed seed, and its features are multiples of 128, which TensorRT-LLM's kernels ask for. It
has fewer key-value heads than attention heads, so that the fused qkv is put to the test.
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


def make_model() -> LlamaForCausalLM:
    """A seeded Llama with norms that are not all one, so that a forgotten norm is seen."""
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(architectures=["LlamaForCausalLM"], **SHAPE))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(torch.bfloat16).eval()


def quantized(model: LlamaForCausalLM, scheme: str) -> LlamaForCausalLM:
    """A copy of `model` in the scheme's dtype, or with ModelOpt's INT8 quantizers on the weights of its linears."""
    import modelopt.torch.quantization as mtq

    copied = copy.deepcopy(model)
    if scheme in DTYPES:
        return copied.to(DTYPES[scheme])
    return mtq.quantize(copied, mtq.INT8_WEIGHT_ONLY_CFG, forward_loop=None)


def export_hf(model: LlamaForCausalLM, scheme: str, out: Path) -> None:
    from modelopt.torch.export import export_hf_checkpoint

    with torch.inference_mode():
        export_hf_checkpoint(quantized(model, scheme), dtype=torch.bfloat16, export_dir=out)


def export_trtllm(model: LlamaForCausalLM, scheme: str, tp_size: int, out: Path) -> None:
    from modelopt.torch.export import export_tensorrt_llm_checkpoint

    with torch.inference_mode():
        export_tensorrt_llm_checkpoint(
            quantized(model, scheme),
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
    parser.add_argument("--schemes", nargs="+", required=True, choices=[*DTYPES, "int8_wo"])
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
