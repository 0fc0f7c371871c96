"""Quantized checkpoint → engine: one module per runtime, all behind one Protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from builder.plan import BuildPlan
from builder.quantize.schemes import Layout
from trtllm_kit.console import Talk


class Compiler(Protocol):
    """What a runtime is to the build. A module is an implementation."""

    LAYOUT: Layout
    """Which layout of the quantized checkpoint it reads."""

    def check(self, plan: BuildPlan) -> None:
        """Refuse, before any work, what this runtime cannot do here; HostError when its tools are absent."""

    def inputs(self, plan: BuildPlan) -> dict[str, Any]:
        """All that the engine depends on beside the quantized checkpoint: flags, tool versions. Plain JSON values."""

    def versions(self, plan: BuildPlan) -> dict[str, str]:
        """The stack that the engine is tied to, by name: "tensorrt_llm", "tensorrt", "triton_image", "openvino", ..."""

    def facts(self, compiled: Path) -> dict[str, Any]:
        """What the manifest says of a finished engine beside all that the plan says. Plain JSON values."""

    def compile(self, quantized: Path, plan: BuildPlan, out: Path, talk: Talk) -> None:
        """Fill the empty folder `out` with the engine; BuildStepError, FitError or HostError when it cannot."""
