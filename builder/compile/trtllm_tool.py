"""Where `trtllm-build` is: a command that the user names, one on PATH, or the pinned container through docker."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from builder.compile.trtllm_argv import trtllm_build_argv
from builder.plan import BuildPlan
from profiles import detect, versions
from trtllm_kit.errors import HostError

COMMAND_VARIABLE = "TRTLLM_BUILD_COMMAND"
_PROBE_S = 20
_PRINT_VERSION = "import importlib.metadata as m; print(m.version('tensorrt_llm'))"


class Tool(Protocol):
    """A way to run `trtllm-build`."""

    def command(self, plan: BuildPlan, checkpoint: Path, engine: Path, work: Path) -> list[str]:
        """The whole command line; `work` is a scratch folder."""

    def stop(self) -> None:
        """End what outlives the command's own process."""


@dataclass(frozen=True, kw_only=True)
class LocalTool:
    """`trtllm-build` as a command of this machine."""

    words: tuple[str, ...]

    def command(self, plan: BuildPlan, checkpoint: Path, engine: Path, work: Path) -> list[str]:
        """The whole command line."""
        cache = str(work / "model.cache")
        return [
            *self.words,
            *trtllm_build_argv(plan, checkpoint=str(checkpoint), engine=str(engine), timing_cache=cache),
        ]

    def stop(self) -> None:
        """Nothing outlives the process group."""

    def version(self) -> str | None:
        """TensorRT-LLM of the interpreter that the script names, from its metadata; None when that cannot be told.

        Importing the package would take seconds and a driver.
        """
        interpreter = _interpreter(Path(self.words[0]))
        if interpreter is None:
            return None
        done = _probe([*interpreter, "-c", _PRINT_VERSION])
        return done.strip() or None if done is not None else None


@dataclass(frozen=True, kw_only=True)
class ContainerTool:
    """`trtllm-build` in the pinned Triton image, the one that will serve the engine."""

    image: str
    name: str = field(default_factory=lambda: f"trtllm-kit-build-{uuid.uuid4().hex[:8]}")

    def command(self, plan: BuildPlan, checkpoint: Path, engine: Path, work: Path) -> list[str]:
        """The whole command line; the engine belongs to the user who runs it."""
        # The image knows no such user, and torch asks for a name and a home.
        user = ("--user", f"{os.getuid()}:{os.getgid()}", "-e", "HOME=/work", "-e", "USER=trtllm-kit")
        return docker_argv(plan, self.image, str(checkpoint), str(engine), str(work), (*user, "--name", self.name))

    def stop(self) -> None:
        """The container runs under the docker daemon, so ending the client is not enough."""
        _probe(["docker", "kill", self.name])


def docker_argv(
    plan: BuildPlan, image: str, checkpoint: str, engine: str, work: str, options: Sequence[str] = ()
) -> list[str]:
    """`docker run` of `trtllm-build` with three folders of the host mounted."""
    mounts = (f"{checkpoint}:/checkpoint:ro", f"{engine}:/engine", f"{work}:/work")
    limits = ("--gpus", "all", "--ipc", "host", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864")
    return [
        *("docker", "run", "--rm", "--init", *limits, *options),
        *(word for mount in mounts for word in ("-v", mount)),
        *("-w", "/work", image, "trtllm-build"),
        *trtllm_build_argv(plan, checkpoint="/checkpoint", engine="/engine", timing_cache="/work/model.cache"),
    ]


def find_tool(plan: BuildPlan) -> Tool:
    """The way to build this plan on this machine. HostError says what is missing and what to run elsewhere."""
    named = os.environ.get(COMMAND_VARIABLE)
    if named:
        return _checked(LocalTool(words=_split(named)), plan)
    on_path = shutil.which("trtllm-build")
    if on_path:
        _check_gpu(plan)
        return _checked(LocalTool(words=(on_path,)), plan)
    image = versions.find(plan.trtllm_version).triton_image
    if image is None or _probe(["docker", "info"]) is None:
        raise _absent(plan, "no trtllm-build on PATH, and docker does not answer")
    if not os.environ.get("DOCKER_HOST"):  # a remote daemon has GPUs of its own
        _check_gpu(plan)
    return ContainerTool(image=image)


def _checked(tool: LocalTool, plan: BuildPlan) -> LocalTool:
    version = tool.version()
    if version is not None and versions.compare(version, plan.trtllm_version) != 0:
        raise HostError(
            f"{shlex.join(tool.words)} is of TensorRT-LLM {version}, the plan is for {plan.trtllm_version}",
            expected=f"TensorRT-LLM {plan.trtllm_version}: an engine loads in the very version that built it",
            fix=f"set trtllm_version to {version}, or build in the container of {plan.trtllm_version}",
        )
    return tool


def _check_gpu(plan: BuildPlan) -> None:
    """An engine is compiled for the GPU that it is compiled on."""
    found = detect.detect()
    if not found.gpus:
        raise _absent(plan, f"engines are compiled on their GPU, and {found.reason}")
    if plan.sku.id not in {place.id for place in found.places}:
        names = ", ".join(f"{gpu.name} ({gpu.how})" for gpu in found.gpus)
        raise _absent(plan, f"this machine has {names}, the engine is for {plan.sku.id}")


def _absent(plan: BuildPlan, why: str) -> HostError:
    image = versions.find(plan.trtllm_version).triton_image or versions.find(plan.trtllm_version).trtllm_image
    elsewhere = docker_argv(plan, image, "$CHECKPOINT_DIR", "$ENGINE_DIR", "$WORK_DIR")
    return HostError(
        f"TensorRT-LLM cannot build an engine here: {why}",
        expected=f"a machine with a {plan.sku.name} and TensorRT-LLM {plan.trtllm_version}, or docker with {image}",
        fix=f"run trtllm-kit there, or give the checkpoint of `trtllm-kit build checkpoint` to: {' '.join(elsewhere)}; "
        f"a command of your own goes into {COMMAND_VARIABLE}",
    )


def _split(text: str) -> tuple[str, ...]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise HostError(f"{COMMAND_VARIABLE} is no command: {error}", expected="a shell command line") from None
    found = shutil.which(words[0]) if words else None
    if found is None:
        raise HostError(
            f"{COMMAND_VARIABLE} names '{text}', which is no executable",
            expected="the path of trtllm-build, or a command that ends in it",
            fix=f"correct or unset {COMMAND_VARIABLE}",
        )
    return (found, *words[1:])


def _interpreter(script: Path) -> list[str] | None:
    """The Python that a script's first line names, or the command itself where it is one."""
    if script.name.startswith("python"):
        return [str(script)]
    with script.open("rb") as file:
        line = file.readline(512)
    if not line.startswith(b"#!"):
        return None
    words = shlex.split(line[2:].decode(errors="replace"))
    return words if any("python" in word for word in words) else None


def _probe(argv: Sequence[str]) -> str | None:
    """Output of a short command; None when it is absent, fails or hangs."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
