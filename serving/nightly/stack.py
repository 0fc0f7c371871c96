"""What the cells for GPUs stand on tonight beyond their versions: the image that a tag means, the branch of the driver.

Both are inputs of such a build, so that a tag that was pushed anew or an upgraded driver builds it again. Where a
registry cannot be asked, what the last night knew holds on: a night without network rebuilds nothing for that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from builder.plan import BuildPlan, Pins
from profiles import versions
from profiles.detect import snapshot
from serving.nightly.here import is_here
from serving.nightly.image_digest import image_key, wanted_digest
from trtllm_kit.errors import HostError


@dataclass(kw_only=True)
class Stack:
    """Asks once for each image. `remembered`: what the last nights wrote down of upstream; called if it is needed."""

    remembered: Callable[[], Mapping[str, str]]
    _digests: dict[str, str | None] = field(default_factory=dict)

    def pinned(self, plan: BuildPlan) -> BuildPlan:
        """The plan with all that can be pinned; what the spec pins itself stays."""
        if plan.runtime == "cpu":
            return plan
        image = versions.find(plan.trtllm_version).triton_image
        pins = Pins(
            image_digest=plan.pins.image_digest or (self._digest(image) if image else None),
            driver_branch=plan.pins.driver_branch or (_driver_branch() if is_here(plan.sku.id) else None),
        )
        return replace(plan, pins=pins)

    def upstream(self) -> dict[str, str]:
        """`image <name>` → digest of those that cells were pinned to."""
        return {image_key(image): digest for image, digest in self._digests.items() if digest is not None}

    def _digest(self, image: str) -> str | None:
        if image not in self._digests:
            try:
                self._digests[image] = wanted_digest(image)
            except HostError:
                self._digests[image] = self.remembered().get(image_key(image))
        return self._digests[image]


@functools.cache
def _driver_branch() -> str | None:
    """NVIDIA's branches are numbered by the first part of their versions: 580.95.05 is of branch 580."""
    return (snapshot().driver_version or "").partition(".")[0] or None
