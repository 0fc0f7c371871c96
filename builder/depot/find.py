"""Which cell a person means."""

from __future__ import annotations

from collections.abc import Mapping

from builder.depot.records import REF_NAMES, CellName, Entry, RefName
from builder.depot.ref_log import Version
from trtllm_kit.errors import SpecError

_SHOWN = 5


def cell(text: str, versions: Mapping[CellName, Version]) -> CellName:
    """By identifier, full name or a unique beginning of either; SpecError lists what there is."""
    wanted, _ = _split(text)
    if exact := [one for one in versions if wanted in (str(one), str(one.identifier))]:
        return exact[0]
    found = [one for one in versions if str(one).startswith(wanted) or str(one.identifier).startswith(wanted)]
    if len(found) == 1:
        return found[0]
    names = sorted(str(one) for one in found or versions)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise SpecError(
        f"'{text}' names {len(found) or 'no'} cells of the depot",
        expected="one of " + ", ".join(names[:_SHOWN]) + more if names else "a cell that was built once",
        fix="see `trtllm-kit artifact refs`",
    )


def entry(text: str, versions: Mapping[CellName, Version]) -> Entry:
    """A build by its cell and ref, `/current` if no ref is named; SpecError when that ref points nowhere."""
    found, (_, ref) = cell(text, versions), _split(text)
    there = versions[found].record.entries()
    if ref not in there:
        raise SpecError(
            f"{found} has no {ref} build",
            expected="one of " + ", ".join(f"{found}/{name}" for name in there) if there else "a cell with a build",
            fix="see `trtllm-kit artifact refs`",
        )
    return there[ref]


def _split(text: str) -> tuple[str, RefName]:
    for ref in REF_NAMES:
        if text.endswith(f"/{ref}"):
            return text.removesuffix(f"/{ref}"), ref
    return text.rstrip("/"), "current"
