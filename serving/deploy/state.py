"""What is known about each deployment: one folder and one deployment.json per name, claimed before anything starts."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.deploy.ports import LOOPBACK, Ports
from serving.deploy.process import ProcessRef
from trtllm_kit.errors import UsageError
from trtllm_kit.files import disk_errors, pretty_json, write_text_atomic

_FILE = "deployment.json"
_TRANSPORT_BY_RUNTIME = {"tensorrt": "engine-grpc", "cpu": "engine-grpc", "pytorch": "llmapi-grpc"}
_CLAIM_S = 60.0
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}")


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One deployment as recorded. Whether it still answers is asked of the server, never read from here."""

    name: str
    target: str  # row of serving.deploy.targets.TARGETS
    identifier: str
    digest: str
    artifact: str
    runtime: str
    transport: str  # how to ask it for a completion
    ports: Ports
    deployer: ProcessRef  # the command that started it; while it lives, an unready deployment is starting
    started_unix_s: float
    ready: bool = False
    process: ProcessRef | None = None  # of a local server
    shm_prefix: str | None = None
    container: str | None = None  # name of a container
    stop_argv: tuple[str, ...] = ()  # how to end a container

    @property
    def http_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.http}"

    @property
    def grpc_address(self) -> str:
        return f"{LOOPBACK}:{self.ports.grpc}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, as written to disk."""
        return {**asdict(self), "stop_argv": list(self.stop_argv)}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Deployment:
        """Inverse of to_json."""
        process = tree["process"]
        return cls(
            **{
                **tree,
                "ports": Ports(**tree["ports"]),
                "deployer": ProcessRef(**tree["deployer"]),
                "process": ProcessRef(**process) if process else None,
                "stop_argv": tuple(tree["stop_argv"]),
            }
        )


def new(name: str, target: str, artifact_root: Path, manifest: Mapping[str, Any], ports: Ports) -> Deployment:
    """The record of a deployment whose name is claimed and whose server is still to be started by this process."""
    return Deployment(
        name=name,
        target=target,
        identifier=str(manifest["identifier"]),
        digest=str(manifest["digest"]),
        artifact=str(artifact_root.resolve()),
        runtime=str(manifest["runtime"]),
        transport=_TRANSPORT_BY_RUNTIME[manifest["runtime"]],
        ports=ports,
        deployer=ProcessRef.current(),
        started_unix_s=now_unix_s(),
    )


def claim(store: Path, identifier: str, name: str | None) -> tuple[str, Path]:
    """A name and its new, empty folder; no two callers get the same. UsageError when a given name is taken."""
    folder = store / "deployments"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' cannot name a deployment", expected="lower-case letters, digits, dots and dashes")
    for candidate in [name] if name is not None else _default_names(identifier):
        with disk_errors(folder):
            try:
                (folder / candidate).mkdir()
            except FileExistsError:
                if not _abandoned(folder / candidate):
                    continue
        return candidate, folder / candidate
    raise UsageError(
        f"a deployment named '{name}' exists",
        expected="a free name",
        fix=f"stop it with `trtllm-kit deploy stop {name}`, or give another --name",
    )


def write(folder: Path, deployment: Deployment) -> None:
    """Record `deployment` in its folder, whole or not at all."""
    write_text_atomic(folder / _FILE, pretty_json(deployment.to_json()))


def read_all(store: Path) -> Iterator[tuple[Path, Deployment]]:
    """Every recorded deployment with its folder, by name. A folder that another command just claimed is passed over."""
    for path in sorted((store / "deployments").glob(f"*/{_FILE}")):
        try:
            yield path.parent, Deployment.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue  # stopped by another command meanwhile
        except (ValueError, TypeError, KeyError):
            raise UsageError(
                f"the record of a deployment is damaged: {path}",
                expected="the JSON that `trtllm-kit deploy` wrote",
                fix="end its tritonserver by hand if one still runs, then remove that folder",
            ) from None


def find(store: Path, name: str) -> tuple[Path, Deployment]:
    """The named deployment; UsageError lists those that exist."""
    known = {deployment.name: (folder, deployment) for folder, deployment in read_all(store)}
    if name not in known:
        raise UsageError(
            f"no deployment is named '{name}'",
            expected=f"one of: {', '.join(known)}" if known else "a running deployment (there is none)",
            fix="see `trtllm-kit deploy status`",
        )
    return known[name]


def forget(folder: Path) -> None:
    """Remove a deployment's record, log and backend files. The artifact is elsewhere and stays."""
    shutil.rmtree(folder, ignore_errors=True)


def now_unix_s() -> float:
    """Wall-clock time for records."""
    return round(time.time(), 3)


def _abandoned(folder: Path) -> bool:
    """Whether whoever claimed the folder died before writing a record, which takes milliseconds."""
    try:
        return not (folder / _FILE).exists() and time.time() - folder.stat().st_mtime > _CLAIM_S
    except FileNotFoundError:
        return False


def _default_names(identifier: str) -> Iterator[str]:
    yield identifier
    for number in itertools.count(2):
        yield f"{identifier}-{number}"
