"""What every command has: help, a fix with every error, results apart from talk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
import yaml

from trtllm_kit.cli.main import cli


def _walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from _walk(found, (*path, name))


COMMANDS = list(_walk(cli))


def test_the_tree_of_commands_is_found() -> None:
    assert {("build", "model"), ("cost", "per-token"), ("artifact", "gc"), ("completion",)} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(kit, command: tuple[str, ...]) -> None:
    assert "Usage: trtllm-kit" in kit.ok(*command, "--help").out


def test_help_imports_nothing_heavy() -> None:
    probe = (
        "import sys; from trtllm_kit.cli.main import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'tritonclient', 'openvino', 'numpy', 'pydantic', 'rich'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unchanged_build_imports_nothing_heavy(built) -> None:
    probe = (
        "import sys; from trtllm_kit.cli.main import cli\n"
        "cli.main(['build', 'model', '--sku', 'cpu', '-q'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'tritonclient', 'openvino', 'openvino_genai', 'huggingface_hub'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=built.folder, env=built.environment()
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_init_writes_a_spec_whose_comments_are_true(kit, tiny_llama) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    text = (kit.folder / "trtllm-kit.yaml").read_text()
    uncommented = "\n".join(
        line.replace("# ", "", 1) if ": " in line and line.lstrip().startswith("# ") else line
        for line in text.splitlines()[3:]
    )
    keys = yaml.safe_load(uncommented)
    (kit.folder / "trtllm-kit.yaml").write_text(yaml.safe_dump(keys))
    plan = kit.ok("plan", "--sku", "cpu", "--output", "json").json
    assert plan["identifier"] == "my-model-bf16-cpu-tp1pp1-cpu"


def test_init_keeps_what_is_there(kit, tiny_llama) -> None:
    (kit.folder / "trtllm-kit.yaml").write_text("mine")
    refused = kit.run("init", "--model", str(tiny_llama))
    assert (refused.code, (kit.folder / "trtllm-kit.yaml").read_text()) == (2, "mine")
    kit.ok("init", "--model", str(tiny_llama), "--force")


@pytest.mark.parametrize("model", ["./nowhere", "a/b/c"])
def test_init_refuses_a_model_that_cannot_be(kit, model: str) -> None:
    assert kit.run("init", "--model", model).code == 3
    assert list(kit.folder.iterdir()) == []


def test_doctor_has_a_fix_for_all_that_is_missing(kit) -> None:
    rows = kit.ok("doctor", "--output", "json").json
    assert {"python", "tensorrt-llm", "tritonserver", "docker", "disk", "memory"} <= {row["check"] for row in rows}
    assert all(row["fix"] for row in rows if not row["ok"])


def test_the_resolved_spec_gives_the_same_plan_again(kit, tiny_llama) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    first = kit.ok("plan", "--sku", "cpu", "--output", "json").json
    (kit.folder / "resolved.yaml").write_text(yaml.safe_dump(first["spec"]))
    second = kit.ok("plan", "--spec", "resolved.yaml", "--output", "json").json
    assert second["spec"] == first["spec"]
    # "auto" is upstream's own word for this plugin, and none means none: these two are decided again, alike.
    assert set(second["reasons"]) == {"build.gemm_plugin", "build.opt_num_tokens"}
    assert "auto" not in {str(value) for value in first["spec"].values() if not isinstance(value, dict)}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(kit, shell: str) -> None:
    assert "_TRTLLM_KIT_COMPLETE" in kit.ok("completion", shell).out
