"""From a TensorRT engine to the runtime that outlives it: what is lost, what replaces it, and the next spec."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from profiles import precisions, skus, support, versions
from trtllm_kit.errors import SpecError

_KEPT_BUILD_KEYS = frozenset(
    {"max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_beam_width", "tokens_per_block"}
)
_ENGINE_SERVING_KEYS = frozenset(
    {"preprocessing_instance_count", "postprocessing_instance_count", "bls_instance_count", "accumulate_tokens"}
)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that the new runtime does not have, and what takes its place ("" for nothing)."""

    lost: str
    replacement: str = ""


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What moving an artifact means. `new_spec` is the tree of a `trtllm-kit.yaml`."""

    source_runtime: str
    target_runtime: str
    changes: tuple[Change, ...]
    new_spec: Mapping[str, Any]

    @property
    def lost(self) -> list[str]:
        """What nothing replaces."""
        return [change.lost for change in self.changes if not change.replacement]

    @property
    def replaced(self) -> list[tuple[str, str]]:
        """(what goes, what comes) for everything else."""
        return [(change.lost, change.replacement) for change in self.changes if change.replacement]


@dataclass(frozen=True, kw_only=True)
class _Row(Change):
    applies: Callable[[Mapping[str, Any]], bool] = lambda spec: True


def _has(group: str, key: str, *values: Any) -> Callable[[Mapping[str, Any]], bool]:
    return lambda spec: (spec.get(group) or {}).get(key) in values


_ROWS: tuple[_Row, ...] = (
    _Row(lost="engine files (rank*.engine)", replacement="the unified Hugging Face checkpoint, loaded without a build"),
    _Row(
        lost="a fixed kernel choice, made at build time",
        replacement="kernels chosen at start-up: the first start takes longer",
    ),
    _Row(lost="backend tensorrtllm in C++", replacement="a python model over tensorrt_llm.LLM (llmapi)"),
    _Row(
        lost="the models preprocessing, postprocessing, ensemble and tensorrt_llm_bls",
        replacement="one model tensorrt_llm with text in and text out; clients change the model's name",
    ),
    _Row(
        lost="tensor names of the engine templates (text_input, max_tokens, temperature, ...)",
        replacement="text_input and sampling_param_* (sampling_param_max_tokens, sampling_param_temperature, ...)",
    ),
    _Row(
        lost="streamed deltas: each response held only the new text",
        replacement="cumulative text: each response holds all text so far; clients cut off what they have",
        applies=_has("serving", "decoupled_mode", True),
    ),
    _Row(lost="a batch dimension in requests", replacement="one prompt for each request; batching happens in flight"),
    _Row(
        lost="nv_trt_llm_* metrics (KV cache blocks, in-flight batch)",
        replacement="Triton's own nv_inference_* metrics; autoscale on those",
    ),
    _Row(
        lost="input tensors without a counterpart: bad_words, embedding_bias, prompt_embedding_table, draft_input_ids",
    ),
    _Row(lost="output tensors without a counterpart: context_logits, generation_logits, output_log_probs"),
    _Row(
        lost="context logits",
        applies=_has("build", "gather_context_logits", True),
    ),
    _Row(
        lost="generation logits",
        applies=_has("build", "gather_generation_logits", True),
    ),
    _Row(
        lost="speculative decoding as it was built into the engine",
        applies=lambda spec: (spec.get("build") or {}).get("speculative_decoding_mode") is not None,
    ),
    _Row(lost="BLS: draft and target models, and business logic of your own"),
    _Row(
        lost="accumulate_tokens",
        replacement="the llmapi model's own detokenizer, which keeps spaces",
        applies=_has("serving", "accumulate_tokens", True),
    ),
)


def plan_migration(
    spec_tree: Mapping[str, Any],
    manifest: Mapping[str, Any],
    to: str = "pytorch",
    *,
    available: Sequence[str] | None = None,
) -> Migration:
    """What becomes of an engine artifact in the `pytorch` runtime. Pure; builds nothing.

    `spec_tree` and `manifest` are the artifact's; `available` are the precisions that can be built (default: all).
    Raises SpecError when there is nothing to migrate or no precision is possible on the artifact's SKU.
    """
    runtime = str(manifest.get("runtime"))
    _check_pair(runtime, to)
    sku = skus.find(str(manifest.get("target", {}).get("sku")))
    spec = copy.deepcopy(dict(spec_tree))
    old_version = str(spec.get("trtllm_version", versions.DEFAULT))
    version = old_version if versions.has_pytorch_path(old_version) else versions.DEFAULT
    cell = _Cell(
        precision=str(manifest.get("precision")), kv_dtype=str((spec.get("kv_cache") or {}).get("dtype", "auto"))
    )
    new = _replace(cell, sku, version, tuple(precisions.precisions()) if available is None else available)
    changes = [Change(lost=row.lost, replacement=row.replacement) for row in _ROWS if row.applies(spec)]
    changes += _cell_changes(cell, new, sku)
    if version != old_version:
        changes.append(Change(lost=f"TensorRT-LLM {old_version}", replacement=f"{version}, which has the backend"))
    return Migration(
        source_runtime=runtime, target_runtime=to, changes=tuple(changes), new_spec=_new_spec(spec, new, version, to)
    )


@dataclass(frozen=True, kw_only=True)
class _Cell:
    precision: str
    kv_dtype: str


def _check_pair(runtime: str, to: str) -> None:
    if to != "pytorch":
        raise SpecError(f"no migration leads to '{to}'", expected="pytorch", fix="use --to pytorch")
    if runtime != "tensorrt":
        raise SpecError(
            f"an artifact of the {runtime} runtime has no engine to migrate from",
            expected="an artifact of the tensorrt runtime",
            fix="set `runtime: pytorch` and a GPU in `target.sku`, and build again",
        )


def _replace(cell: _Cell, sku: skus.Sku, version: str, available: Sequence[str]) -> _Cell:
    """The closest cell that the PyTorch backend runs: the precision is kept before the KV cache's dtype is."""
    for precision_only in (True, False):
        for kv_dtype in dict.fromkeys((cell.kv_dtype, "fp8" if cell.kv_dtype == "int8" else "auto", "auto")):
            if precision_only and not support.is_possible("pytorch", cell.precision, kv_dtype, sku, version):
                continue
            found = support.closest_precision("pytorch", cell.precision, kv_dtype, sku, version, available)
            if found:
                return _Cell(precision=found, kv_dtype=kv_dtype)
    raise SpecError(
        f"nothing like {cell.precision} runs in the PyTorch backend on {sku.id}",
        expected="a SKU of TensorRT-LLM's support matrix",
        fix="choose another target.sku for the new build",
    )


def _cell_changes(old: _Cell, new: _Cell, sku: skus.Sku) -> list[Change]:
    """The precision and the KV cache dtype, where they cannot stay."""
    changes = []
    if new.precision != old.precision:
        why = f"the closest precision that the PyTorch backend runs on {sku.id} and that can be built here"
        changes.append(Change(lost=f"precision {old.precision}", replacement=f"{new.precision}: {why}"))
    if new.kv_dtype != old.kv_dtype:
        why = f"the PyTorch backend has no {old.kv_dtype} KV cache on {sku.id}"
        changes.append(Change(lost=f"KV cache in {old.kv_dtype}", replacement=f"{new.kv_dtype}: {why}"))
    return changes


def _new_spec(spec: dict[str, Any], cell: _Cell, version: str, runtime: str) -> dict[str, Any]:
    """The old spec with what the runtime still reads; engine flags go, so that their defaults are decided anew."""
    kept = {
        "build": {name: value for name, value in (spec.get("build") or {}).items() if name in _KEPT_BUILD_KEYS},
        "serving": {
            name: value for name, value in (spec.get("serving") or {}).items() if name not in _ENGINE_SERVING_KEYS
        },
        "kv_cache": {**(spec.get("kv_cache") or {}), "dtype": cell.kv_dtype},
    }
    return {**spec, **kept, "precision": cell.precision, "runtime": runtime, "trtllm_version": version}
