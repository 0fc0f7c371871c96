"""Whether an artifact may run on a target, decided from facts alone, before anything is started.

An engine is tied to its GPU, its TensorRT and its TensorRT-LLM; serving it elsewhere fails late or, worse, works
slowly. All differences are listed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from profiles.skus import slices
from trtllm_kit.errors import IncompatibleError


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a deployment target offers. A fact that is None is not known and not compared."""

    name: str  # "tritonserver 2.51.0 on this machine"
    runtimes: tuple[str, ...] | None = None  # what its server can serve
    sku: str | None = None  # "h100_sxm"
    sm: int | None = None  # 90 for compute capability 9.0
    gpu_count: int | None = None
    trtllm: str | None = None
    tensorrt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One fact that does not fit."""

    what: str
    built_for: str
    target_has: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: built for {self.built_for}, the target has {self.target_has} -> {self.fix}"


def check(manifest: Mapping[str, Any], target: Target) -> None:
    """Raise IncompatibleError with every difference between what was built and where it shall run."""
    found = differences(manifest, target)
    if found:
        lines = "".join(f"\n    {difference}" for difference in found)
        raise IncompatibleError(
            f"{manifest['identifier']} does not fit {target.name}:{lines}",
            expected="the SKU, versions and number of GPUs that the artifact was built for",
            fix="follow the arrows above, or build for this target with `trtllm-kit build model`",
        )


def differences(manifest: Mapping[str, Any], target: Target) -> tuple[Difference, ...]:
    """What does not fit, in the order of RULES. A runtime that cannot be served at all hides the rest."""
    for rule in RULES:
        if found := rule(manifest, target):
            return found
    return ()


def _runtime(manifest: Mapping[str, Any], target: Target) -> tuple[Difference, ...]:
    runtime = manifest["runtime"]
    if target.runtimes is None or runtime in target.runtimes:
        return ()
    has = f"a server for {' and '.join(target.runtimes) or 'nothing'}"
    return (Difference(what="runtime", built_for=runtime, target_has=has, fix=_RUNTIME_FIXES[runtime]),)


def _facts(manifest: Mapping[str, Any], target: Target) -> tuple[Difference, ...]:
    if manifest["runtime"] == "cpu":
        return ()
    return tuple(difference for fact in _FACTS if (difference := fact(manifest, target)) is not None)


def _sku(manifest: Mapping[str, Any], target: Target) -> Difference | None:
    built = manifest["target"]["sku"]
    if target.sku in (None, built):
        return None
    fix = f"deploy on {built}, or build with --sku {target.sku}"
    if _whole(built) == _whole(str(target.sku)):
        fix = f"a MIG slice is no whole GPU, nor another slice: {fix}"
    return Difference(what="SKU", built_for=built, target_has=str(target.sku), fix=fix)


def _whole(sku_id: str) -> str:
    """The SKU that a MIG slice is cut from; a whole one is its own."""
    part = slices().get(sku_id)
    return part.whole_id if part else sku_id


def _compute_capability(manifest: Mapping[str, Any], target: Target) -> Difference | None:
    built = manifest["target"].get("sm")
    if built is None or target.sm in (None, built):
        return None
    return Difference(
        what="compute capability",
        built_for=_capability(built),
        target_has=_capability(target.sm or 0),
        fix="engines do not move between GPU generations: build for this GPU",
    )


def _world_size(manifest: Mapping[str, Any], target: Target) -> Difference | None:
    tp, pp = manifest["target"]["tp_size"], manifest["target"]["pp_size"]
    if target.gpu_count is None or target.gpu_count >= tp * pp:
        return None
    return Difference(
        what="world size",
        built_for=f"{tp * pp} GPUs (tp {tp} x pp {pp})",
        target_has=f"{target.gpu_count}",
        fix=f"use {tp * pp} GPUs, or build with a smaller target.tp_size and target.pp_size",
    )


def _trtllm(manifest: Mapping[str, Any], target: Target) -> Difference | None:
    built = manifest["versions"].get("tensorrt_llm")
    if built is None or target.trtllm in (None, built):
        return None
    return Difference(
        what="TensorRT-LLM",
        built_for=built,
        target_has=str(target.trtllm),
        fix=f"use the image of {built}{_image(manifest)}, or build with trtllm_version: {target.trtllm}",
    )


def _tensorrt(manifest: Mapping[str, Any], target: Target) -> Difference | None:
    built = manifest["versions"].get("tensorrt")
    if manifest["runtime"] != "tensorrt" or built is None or target.tensorrt is None:
        return None
    if all(one == other for one, other in zip(built.split("."), target.tensorrt.split("."), strict=False)):
        return None  # 10.14.1 and 10.14.1.48 are one release, written with and without its build number
    return Difference(
        what="TensorRT",
        built_for=built,
        target_has=target.tensorrt,
        fix=f"use an image with TensorRT {built}{_image(manifest)}, or rebuild the engine in the target's image",
    )


def _image(manifest: Mapping[str, Any]) -> str:
    image = manifest["versions"].get("triton_image")
    return f" ({image})" if image else ""


def _capability(sm: int) -> str:
    return f"{sm // 10}.{sm % 10}"


_RUNTIME_FIXES = {
    "cpu": "deploy with --to local, which brings the cpu backend",
    "tensorrt": "deploy with --to docker or --to compose on a GPU machine, or build with --runtime cpu for this one",
    "pytorch": "deploy with --to docker or --to compose on a GPU machine, or build with --runtime cpu for this one",
}
_FACTS: tuple[Callable[[Mapping[str, Any], Target], Difference | None], ...] = (
    _sku,
    _compute_capability,
    _world_size,
    _trtllm,
    _tensorrt,
)
RULES: tuple[Callable[[Mapping[str, Any], Target], tuple[Difference, ...]], ...] = (_runtime, _facts)
