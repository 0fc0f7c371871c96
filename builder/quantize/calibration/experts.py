"""A mixture of experts, one expert in memory at a time.

A layer adds the experts' output to its hidden states at its very end. So it runs first with experts that give nothing
and only note which tokens were sent to whom; then each expert in turn adds its share to what came out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from builder.quantize.calibration.hidden import CHUNK_TOKENS, HiddenStates
from builder.quantize.problem import Tensor


def absent_experts() -> Any:
    """A module for transformers' fused experts: called with (hidden, chosen experts, their weights), it gives zeros."""
    import torch

    class AbsentExperts(torch.nn.Module):  # type: ignore[misc]
        def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
            return torch.zeros_like(hidden)

    return AbsentExperts()


def expert(weights: dict[str, Tensor], activation: Any) -> Any:
    """One gated MLP as a module. `weights` has those of `gate`, `up` and `down`, which its linears are called too."""
    import torch

    class Expert(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for name, weight in weights.items():
                linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
                linear.weight = torch.nn.Parameter(weight, requires_grad=False)
                self.add_module(name, linear)

        def forward(self, hidden: Tensor) -> Tensor:
            return self.down(activation(self.gate(hidden)) * self.up(hidden))

    return Expert()


@dataclass(frozen=True)
class Share:
    """Tokens by their number among all, and how much of the expert's output each gets."""

    tokens: Tensor
    weights: Tensor


class Routing:
    """What the experts of one layer were called with."""

    def __init__(self, buffer: HiddenStates, experts_per_token: int) -> None:
        import torch

        samples, length, _ = buffer.shape
        self._inputs = buffer
        self._chosen = torch.zeros(samples * length, experts_per_token, dtype=torch.int64)
        self._weights = torch.zeros(samples * length, experts_per_token)

    def see(self, chunk: int, *inputs: Tensor) -> None:
        """Take up one chunk: hidden [tokens, hidden], chosen experts [tokens, k], weights [tokens, k]."""
        hidden, chosen, weights = inputs
        first = chunk * self._inputs.chunk_tokens
        self._inputs.write_tokens(first, hidden)
        self._chosen[first : first + len(chosen)], self._weights[first : first + len(chosen)] = chosen, weights

    def shares(self, expert: int) -> list[Share]:
        """The tokens that were sent to `expert`, a chunk's worth at a time."""
        tokens, place = (self._chosen == expert).nonzero(as_tuple=True)
        weights = self._weights[tokens, place]
        return [
            Share(tokens=tokens[at : at + CHUNK_TOKENS], weights=weights[at : at + CHUNK_TOKENS])
            for at in range(0, len(tokens), CHUNK_TOKENS)
        ]

    def inputs(self, share: Share) -> Tensor:
        """What the expert reads, [tokens, hidden]."""
        return self._inputs.read_tokens(share.tokens)
