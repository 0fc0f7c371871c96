"""Linears that compute what the kernel of their format computes: rounded weights, and inputs rounded as it does."""

from __future__ import annotations

from typing import Any

from builder.quantize.formats import Format
from builder.quantize.numerics import dequantize
from builder.quantize.numerics.activations import fake_quantize
from builder.quantize.problem import Parts, Tensor
from builder.quantize.torch_bits import import_torch, to_torch


def emulate(linear: Any, stored: Format, parts: Parts) -> None:
    """Turn `linear`, a torch module, into its quantized self; dtype and device of its weight stay."""
    torch = import_torch("calibration")
    held = {role: _tensor(torch, raw).to(linear.weight.device) for role, raw in parts.items()}
    weight = dequantize(stored, held, scaled_input=True).to(linear.weight.dtype)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    smooth, scale = held.get("pre_quant_scale"), held.get("input_scale")

    def round_input(_module: Any, inputs: tuple[Tensor, ...]) -> Tensor:
        values = inputs[0].float()
        values = values if smooth is None else values * smooth.float()
        return fake_quantize(stored.activation, values, scale).to(inputs[0].dtype)

    if smooth is not None or stored.activation != "half":
        linear.register_forward_pre_hook(round_input)


def _tensor(torch: Any, raw: Any) -> Tensor:
    bits = raw.array.copy()
    return to_torch(torch, bits, raw.dtype) if raw.dtype in ("F32", "BF16", "F16") else torch.from_numpy(bits)
