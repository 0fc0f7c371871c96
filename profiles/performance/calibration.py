"""The user's own measurements: a factor for each phase, drawn towards 1 by how few points there are."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.performance.setup import Setup
from trtllm_kit.errors import SpecError
from trtllm_kit.files import pretty_json, read_json, write_text_atomic

FEWEST_POINTS = 4
_PRIOR, _NOISE = 0.15, 0.06  # of a logarithm: how far a host may be from the fitted ones, and a point from its host
_NARROWEST = 0.4


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What times are multiplied with, and the interval's width; `points` 0: nothing is known."""

    decode: float = 1.0
    prefill: float = 1.0
    width: float = 1.0
    points: int = 0


@dataclass(frozen=True, kw_only=True)
class Miss:
    """One point: logarithms of measured over predicted time; None where the point does not say."""

    setup: Setup
    decode: float | None
    prefill: float | None


def store() -> Path:
    """The file of the user's own calibrations; `TRTLLM_KIT_PROFILES` names another folder."""
    return _store(os.environ.get("TRTLLM_KIT_PROFILES"), os.environ.get("XDG_CONFIG_HOME"))


@functools.lru_cache(maxsize=8)
def _store(folder: str | None, config: str | None) -> Path:
    if folder:
        return Path(folder) / "calibration.json"
    return Path(config or "~/.config").expanduser() / "trtllm-kit" / "profiles" / "calibration.json"


def known() -> Mapping[str, Any]:
    """The user's factors by SKU, and by SKU, model and precision."""
    return _load(store())


def find(setup: Setup, factors: Mapping[str, Any]) -> Scale:
    """The factors of this SKU and model; those of the SKU alone for another model."""
    entry = factors.get(_key(setup)) or factors.get(setup.sku.id) if factors else None
    return Scale(**entry) if entry else Scale()


def refine(misses: Sequence[Miss]) -> dict[str, Scale]:
    """Factors by SKU, and by SKU and model, each drawn towards the one above it; SpecError for too few points."""
    if len(misses) < FEWEST_POINTS:
        raise SpecError(
            f"{len(misses)} points are too few to calibrate with",
            expected=f"at least {FEWEST_POINTS} points, better 8 to 32 of several lengths and concurrencies",
            fix="measure more with `trtllm-kit validate --concurrency ... --output json`",
        )
    found: dict[str, Scale] = {}
    for sku in sorted({miss.setup.sku.id for miss in misses}):
        here = [miss for miss in misses if miss.setup.sku.id == sku]
        found[sku] = _scale(here, Scale())
        for key in sorted({_key(miss.setup) for miss in here}):
            found[key] = _scale([miss for miss in here if _key(miss.setup) == key], found[sku])
    return found


def save(scales: Mapping[str, Scale], path: Path) -> None:
    """Add the factors to the file, in place of earlier ones of the same SKU and model."""
    merged = dict(_load(path)) | {key: vars(scale) for key, scale in scales.items()}
    write_text_atomic(path, pretty_json(merged))
    _read.cache_clear()


def _scale(misses: Sequence[Miss], above: Scale) -> Scale:
    decode = [miss.decode for miss in misses if miss.decode is not None]
    prefill = [miss.prefill for miss in misses if miss.prefill is not None]
    centre = _drawn(decode, math.log(above.decode))
    spread = math.sqrt(sum((miss - centre) ** 2 for miss in decode) / len(decode)) if decode else _PRIOR
    return Scale(
        decode=round(math.exp(centre), 4),
        prefill=round(math.exp(_drawn(prefill, math.log(above.prefill))), 4),
        width=round(min(1.0, max(_NARROWEST, spread / _PRIOR)), 3),
        points=len(misses),
    )


def _drawn(values: Sequence[float], towards: float) -> float:
    """Posterior mean of a normal with a normal prior around `towards`."""
    shrink = (_NOISE / _PRIOR) ** 2
    return (sum(values) + shrink * towards) / (len(values) + shrink)


def _key(setup: Setup) -> str:
    return f"{setup.sku.id} {setup.shape.name} {setup.precision}"


def _load(path: Path) -> Mapping[str, Any]:
    return _read(path, path.stat().st_mtime_ns) if path.exists() else {}


@functools.lru_cache(maxsize=4)
def _read(path: Path, _changed_ns: int) -> Mapping[str, Any]:
    found = read_json(path, "calibration")
    if not isinstance(found, dict):
        raise SpecError(f"{path} is no calibration", expected="what `trtllm-kit profile calibrate` writes")
    return found
