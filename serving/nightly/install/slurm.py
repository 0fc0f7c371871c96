"""Slurm: one job array for each SKU, a report after them, and a script that submits both."""

from __future__ import annotations

import shlex
from typing import Any

from serving.nightly.install.groups import SkuGroup
from serving.nightly.install.request import InstallRequest, Rendered, kit_command
from serving.nightly.retry import AGAIN, again
from serving.render.environment import environment

_NAME = "trtllm-nightly"
_ATTEMPTS = 3
_MIB = 1 << 20


def slurm(request: InstallRequest) -> Rendered:
    """Batch scripts, their tasks, and a scrontab; all read where they were written, from every node."""
    groups = request.groups
    common: dict[str, Any] = {
        "name": _NAME,
        "partition": request.queue,
        "command": kit_command(),
        "matrix": str(request.matrix),
        "out": str(request.out),
        "logs": f"{request.out}/logs".replace("%", "%%"),  # Slurm's own % patterns
        "store": str(request.session.store.root),
        "depot": request.session.url,
        "groups": [group.sku.id for group in groups],
        "schedule": request.schedule.text,
        "retries": _retries(),
        "killed_retries": _ATTEMPTS - 1,
    }
    files = {"nightly.sh": "submit.sh.j2", "report.sbatch": "report.sbatch.j2", "scrontab": "scrontab.j2"}
    rendered = {name: _render(template, common) for name, template in files.items()}
    for group in groups:
        rendered[f"{group.sku.id}.jsonl"] = group.lines
        rendered[f"{group.sku.id}.sbatch"] = _render("cells.sbatch.j2", {**common, **_array(group, request)})
    return Rendered(
        files=rendered,
        executable=("nightly.sh",),
        next_steps=(
            f"{shlex.quote(str(request.out / 'nightly.sh'))}  # once, by hand",
            f"scrontab {shlex.quote(str(request.out / 'scrontab'))}",
        ),
    )


def _array(group: SkuGroup, request: InstallRequest) -> dict[str, Any]:
    gres = request.gres.get(group.sku.id) or _autodetected(group)
    return {
        "sku": group.sku.id,
        "last": len(group.tasks) - 1,
        "at_once": min(request.at_once, len(group.tasks)),
        "gres": f"gpu:{gres}:{group.gpus}" if group.gpus else None,
        "memory_mib": -(-group.memory_bytes // _MIB),
    }


def _autodetected(group: SkuGroup) -> str:
    """The type that Slurm finds itself (gres.conf, AutoDetect=nvml): NVML's name in lower case with underscores."""
    return group.sku.nvml_names[0].lower().replace(" ", "_") if group.sku.nvml_names else group.sku.id


def _retries() -> dict[int, str]:
    """How often an exit code is requeued → the codes, as a pattern of `case`."""
    by_count: dict[int, list[int]] = {}
    for code in sorted(AGAIN):
        count = next(tried for tried in range(_ATTEMPTS) if not again(code, tried + 1, most=_ATTEMPTS))
        by_count.setdefault(count, []).append(code)
    return {count: "|".join(map(str, codes)) for count, codes in sorted(by_count.items())}


def _render(template: str, values: dict[str, Any]) -> str:
    return environment().get_template(f"nightly/{template}").render(values)
