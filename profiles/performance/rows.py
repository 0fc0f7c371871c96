"""Rows of measured figures, published or the user's own, as questions to the model with their true answers."""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from profiles import model_shape, precisions, skus, tables, versions
from profiles.model_shape import ModelShape
from profiles.performance.columns import Question, stack_of
from profiles.performance.hardware import MXFP4
from profiles.performance.setup import Setup
from trtllm_kit.errors import SpecError

Row = Mapping[str, str]
FindShape = Callable[[str], ModelShape]

_PRECISIONS = {"FP16": "fp16", "BF16": "bf16", "FP8": "fp8", "FP4": "nvfp4", "NVFP4": "nvfp4", "MXFP4": MXFP4}
_GEMMS = {"": "bf16", "float16": "fp16", "bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4"}
_SKUS = {
    "A100": "a100_sxm_80gb",
    "A100-SXM": "a100_sxm_80gb",
    "A100-PCIE": "a100_pcie_80gb",
    "A100-PCIE-80GB": "a100_pcie_80gb",
    "H100": "h100_sxm",
    "H100-PCIE": "h100_pcie",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "GH200": "gh200_96gb",
    "RTX6000PRO": "rtx_pro_6000",
    "RTX PRO 6000": "rtx_pro_6000",
    "H100 SXM 80GB": "h100_sxm",
    "H200 SXM 141GB": "h200_sxm",
    "A100 SXM4 80GB": "a100_sxm_80gb",
    "A100 PCIE 80GB": "a100_pcie_80gb",
    "L40S 48GB": "l40s",
    "B200 180GB": "b200_sxm",
    "GB200 192GB": "gb200",
    "RTX PRO 6000 BLACKWELL SERVER 96GB": "rtx_pro_6000",
}
_REQUESTS = ((256, 30000), (2500, 3000), (9216, 1500))
"""Requests of a published run by isl + osl, "Preparing a Dataset" of perf-overview.md; longer ones have 1,000."""

_THROUGHPUT = {"model", "precision", "isl", "osl"}
_LATENCY = {"system", "model_path", "batch_size", "tp_size", "isl", "osl"}
_TABLE_OF_SETTINGS_ENDS = "0.15"
_EARLY_BATCH, _EARLY_TOKENS = 2048, 8192


@dataclass(frozen=True)
class Measured:
    """One row: the question, and what was measured. None: the row does not say."""

    row: Row
    question: Question | None  # None: a kind of row that the model does not answer
    why_not: str = ""
    output_tokens_per_s: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None

    @property
    def is_latency(self) -> bool:
        """Whether TTFT and TPOT are asked for, and no throughput."""
        return "system" in self.row


def read(path: Path, shape: FindShape = model_shape.find) -> tuple[Measured, ...]:
    """All rows of a CSV file with the columns of either kind; SpecError names the line that cannot be read."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        try:
            header = set(reader.fieldnames or ())
            parse, needed = (_latency, _LATENCY) if "system" in header else (_throughput, _THROUGHPUT)
            if not needed <= header:
                raise SpecError(
                    f"no column {', '.join(sorted(needed - header))}",
                    expected="the columns of published throughput rows (gpu_short, model, precision, tp, isl, osl, ...)"
                    " or of measured latency rows (system, model_path, batch_size, tp_size, isl, osl, ...)",
                    fix="give the file a header line with these names",
                )
            return tuple(parse({key: value or "" for key, value in row.items() if key}, shape) for row in reader)
        except SpecError as error:
            where = f"{path}, line {reader.line_num}"
            raise SpecError(f"{where}: {error.happened}", expected=error.expected, fix=error.fix) from None
        except (ValueError, csv.Error) as error:
            raise SpecError(
                f"{path}, line {reader.line_num}: {error}", expected="a CSV file in UTF-8", fix="correct the file"
            ) from None


def requests_of(isl: int, osl: int) -> int:
    """How many requests a published run of these lengths sent."""
    return next((requests for length, requests in _REQUESTS if isl + osl <= length), 1000)


def sku_of(name: str) -> skus.Sku:
    """A SKU by its id or by the names that the published pages use; SpecError names the nearest."""
    return skus.find(_SKUS.get(name.strip().upper(), name.strip().lower().replace("-", "_").replace(" ", "_")))


def _throughput(row: Row, shape: FindShape) -> Measured:
    kind = row.get("kind") or "max_throughput"
    if kind not in ("max_throughput", "max_throughput_tuned"):
        return Measured(row, None, why_not=f"rows of kind {kind} are not predicted")
    isl, osl = _number(row, "isl"), _number(row, "osl")
    found = shape(row["model"])
    version = _version(row.get("trtllm_version", ""))
    attention_dp, tp, pp = _parallel(row, found, version)
    batch, tokens = _settings(found, version, tp, isl + osl)
    precision = _precision(row.get("precision", ""))
    sku = sku_of(row.get("gpu_short") or row.get("gpu_sku", ""))
    setup = Setup(
        shape=found,
        precision=precision,
        kv_bits=_kv_bits(precision, sku),
        sku=sku,
        tp_size=tp,
        pp_size=pp,
        ep_size=tp if attention_dp else 1,
        attention_dp=attention_dp,
        trtllm_version=version,
        max_batch_size=batch,
        max_num_tokens=tokens,
    )
    return Measured(
        row, Question(setup, isl, osl, requests=requests_of(isl, osl)), output_tokens_per_s=_total(row, setup)
    )


def _total(row: Row, setup: Setup) -> float | None:
    """Output tokens/s of the whole replica, also from a row that only gives those of one GPU."""
    if row.get("output_tokens_per_s_total"):
        return float(row["output_tokens_per_s_total"])
    if not row.get("output_tokens_per_s"):
        return None
    return float(row["output_tokens_per_s"]) * (setup.tp_size * setup.pp_size if row.get("basis") == "per_gpu" else 1)


def _latency(row: Row, shape: FindShape) -> Measured:
    found = shape(row["model_path"])
    tp, ranks, users = _served_parallel(row)
    gemm = row.get("gemm_quant_mode", "")
    precision = MXFP4 if "gpt-oss" in row["model_path"].lower() else _GEMMS.get(gemm, "bf16")
    sku = sku_of(row["system"])
    setup = Setup(
        shape=found,
        precision=precision,
        kv_bits=_kv_bits(precision, sku),
        sku=sku,
        tp_size=max(tp, ranks),
        pp_size=_number(row, "pp_size", 1),
        ep_size=max(int(float(row.get("moe_ep_size") or 1)), 1),
        attention_dp=ranks > 1,
        trtllm_version=_version(row.get("backend_version", "")),
    )
    concurrency = _number(row, "batch_size") * users
    ttft, tpot = row.get("silicon_ttft_ms", ""), row.get("silicon_tpot_ms", "")
    return Measured(
        row,
        Question(setup, _number(row, "isl"), _number(row, "osl"), concurrency=concurrency),
        ttft_ms=float(ttft) if ttft else None,
        tpot_ms=float(tpot) if tpot else None,
    )


def _served_parallel(row: Row) -> tuple[int, int, int]:
    """(TP size, attention ranks, batches of `batch_size`) of a latency row.

    Where both expert sizes are given and their product is that of the others, the same GPUs are counted twice.
    """
    tp, ranks = _number(row, "tp_size"), _number(row, "attention_dp_size", 1)
    experts = int(float(row.get("moe_ep_size") or 1))
    twice = experts > 1 and _number(row, "moe_tp_size", 1) == experts and experts * experts == tp * ranks
    if not (twice and row.get("attention_dp_size")):
        return tp, ranks, ranks
    return (1, experts, ranks) if ranks > 1 else (experts, 1, 1)


def _number(row: Row, column: str, default: int | None = None) -> int:
    try:
        value = int(float(row.get(column) or default or 0))
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise SpecError(
            f"{column} is '{row.get(column, '')}'", expected="a whole number of at least 1", fix="correct the row"
        )
    return value


def _version(text: str) -> str:
    """The release that a row names: "0.13.0", "1.1(first revision)", "1.2.0rc6.post2"; unnamed builds count as 1.0."""
    match = re.match(r"\d+\.\d+(\.\d+)?(rc\d+)?", text)
    return match.group(0) if match else "1.0"


def _parallel(row: Row, shape: ModelShape, version: str) -> tuple[bool, int, int]:
    """(attention data parallelism, GPUs for each pipeline stage, stages).

    The pages of 1.0 do not say it for each row, but their commands turn attention data parallelism on for all
    mixture-of-experts models.
    """
    tp, pp = _number(row, "tp", 1), _number(row, "pp", 1)
    ranks = _number(row, "attention_dp", 1)
    if ranks > 1:
        return True, max(ranks, tp), pp
    return shape.is_moe and tp > 1 and versions.compare(version, "1.0") == 0, tp, pp


def _precision(name: str) -> str:
    word = name.split(" ")[0]
    found = _PRECISIONS.get(word.upper(), word.lower())
    return found if found == MXFP4 else precisions.find(found).id


def _kv_bits(precision: str, sku: skus.Sku) -> float:
    """trtllm-bench stores the KV cache in FP8 for FP8 and FP4 models; for gpt-oss only where the GPU has FP4 units."""
    if precision == MXFP4:
        return 8 if sku.dense_tflops.get("fp4") else 16
    return 16 if precision in ("bf16", "fp16") else 8


def _settings(shape: ModelShape, version: str, tp: int, length: int) -> tuple[int | None, int | None]:
    """(max_batch_size, max_num_tokens) of early published runs; later ones are tuned as `memory.capacity` does."""
    if versions.compare(version, _TABLE_OF_SETTINGS_ENDS) >= 0 or stack_of(version) != "engine":
        return None, None
    found = _early_settings().get((shape.name.replace("llama-3.1", "llama-3"), tp), {})
    return found.get(length) or found.get(0) or (_EARLY_BATCH, _EARLY_TOKENS)


@functools.cache
def _early_settings() -> Mapping[tuple[str, int], Mapping[int, tuple[int, int]]]:
    """By model and TP size: limits by isl + osl, 0 for any other length."""
    settings: dict[tuple[str, int], dict[int, tuple[int, int]]] = {}
    for row in tables.rows("published_run_settings"):
        limits = (int(row["max_batch_size"]), int(row["max_num_tokens"]))
        settings.setdefault((row["model"], int(row["tp"])), {})[int(row["seq_len"] or 0)] = limits
    return settings


def questions(measured: Sequence[Measured]) -> list[Question]:
    """The questions of rows that have one."""
    return [row.question for row in measured if row.question is not None]
