"""An engine folder is believed only when it is what was asked for: version, mapping, limits, a file for every rank."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.plan import BuildPlan
from profiles import precisions
from trtllm_kit.errors import BuildStepError, IncompatibleError, SpecError
from trtllm_kit.files import read_json

_LIMITS = ("max_batch_size", "max_input_len", "max_num_tokens", "max_beam_width", "gather_context_logits")
_SWITCHES = ("remove_input_padding", "context_fmha", "use_paged_context_fmha", "use_fp8_context_fmha")


def check_engine(folder: Path, plan: BuildPlan) -> None:
    """Refuse an engine folder that does not keep the plan; BuildStepError lists every difference."""
    try:
        config = read_json(folder / "config.json", "the engine's config.json")
    except SpecError as error:
        raise BuildStepError(error.happened, expected="the config.json that trtllm-build writes", fix=_FIX) from None
    version = config.get("version") if isinstance(config, dict) else None
    if version != plan.trtllm_version:
        raise IncompatibleError(
            f"the engine is of TensorRT-LLM {version}, the plan is for {plan.trtllm_version}",
            expected="the version that will serve it",
            fix=f"set trtllm_version to {version}, or build in the container of {plan.trtllm_version}",
        )
    found = _flat(config)
    problems = [
        f"{name} is {found.get(name)!r}, not {wanted!r}"
        for name, wanted in _expected(plan).items()
        if not _same(found.get(name), wanted)
    ]
    problems += [f"rank{rank}.engine is missing or empty" for rank in range(plan.world_size) if _is_empty(folder, rank)]
    if problems:
        raise BuildStepError(
            "the engine is not what was asked for: " + "; ".join(problems),
            expected="every limit of the plan, and one engine for each of its ranks",
            fix=_FIX,
        )


_FIX = "read the build's log; trtllm-build changed or lost something without failing"


def _expected(plan: BuildPlan) -> dict[str, Any]:
    flags = plan.build
    wanted: dict[str, Any] = {
        "mapping.world_size": plan.world_size,
        "mapping.tp_size": plan.tp_size,
        "mapping.pp_size": plan.pp_size,
        "quantization.quant_algo": precisions.find(plan.precision).quant_algo,
        "quantization.kv_cache_quant_algo": precisions.kv_quant_algo(plan.kv_cache.dtype),
        "logits_dtype": flags.logits_dtype,
        "kv_cache_type": flags.kv_cache_type,
        "tokens_per_block": flags.tokens_per_block,
        **{name: getattr(flags, name) for name in _LIMITS},
        **{name: getattr(flags, name) == "enable" for name in _SWITCHES},
    }
    if flags.speculative_decoding_mode is None:  # else upstream adds the draft's length
        wanted["max_seq_len"] = flags.max_seq_len
    if flags.opt_num_tokens is not None:
        wanted["opt_num_tokens"] = flags.opt_num_tokens
    return wanted


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of an engine's config that are compared, one level deep."""
    pretrained, build = _group(config, "pretrained_config"), _group(config, "build_config")
    nested = {
        f"{part}.{name}": value
        for part in ("mapping", "quantization")
        for name, value in _group(pretrained, part).items()
    }
    return {**pretrained, **build, **_group(build, "plugin_config"), **nested}


def _group(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, dict) else {}


def _same(found: Any, wanted: Any) -> bool:
    """Older versions write enums by name ("PAGED")."""
    return found.lower() == wanted.lower() if isinstance(found, str) and isinstance(wanted, str) else found == wanted


def _is_empty(folder: Path, rank: int) -> bool:
    engine = folder / f"rank{rank}.engine"
    return not engine.is_file() or engine.stat().st_size == 0
