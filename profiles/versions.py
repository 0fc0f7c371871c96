"""Which Triton image, TensorRT, CUDA, Python and ModelOpt belong to a TensorRT-LLM version, and what it can do."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from profiles.tables import rows, words
from trtllm_kit.errors import SpecError

DEFAULT = "1.2.1"
"""The last stable version that builds engines; the `pytorch` runtime runs on it too."""

ENGINE_PATH_ENDS = "1.3.0rc21"
"""First version without the TensorRT backend: release note of v1.3.0rc20, 2026-06-30."""

PYTORCH_PATH_BEGINS = "1.0.0"
"""Release note of 1.0: PyTorch becomes the default backend; Triton's llmapi model takes no other."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One row of the compatibility matrix. None: upstream has not published it."""

    trtllm: str
    triton: tuple[str, ...]  # image tags "YY.MM", oldest first
    tensorrt: str | None
    cuda: str | None
    python: str | None
    torch: str | None
    modelopt: str | None
    driver: str | None  # the oldest that the image was qualified with
    triton_contract: str | None  # layout of the engine templates: "1.x", "0.19.0", ...; None: only llmapi is left
    source: str
    date: str

    @property
    def has_engine_path(self) -> bool:
        """Whether `trtllm-build` and Triton's engine templates exist in it."""
        return has_engine_path(self.trtllm)

    @property
    def has_pytorch_path(self) -> bool:
        """Whether a unified Hugging Face checkpoint can be served by it."""
        return has_pytorch_path(self.trtllm)

    @property
    def triton_image(self) -> str | None:
        """The newest Triton image with this TensorRT-LLM; None while there is none."""
        return f"nvcr.io/nvidia/tritonserver:{self.triton[-1]}-trtllm-python-py3" if self.triton else None

    @property
    def trtllm_image(self) -> str:
        """TensorRT-LLM's own image, without Triton."""
        return f"nvcr.io/nvidia/tensorrt-llm/release:{self.trtllm}"


def has_engine_path(version: str) -> bool:
    """Whether TensorRT engines can be built with `version`."""
    return compare(version, ENGINE_PATH_ENDS) < 0


def has_pytorch_path(version: str) -> bool:
    """Whether the `pytorch` runtime can be served with `version`."""
    return compare(version, PYTORCH_PATH_BEGINS) >= 0


def compare(left: str, right: str) -> int:
    """Negative, zero or positive as `left` is older than, the same as or newer than `right` (PEP 440)."""
    from packaging.version import InvalidVersion, Version

    try:
        first, second = Version(left), Version(right)
    except InvalidVersion as error:
        raise SpecError(
            f"not a TensorRT-LLM version: {error}",
            expected="a version such as 1.2.1 or 1.3.0rc20",
            fix=f"set trtllm_version to {DEFAULT}",
        ) from None
    return (first > second) - (first < second)


@functools.cache
def releases() -> Mapping[str, Release]:
    """The matrix by TensorRT-LLM version, newest first."""
    return {row["trtllm"]: _release(row) for row in rows("versions")}


def find(version: str = "auto") -> Release:
    """The row of a version, "auto" for the default; SpecError lists the versions that are known."""
    wanted = DEFAULT if version == "auto" else version
    known = releases()
    if wanted in known:
        return known[wanted]
    for release in known.values():
        if compare(wanted, release.trtllm) == 0:  # "1.2.1.0" is 1.2.1
            return release
    raise SpecError(
        f"TensorRT-LLM {wanted} is not in the compatibility matrix",
        expected="one of " + ", ".join(known),
        fix=f"set trtllm_version to {DEFAULT}, or to the version of the container that will serve it",
    )


def by_triton_image(tag: str) -> Release:
    """The row whose Triton images include `tag`, e.g. "26.07"; SpecError when none does."""
    for release in releases().values():
        if tag in release.triton:
            return release
    known = sorted(image for release in releases().values() for image in release.triton)
    raise SpecError(f"no TensorRT-LLM is known for Triton {tag}", expected="one of " + ", ".join(known))


def _release(row: Mapping[str, str]) -> Release:
    return Release(
        trtllm=row["trtllm"],
        triton=words(row["triton"]),
        tensorrt=row["tensorrt"] or None,
        cuda=row["cuda"] or None,
        python=row["python"] or None,
        torch=row["torch"] or None,
        modelopt=row["modelopt"] or None,
        driver=row["driver"] or None,
        triton_contract=row["triton_contract"] or None,
        source=row["source"],
        date=row["date"],
    )
