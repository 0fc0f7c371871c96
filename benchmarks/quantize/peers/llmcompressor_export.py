"""llm-compressor as its documentation uses it: one `oneshot`. Runs in an environment of its own.

python llmcompressor_export.py MODEL SCHEME IDS.npy OUT
"""

from __future__ import annotations

import sys

import numpy as np
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

PRESETS = {
    "fp8": "FP8",
    "fp8_pc_pt": "FP8_DYNAMIC",
    "int8_sq": "W8A8",
    "int8_wo": "W8A16",
    "int4_awq": "W4A16",
    "nvfp4": "NVFP4",
}
UNCALIBRATED = ("fp8_pc_pt", "int8_wo")


def main() -> None:
    """Quantize one model."""
    folder, scheme, ids, out = sys.argv[1:]
    tokens = np.load(ids)
    rows = Dataset.from_dict({"input_ids": tokens.tolist(), "attention_mask": np.ones_like(tokens).tolist()})
    calibration = (
        {}
        if scheme in UNCALIBRATED
        else {"dataset": rows, "num_calibration_samples": len(tokens), "max_seq_length": tokens.shape[1]}
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    oneshot(model=model, processor=tokenizer, recipe=_recipe(scheme), output_dir=out, **calibration)


def _recipe(scheme: str) -> list[object]:
    quantization = QuantizationModifier(targets="Linear", scheme=PRESETS[scheme], ignore=["lm_head"])
    if scheme == "int8_sq":
        from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

        return [SmoothQuantModifier(smoothing_strength=0.5), quantization]
    if scheme == "int4_awq":
        from llmcompressor.modifiers.transform.awq import AWQModifier

        return [AWQModifier(), quantization]
    return [quantization]


if __name__ == "__main__":
    main()
