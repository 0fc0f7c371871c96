"""FP8 E4M3: three bits of mantissa, up to 448, no infinity."""

from __future__ import annotations

from builder.quantize.numerics.scales import step
from builder.quantize.problem import Tensor

LARGEST = 448.0
BLOCK = 128  # rows and columns of a weight that share a scale in block quantization, and features of a token


def encode(values: Tensor) -> Tensor:
    """E4M3 of float32 `values` up to 448, rounded to nearest even."""
    import torch

    return values.to(torch.float8_e4m3fn)


def decode(codes: Tensor) -> Tensor:
    """The float32 values of E4M3 `codes`, held in any dtype of 8 bits.

    By a table of all 256, for torch converts FP8 one by one, which takes five times as long on a processor.
    """
    import torch

    table = torch.arange(256, dtype=torch.uint8, device=codes.device).view(torch.float8_e4m3fn).float()
    return table.index_select(0, codes.view(torch.uint8).flatten().int()).view(codes.shape)


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(E4M3 codes, float32 scales [rows]) of a float32 `weight`."""
    scale = step(weight.abs().amax(dim=1), LARGEST)
    return encode(weight / scale[:, None]), scale


def quantize_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(E4M3 codes, float32 scales [rows / 128, columns / 128]) of a float32 `weight`; last blocks may be short."""
    import torch

    scale = step(torch.stack([_block_amax(rows) for rows in weight.split(BLOCK)]), LARGEST)
    spread = scale.repeat_interleave(BLOCK, dim=1)[:, : weight.shape[1]]
    return torch.cat([encode(rows / row) for rows, row in zip(weight.split(BLOCK), spread, strict=True)]), scale


def _block_amax(rows: Tensor) -> Tensor:
    """Largest |weight| in each 128 columns of `rows`."""
    import torch

    columns = rows.abs().amax(dim=0)
    padding = -columns.shape[0] % BLOCK
    return torch.nn.functional.pad(columns, (0, padding)).view(-1, BLOCK).amax(dim=1)
