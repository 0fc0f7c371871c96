"""Make `tests/golden/numerics.safetensors`: one weight, its input, and what NVIDIA ModelOpt makes of them.

    pip install torch==2.13.0 'nvidia-modelopt[hf]==0.47.0' 'transformers>=4.57,<4.58'   # an environment of its own
    python tests/golden/make_numerics_golden.py

All is float32, so that no rounding of a model's own dtype comes between. The weight has rows and blocks of zeros, rows
that fall on ties, and an outlier; the input has a few large features, as those of trained models have.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import quant_utils
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from modelopt.torch.quantization.tensor_quant import fake_tensor_quant, scaled_e4m3
from safetensors.torch import save_file

ROWS, COLUMNS, TOKENS, GROUP, SEED = 32, 256, 64, 128, 20260301


def make_weight() -> torch.Tensor:
    weight = torch.randn(ROWS, COLUMNS) * 0.02
    weight[3] = 0
    weight[5, 16:32] = 0
    weight[7, 40] = 1.5
    weight[9] = torch.arange(COLUMNS) % 15 / 4 - 1.75  # quarters: ties of E2M1 and of the integers
    weight[11] *= 1e-3
    return weight


def make_input() -> torch.Tensor:
    sizes = torch.ones(COLUMNS)
    sizes[[7, 90, 130, 201]] = torch.tensor([30.0, 12.0, 20.0, 8.0])
    shared = torch.randn(TOKENS, 8) @ torch.randn(8, COLUMNS)
    return (torch.randn(TOKENS, COLUMNS) + 0.3 * shared) * sizes


def linear(weight: torch.Tensor, inputs: torch.Tensor, config: dict[str, Any]) -> torch.nn.Module:
    """The weight as the only linear of a model, quantized with `inputs` for calibration."""
    model = torch.nn.Sequential(torch.nn.Linear(COLUMNS, ROWS, bias=False))
    model[0].weight.data = weight.clone()
    return mtq.quantize(model, config, lambda model: model(inputs))[0]


def smoothquant(weight: torch.Tensor, inputs: torch.Tensor, alpha: float) -> dict[str, torch.Tensor]:
    config = copy.deepcopy(mtq.INT8_SMOOTHQUANT_CFG)
    config["algorithm"] = {"method": "smoothquant", "alpha": alpha}
    module = linear(weight, inputs, config)
    scale = quant_utils.get_weight_scaling_factor(module)
    return {
        f"smoothquant_{alpha}.pre_quant_scale": module.input_quantizer.pre_quant_scale,
        f"smoothquant_{alpha}.input_scale": quant_utils.get_activation_scaling_factor(module),
        f"smoothquant_{alpha}.weight_scale": scale,
        f"smoothquant_{alpha}.weight": quant_utils.to_quantized_weight(module.weight, scale, "int8_sq"),
    }


def awq_loss(weight: torch.Tensor, inputs: torch.Tensor, method: str) -> torch.Tensor:
    """Mean square of what quantization changes in the outputs."""
    config = copy.deepcopy(mtq.INT4_AWQ_CFG)
    config["algorithm"] = {"method": method}
    module = linear(weight, inputs, config)
    effective = module.weight_quantizer(module.weight) * module.input_quantizer.pre_quant_scale
    return (inputs @ (effective - weight).T).pow(2).mean()


def main() -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(SEED)
    weight, inputs = make_weight(), make_input()
    made = {"weight": weight, "input": inputs}
    for name, size, kind in (("int8_row", 0, "int8_wo"), ("int4_group", GROUP, "int4_awq")):
        scale = quant_utils.get_scaling_factor_from_weight(weight, size)
        made[f"{name}.weight_scale"] = scale
        made[f"{name}.weight"] = quant_utils.to_quantized_weight(weight, scale, kind, block_size=GROUP)
    scale = weight.abs().amax() / 448
    made["fp8_tensor.weight_scale"] = scale
    made["fp8_tensor.weight"] = quant_utils.to_quantized_weight(weight, scale, "fp8")
    codes, scale, scale_2 = NVFP4QTensor.quantize(weight, 16)
    made |= {"nvfp4.weight": codes._quantized_data, "nvfp4.weight_scale": scale, "nvfp4.weight_scale_2": scale_2}
    few, amax = inputs[:8], inputs[:8].abs().amax() * 0.7  # so that some inputs are out of range
    made["amax"] = amax
    made["int8_tensor.input"] = fake_tensor_quant(few, amax)
    made["fp8_tensor.input"] = scaled_e4m3(few, amax, None, 4, 3)
    for alpha in (0.5, 1.0):
        made |= smoothquant(weight, inputs, alpha)
    for method in ("awq_lite", "awq_full"):
        made[f"{method}.loss"] = awq_loss(weight, inputs, method)
    out = Path(__file__).parent / "numerics.safetensors"
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in sorted(made.items())}, out)


if __name__ == "__main__":
    main()
