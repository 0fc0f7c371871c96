"""The table of executors: a new one is a model of its settings and one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serving.nightly.executors.protocol import Executor
from serving.nightly.executors.settings import LocalSettings, RaySettings
from serving.nightly.here import is_here


def _local(settings: LocalSettings) -> Executor:
    from serving.nightly.executors.local import LocalExecutor

    return LocalExecutor(settings)


def _ray(settings: RaySettings) -> Executor:
    from serving.nightly.executors.ray import RayExecutor

    return RayExecutor(
        address=settings.address,
        sku_label=settings.sku_label,
        allow_unauthenticated=settings.allow_unauthenticated,
        node_wait_s=60 * settings.node_wait_minutes,
    )


_EXECUTORS: Mapping[str, Callable[[Any], Executor]] = {"local": _local, "ray": _ray}

_OFFERS: Mapping[str, Callable[[str], bool]] = {
    "local": is_here,
    "ray": lambda _sku: True,  # asked of the cluster only when there is work: connecting takes seconds
}


def executor_of(settings: LocalSettings | RaySettings) -> Executor:
    """The executor that the `executor:` group asks for."""
    return _EXECUTORS[settings.kind](settings)


def offers_of(settings: LocalSettings | RaySettings) -> Callable[[str], bool]:
    """Whether that executor may have a node with a SKU."""
    return _OFFERS[settings.kind]
