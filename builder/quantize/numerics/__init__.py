"""Codes and scales of each number format, in torch: quantize, dequantize, nothing else.

All of it is elementwise arithmetic that IEEE 754 rounds exactly, so every device and every block size gives the same
bits. torch is imported inside the functions: whoever has a tensor to pass has imported it already.
"""

from __future__ import annotations

from builder.quantize.numerics.weights import dequantize

__all__ = ["dequantize"]
