"""A layer's mixture of experts, computed by one linear for each projection of each expert.

transformers holds all experts of a layer in two tensors; the skeleton takes them out. Here they come back under the
names of the checkpoint, so that each can be quantized, compared and swapped as any other linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from builder.families import Module
from builder.quantize.problem import Tensor


def experts_of(modules: Sequence[Module], read: Callable[[str], Tensor], activation: Any) -> tuple[Any, dict[str, Any]]:
    """(what transformers calls in place of its fused experts, the linears by full Hugging Face name).

    Args:
        modules: every expert's projections of one layer.
        read: a weight by its name, float32 [rows, columns] on the compute device.
        activation: of the gate.
    """
    linears = {module.name: _linear(read(f"{module.name}.weight")) for module in modules}
    gated: dict[int, dict[str, Any]] = {}
    for module in modules:
        if module.expert is not None:
            gated.setdefault(module.expert, {})[module.linear.slices[0].role] = linears[module.name]
    return _mixture(gated, activation), linears


def _linear(weight: Tensor) -> Any:
    import torch

    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    return linear


def _mixture(gated: Mapping[int, Mapping[str, Any]], activation: Any) -> Any:
    import torch

    class Mixture(torch.nn.Module):  # type: ignore[misc]
        def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
            """[tokens, hidden], with [tokens, k] experts of each token and their weights."""
            made = torch.zeros_like(hidden)
            for number, expert in gated.items():
                tokens, place = (chosen == number).nonzero(as_tuple=True)
                if len(tokens):
                    inputs = hidden[tokens]
                    inner = activation(expert["gate"](inputs)) * expert["up"](inputs)
                    made.index_add_(0, tokens, expert["down"](inner) * weights[tokens, place, None])
            return made

    return Mixture()
