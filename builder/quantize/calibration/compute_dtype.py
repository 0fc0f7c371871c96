"""The dtype in which this machine's forward pass is fastest, measured once and remembered.

Many processors multiply float32 several times as fast as bfloat16; those with instructions for bfloat16, and all GPUs,
are the other way round. float32 is the more exact one, so bfloat16 has to be clearly faster.
"""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from builder.quantize.torch_bits import import_torch
from trtllm_kit.errors import HostError
from trtllm_kit.files import pretty_json, write_text_atomic

_CLEARLY = 1.5
_SIZE = 1024  # of the square products that are timed
_ROUNDS = 5


def choose(device: str, cache: Path) -> str:
    """ "float32" or "bfloat16" for the forward pass on `device`.

    Args:
        cache: a JSON file of what was measured before, by processor and torch release.
    """
    if device != "cpu":
        return "bfloat16"
    known = _load(cache)
    key = f"{_processor()} {os.environ.get('ONEDNN_MAX_CPU_ISA', '')}".strip()
    if key not in known:
        known[key] = _measure()
        with suppress(HostError):  # where nothing can be remembered it is measured again
            write_text_atomic(cache, pretty_json(known))
    return str(known[key])


def _measure() -> str:
    torch = import_torch("calibration")
    times = {dtype: _seconds(torch, getattr(torch, dtype)) for dtype in ("float32", "bfloat16")}
    return "bfloat16" if times["float32"] > _CLEARLY * times["bfloat16"] else "float32"


def _seconds(torch: Any, dtype: Any) -> float:
    """The fastest of a few products on one thread, so that other work on the machine counts little."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        left, right = (torch.ones(_SIZE, _SIZE, dtype=dtype) for _ in range(2))
        times = []
        for _ in range(_ROUNDS + 1):  # the first one loads the kernel
            started = time.perf_counter()
            float((left @ right)[0, 0])
            times.append(time.perf_counter() - started)
        return min(times[1:])
    finally:
        torch.set_num_threads(before)


def _processor() -> str:
    """The model, and what it can do: a virtual machine may hide either."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    return f"{found[0] if found else platform.processor()}{' bf16' if 'bf16' in flags else ''}"


def _load(cache: Path) -> dict[str, Any]:
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
