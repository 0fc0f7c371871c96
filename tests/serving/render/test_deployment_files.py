"""Files around a deployment: parsed as their readers parse them."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml

from serving.render import DeploymentValues, render_deployment


def values(**changes: Any) -> DeploymentValues:
    base: dict[str, Any] = {
        "name": "tiny",
        "image": "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        "command": ("tritonserver", "--model-repository=model_repository"),
        "artifact": "/srv/my artifacts/it's one",
        "deployment": "/srv/d",
        "ports": ((18000, 8000), (18001, 8001), (18002, 8002)),
    }
    return DeploymentValues(**{**base, **changes})


RANKS = ("mpirun", "--allow-run-as-root", "-n", "1", "tritonserver", "--x=a b", ":", "-n", "1", "tritonserver", "--y")


def test_the_launch_script_runs_the_command_word_for_word(tmp_path: Path) -> None:
    script = render_deployment(values(command=RANKS))["launch.sh"]
    (tmp_path / "launch.sh").write_text(script)
    fake = tmp_path / "mpirun"
    fake.write_text('#!/bin/sh\nfor word in mpirun "$@"; do printf "%s\\n" "$word"; done\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(tmp_path / "launch.sh")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == list(RANKS), done.stderr
    assert script.count("\n  ") == 2  # a line for each rank


def test_the_compose_file_mounts_read_only_and_publishes_on_loopback() -> None:
    service = yaml.safe_load(render_deployment(values(gpu_ids=("1", "3")))["compose.yaml"])["services"]["tiny"]
    assert service["command"] == ["/bin/sh", "/deployment/launch.sh"]
    assert service["ports"] == ["127.0.0.1:18000:8000", "127.0.0.1:18001:8001", "127.0.0.1:18002:8002"]
    assert service["volumes"][0]["source"] == "/srv/my artifacts/it's one"
    assert all(mount["read_only"] for mount in service["volumes"])
    assert service["working_dir"] == service["volumes"][0]["target"] == "/artifact"
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == ["1", "3"]
    assert "http://127.0.0.1:8000/v2/health/ready" in service["healthcheck"]["test"]


def test_the_docker_command_quotes_every_path() -> None:
    files = render_deployment(values(gpu_ids=("0", "1")))
    command = shlex.split(files["docker_run.sh"].split("exec ", 1)[1].replace("\\\n", ""))
    assert command[:3] == ["docker", "run", "--detach"]
    assert command[command.index("--gpus") + 1] == '"device=0,1"'
    assert "type=bind,readonly,source=/srv/my artifacts/it's one,target=/artifact" in command
    assert command[-3:] == [values().image, "/bin/sh", "/deployment/launch.sh"]
    assert render_deployment(values()) == render_deployment(values())
    every = yaml.safe_load(render_deployment(values())["compose.yaml"])["services"]["tiny"]
    assert every["deploy"]["resources"]["reservations"]["devices"][0]["count"] == "all"
