"""The table of runtimes; a new runtime is one module and one row."""

from __future__ import annotations

from collections.abc import Mapping

from builder.compile import Compiler, cpu, pytorch, tensorrt
from trtllm_kit.spec import Runtime

COMPILERS: Mapping[Runtime, Compiler] = {"tensorrt": tensorrt, "pytorch": pytorch, "cpu": cpu}


def compiler_for(runtime: Runtime) -> Compiler:
    """The module that compiles for `runtime`."""
    return COMPILERS[runtime]
