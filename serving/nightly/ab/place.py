"""What the machine and the SKU mean for a comparison: can it be served here, do both fit at once, what is an hour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from profiles import prices, skus
from serving.deploy.compatibility import differences
from serving.deploy.machine import this_machine
from serving.nightly.ab.rule import Rule
from serving.nightly.here import available_bytes
from trtllm_kit.errors import HostError

_CPU_CACHE_BYTES = 1 << 30  # the largest KV cache that the cpu runtime takes by itself
_WEIGHT_COPIES = 3  # of an engine file in memory at most: mapped, expanded to float, packed for the kernels
_USABLE = 0.8


def unmeasurable(manifest: Mapping[str, Any]) -> str | None:
    """Why this machine cannot serve the artifact, in a line; None when it can."""
    try:
        found = differences(manifest, this_machine(manifest))
    except HostError as error:
        return error.happened
    if not found:
        return None
    return f"no {manifest['target']['sku']} here: " + "; ".join(
        f"{each.what}: built for {each.built_for}, this machine has {each.target_has}" for each in found
    )


def usd_per_hour(rule: Rule, manifest: Mapping[str, Any]) -> float | None:
    """Of the whole replica; None where no price is known."""
    if rule.usd_per_hour is not None:
        return rule.usd_per_hour
    price = prices.load().cheapest(skus.find(str(manifest["target"]["sku"])))
    return None if price is None else price.usd_per_gpu_hour * int(manifest["target"]["world_size"])


def both_at_once(rule: Rule, artifacts: tuple[Path, Path], manifest: Mapping[str, Any]) -> bool:
    """Whether the two servers run at the same time. On a GPU only when told to: the first one's KV cache takes what
    there is."""
    if rule.side_by_side != "auto":
        return rule.side_by_side
    if manifest["runtime"] != "cpu":
        return False
    engines = sum(file.stat().st_size for root in artifacts for file in (root / "engine").rglob("*") if file.is_file())
    return 2 * _CPU_CACHE_BYTES + _WEIGHT_COPIES * engines <= _USABLE * available_bytes()
