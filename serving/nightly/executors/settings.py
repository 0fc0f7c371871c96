"""The `executor:` group of nightly.yaml, one model for each kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trtllm_kit.strict import Strict

Count = Annotated[int, Field(gt=0)]


class LocalSettings(Strict):
    """Processes of this machine."""

    kind: Literal["local"] = "local"
    jobs: Count | Literal["auto"] = "auto"  # cells at once; auto: as cores, memory and GPUs allow
    memory_gb: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"  # RAM for all of them; auto: what is free


class RaySettings(Strict):
    """The nodes of a Ray cluster that is there already."""

    kind: Literal["ray"]
    address: str = "auto"
    sku_label: str = "sku"  # node label that names a node's SKU
    allow_unauthenticated: bool = False  # on loopback only
    node_wait_minutes: Annotated[float, Field(ge=0)] = 10.0  # for the last node of a SKU to come back


ExecutorSettings = Annotated[LocalSettings | RaySettings, Field(discriminator="kind")]
