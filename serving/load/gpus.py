"""What NVML says of this machine's GPUs while a load runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

_ASKED: Mapping[str, Callable[[Any, Any], float]] = MappingProxyType(
    {
        "power_w": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
        "sm_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
        "memory_used_bytes": lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
        "utilization_percent": lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    }
)


class Gpus:
    """All GPUs that NVML shows; none where there is no driver. Close it."""

    def __init__(self) -> None:
        import pynvml

        self._nvml = pynvml
        self._handles: list[Any] = []
        self._open = False
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self._open = True
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(at) for at in range(pynvml.nvmlDeviceGetCount())]

    def __len__(self) -> int:
        return len(self._handles)

    def read(self) -> list[dict[str, float]]:
        """One row per GPU, units in the names; what a GPU does not tell is left out."""
        rows = []
        for handle in self._handles:
            row: dict[str, float] = {}
            for name, ask in _ASKED.items():
                with contextlib.suppress(self._nvml.NVMLError):
                    row[name] = ask(self._nvml, handle)
            rows.append(row)
        return rows

    def close(self) -> None:
        """Let go of the driver."""
        if self._open:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
