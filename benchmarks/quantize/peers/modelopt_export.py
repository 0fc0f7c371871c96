"""NVIDIA ModelOpt as its documentation uses it: load, calibrate, export. Runs in an environment of its own.

python modelopt_export.py MODEL SCHEME IDS.npy OUT
"""

from __future__ import annotations

import sys

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from modelopt.torch.export import export_hf_checkpoint
from transformers import AutoModelForCausalLM

CONFIGS = {
    "fp8": mtq.FP8_DEFAULT_CFG,
    "fp8_pc_pt": mtq.FP8_PER_CHANNEL_PER_TOKEN_CFG,
    "int8_sq": mtq.INT8_SMOOTHQUANT_CFG,
    "int8_wo": mtq.INT8_WEIGHT_ONLY_CFG,
    "int4_awq": mtq.INT4_AWQ_CFG,
    "w4a8_awq": mtq.W4A8_AWQ_BETA_CFG,
    "nvfp4": mtq.NVFP4_DEFAULT_CFG,
}


def main() -> None:
    """Quantize one model."""
    folder, scheme, ids, out = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()

    def calibrate(found: torch.nn.Module) -> None:
        with torch.inference_mode():
            for sample in torch.from_numpy(np.load(ids)):
                found(sample[None], use_cache=False)

    mtq.quantize(model, CONFIGS[scheme], calibrate)
    export_hf_checkpoint(model, export_dir=out)


if __name__ == "__main__":
    main()
