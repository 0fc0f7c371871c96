"""Which TensorRT-LLM is installed where the command runs, without importing it."""

from __future__ import annotations

import importlib.metadata


def trtllm_version() -> str | None:
    """Version of the `tensorrt-llm` distribution in this environment; None where it is absent.

    Its own import takes seconds and needs a driver, its metadata does not.
    """
    try:
        return importlib.metadata.version("tensorrt-llm")
    except importlib.metadata.PackageNotFoundError:
        return None
