"""What TensorRT-LLM, TensorRT and docker say when a build fails, and what it means: a table of patterns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trtllm_kit.errors import BuildStepError, FitError, HostError, IncompatibleError, KitError, SpecError

_TAIL_LINES = 12
_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One row: `pattern` in the log means `happened`. Named groups of the pattern may stand in the texts."""

    pattern: re.Pattern[str]
    error: type[KitError]
    happened: str
    expected: str
    fix: str


FAILURES: tuple[Failure, ...] = (
    Failure(
        pattern=re.compile(
            r"Version tag does not match\. Note: Current Version: (?P<current>\d+), "
            r"Serialized Engine Version: (?P<engine>\d+)"
        ),
        error=IncompatibleError,
        happened="TensorRT refuses serialized data of another TensorRT (tag {engine}, this one is {current})",
        expected="one TensorRT for building and serving",
        fix="build and serve in the same container; remove old timing caches and engines",
    ),
    Failure(
        pattern=re.compile(
            r"could not select device driver|nvidia-container-cli: .*|unknown or invalid runtime name: nvidia"
        ),
        error=HostError,
        happened="docker cannot give the container a GPU",
        expected="docker with the NVIDIA container toolkit",
        fix="install nvidia-container-toolkit and restart docker",
    ),
    Failure(
        pattern=re.compile(
            r"Unable to find image '(?P<image>[^']+)' locally(?=[\s\S]*(?:Error response|pull access denied))"
        ),
        error=HostError,
        happened="docker cannot pull {image}",
        expected="access to NVIDIA's registry",
        fix="`docker login nvcr.io`, or load the image from a file with `docker load`",
    ),
    Failure(
        pattern=re.compile(r"No space left on device|Errno 28"),
        error=HostError,
        happened="the disk is full",
        expected="room for the engine, about the size of its checkpoint",
        fix="free some space, or choose another store with TRTLLM_KIT_STORE",
    ),
    Failure(
        pattern=re.compile(
            r"Error Code 2: OutOfMemory|CUDA out of memory|CUDA runtime error in .*out of memory"
            r"|cudaErrorMemoryAllocation"
        ),
        error=FitError,
        happened="the GPU's memory did not suffice to build the engine",
        expected="room for the weights and for the tactics that TensorRT tries",
        fix="end what else runs on the GPU, lower build.max_batch_size or max_num_tokens, or raise target.tp_size",
    ),
    Failure(
        pattern=re.compile(r"DefaultCPUAllocator: .*|std::bad_alloc|\bMemoryError\b"),
        error=FitError,
        happened="the host's memory did not suffice to build the engine",
        expected="free memory of about twice the checkpoint for each worker",
        fix="set build.workers to 1, or build on a machine with more memory",
    ),
    Failure(
        pattern=re.compile(
            r"(?P<what>INT8/INT4 quantization|SmoothQuant|Per-channel or per-token scaling) is not supported on SM"
        ),
        error=SpecError,
        happened="{what} is not supported on this GPU's architecture",
        expected="a precision that the GPU runs",
        fix="choose fp8, nvfp4 or bf16 for Blackwell, or another SKU",
    ),
    Failure(
        pattern=re.compile(
            r"[Uu]nsupported (?:SM|GPU architecture|data type on.*SM)[^\n]*|no kernel image is available"
        ),
        error=IncompatibleError,
        happened="this TensorRT-LLM has no kernels for this GPU",
        expected="a GPU of its support matrix",
        fix="choose a newer trtllm_version, or a SKU that this one supports",
    ),
    Failure(
        pattern=re.compile(
            r"NVIDIA driver on your system is too old|CUDA driver version is insufficient"
            r"|system has unsupported display driver"
        ),
        error=HostError,
        happened="the NVIDIA driver is older than this TensorRT-LLM needs",
        expected="the driver of the compatibility matrix",
        fix="update the driver, or choose the trtllm_version that belongs to it",
    ),
    Failure(
        pattern=re.compile(
            r"Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device"
            r"|libcuda\.so\.1: cannot open|invalid device ordinal"
        ),
        error=HostError,
        happened="trtllm-build finds no GPU",
        expected="an NVIDIA GPU and its driver, also for --dry_run",
        fix="run on a machine with the GPU; in a container, give it with --gpus all",
    ),
    Failure(
        pattern=re.compile(r"trtllm-build: error: (?P<what>[^\n]+)"),
        error=BuildStepError,
        happened="trtllm-build does not accept its arguments: {what}",
        expected="the flags of the plan's TensorRT-LLM",
        fix="check that trtllm_version is the version that is called",
    ),
    Failure(
        pattern=re.compile(
            r"(?P<what>Provided tensor names are different from those expected[^\n]{0,300}"
            r"|Required but not provided tensors[^\n]{0,300})"
        ),
        error=BuildStepError,
        happened="the checkpoint's tensors are not those of the model: {what}",
        expected="every tensor that the model's architecture has",
        fix="build the checkpoint again with `trtllm-kit build checkpoint --rebuild`",
    ),
    Failure(
        pattern=re.compile(
            r"The value updated is not the same shape as the original\. Updated: (?P<got>\([^)]*\)), "
            r"original: (?P<want>\([^)]*\))(?:' for parameter '(?P<name>[^']+)')?"
        ),
        error=BuildStepError,
        happened="a tensor of the checkpoint has the shape {got}, the model wants {want}: {name}",
        expected="shapes that follow from config.json and the parallel mapping",
        fix="build the checkpoint again with `trtllm-kit build checkpoint --rebuild`",
    ),
    Failure(
        pattern=re.compile(r"Unsupported model architecture: (?P<name>\S+)|No module named '(?P<module>tensorrt\w*)'"),
        error=HostError,
        happened="this TensorRT-LLM cannot build the model ({name}{module})",
        expected="an installation that is complete and knows the architecture",
        fix="use the pinned container",
    ),
)

_SIGNALS: Mapping[int, tuple[type[KitError], str, str, str]] = {
    9: (
        FitError,
        "trtllm-build was killed, most likely because the host ran out of memory",
        "free memory of about twice the checkpoint for each worker",
        "set build.workers to 1, or build on a machine with more memory",
    ),
}


def explain(log: Path, exit_code: int) -> KitError:
    """The error that a failed build means. It names the log, which stays, and quotes its last lines."""
    text = _tail_text(log)
    where = f"\n  log:      {log}\n" + "\n".join(f"    | {line}" for line in text.splitlines()[-_TAIL_LINES:])
    for failure in FAILURES:
        match = failure.pattern.search(text)
        if match:
            found = {name: value or "" for name, value in match.groupdict().items()}
            return failure.error(failure.happened.format(**found) + where, expected=failure.expected, fix=failure.fix)
    # A shell and docker report a signal as 128 + its number.
    killed = _SIGNALS.get(-exit_code if exit_code < 0 else exit_code - 128)
    if killed:
        error, happened, expected, fix = killed
        return error(happened + where, expected=expected, fix=fix)
    return BuildStepError(
        f"trtllm-build ended with exit code {exit_code}{where}",
        expected="exit code 0",
        fix="read the log; the quantized checkpoint is kept, so the next build resumes here",
    )


def _tail_text(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _READ_BYTES))
        return file.read().decode(errors="replace")
