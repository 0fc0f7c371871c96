"""Is a new build no worse than the one in service: both served and measured side by side on this machine.

What measures is imported when it is asked for: to read a rule or to plan a night, nothing of it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from serving.nightly.ab.rule import Rule

if TYPE_CHECKING:
    from serving.nightly.ab.contest import Comparison
    from serving.nightly.ab.place import unmeasurable
    from serving.nightly.ab.trial import compare

__all__ = ["Comparison", "Rule", "compare", "unmeasurable"]

_HOMES = {"Comparison": "contest", "compare": "trial", "unmeasurable": "place"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
