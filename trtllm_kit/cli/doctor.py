"""`trtllm-kit doctor`: one line for each thing that a build or a deployment needs, with the fix where it is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from builder.store import Store
from profiles import detect, installed, versions
from serving.deploy.containers import docker_problem
from serving.deploy.tritonserver import find_tritonserver
from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_store
from trtllm_kit.errors import KitError


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    ok: bool
    found: str
    fix: str = ""


@click.command()
@options.store
@options.output
def doctor(store_root: Path | None, output: str) -> None:
    """Tell what this machine can do, and how to mend what it cannot."""
    findings = examine(open_store(store_root))
    if output == "json":
        options.show_json([asdict(finding) for finding in findings])
        return
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark = click.style("ok  ", fg="green") if finding.ok else click.style("miss", fg="yellow")
        click.echo(f"{mark}  {finding.check:<{width}}  {finding.found}")
        if finding.fix:
            click.echo(f"      {'':<{width}}  fix: {finding.fix}")


def examine(store: Store) -> list[Finding]:
    """Every check, in the order in which a person would mend things."""
    return [
        _python(),
        *_gpus(),
        _trtllm(),
        _module("torch", "quantize", "quantization"),
        _module("openvino_genai", "cpu", "the cpu runtime"),
        _tritonserver(),
        _docker(),
        _disk(store),
        _memory(),
    ]


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    ok = (3, 10) <= sys.version_info[:2] <= (3, 12)
    return Finding(check="python", ok=ok, found=version, fix="" if ok else "use Python 3.10, 3.11 or 3.12")


def _gpus() -> list[Finding]:
    found = detect.detect()
    if not found.gpus:
        reason = found.reason or "NVML lists no GPU"
        return [
            Finding(check="gpu", ok=False, found=reason, fix="none needed for --sku cpu; else install NVIDIA's driver")
        ]
    lines = [
        Finding(
            check=f"gpu {gpu.reading.index}",
            ok=gpu.sku is not None,
            found=f"{gpu.reading.name} ({gpu.sku.id if gpu.sku else 'unknown SKU'})",
        )
        for gpu in found.gpus
    ]
    return [Finding(check="driver", ok=True, found=str(found.driver_version)), *lines]


def _trtllm() -> Finding:
    version = installed.trtllm_version()
    if version is None:
        image = versions.find(versions.DEFAULT).trtllm_image
        fix = f"for GPU builds, run inside {image} or let docker do it"
        return Finding(check="tensorrt-llm", ok=False, found="not installed", fix=fix)
    return Finding(check="tensorrt-llm", ok=True, found=version)


def _module(name: str, extra: str, purpose: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(
            check=name, ok=False, found=f"not installed: no {purpose}", fix=f"pip install 'trtllm-kit[{extra}]'"
        )
    return Finding(check=name, ok=True, found=importlib.metadata.version(name.replace("_", "-")))


def _tritonserver() -> Finding:
    try:
        server = find_tritonserver()
    except KitError as error:
        return Finding(check="tritonserver", ok=False, found=error.happened, fix=error.fix)
    return Finding(check="tritonserver", ok=True, found=f"{server.version or 'version unknown'} ({server.origin})")


def _docker() -> Finding:
    problem = docker_problem()
    fix = "start docker, or build and serve where the tools are installed" if problem else ""
    return Finding(check="docker", ok=problem is None, found=problem or "answers", fix=fix)


def _disk(store: Store) -> Finding:
    folder = next(path for path in (store.root, *store.root.parents) if path.exists())
    free_gb = shutil.disk_usage(folder).free / 1e9
    writable = os.access(folder, os.W_OK)
    found = f"{free_gb:,.0f} GB free for {store.root}" + ("" if writable else ", not writable")
    ok = writable and free_gb >= 5
    return Finding(check="disk", ok=ok, found=found, fix="" if ok else "choose another store with TRTLLM_KIT_STORE")


def _memory() -> Finding:
    total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    ok = total_gb >= 4
    return Finding(
        check="memory",
        ok=ok,
        found=f"{total_gb:,.0f} GB, {len(os.sched_getaffinity(0))} cores",
        fix="" if ok else "4 GB are the least for a build",
    )
