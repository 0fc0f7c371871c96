"""What `nightly install` writes: golden trees, read by their own readers, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[3] / "golden" / "nightly"
TASKS = (".jsonl", "config.yaml")  # hold every default of the rule and of the spec; they are read below

Installed = Callable[[str], Path]
Neutral = Callable[[str], dict[str, str]]


@pytest.mark.parametrize("target", ["cron", "systemd", "kubernetes", "slurm"])
def test_the_files_are_the_golden_ones(neutral: Neutral, target: str) -> None:
    """TRTLLM_KIT_WRITE_GOLDEN=1 writes them anew."""
    found = {name: text for name, text in neutral(target).items() if not name.endswith(TASKS)}
    folder = GOLDEN / target
    if os.environ.get("TRTLLM_KIT_WRITE_GOLDEN"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in found.items():
            (folder / name).write_text(text)
    assert found == {path.name: path.read_text() for path in folder.iterdir()}


def test_tasks_are_all_cells_of_a_sku_with_models_as_they_are_written(installed: Installed, tiny_llama: Path) -> None:
    """A branch must be looked up anew each night, and an index must mean the same cell every night."""
    tasks = [json.loads(line) for line in (installed("slurm") / "l40s.jsonl").read_text().splitlines()]
    assert [task["identifier"] for task in tasks] == [
        "tiny-llama-bf16-l40s-tp1pp1-tensorrt",
        "tiny-llama-fp8-l40s-tp1pp1-tensorrt",
    ]
    for task in tasks:
        assert task["spec"]["model"] == str(tiny_llama)
        assert (task["depot"], task["gpus"], task["night"]) == ("s3://bucket/depot", 1, "")
        assert task["stage_minutes"] == {"default": 60.0, "compile": 120.0}
    assert f"#SBATCH --mem={mebibytes(tasks)}M" in (installed("slurm") / "l40s.sbatch").read_text()
    assert f"memory: {mebibytes(tasks)}Mi" in (installed("kubernetes") / "cells-l40s.yaml").read_text()
    (cpu,) = (json.loads(line) for line in (installed("slurm") / "cpu.jsonl").read_text().splitlines())
    assert cpu["gpus"] == 0


def mebibytes(tasks: list[dict[str, Any]]) -> int:
    """Of the largest task, rounded up."""
    return max(-(-task["memory_bytes"] // 2**20) for task in tasks)


def test_a_line_for_cron_runs_once_at_a_time_and_speaks_only_of_failures(neutral: Neutral, tmp_path: Path) -> None:
    (text,) = neutral("cron").values()
    *variables, line = [row for row in text.splitlines() if not row.startswith("#")]
    assert variables == [
        "SHELL=/bin/sh",
        "MAILTO=me",
        "TRTLLM_KIT_STORE=/home/me/store",
        "TRTLLM_KIT_DEPOT=s3://bucket/depot",
    ]
    _schedule, command = re.fullmatch(r"(0 2 \* \* \*) (.+)", line).groups()  # type: ignore[union-attr]
    # Run it as cron would, with a stand-in for the kit that ends as it is told.
    kit = tmp_path / "kit"
    kit.write_text('#!/bin/sh\necho "the night says $KIT_SAYS"\nexit $KIT_CODE\n')
    kit.chmod(0o755)
    command = (
        command.replace(r"\%", "%").replace("/opt/bin/trtllm-kit", str(kit)).replace("/home/me/store", str(tmp_path))
    )
    for code, mailed in ((0, ""), (9, "the night says no\n")):
        environment = {"PATH": os.environ["PATH"], "KIT_CODE": str(code), "KIT_SAYS": "no" if code else "yes"}
        (tmp_path / "nightly.log").unlink(missing_ok=True)
        done = subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True)
        assert done.stdout == mailed
    held = subprocess.Popen(
        ["flock", str(tmp_path / "nightly.lock"), "sh", "-c", "echo held; read _"], stdin=-1, stdout=-1
    )
    with held:
        assert held.stdout is not None and held.stdout.readline() == b"held\n"
        (tmp_path / "nightly.log").unlink()
        subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True)
        assert (tmp_path / "nightly.log").read_text() == ""  # the second night never began
        held.communicate(b"\n")


def test_paths_with_blanks_and_percents_survive_cron_and_systemd(kit: Any, tiny_llama: Path) -> None:
    folder = kit.folder / "50% off"
    folder.mkdir()
    (folder / "night ly.yaml").write_text(f"base: {{model: {tiny_llama}, target: {{sku: cpu}}}}\n")
    options = ("-f", str(folder / "night ly.yaml"))
    cron = kit.ok("nightly", "install", "--target", "cron", "--print", *options).out
    words = shlex.split(cron.splitlines()[-1].replace(r"\%", "%"))
    assert str(folder / "night ly.yaml") in words
    assert "%" not in cron.splitlines()[-1].replace(r"\%", "")
    unit = kit.ok("nightly", "install", "--target", "systemd", "--print", *options).out
    assert f'-f "{folder}/night ly.yaml"'.replace("%", "%%") in unit


@pytest.mark.parametrize("target", ["cron", "systemd", "slurm"])
def test_a_depot_of_the_environment_is_the_night_s_too(kit: Any, matrix: Path, target: str) -> None:
    matrix.write_text(matrix.read_text().replace("depot: s3://bucket/depot\n", ""))
    out = kit.ok("nightly", "install", "--target", target, "--print", TRTLLM_KIT_DEPOT="s3://other").out
    assert "TRTLLM_KIT_DEPOT=s3://other\n" in out


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_finds_nothing_to_say(kit: Any, matrix: Path) -> None:
    kit.ok("nightly", "install", "--target", "systemd", "--out", "units")
    units = [str(kit.folder / "units" / f"trtllm-kit-nightly.{kind}") for kind in ("service", "timer")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "trtllm-kit-nightly" in line]
    assert (done.returncode, ours) == (0, [])


def test_slurm_scripts_are_bash(installed: Installed) -> None:
    scripts = [path for path in installed("slurm").iterdir() if path.suffix in (".sh", ".sbatch")]
    assert len(scripts) == 5
    for path in scripts:
        subprocess.run(["bash", "-n", str(path)], check=True)
    assert os.access(installed("slurm") / "nightly.sh", os.X_OK)


def test_slurm_submits_every_sku_and_a_report_after_them(installed: Installed, tmp_path: Path) -> None:
    bin_folder = fake_slurm(tmp_path, squeue="exit 0")
    done = run_script(installed("slurm") / "nightly.sh", bin_folder)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "sbatch.calls").read_text().splitlines()
    nights = {call.split("|")[1] for call in calls}
    assert [call.split("|")[0] for call in calls] == [
        "--parsable cpu.sbatch",
        "--parsable l40s.sbatch",
        "--parsable h100_sxm.sbatch",
        "--dependency=afterany:101:102:103 report.sbatch",
    ]
    (night,) = nights
    assert re.fullmatch(r"\d{8}T\d{6}Z-slurm", night)


def test_slurm_goes_on_without_a_sku_that_is_not_taken(installed: Installed, tmp_path: Path) -> None:
    bin_folder = fake_slurm(tmp_path, squeue="exit 0", refuses="l40s.sbatch")
    done = run_script(installed("slurm") / "nightly.sh", bin_folder)
    assert (done.returncode, done.stderr) == (4, "the cells of l40s were not taken\n")
    assert "--dependency=afterany:101:103 report.sbatch" in (tmp_path / "sbatch.calls").read_text()


def test_slurm_submits_nothing_while_the_last_night_is_at_work(installed: Installed, tmp_path: Path) -> None:
    done = run_script(installed("slurm") / "nightly.sh", fake_slurm(tmp_path, squeue="echo 7 batch PENDING"))
    assert (done.returncode, done.stderr) == (0, "the last night is still at work\n")
    assert not (tmp_path / "sbatch.calls").exists()


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [
        (0, 0, False),
        (3, 0, False),
        (9, 0, False),
        (4, 0, True),
        (4, 1, False),
        (137, 1, True),
        (137, 2, False),
        (77, 0, False),
    ],
)
def test_slurm_requeues_by_the_exit_code(
    installed: Installed, neutral: Neutral, tmp_path: Path, code: int, restarts: int, requeued: bool
) -> None:
    script = neutral("slurm")["l40s.sbatch"]
    bin_folder = fake_slurm(tmp_path, squeue="exit 0")
    (bin_folder / "trtllm-kit").write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/kit.calls\nexit {code}\n')
    (bin_folder / "trtllm-kit").chmod(0o755)
    path = tmp_path / "cells.sbatch"
    path.write_text(script.replace("/opt/bin/", f"{bin_folder}/").replace("/home/me", str(installed("slurm").parent)))
    variables = {"SLURM_ARRAY_JOB_ID": "55", "SLURM_ARRAY_TASK_ID": "1", "TRTLLM_KIT_NIGHT": "n"}
    done = run_script(path, bin_folder, SLURM_RESTART_COUNT=str(restarts), **variables)
    assert done.returncode == code
    wanted = f"nightly cell --tasks l40s.jsonl --index 1 --night n --attempt {restarts + 1}\n"
    assert (tmp_path / "kit.calls").read_text() == wanted
    asked = tmp_path / "scontrol.calls"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 55_1\n" if requeued else "")


def fake_slurm(folder: Path, *, squeue: str, refuses: str = "nothing") -> Path:
    """Slurm's commands as far as the scripts use them: they write down how they were called."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    bodies = {
        "squeue": squeue,
        "sbatch": f'echo "$*|$TRTLLM_KIT_NIGHT" >> {folder}/sbatch.calls\n'
        f'case "$*" in *{refuses}) exit 1;; esac\n'
        f'echo "$((100 + $(wc -l < {folder}/sbatch.calls)));cluster"',
        "scontrol": f'echo "$*" >> {folder}/scontrol.calls',
    }
    for name, body in bodies.items():
        (bin_folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (bin_folder / name).chmod(0o755)
    return bin_folder


def run_script(path: Path, bin_folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{bin_folder}:{os.environ['PATH']}", **variables}
    return subprocess.run(["bash", str(path)], env=environment, capture_output=True, text=True)


def test_a_second_installation_changes_what_changed_and_nothing_else(kit: Any, matrix: Path) -> None:
    kit.ok("nightly", "install", "--target", "slurm", "--out", "slurm")
    before = {path.name: path.stat().st_mtime_ns for path in (kit.folder / "slurm").iterdir()}
    written = kit.ok("nightly", "install", "--target", "slurm", "--out", "slurm", "--schedule", "0 3 * * *").out
    assert written.split() == [str(kit.folder / "slurm" / "scrontab")]
    matrix.write_text(matrix.read_text().replace("cpu, l40s", "cpu"))
    kit.ok("nightly", "install", "--target", "slurm", "--out", "slurm", "--schedule", "0 3 * * *")
    after = {path.name: path.stat().st_mtime_ns for path in (kit.folder / "slurm").iterdir()}
    assert before.keys() - after.keys() == {"l40s.jsonl", "l40s.sbatch"}
    assert after["cpu.sbatch"] == before["cpu.sbatch"]


def test_what_was_edited_by_hand_is_not_overwritten_unasked(kit: Any, matrix: Path) -> None:
    kit.ok("nightly", "install", "--target", "cron", "--out", "cron")
    path = kit.folder / "cron" / "trtllm-kit-nightly.cron"
    path.write_text(path.read_text().replace("MAILTO=", "MAILTO=ops@example.com #"))
    refused = kit.run("nightly", "install", "--target", "cron", "--out", "cron", "--schedule", "0 3 * * *")
    assert refused.code == 3
    assert "was edited by hand" in refused.err
    assert "-MAILTO=ops@example.com" in refused.err
    assert "0 2 * * *" in path.read_text()
    kit.ok("nightly", "install", "--target", "cron", "--out", "cron", "--schedule", "0 3 * * *", "--force")
    assert "ops@example.com" not in path.read_text()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--target", "cron", "--schedule", "at night"), 3, "'at night' is no schedule"),
        (("--target", "cron", "--image", "x"), 2, "--image means nothing to cron"),
        (("--target", "kubernetes"), 2, "pods need an image"),
        (("--target", "kubernetes", "--image", "x", "--namespace", "My_Space"), 2, "--namespace My_Space is no name"),
        (("--target", "slurm", "--gres", "h100_sxm"), 2, "--gres h100_sxm has no type"),
        (("--target", "slurm", "--gres", "h1000=x"), 3, "unknown SKU 'h1000'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    kit: Any, matrix: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    refused = kit.run("nightly", "install", *options)
    assert (refused.code, words in refused.err) == (code, True), refused.err
    assert [path.name for path in kit.folder.iterdir()] == ["nightly.yaml"]


def test_a_model_that_is_not_there_is_named(kit: Any, matrix: Path) -> None:
    matrix.write_text(matrix.read_text().replace("model: ", "model: /nowhere"))
    refused = kit.run("nightly", "install", "--target", "slurm")
    assert refused.code in (3, 4)
    assert "/nowhere" in refused.err
