"""`trtllm-kit build` through the front door: complete or absent, resumable, the same bytes every time."""

from __future__ import annotations

import hashlib
import shutil
import signal
import time
from pathlib import Path

import pytest

CPU = ("build", "model", "--sku", "cpu")


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Modification time and inode of everything below `folder`; the locks aside, which are opened and never written."""
    paths = sorted(path for path in folder.rglob("*") if "locks" not in path.parts)
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def artifacts(store: Path) -> list[Path]:
    folder = store / "artifacts"
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def the_artifact(kit) -> Path:
    (artifact,) = artifacts(kit.store)
    return artifact


def test_an_artifact_holds_all_that_a_deployment_needs(built) -> None:
    artifact = the_artifact(built)
    names = set(tree(artifact))
    assert {"manifest.json", "spec.yaml", "tokenizer/tokenizer.json", "engine/config.json"} <= names
    assert {
        f"model_repository/{name}/config.pbtxt" for name in ("ensemble", "tensorrt_llm", "tensorrt_llm_bls")
    } <= names
    shown = built.ok("artifact", "show").json
    assert shown["identifier"] == "tiny-llama-bf16-cpu-tp1pp1-cpu"
    assert set(shown["files"]) == names - {"manifest.json"}
    assert str(built.folder) not in (artifact / "manifest.json").read_text()


def test_an_unchanged_build_does_nothing_and_says_so(built) -> None:
    before = stamps(built.store)
    again = built.ok(*CPU)
    assert stamps(built.store) == before
    assert "nothing to do" in again.err
    assert Path(again.out.strip()) == the_artifact(built)
    plan = built.ok("plan", "--check", "--sku", "cpu", "--output", "json").json
    assert {row["action"] for row in plan["stages"]} == {"skip"}


def test_a_moved_model_is_the_same_model(built, kit, tiny_llama: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(tiny_llama, tmp_path / "elsewhere" / tiny_llama.name))
    kit.ok("init", "--model", str(moved))
    kit.ok(*CPU)
    assert the_artifact(kit).name == the_artifact(built).name


def test_a_changed_spec_rebuilds_what_depends_on_it_and_says_why(built, kit, tiny_llama: Path) -> None:
    shutil.copytree(built.store, kit.store)
    kit.ok("init", "--model", str(tiny_llama))
    pending = kit.run("plan", "--check", "--sku", "cpu", "--set", "serving.max_queue_size=7", "--output", "json")
    assert pending.code == 10
    actions = {row["name"]: row["action"] for row in pending.json["stages"]}
    assert actions == {"quantize": "skip", "compile": "skip", "render": "run", "package": "run"}
    reason = next(row["reason"] for row in pending.json["stages"] if row["name"] == "render")
    assert "max_queue_size" in reason
    assert "→ 7" in reason


@pytest.mark.parametrize("stage", ["quantize", "compile", "package", "artifacts"])
def test_a_killed_build_leaves_no_artifact_and_resumes_to_the_same_bytes(
    built, kit, tiny_llama: Path, stage: str
) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    watched = kit.store / "artifacts" if stage == "artifacts" else kit.store / "stages" / stage
    process = kit.start(*CPU)
    while process.poll() is None and not (watched.is_dir() and any(watched.iterdir())):
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for artifact in artifacts(kit.store):  # it may have been published in the very moment: then it is whole
        kit.ok("artifact", "verify", str(artifact))
    if stage in ("quantize", "compile"):
        assert artifacts(kit.store) == []
    kit.ok(*CPU)
    assert tree(the_artifact(kit)) == tree(the_artifact(built))
    leftovers = list(kit.store.rglob("*.tmp"))
    assert leftovers == []


def test_two_builds_at_once_end_well_with_one_artifact(built, kit, tiny_llama: Path) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    processes = [kit.start(*CPU) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert tree(the_artifact(kit)) == tree(the_artifact(built))


def test_one_flipped_byte_is_found_and_mended(built, kit, tiny_llama: Path) -> None:
    shutil.copytree(built.store, kit.store)
    kit.ok("init", "--model", str(tiny_llama))
    victim = the_artifact(kit) / "engine" / "openvino_model.bin"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    damaged = kit.run("artifact", "verify")
    assert damaged.code == 15
    assert "engine/openvino_model.bin has other bytes" in damaged.err
    assert kit.run("deploy").code == 15
    kit.ok(*CPU, "--rebuild")
    kit.ok("artifact", "verify")
    assert tree(the_artifact(kit)) == tree(the_artifact(built))


def test_an_edited_manifest_is_found(built, kit) -> None:
    shutil.copytree(built.store, kit.store)
    path = the_artifact(kit) / "manifest.json"
    path.write_text(path.read_text().replace('"precision": "bf16"', '"precision": "fp16"', 1))
    assert kit.run("artifact", "verify").code == 15


def test_a_file_too_many_or_too_few_is_found(built, kit) -> None:
    shutil.copytree(built.store, kit.store)
    (the_artifact(kit) / "engine" / "extra").write_text("x")
    assert "engine/extra is not in the manifest" in kit.run("artifact", "verify").err
    (the_artifact(kit) / "engine" / "extra").unlink()
    (the_artifact(kit) / "tokenizer" / "tokenizer.json").unlink()
    assert "tokenizer/tokenizer.json is missing" in kit.run("artifact", "verify").err


def test_gc_keeps_what_a_ref_needs_and_drops_the_rest(built, kit, tiny_llama: Path) -> None:
    shutil.copytree(built.store, kit.store)
    kit.ok("init", "--model", str(tiny_llama))
    (old,) = artifacts(kit.store)
    kit.ok(*CPU, "--set", "serving.max_queue_size=7")
    assert len(artifacts(kit.store)) == 2
    listed = kit.ok("artifact", "gc", "--dry-run", "--output", "json").json
    assert str(old) in listed["removed"]
    assert len(artifacts(kit.store)) == 2
    kit.ok("artifact", "gc")
    assert old not in artifacts(kit.store)
    kit.ok("artifact", "verify")
    assert "nothing to do" in kit.ok(*CPU, "--set", "serving.max_queue_size=7").err


def test_one_stage_alone(kit, tiny_llama: Path) -> None:
    checkpoint = kit.ok("build", "checkpoint", "--model", str(tiny_llama), "--sku", "cpu", "--precision", "int8_wo")
    assert (Path(checkpoint.out.strip()) / "hf_quant_config.json").is_file()
    repository = kit.ok("build", "repository", "--model", str(tiny_llama), "--sku", "cpu")
    assert (Path(repository.out.strip()) / "ensemble" / "config.pbtxt").is_file()
    assert artifacts(kit.store) == []


@pytest.mark.parametrize(
    ("arguments", "code", "telling"),
    [
        (("build", "model"), 3, "trtllm-kit init"),
        (("build", "model", "--model", "no/such/folder"), 3, "no"),
        (("build", "model", "--set", "nonsense"), 3, "--set nonsense has no value"),
        (("build", "modle"), 2, "No such command"),
        (("plan", "--spec", "/dev/null"), 3, "holds no keys"),
        (("artifact", "verify"), 3, "build one with"),
        (("artifact", "show", "tiny-llama"), 3, "names no artifact"),
        (("deploy",), 3, "build one with"),
        (("validate",), 3, ""),
    ],
)
def test_what_cannot_be_done_is_said_with_its_exit_code(
    kit, arguments: tuple[str, ...], code: int, telling: str
) -> None:
    outcome = kit.run(*arguments)
    assert outcome.code == code, outcome.err
    assert telling in outcome.err


def test_an_unwritable_store_is_refused(kit, tiny_llama: Path) -> None:
    kit.store.write_text("a file where the store should be")
    outcome = kit.run("build", "model", "--model", str(tiny_llama), "--sku", "cpu")
    assert outcome.code == 4
    assert "TRTLLM_KIT_STORE" in outcome.err


def test_an_engine_without_tensorrt_llm_is_refused_before_any_work(kit, tiny_llama: Path) -> None:
    outcome = kit.run("build", "model", "--model", str(tiny_llama), "--sku", "h100_sxm", "--runtime", "tensorrt")
    assert outcome.code == 4
    assert "trtllm-build" in outcome.err
    assert artifacts(kit.store) == []
    assert not (kit.store / "stages").exists()


def test_an_artifact_that_was_removed_is_made_again(built, kit, tiny_llama: Path) -> None:
    shutil.copytree(built.store, kit.store)
    kit.ok("init", "--model", str(tiny_llama))
    shutil.rmtree(the_artifact(kit))
    kit.ok(*CPU)
    assert tree(the_artifact(kit)) == tree(the_artifact(built))
