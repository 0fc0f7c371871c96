"""Rendering: the files, their stability, what is written, and every plan that is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from builder.plan import BuildPlan
from profiles.triton_contract import engine_contract, engine_layouts, llmapi_contract
from serving.render import RepositoryRenderer, compare, render, values_of, write
from trtllm_kit.errors import HostError, SpecError
from trtllm_kit.files import fingerprint

GOLDEN = Path(__file__).parents[2] / "golden" / "repositories"
CASES: dict[str, dict[str, Any]] = {
    "engine-tp1-streaming": {},
    "engine-tp2-whole": {"target__tp_size": 2, "serving__decoupled_mode": False, "kv_cache__max_tokens": 4096},
    "engine-0.19": {"trtllm_version": "0.19.0", "build__logits_dtype": "float16"},
    "llmapi-tp1": {"runtime": "pytorch"},
}
TYPES = {"logits": "TYPE_FP32", "encoder_input_features": "TYPE_FP16", "prompt_embedding_table": "TYPE_FP16"}


def configs(files: dict[str, str]) -> dict[str, ModelConfig]:
    found = {path.split("/")[0]: text for path, text in files.items() if path.endswith("config.pbtxt")}
    return {model: text_format.Parse(text, ModelConfig()) for model, text in found.items()}


def parameters(files: dict[str, str], model: str = "tensorrt_llm") -> dict[str, str]:
    return {key: value.string_value for key, value in configs(files)[model].parameters.items()}


def tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_a_repository_is_the_golden_one(make_plan, case: str) -> None:
    """TRTLLM_KIT_UPDATE_GOLDENS=1 writes the trees anew; Python files are the templates' own and are not repeated."""
    files = {path: text for path, text in render(make_plan(**CASES[case])).items() if not path.endswith(".py")}
    if os.environ.get("TRTLLM_KIT_UPDATE_GOLDENS"):
        write(files, GOLDEN / case)
    assert files == tree(GOLDEN / case)


@pytest.mark.parametrize("version", ["0.16.0", "0.17.0.post1", "0.18.2", "0.19.0", "0.20.0", "1.0.0", "1.2.1"])
def test_every_release_declares_exactly_its_contract(make_plan, version: str) -> None:
    rendered = configs(render(make_plan(trtllm_version=version)))
    contract = engine_contract(version, TYPES)
    assert list(contract) == ["preprocessing", "tensorrt_llm", "postprocessing", "tensorrt_llm_bls", "ensemble"]
    for model, rows in contract.items():
        for side in ("input", "output"):
            declared = [
                (item.name, DataType.Name(item.data_type), tuple(item.dims), item.HasField("reshape"))
                for item in getattr(rendered[model], side)
            ]
            wanted = getattr(rows, f"{side}s")
            assert declared == [(tensor.name, tensor.dtype, tensor.dims, tensor.scalar) for tensor in wanted]
        required = {item.name for item in rendered[model].input if not item.optional}
        assert required == {tensor.name for tensor in rows.inputs if not tensor.optional}
        ragged = {item.name for item in rendered[model].input if item.allow_ragged_batch}
        assert ragged == {tensor.name for tensor in rows.inputs if tensor.ragged}
        assert set(rows.parameters) <= set(rendered[model].parameters)


@pytest.mark.parametrize(
    ("version", "present", "absent"),
    [
        ("0.18.2", {"random_seed", "min_length", "return_kv_cache_reuse_stats"}, {"seed", "return_perf_metrics"}),
        ("0.19.0", {"random_seed", "min_length", "return_perf_metrics"}, {"seed", "return_num_output_tokens"}),
        ("1.2.1", {"seed", "min_tokens", "return_num_output_tokens"}, {"random_seed", "min_length"}),
    ],
)
def test_names_follow_the_release(make_plan, version: str, present: set[str], absent: set[str]) -> None:
    rendered = configs(render(make_plan(trtllm_version=version)))
    for model in ("tensorrt_llm", "tensorrt_llm_bls", "ensemble"):
        names = {item.name for item in rendered[model].input}
        assert present <= names
        assert not absent & names


def test_sizes_of_the_newest_contract() -> None:
    counts = {
        model: (len(rows.inputs), len(rows.outputs), len(rows.parameters))
        for model, rows in engine_contract("1.2.1", TYPES).items()
    }
    assert counts == {
        "preprocessing": (14, 20, 6),
        "tensorrt_llm": (62, 21, 45),
        "postprocessing": (2, 1, 2),
        "tensorrt_llm_bls": (42, 19, 4),
        "ensemble": (36, 19, 0),
    }
    assert len(llmapi_contract()["tensorrt_llm"].inputs) == 22
    assert engine_layouts() == ("0.16", "0.17", "0.19", "0.20")


@pytest.mark.parametrize("version", ["0.15.0", "nightly"])
def test_a_release_without_a_known_layout_is_refused(make_plan, version: str) -> None:
    plan = replace(make_plan(), trtllm_version=version)
    with pytest.raises(SpecError, match=version):
        render(plan)


def test_values_follow_from_the_plan(make_plan) -> None:
    plan = make_plan(
        target__tp_size=4,
        target__pp_size=2,
        serving__bls_instance_count=5,
        serving__preprocessing_instance_count=3,
        serving__root="/models/x/",
        serving__max_queue_delay_microseconds=100,
        kv_cache__max_tokens=4096,
        build__max_beam_width=2,
        build__logits_dtype="float16",
    )
    files = render(plan)
    rendered, llm = configs(files), parameters(files)
    assert values_of(plan).world_size == 8
    assert rendered["tensorrt_llm_bls"].instance_group[0].count == 5
    assert rendered["preprocessing"].instance_group[0].count == 3
    assert rendered["tensorrt_llm"].instance_group[0].count == 1
    queue = rendered["tensorrt_llm"].dynamic_batching
    assert (queue.default_queue_policy.max_queue_size, queue.max_queue_delay_microseconds) == (16, 100)
    assert list(queue.preferred_batch_size) == [8]
    logits = {item.name: item.data_type for item in rendered["ensemble"].output}
    assert logits["context_logits"] == logits["generation_logits"] == DataType.Value("TYPE_FP16")
    assert llm["gpt_model_path"] == "/models/x/engine"
    assert llm["tokenizer_dir"] == parameters(files, "preprocessing")["tokenizer_dir"] == "/models/x/tokenizer"
    assert llm["gpt_model_type"] == "inflight_fused_batching"
    assert llm["kv_cache_free_gpu_mem_fraction"] == "0.85"
    assert llm["max_tokens_in_paged_kv_cache"] == "4096"
    assert (llm["max_beam_width"], llm["decoding_mode"]) == ("2", "beam_search")
    assert llm["enable_kv_cache_reuse"] == llm["enable_chunked_context"] == "true"
    assert llm["guided_decoding_backend"] == llm["xgrammar_tokenizer_info_path"] == ""
    assert parameters(files, "preprocessing")["multimodal_model_path"] == ""


def test_paths_are_relative_to_the_artifact_by_default(make_plan) -> None:
    files = render(make_plan())
    assert parameters(files)["gpt_model_path"] == "engine"
    assert parameters(files, "postprocessing")["tokenizer_dir"] == "tokenizer"


def test_a_sliding_window_shorter_than_the_sequence_is_kept(make_plan) -> None:
    plan = make_plan()
    for window, rendered in ((64, "64"), (4096, ""), (None, "")):
        config = replace(plan.checkpoint.config, sliding_window=window)
        changed = replace(plan, checkpoint=replace(plan.checkpoint, config=config))
        assert parameters(render(changed))["max_attention_window_size"] == rendered


@pytest.mark.parametrize("decoupled", [True, False])
def test_decoupled_mode_is_one_value_everywhere(make_plan, decoupled: bool) -> None:
    engine = configs(render(make_plan(serving__decoupled_mode=decoupled)))
    for model in ("tensorrt_llm", "tensorrt_llm_bls"):
        assert engine[model].model_transaction_policy.decoupled is decoupled
    files = render(make_plan(runtime="pytorch", serving__decoupled_mode=decoupled))
    assert configs(files)["tensorrt_llm"].model_transaction_policy.decoupled is decoupled
    assert configs(files)["tensorrt_llm"].max_batch_size == 0
    settings = yaml.safe_load(files["tensorrt_llm/1/model.yaml"])
    assert settings["triton_config"]["max_batch_size"] == 0
    assert settings["triton_config"]["decoupled"] is decoupled


def test_llm_arguments_follow_from_the_plan(make_plan) -> None:
    plan = make_plan(
        runtime="pytorch",
        target__tp_size=2,
        target__pp_size=4,
        kv_cache__max_tokens=2048,
        kv_cache__dtype="fp8",
    )
    arguments = yaml.safe_load(render(plan)["tensorrt_llm/1/model.yaml"])
    assert (arguments["tensor_parallel_size"], arguments["pipeline_parallel_size"]) == (2, 4)
    assert arguments["kv_cache_config"]["max_tokens"] == 2048
    assert arguments["kv_cache_config"]["dtype"] == "fp8"
    assert (arguments["model"], arguments["tokenizer"]) == ("engine", "tokenizer")
    assert arguments["scheduler_config"] == {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"}


def assert_refused(plan: BuildPlan, says: str) -> None:
    for attempt in (lambda: render(plan), lambda: RepositoryRenderer().inputs(plan)):
        with pytest.raises(SpecError, match=says) as refusal:
            attempt()
        assert refusal.value.fix


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"build__use_paged_context_fmha": "disable"}, "use_paged_context_fmha"),
        (
            {"build__use_paged_context_fmha": "disable", "kv_cache__enable_block_reuse": False},
            "serving.enable_chunked_context",
        ),
        ({"serving__triton_max_batch_size": 9}, "max_batch_size 8"),
        ({"kv_cache__max_tokens": 127}, "max_seq_len 128"),
        ({"runtime": "pytorch", "kv_cache__max_tokens": 127}, "max_seq_len 128"),
        ({"build__speculative_decoding_mode": "lookahead_decoding"}, "lookahead"),
    ],
)
def test_a_plan_that_contradicts_its_engine_is_refused_before_any_work(make_plan, changes, says: str) -> None:
    assert_refused(make_plan(**changes), says)


def test_an_engine_without_a_paged_cache_is_refused_before_any_work(make_plan) -> None:
    plan = make_plan()
    assert_refused(replace(plan, build=replace(plan.build, kv_cache_type="continuous")), "kv_cache_type")


def test_without_paged_context_attention_the_rest_still_renders(make_plan) -> None:
    plan = make_plan(
        build__use_paged_context_fmha="disable",
        kv_cache__enable_block_reuse=False,
        serving__enable_chunked_context=False,
    )
    assert parameters(render(plan))["enable_kv_cache_reuse"] == "false"


def test_rendering_twice_gives_the_same_bytes_and_touches_nothing(make_plan, tmp_path: Path) -> None:
    assert render(make_plan()) == render(make_plan())
    out = tmp_path / "repository"
    assert {change.action for change in write(render(make_plan()), out)} == {"create"}
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert {change.action for change in write(render(make_plan()), out)} == {"identical"}
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    for model in ("ensemble", "tensorrt_llm"):
        assert (out / model / "1").is_dir()


def test_only_what_differs_is_written(make_plan, tmp_path: Path) -> None:
    write(render(make_plan()), tmp_path)
    (tmp_path / "tensorrt_llm" / "config.pbtxt").write_text("edited")
    files = render(make_plan(serving__bls_instance_count=7))
    wanted = ["tensorrt_llm/config.pbtxt", "tensorrt_llm_bls/config.pbtxt"]
    assert [change.path for change in compare(files, tmp_path) if change.action != "identical"] == wanted
    assert (tmp_path / "tensorrt_llm" / "config.pbtxt").read_text() == "edited"
    write(files, tmp_path)
    assert tree(tmp_path) == files


def test_stale_files_of_ours_go_and_a_users_own_stay(make_plan, tmp_path: Path) -> None:
    write(render(make_plan()), tmp_path)
    own = tmp_path / "ensemble" / "notes.txt"
    own.write_text("mine")
    files = render(make_plan(runtime="pytorch"))
    removed = {change.path for change in write(files, tmp_path) if change.action == "remove"}
    assert {"ensemble/config.pbtxt", "preprocessing/1/model.py"} <= removed
    assert tree(tmp_path) == {**files, "ensemble/notes.txt": "mine"}
    assert not (tmp_path / "preprocessing").exists()


def test_an_unwritable_folder_is_refused(make_plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError):
        write(render(make_plan()), tmp_path / "file" / "repository")


def test_stage_inputs_change_with_what_the_repository_depends_on(make_plan) -> None:
    renderer = RepositoryRenderer()
    plan = make_plan()
    assert fingerprint(renderer.inputs(plan)) == fingerprint(renderer.inputs(make_plan()))
    for changes in ({"serving__max_queue_size": 7}, {"trtllm_version": "0.19.0"}, {"runtime": "pytorch"}):
        assert fingerprint(renderer.inputs(make_plan(**changes))) != fingerprint(renderer.inputs(plan))
    assert renderer.inputs(make_plan(serving__max_queue_size=7))["values"]["max_queue_size"] == 7


def test_the_cpu_runtime_gets_the_engine_files_unmodified(make_plan) -> None:
    plan = make_plan(runtime="tensorrt")
    assert render(replace(plan, runtime="cpu")) == render(plan)
