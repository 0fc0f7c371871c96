"""Between bits and torch: the algorithms compute in torch, files and layouts know only bits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from builder.quantize.raw import RawTensor
from trtllm_kit.errors import HostError

if TYPE_CHECKING:
    from builder.quantize.raw import Array

T = TypeVar("T")

_HALVES = {"BF16": "bfloat16", "F16": "float16"}


def import_torch(reason: str) -> Any:
    """The torch module; HostError that names the extra when it is not installed."""
    try:
        import torch
    except ImportError:
        raise HostError(
            f"{reason} needs torch, which is not installed",
            expected="torch, any build: the processor's is enough",
            fix="pip install 'trtllm-kit[quantize]'",
        ) from None
    return torch


def side_by_side(torch: Any, tasks: Iterable[Callable[[], T]]) -> list[T]:
    """The results of `tasks`, several computed at once, each by one thread.

    torch's own threads wait for each other after every operation: on blocks that fit the cache, and on a busy machine,
    that costs many times the work itself. And the last bits of its sums depend on how many there are.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            return [task.result() for task in [pool.submit(task) for task in tasks]]
    finally:
        torch.set_num_threads(before)


def for_each_block(torch: Any, raw: RawTensor, work: Callable[[slice, Any], None], *, multiple: int = 1) -> None:
    """Call `work(rows, tensor)` for every block of `raw`, several at once; each must write to its own rows only.

    `multiple` of rows make a block, except for the last.
    """
    side_by_side(
        torch,
        (
            lambda rows=rows: work(rows, to_torch(torch, raw.array[rows].copy(), raw.dtype))  # type: ignore[misc]
            for rows in raw.blocks(multiple)
        ),
    )


def to_torch(torch: Any, bits: Array, dtype: str) -> Any:
    """A float tensor over the memory of `bits`, which must be writable."""
    if dtype == "F32":
        return torch.from_numpy(bits.view("float32"))
    return torch.from_numpy(bits.view("int16")).view(getattr(torch, _HALVES[dtype]))


def from_torch(torch: Any, tensor: Any, dtype: str) -> RawTensor:
    """The bits of a contiguous CPU tensor of the torch dtype that `dtype` names."""
    if dtype in _HALVES:
        return RawTensor(dtype, tensor.view(torch.int16).numpy().view("uint16"))
    array = tensor.numpy()
    return RawTensor(dtype, array.view("uint32") if dtype == "F32" else array)
