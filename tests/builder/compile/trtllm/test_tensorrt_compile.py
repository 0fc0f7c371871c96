"""`compile` for engines, driven through the stand-in: what it accepts, and every way in which a build can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.compile import tensorrt
from builder.compile.tensorrt import log_path
from builder.plan import BuildPlan
from trtllm_kit.console import Silent
from trtllm_kit.errors import BuildStepError, FitError, HostError, IncompatibleError, KitError, SpecError

MakePlan = Callable[..., BuildPlan]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A staging folder under a temporary name, as the stage runner makes it."""
    folder = tmp_path / "stages" / ".abc123~host~1~deadbeef.tmp"
    folder.mkdir(parents=True)
    return folder


class Listener(Silent):
    """A Talk that remembers."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def say(self, text: str) -> None:
        self.heard.append(text)

    def progress(self, done: float, total: float, what: str) -> None:
        self.heard.append((done, total, what))


@pytest.mark.parametrize(
    ("checkpoint", "changes"),
    [
        ("trtllm-bf16-tp1", {}),
        ("trtllm-fp16-tp2", {"precision": "fp16", "target__tp_size": 2}),
        ("trtllm-int8_wo-tp2", {"precision": "int8_wo", "target__tp_size": 2, "build__use_fused_mlp": "disable"}),
    ],
)
def test_an_engine_folder_holds_its_config_and_one_file_per_rank(
    checkpoint: str, changes: dict, make_plan: MakePlan, standin: Callable[..., None], golden: Path, out: Path
) -> None:
    standin()
    plan = make_plan(**changes)
    talk = Listener()
    tensorrt.check(plan)
    tensorrt.compile(golden / checkpoint, plan, out, talk)
    ranks = [f"rank{rank}.engine" for rank in range(plan.world_size)]
    assert sorted(path.name for path in out.iterdir()) == sorted(["config.json", *ranks])
    built = json.loads((out / "config.json").read_text())["build_config"]
    assert built["max_batch_size"] == plan.build.max_batch_size
    assert built["plugin_config"]["use_paged_context_fmha"] is True
    assert (plan.world_size, plan.world_size, "engine ranks") in talk.heard


def test_the_log_lies_beside_the_engine_under_its_final_name(
    make_plan: MakePlan, standin: Callable[..., None], golden: Path, out: Path
) -> None:
    standin()
    tensorrt.compile(golden / "trtllm-bf16-tp1", make_plan(), out, Silent())
    assert log_path(out) == out.parent / "abc123.build.log"
    assert "TensorRT LLM version: 1.2.1" in log_path(out).read_text()


FAILURES = {
    "gpu_oom": (FitError, "GPU's memory"),
    "torch_oom": (FitError, "GPU's memory"),
    "host_oom": (FitError, "host's memory"),
    "killed": (FitError, "was killed"),
    "no_gpu": (HostError, "finds no GPU"),
    "no_driver": (HostError, "finds no GPU"),
    "old_driver": (HostError, "driver is older"),
    "unsupported_sm": (IncompatibleError, "no kernels for this GPU"),
    "version_tag": (IncompatibleError, "tag 239, this one is 240"),
    "disk_full": (HostError, "disk is full"),
    "docker_gpu": (HostError, "cannot give the container a GPU"),
    "unknown": (BuildStepError, "exit code 3"),
    "nothing_written": (BuildStepError, "config.json is missing"),
    "broken_config": (BuildStepError, "not JSON"),
    "rank_missing": (BuildStepError, "rank0.engine is missing"),
    "rank_empty": (BuildStepError, "rank0.engine is missing or empty"),
    "other_limit": (BuildStepError, "max_batch_size is 1, not 16"),
    "other_mapping": (BuildStepError, "mapping.tp_size is 7, not 1"),
    "paging_lost": (BuildStepError, "use_paged_context_fmha is False, not True"),
    "other_version_inside": (IncompatibleError, "TensorRT-LLM 1.2.0"),
}


@pytest.mark.parametrize("way", FAILURES)
def test_each_failure_is_told_apart(
    way: str, make_plan: MakePlan, standin: Callable[..., None], golden: Path, out: Path
) -> None:
    error, words = FAILURES[way]
    standin(fail=way)
    with pytest.raises(error, match=words) as caught:
        tensorrt.compile(golden / "trtllm-bf16-tp1", make_plan(), out, Silent())
    assert type(caught.value) is error
    assert caught.value.expected
    assert caught.value.fix


def test_a_failed_build_names_its_log_and_quotes_the_end_of_it(
    make_plan: MakePlan, standin: Callable[..., None], golden: Path, out: Path
) -> None:
    standin(fail="unknown")
    with pytest.raises(BuildStepError) as caught:
        tensorrt.compile(golden / "trtllm-bf16-tp1", make_plan(), out, Silent())
    assert str(log_path(out)) in caught.value.happened
    assert "something that nobody has seen before" in caught.value.happened
    shutil.rmtree(out)
    assert log_path(out).is_file()


def test_another_version_ends_the_build_at_its_banner(
    make_plan: MakePlan, standin: Callable[..., None], golden: Path, out: Path
) -> None:
    standin(version="1.1.0", fail="hang")
    with pytest.raises(IncompatibleError, match=r"TensorRT-LLM 1\.1\.0, the plan is for 1\.2\.1"):
        tensorrt.compile(golden / "trtllm-bf16-tp1", make_plan(), out, Silent())


def test_blackwell_refuses_weight_only_int8(
    make_plan: MakePlan, standin: Callable[..., None], golden: Path, out: Path
) -> None:
    standin(sm=100)
    with pytest.raises(SpecError, match="INT8/INT4 quantization is not supported"):
        tensorrt.compile(golden / "trtllm-int8_wo-tp1", make_plan(precision="int8_wo"), out, Silent())


def damage_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 8}))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a rank of another mapping": (damage_shape, "has the shape .* the model wants .*attention.qkv"),
    "more layers than tensors": (
        lambda folder: (folder / "config.json").write_text(
            (folder / "config.json").read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2')
        ),
        "tensors are not those of the model",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_does_not_fit_is_explained(
    damage: str, make_plan: MakePlan, standin: Callable[..., None], golden: Path, out: Path, tmp_path: Path
) -> None:
    act, words = DAMAGES[damage]
    standin()
    folder = Path(shutil.copytree(golden / "trtllm-bf16-tp1", tmp_path / "checkpoint"))
    act(folder)
    with pytest.raises(BuildStepError, match=words):
        tensorrt.compile(folder, make_plan(), out, Silent())


def test_an_interrupted_build_leaves_no_child(
    make_plan: MakePlan, standin: Callable[..., None], golden: Path, out: Path
) -> None:
    class Interrupting(Silent):
        def say(self, text: str) -> None:
            if "chooses kernels" in text:
                raise KeyboardInterrupt

    standin(fail="hang")
    with pytest.raises(KeyboardInterrupt):
        tensorrt.compile(golden / "trtllm-bf16-tp1", make_plan(), out, Interrupting())
    assert not children_writing(out)


def children_writing(out: Path) -> list[str]:
    """Processes that have `out` on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(out).encode() in command and b"trtllm-build" in command:
                found.append(entry.name)
    return found


KILLED = """
import pathlib, sys
sys.path.insert(0, {root!r})
from builder.compile.trtllm_run import run
from trtllm_kit.console import Silent
out = pathlib.Path({out!r})
run([{python!r}, "-c", "import time; print('started', flush=True); time.sleep(60)", "trtllm-build", str(out)],
    folder=out, log=out / "log", ranks=1, version="1.2.1", stop=lambda: None, talk=Silent())
"""


def test_a_killed_build_leaves_no_child(out: Path) -> None:
    root = str(Path(__file__).resolve().parents[4])
    code = KILLED.format(root=root, out=str(out), python=sys.executable)
    with subprocess.Popen([sys.executable, "-c", code]) as kit:
        wait_until(lambda: (out / "log").is_file() and bool(children_writing(out)))
        os.kill(kit.pid, signal.SIGKILL)
    wait_until(lambda: not children_writing(out))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come to pass within 30 s")
        time.sleep(0.05)


def test_every_error_is_one_of_the_kit(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, golden: Path, out: Path
) -> None:
    monkeypatch.setenv("TRTLLM_BUILD_COMMAND", str(golden / "source" / "config.json"))
    with pytest.raises(KitError):
        tensorrt.compile(golden / "trtllm-bf16-tp1", make_plan(), out, Silent())
