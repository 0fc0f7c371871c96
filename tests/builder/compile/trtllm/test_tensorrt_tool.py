"""The exact call of `trtllm-build`, and where it is looked for."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builder.compile import tensorrt
from builder.compile.trtllm_argv import trtllm_build_argv
from builder.plan import BuildPlan
from profiles import build_flags, detect
from trtllm_kit.console import Silent
from trtllm_kit.errors import HostError, SpecError

MakePlan = Callable[..., BuildPlan]
STANDINS = Path(__file__).resolve().parents[3] / "standins"


def argv(plan: BuildPlan) -> dict[str, str]:
    words = trtllm_build_argv(plan, checkpoint="C", engine="E", timing_cache="T")
    pairs: dict[str, str] = {}
    while words:
        name = words.pop(0)
        pairs[name] = words.pop(0) if words and not words[0].startswith("--") else ""
    return pairs


def test_in_flight_batching_and_paged_kv_are_always_written_out(make_plan: MakePlan) -> None:
    call = argv(make_plan())
    assert call["--gpt_attention_plugin"] == "auto"
    assert call["--remove_input_padding"] == "enable"
    assert call["--kv_cache_type"] == "paged"
    assert call["--use_paged_context_fmha"] == "enable"
    assert (call["--checkpoint_dir"], call["--output_dir"], call["--output_timing_cache"]) == ("C", "E", "T")


def test_limits_are_written_as_planned(make_plan: MakePlan) -> None:
    call = argv(make_plan(build__max_batch_size=7, build__max_seq_len=99, build__opt_num_tokens=5))
    assert (call["--max_batch_size"], call["--max_seq_len"], call["--opt_num_tokens"]) == ("7", "99", "5")


def test_unset_flags_and_false_switches_stay_away(make_plan: MakePlan) -> None:
    plan = make_plan()
    call = argv(replace(plan, build=replace(plan.build, gemm_plugin=None)))
    assert (
        not {"--gemm_plugin", "--opt_num_tokens", "--speculative_decoding_mode", "--gather_context_logits"}
        & call.keys()
    )
    assert argv(make_plan(build__gather_generation_logits=True))["--gather_generation_logits"] == ""


def test_a_flag_that_the_version_lacks_is_left_out_when_it_is_off(make_plan: MakePlan) -> None:
    assert "--norm_quant_fusion" in argv(make_plan())
    assert "--norm_quant_fusion" not in argv(make_plan(trtllm_version="0.16.0"))


def test_a_flag_that_the_version_lacks_is_refused_when_it_is_on(make_plan: MakePlan) -> None:
    plan = make_plan(trtllm_version="0.16.0")
    with pytest.raises(SpecError, match=r"TensorRT-LLM 0\.16\.0 has no norm_quant_fusion"):
        argv(replace(plan, build=replace(plan.build, norm_quant_fusion="enable")))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--max_batch_sise", "8"], "did you mean --max_batch_size"),
        (["--max_batch_size", "eight"], "expected a whole number"),
        (["--max_batch_size"], "needs a value"),
        (["--context_fmha", "yes"], "expected one of enable, disable"),
        (["--tp_size", "2"], "--tp_size is no flag"),
        (["--auto_parallel", "2"], "--auto_parallel is no flag"),
    ],
)
def test_what_the_real_parser_refuses_is_refused(words: list[str], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        build_flags.check_argv(words, "1.2.1")


def test_all_wrong_arguments_are_named_at_once() -> None:
    with pytest.raises(SpecError, match=r"--one .*--two"):
        build_flags.check_argv(["--one", "1", "--strip_plan", "--two"], "1.2.1")


def test_older_and_newer_parsers_differ() -> None:
    build_flags.check_argv(["--auto_parallel", "2"], "0.16.0")
    build_flags.check_argv(["--max_decoder_seq_len", "64", "--weight_sparsity"], "1.2.1")
    with pytest.raises(SpecError, match="fuse_fp4_quant"):
        build_flags.check_argv(["--fuse_fp4_quant", "enable"], "0.16.0")


def test_a_version_without_engines_is_refused(make_plan: MakePlan, standin: Callable[..., None]) -> None:
    standin()
    with pytest.raises(SpecError, match="builds no engines"):
        tensorrt.check(replace(make_plan(), trtllm_version="1.3.0rc24"))


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH with Python alone; returns the folder to put commands in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("TRTLLM_BUILD_COMMAND", raising=False)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    return folder


def test_without_trtllm_and_docker_the_command_for_elsewhere_is_shown(make_plan: MakePlan, bare_machine: Path) -> None:
    with pytest.raises(HostError, match="no trtllm-build on PATH, and docker does not answer") as caught:
        tensorrt.check(make_plan())
    assert caught.value.exit_code == 4
    assert (
        "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3 trtllm-build --checkpoint_dir /checkpoint"
        in caught.value.fix
    )
    assert "--kv_cache_type paged" in caught.value.fix


@pytest.mark.skipif(bool(detect.detect().gpus), reason="this machine has a GPU")
def test_trtllm_build_without_a_gpu_is_refused_before_any_work(make_plan: MakePlan, bare_machine: Path) -> None:
    (bare_machine / "trtllm-build").symlink_to(STANDINS / "trtllm-build")
    with pytest.raises(HostError, match="engines are compiled on their GPU"):
        tensorrt.check(make_plan())


def script_with_trtllm(folder: Path, version: str) -> Path:
    """A `trtllm-build` whose interpreter finds the metadata of a TensorRT-LLM."""
    info = folder / "site" / f"tensorrt_llm-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: {version}\n")
    interpreter = folder / "python-with-trtllm"
    interpreter.write_text(f'#!/bin/sh\nPYTHONPATH={folder / "site"} exec {sys.executable} "$@"\n')
    script = folder / "trtllm-build"
    script.write_text(f"#!{interpreter}\n")
    for path in (interpreter, script):
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return script


def test_an_installation_of_another_version_is_refused_before_any_work(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRTLLM_BUILD_COMMAND", str(script_with_trtllm(tmp_path, "1.1.0")))
    with pytest.raises(HostError, match=r"is of TensorRT-LLM 1\.1\.0, the plan is for 1\.2\.1"):
        tensorrt.check(make_plan())
    tensorrt.check(make_plan(trtllm_version="1.1.0"))


@pytest.mark.parametrize("command", ["", "/nowhere/trtllm-build", "'unbalanced"])
def test_a_command_that_is_none_is_refused(
    make_plan: MakePlan, bare_machine: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("TRTLLM_BUILD_COMMAND", command)
    with pytest.raises(HostError):
        tensorrt.check(make_plan())


@pytest.fixture
def docker(bare_machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The stand-in for docker, on a remote daemon; returns the record of its calls."""
    (bare_machine / "docker").symlink_to(STANDINS / "docker")
    monkeypatch.setenv("STANDIN_DOCKER_LOG", str(tmp_path / "docker.log"))
    monkeypatch.setenv("DOCKER_HOST", "tcp://gpu-machine:2375")
    for name in ("STANDIN_FAIL", "STANDIN_VERSION", "STANDIN_SM"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "docker.log"


def test_the_pinned_container_builds_through_docker(
    make_plan: MakePlan, docker: Path, golden: Path, tmp_path: Path
) -> None:
    out = tmp_path / "engine"
    out.mkdir()
    tensorrt.check(make_plan())
    tensorrt.compile(golden / "trtllm-bf16-tp1", make_plan(), out, Silent())
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "rank0.engine"]
    call = json.loads(docker.read_text().splitlines()[-1])
    assert call[:5] == ["run", "--rm", "--init", "--gpus", "all"]
    assert f"{golden / 'trtllm-bf16-tp1'}:/checkpoint:ro" in call
    image = call.index("nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3")
    assert call[image + 1 : image + 4] == ["trtllm-build", "--checkpoint_dir", "/checkpoint"]


def test_an_interrupted_container_is_killed(
    make_plan: MakePlan, docker: Path, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting(Silent):
        def say(self, text: str) -> None:
            if "chooses kernels" in text:
                raise KeyboardInterrupt

    monkeypatch.setenv("STANDIN_FAIL", "hang")
    out = tmp_path / "engine"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        tensorrt.compile(golden / "trtllm-bf16-tp1", make_plan(), out, Interrupting())
    calls = [json.loads(line) for line in docker.read_text().splitlines()]
    started = calls[-2]
    assert calls[-1] == ["kill", started[started.index("--name") + 1]]


def test_a_docker_that_is_down_counts_as_none(
    make_plan: MakePlan, docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_DOCKER", "down")
    with pytest.raises(HostError, match="docker does not answer"):
        tensorrt.check(make_plan())


def test_the_fingerprint_follows_flags_version_and_gpu_but_no_path(make_plan: MakePlan) -> None:
    base = tensorrt.inputs(make_plan())
    assert base == tensorrt.inputs(make_plan())
    assert base != tensorrt.inputs(make_plan(build__max_batch_size=8))
    assert base != tensorrt.inputs(make_plan(trtllm_version="1.2.0"))
    assert base != tensorrt.inputs(make_plan(target__sku="h200_sxm"))
    assert not any(word.startswith("/") for word in base["trtllm_build"])


def test_the_manifest_learns_the_whole_stack(make_plan: MakePlan) -> None:
    assert tensorrt.versions(make_plan()) == {
        "tensorrt_llm": "1.2.1",
        "tensorrt": "10.14.1.48",
        "cuda": "13.1.0",
        "triton_image": "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
    }


def test_the_standin_never_passes_for_an_engine(
    make_plan: MakePlan, standin: Callable[..., None], golden: Path, tmp_path: Path
) -> None:
    standin()
    out = tmp_path / "engine"
    out.mkdir()
    tensorrt.compile(golden / "trtllm-bf16-tp1", make_plan(), out, Silent())
    assert (out / "rank0.engine").read_text().startswith("stand-in, not an engine")
    product = [
        path
        for folder in ("builder", "profiles", "serving", "trtllm_kit")
        for path in (STANDINS.parents[1] / folder).rglob("*.py")
    ]
    assert product
    assert not [path for path in product if "STANDIN_" in path.read_text()]


def test_docker_is_found_by_the_tests(docker: Path) -> None:
    assert shutil.which("docker") == str(docker.parent / "bin" / "docker")
