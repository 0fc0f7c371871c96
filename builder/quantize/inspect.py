"""What a checkpoint holds: its scheme, how it is split, what it weighs, and which linears stand out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.quantize.formats import Format
from builder.quantize.layouts.safetensors_writer import tensor_bytes
from builder.quantize.raw import to_float32
from builder.quantize.reader import CheckpointReader, open_checkpoint
from builder.quantize.reader.base import as_torch
from trtllm_kit.console import Talk
from trtllm_kit.errors import SpecError

if TYPE_CHECKING:
    from builder.quantize.reader.base import Floats

_FAR = 4.0  # standard deviations of a normal distribution, estimated by the median deviation
_AT_LEAST = {False: 0.25, True: 1.0}  # octaves above the median that an error, a scale have to be
_FEW = 4  # that tell nothing of what is usual
_TINY = 2.0**-126
_BF16_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class LinearFacts:
    """One linear. Scales are those that its codes are multiplied by."""

    module: str
    format: str
    group_size: int | None
    stored_bytes: int  # of all its parts, each once
    bf16_bytes: int
    scale_min: float | None = None
    scale_max: float | None = None
    input_scale: float | None = None
    error: float | None = None  # ‖W - W'‖ / ‖W‖ against the base
    stands_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A checkpoint at a glance."""

    folder: str
    layout: str
    producer: str | None
    architecture: str
    quant_algo: str | None
    kv_cache: str | None
    formats: Mapping[str, int]  # linears of each format
    tp_size: int
    pp_size: int
    files: Mapping[str, int]  # bytes of each file of weights
    stored_bytes: Mapping[str, int]  # by kind of tensor, each once, however many ranks hold it
    bf16_bytes: Mapping[str, int]
    linears: tuple[LinearFacts, ...]
    compared_with: str | None

    @property
    def standing_out(self) -> tuple[LinearFacts, ...]:
        """Those that stand out, the worst first."""
        found = [row for row in self.linears if row.stands_out]
        return tuple(sorted(found, key=lambda row: -(row.error or row.scale_max or 0.0)))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect(folder: Path, against: Path | None, talk: Talk) -> Inspection:
    """Look at the checkpoint in `folder`, and compare it with the unquantized one in `against` if there is one.

    Without `against` only scales are read. A linear stands out when its error, or else its largest scale, is far from
    that of its kind in other layers. SpecError when the two are not the same model.
    """
    reader = open_checkpoint(folder)
    base = None if against is None else _base(against, reader)
    layers = [reader.family.groups(reader.config, layer) for layer in range(reader.config.num_hidden_layers)]
    rows: list[LinearFacts] = []
    for number, groups in enumerate(layers, start=1):
        rows.extend(_facts(reader, module, base, group.norm) for group in groups for module in group.modules)
        talk.progress(number, len(layers), "inspect")
    stored, half = _sizes(reader, rows)
    return Inspection(
        folder=str(folder),
        layout=reader.layout,
        producer=reader.producer,
        architecture=reader.config.architecture,
        quant_algo=reader.quant_algo,
        kv_cache=reader.kv_cache,
        formats={name: sum(row.format == name for row in rows) for name in dict.fromkeys(row.format for row in rows)},
        tp_size=reader.ranks.tp_size,
        pp_size=reader.ranks.pp_size,
        files={path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))},
        stored_bytes=stored,
        bf16_bytes=half,
        linears=_mark(rows),
        compared_with=None if against is None else str(against),
    )


def _base(against: Path, reader: CheckpointReader) -> CheckpointReader:
    base = open_checkpoint(against)
    if dict(base.shapes) != dict(reader.shapes):
        raise SpecError(
            f"{against} is another model than {reader.folder}",
            expected="the checkpoint that it was quantized from: the same tensors of the same shapes",
            fix="name the original with --against",
        )
    return base


def _facts(reader: CheckpointReader, module: str, base: CheckpointReader | None, norm: str | None) -> LinearFacts:
    found, (rows, columns) = reader.format(module), reader.shapes[f"{module}.weight"]
    facts = LinearFacts(
        module=module,
        format=found.name,
        group_size=found.group_size,
        stored_bytes=_part_bytes(found, rows, columns),
        bf16_bytes=rows * columns * _BF16_BYTES,
        error=None if base is None else _error(reader, base, module, norm),
    )
    if "weight_scale" not in found.parts:
        return facts
    scales, static = _scales(reader, module), "input_scale" in found.parts
    return replace(
        facts,
        scale_min=float(scales.min()),
        scale_max=float(scales.max()),
        input_scale=float(to_float32(reader.part(module, "input_scale")).reshape(-1)[0]) if static else None,
    )


def _part_bytes(found: Format, rows: int, columns: int) -> int:
    parts = ((part.dtype or "BF16", part.shape(rows, columns)) for part in found.parts.values())
    return sum(tensor_bytes(dtype, shape) for dtype, shape in parts)


def _scales(reader: CheckpointReader, module: str) -> Floats:
    """What the codes are multiplied by: of FP8 scales, with the scale above them."""
    raw = reader.part(module, "weight_scale")
    if raw.dtype != "F8_E4M3":
        return to_float32(raw)
    scales: Floats = as_torch(raw).float().numpy() * to_float32(reader.part(module, "weight_scale_2"))
    return scales


def _error(reader: CheckpointReader, base: CheckpointReader, module: str, norm: str | None) -> float:
    """‖W - W'‖ / ‖W‖, where W' has back what was folded into the norm before it."""
    import numpy as np

    weight, made = base.tensor(f"{module}.weight"), reader.tensor(f"{module}.weight")
    if norm is not None:
        offset = np.float32(reader.family.norm_offset(norm))
        before, after = base.tensor(norm) + offset, reader.tensor(norm) + offset
        made = made * np.divide(after, before, out=np.ones_like(after), where=before != 0)
    return float(np.linalg.norm(made - weight) / max(float(np.linalg.norm(weight)), _TINY))


def _sizes(reader: CheckpointReader, rows: Sequence[LinearFacts]) -> tuple[dict[str, int], dict[str, int]]:
    """(stored, bf16) bytes by kind of tensor."""
    stored: dict[str, int] = {}
    half: dict[str, int] = {}
    kinds, quantized = _kinds(reader), {f"{row.module}.weight": row.stored_bytes for row in rows}
    for name, shape in reader.shapes.items():
        kind, plain = kinds.get(name, "norms, biases, routers"), tensor_bytes("BF16", shape)
        stored[kind] = stored.get(kind, 0) + quantized.get(name, plain)
        half[kind] = half.get(kind, 0) + plain
    return stored, half


def _kinds(reader: CheckpointReader) -> dict[str, str]:
    """What each of the larger tensors is."""
    family, config = reader.family, reader.config
    kinds = {family.embedding: "embedding", family.lm_head: "output layer"}
    for layer in range(config.num_hidden_layers):
        for module in family.modules(config, layer):
            role = module.linear.slices[0].role
            if role != "router":
                mlp = "mlp" if module.expert is None else "experts"
                kinds[f"{module.name}.weight"] = mlp if role in ("gate", "up", "down") else "attention"
    return kinds


def _mark(rows: Sequence[LinearFacts]) -> tuple[LinearFacts, ...]:
    """`stands_out` where a linear's error is far above those of its format, or its scale above those of its kind."""
    groups: dict[tuple[str, str], list[LinearFacts]] = {}
    for row in rows:
        groups.setdefault((row.format, "" if row.error is not None else row.module.rpartition(".")[2]), []).append(row)
    far = {row.module for group in groups.values() for row in _far(group)}
    return tuple(replace(row, stands_out=row.module in far) for row in rows)


def _far(group: Sequence[LinearFacts]) -> list[LinearFacts]:
    """By the median deviation, which outliers do not move, of the logarithm."""
    values = [math.log2(max(row.error if row.error is not None else row.scale_max or 0.0, _TINY)) for row in group]
    if len(values) < _FEW:
        return []
    middle = statistics.median(values)
    spread = 1.4826 * statistics.median(abs(value - middle) for value in values)
    limit = middle + max(_FAR * spread, _AT_LEAST[group[0].error is None])
    return [row for row, value in zip(group, values, strict=True) if value > limit]
