"""Asks AIConfigurator for the throughput of replicas; runs in the environment where it is installed.

Questions come as JSON lines on stdin (system, model, precision, tp, pp, attention_dp, isl, osl) and go back on stdout
with `output_tokens_per_s` of the replica, or with `why_not`. It takes a batch size and gives the memory of it, so the
batch is the largest that fits: memory is a straight line in the batch, known from two estimates.
"""

from __future__ import annotations

import functools
import json
import logging
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

_SMALL, _LARGE, _CEILING = 1, 8, 4096  # sequences; trtllm-bench asks for no more than the last
_SHRINK, _ATTEMPTS = 0.93, 8
_MODES = {
    "fp8": {"gemm_quant_mode": "fp8", "moe_quant_mode": "fp8", "kvcache_quant_mode": "fp8"},
    "nvfp4": {"gemm_quant_mode": "nvfp4", "moe_quant_mode": "nvfp4", "kvcache_quant_mode": "fp8"},
    "fp16": {"gemm_quant_mode": "bfloat16", "moe_quant_mode": "bfloat16", "kvcache_quant_mode": "bfloat16"},
    "mxfp4": {},  # as the checkpoint says
}
_DATABASES = ("SILICON", "HYBRID")  # measured kernels alone, else with formulas where there are none


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """`question` with what the peer says."""
    why_not = ""
    for database in _DATABASES:
        ask = functools.partial(_estimate, question, database)
        try:
            return {**question, "output_tokens_per_s": _largest(ask, question["memory_gib"]), "database": database}
        except Exception as error:  # whatever the peer cannot do is its answer
            why_not = f"{type(error).__name__}: {str(error)[:160]}"
    return {**question, "why_not": why_not}


def _largest(ask: Any, memory_gib: float) -> float:
    """Tokens/s at the largest batch that fits."""
    small, large = ask(_SMALL), ask(_LARGE)
    each_gib = max((large.memory - small.memory) / (_LARGE - _SMALL), 1e-6)
    batch = min((memory_gib - small.memory) / each_gib + _SMALL, _CEILING)
    for _ in range(_ATTEMPTS):
        try:
            return _tokens_per_s(ask(max(int(batch), 1)))
        except RuntimeError as error:
            if "OOM" not in str(error):
                raise
            batch *= _SHRINK
    raise RuntimeError("no batch fits")


def _tokens_per_s(result: Any) -> float:
    return float(result.tokens_per_second_per_gpu) * result.num_total_gpus


def _estimate(question: dict[str, Any], database: str, batch: int) -> Any:
    from aiconfigurator.cli.api import cli_estimate

    gpus = question["tp"]
    dp = question["attention_dp"]
    parallel = {"tp_size": 1, "attention_dp_size": gpus} if dp else {"tp_size": gpus}
    experts = {"moe_tp_size": 1, "moe_ep_size": gpus} if dp else {"moe_tp_size": gpus, "moe_ep_size": 1}
    return cli_estimate(
        _model(question["model"]),
        question["system"],
        database_mode=database,
        isl=question["isl"],
        osl=question["osl"],
        batch_size=max(batch // gpus, 1) if dp else batch,
        pp_size=question["pp"],
        **parallel,
        **(experts if question["moe"] else {}),
        **_MODES[question["precision"]],
    )


@functools.cache
def _model(name: str) -> str:
    """`name`, or a folder with the configuration that the peer has of it but would look for on the internet."""
    import aiconfigurator_core
    from aiconfigurator_core.sdk.common import DefaultHFModels

    shipped = Path(aiconfigurator_core.__file__).parent / "model_configs" / f"{name.replace('/', '--')}_config.json"
    if name in DefaultHFModels or not shipped.is_file():
        return name
    folder = tempfile.mkdtemp()
    shutil.copy(shipped, Path(folder) / "config.json")
    return folder


def _read_versions_once() -> None:
    """For each estimate the peer looks for its newest data in hundreds of YAML files; they do not change meanwhile."""
    from aiconfigurator_core.sdk import perf_database

    perf_database.get_supported_databases = functools.cache(perf_database.get_supported_databases)
    perf_database._declared_versions = functools.cache(perf_database._declared_versions)


def main() -> None:
    """One answer for each line, at once."""
    _read_versions_once()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
