"""What a failed build's log means: every row of the table is met by a text that upstream prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.compile.trtllm_errors import FAILURES, explain
from trtllm_kit.errors import BuildStepError, FitError, HostError, IncompatibleError, KitError, SpecError

TEXTS: list[tuple[str, type[KitError], str]] = [
    (
        "Version tag does not match. Note: Current Version: 228, Serialized Engine Version: 237",
        IncompatibleError,
        "tag 237, this one is 228",
    ),
    (
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',
        HostError,
        "cannot give the container a GPU",
    ),
    (
        "Unable to find image 'nvcr.io/x:26.07' locally\n26.07: Pulling\nError response from daemon: unauthorized",
        HostError,
        "cannot pull nvcr.io/x:26.07",
    ),
    ("OSError: [Errno 28] No space left on device", HostError, "disk is full"),
    ("[TRT] [E] 2: [virtualMemoryBuffer.cpp::140] Error Code 2: OutOfMemory", FitError, "the GPU's memory"),
    ("CUDA runtime error in ::cudaMallocAsync(ptr, n, s): out of memory", FitError, "the GPU's memory"),
    ("MemoryError", FitError, "the host's memory"),
    ("RuntimeError: INT8/INT4 quantization is not supported on SM>=100.", SpecError, "INT8/INT4 quantization is not"),
    ("RuntimeError: SmoothQuant is not supported on SM>=100.", SpecError, "SmoothQuant is not"),
    ("CUDA error: no kernel image is available for execution on the device", IncompatibleError, "no kernels"),
    ("CUDA driver version is insufficient for CUDA runtime version", HostError, "driver is older"),
    ("RuntimeError: Found no NVIDIA driver on your system.", HostError, "finds no GPU"),
    ("trtllm-build: error: unrecognized arguments: --tp_size 2", BuildStepError, "unrecognized arguments: --tp_size 2"),
    ("RuntimeError: Required but not provided tensors:{'lm_head.weight'}", BuildStepError, "lm_head.weight"),
    (
        "Encounter error 'The value updated is not the same shape as the original. Updated: (4608, 4096), original: "
        "(2304, 4096)' for parameter 'transformer.layers.0.attention.qkv.weight'",
        BuildStepError,
        "shape (4608, 4096), the model wants (2304, 4096): transformer.layers.0.attention.qkv.weight",
    ),
    ("AssertionError: Unsupported model architecture: NewForCausalLM", HostError, "cannot build the model"),
]


@pytest.mark.parametrize(("text", "error", "words"), TEXTS)
def test_a_text_is_translated(text: str, error: type[KitError], words: str, tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text(f"[TensorRT-LLM] TensorRT LLM version: 1.2.1\n{text}\n")
    found = explain(log, 1)
    assert type(found) is error
    assert words in found.happened
    assert str(log) in found.happened
    assert found.fix


def test_every_row_has_its_text() -> None:
    met = {next(row.pattern.pattern for row in FAILURES if row.pattern.search(text)) for text, _, _ in TEXTS}
    assert met == {row.pattern.pattern for row in FAILURES}


@pytest.mark.parametrize("exit_code", [-9, 137])
def test_a_kill_is_taken_for_a_full_host(exit_code: int, tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text("")
    assert type(explain(log, exit_code)) is FitError


@pytest.mark.parametrize("exit_code", [1, -11, 139])
def test_what_nobody_knows_stays_a_failed_step(exit_code: int, tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_bytes(b"line\n" * 100 + b"\xff\xfe the last words\n")
    found = explain(log, exit_code)
    assert type(found) is BuildStepError
    assert "the last words" in found.happened
    assert found.happened.count("line") <= 12


def test_only_the_end_of_a_long_log_counts(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text("CUDA out of memory, and then it went on\n" + "all is well\n" * 200_000)
    assert type(explain(log, 1)) is BuildStepError
