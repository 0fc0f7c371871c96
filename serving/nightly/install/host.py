"""One machine's own schedulers: a line for cron, or a service with its timer for systemd."""

from __future__ import annotations

import getpass
import os
import shlex
from pathlib import Path
from typing import Any

from serving.nightly.install.request import InstallRequest, Rendered, kit_command
from serving.render.environment import environment

NAME = "trtllm-kit-nightly"


def cron(request: InstallRequest) -> Rendered:
    """A fragment for `crontab`."""
    run = _run(request)
    log = shlex.quote(str(request.session.store.root / "nightly.log"))
    lock = shlex.quote(str(request.session.store.root / "nightly.lock"))
    line = f"flock --nonblock {lock} {shlex.join(run)} >> {log} 2>&1 || tail -n 40 {log}"
    values = {
        "matrix": str(request.matrix),
        "environment": _environment(request),
        "mail_to": getpass.getuser(),
        "schedule": request.schedule.text,
        "line": line.replace("%", r"\%"),  # cron takes the first % of a line for its end
    }
    path = request.out / f"{NAME}.cron"
    return Rendered(
        files={path.name: _render("cron.j2", values)},
        next_steps=(
            f"mkdir -p {shlex.quote(str(request.session.store.root))}",
            f"(crontab -l 2>/dev/null; cat {shlex.quote(str(path))}) | crontab -",
        ),
    )


def systemd(request: InstallRequest) -> Rendered:
    """A system service and its timer; the service runs as the user who installs it."""
    cache = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    folders = list(dict.fromkeys([str(request.session.store.root), cache, *_folders(request)]))
    values = {
        "exec": " ".join(_unit_word(word.replace("$", "$$")) for word in _run(request)),
        "environment": [_unit_word(row) for row in (*_environment(request), f"HF_HOME={cache}")],
        "writable": [_unit_word(folder) for folder in folders],
        "events": request.schedule.calendar_events,
        "user": getpass.getuser(),
    }
    units = (f"{NAME}.service", f"{NAME}.timer")
    places = " ".join(shlex.quote(str(request.out / unit)) for unit in units)
    return Rendered(
        files={unit: _render(f"{unit.rpartition('.')[2]}.j2", values) for unit in units},
        next_steps=(
            f"mkdir -p {shlex.join(folders)}",  # systemd binds only what is there
            f"sudo cp {places} /etc/systemd/system/",
            f"sudo systemctl enable --now {NAME}.timer",
        ),
    )


def _run(request: InstallRequest) -> list[str]:
    return [kit_command(), "nightly", "run", "-f", str(request.matrix)]


def _environment(request: InstallRequest) -> list[str]:
    """What the matrix leaves to the environment, as it is where the nightly is installed."""
    return [f"TRTLLM_KIT_STORE={request.session.store.root}", f"TRTLLM_KIT_DEPOT={request.session.url}"]


def _folders(request: InstallRequest) -> list[str]:
    """Folders beside the store that a night writes."""
    nightly = request.session.nightly
    pages, metrics = nightly.beside(nightly.spec.report.folder), nightly.beside(nightly.spec.report.prometheus)
    depot = request.session.url.removeprefix("file://")
    found = [depot if "://" not in depot else None, pages, metrics.parent if metrics else None]
    return [str(folder) for folder in found if folder]


def _unit_word(word: str) -> str:
    """One word of a unit file: % stands for itself, and what has a space is quoted."""
    plain = word.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"')
    return f'"{plain}"' if any(character in plain for character in " \t'\"\\;") else plain


def _render(template: str, values: dict[str, Any]) -> str:
    return environment().get_template(f"nightly/{template}").render(values)
