"""What a tritonserver log says about a failure, in the words of somebody who has seen it before."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_TAIL_BYTES = 256 * 1024
_TELLING = re.compile(r"^(E\d{4} |error:|.*(Traceback|Error:|\bfailed\b|FATAL|UNAVAILABLE))", re.IGNORECASE)
_HARMLESS = ("cuda", "pinned memory", "CudaDriverHelper", "driver version is insufficient", "ensemble stream")


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One known failure: how the log shows it, what it means, what to do."""

    pattern: str
    meaning: str
    fix: str


CAUSES = (
    Cause(
        pattern=r"Expected integer( or identifier)?, got: \$",
        meaning="the model repository holds an unfilled ${...} variable",
        fix="render it again with `trtllm-kit build repository`",
    ),
    Cause(
        pattern=r"unable to find backend library for backend '([^']+)'",
        meaning="the server has no backend of the name that the repository asks for",
        fix="serve it with the server of its runtime: the pinned TensorRT-LLM container, or the local cpu backend",
    ),
    Cause(
        pattern=r"at least one version must be available",
        meaning="a model has no version folder `1/`",
        fix="check the copy with `trtllm-kit artifact verify`; tools that drop empty folders break it",
    ),
    Cause(
        pattern=r"parse_error\.101|config\.json.*(No such file|does not exist)|model paths are empty",
        meaning="the engine folder is missing or holds no config.json",
        fix="check the artifact with `trtllm-kit artifact verify`",
    ),
    Cause(
        pattern=r"undefined symbol|expecting.*TensorRT.*version|libnvinfer.*cannot open|different version of TensorRT",
        meaning="the engine was built with another TensorRT-LLM or TensorRT than this server has",
        fix="deploy with the image that the artifact names, or rebuild the engine for this version",
    ),
    Cause(
        pattern=r"mpiSize|worldSize is expected to be equal|world size",
        meaning="the number of MPI ranks is not tp * pp",
        fix="start it with `trtllm-kit deploy`, which launches one rank per GPU",
    ),
    Cause(
        pattern=r"paged context FMHA",
        meaning="KV block reuse is on, but the engine was built without use_paged_context_fmha",
        fix="build the engine with use_paged_context_fmha: enable, or set kv_cache.enable_block_reuse: false",
    ),
    Cause(
        pattern=r"out of memory|OutOfMemory|cudaErrorMemoryAllocation|bad_alloc|MemoryError",
        meaning="the memory of the target was not enough",
        fix="lower kv_cache.free_gpu_memory_fraction or max_batch_size, or stop what else uses that memory",
    ),
    Cause(
        pattern=r"Address already in use|failed to (start|listen).*(HTTP|GRPC|Metrics)|Socket .* already in use",
        meaning="a port was taken by another process while the server started",
        fix="deploy again, or choose other ports",
    ),
    Cause(
        pattern=r"No space left on device.*shm|(Failed to initialize Python stub.*|Unable to initialize) shared memory",
        meaning="there is not enough shared memory in /dev/shm for the Python models",
        fix="free /dev/shm, or give the container a larger --shm-size",
    ),
    Cause(
        pattern=r"(ModuleNotFoundError|No module named) ?:? ?'?([\w.]+)",
        meaning="a Python package that a model needs is not in the server's environment",
        fix="install it there: pip install 'trtllm-kit[cpu,triton]'",
    ),
)


def tail(path: Path, lines: int = 15) -> list[str]:
    """The last lines of a log; empty when there is none."""
    return _read_tail(path).splitlines()[-lines:]


def telling_lines(path: Path, limit: int = 12) -> list[str]:
    """The lines that name errors, without those that every start without a GPU prints; else the log's end."""
    errors = [
        line
        for line in _read_tail(path).splitlines()
        if _TELLING.search(line) and not any(word.lower() in line.lower() for word in _HARMLESS)
    ]
    return list(dict.fromkeys(errors))[-limit:] or tail(path, limit)


def known_cause(path: Path) -> Cause | None:
    """The first row of CAUSES that the log shows."""
    text = _read_tail(path)
    return next((cause for cause in CAUSES if re.search(cause.pattern, text, re.IGNORECASE)), None)


def _read_tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
