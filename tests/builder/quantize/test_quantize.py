"""The stage as a whole: what it writes, that it is the same every time, and what it refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from builder.checkpoint import Checkpoint
from builder.quantize import quantize
from builder.quantize.calibration.resources import Resources
from builder.quantize.calibration.samples import CalibrationSet
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import SCHEMES
from trtllm_kit.console import Silent
from trtllm_kit.errors import FitError, HostError, IntegrityError, SpecError

Make = Callable[..., Any]


def tokens(checkpoint: Checkpoint) -> CalibrationSet:
    """Five samples of 24 tokens."""
    return CalibrationSet(np.random.default_rng(0).integers(0, checkpoint.config.vocab_size, (5, 24)))


def run(checkpoint: Checkpoint, out: Path, scheme: str | Recipe = "bf16", layout: str = "hf", **options: Any) -> Path:
    out.mkdir()
    recipe = scheme if isinstance(scheme, Recipe) else Recipe(precision=scheme)
    arguments = {"tp_size": 1, "pp_size": 1, "talk": Silent(), "calibration": tokens(checkpoint), **options}
    quantize(checkpoint, recipe, layout=layout, out=out, **arguments)
    return out


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "family",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"tie_word_embeddings": True},
        {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None},
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
    ],
)
def test_transformers_loads_the_copy_and_computes_the_same_logits(
    family: dict[str, Any], make_model: Make, tmp_path: Path
) -> None:
    model = make_model(**family)
    out = run(model.fetch(), tmp_path / "out")
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        logits = [
            transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
            for folder in (model.path, out)
        ]
    assert torch.equal(*logits)
    assert logits[0].std() > 0.01


def test_the_tokenizer_and_the_config_go_along(make_model: Make, tmp_path: Path) -> None:
    model = make_model(extra_key={"kept": True})
    (model.path / "generation_config.json").write_text('{"temperature": 0.6}')
    (model.path / "chat_template.jinja").write_text("{{ messages }}")
    (model.path / "README.md").write_text("not read by anybody")
    out = run(model.fetch(), tmp_path / "out", "fp16")
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
        "chat_template.jinja",
    }  # fmt: skip
    config = json.loads((out / "config.json").read_text())
    assert config == {**model.config, "torch_dtype": "float16"}
    assert (out / "tokenizer.json").read_bytes() == (model.path / "tokenizer.json").read_bytes()


def test_a_config_of_transformers_5_keeps_its_own_key(make_model: Make, tmp_path: Path) -> None:
    model = make_model(dtype="bfloat16", torch_dtype=None)
    del model.config["torch_dtype"]
    model.save()
    config = json.loads((run(model.fetch(), tmp_path / "out", "fp16") / "config.json").read_text())
    assert config["dtype"] == "float16"
    assert "torch_dtype" not in config


def test_shards_stay_below_the_bound_and_the_index_names_every_tensor(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    out = run(model.fetch(), tmp_path / "out", max_shard_bytes=40_000)
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.tensors)
    for shard in shards:
        held = load_file(shard)
        assert sum(tensor.nbytes for tensor in held.values()) <= 40_000
        assert {name for name, file in index["weight_map"].items() if file == shard.name} == set(held)
        assert all(torch.equal(tensor, model.tensors[name]) for name, tensor in held.items())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in model.tensors.values())


def test_sharded_checkpoints_are_read(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    whole = run(model.fetch(), tmp_path / "whole")
    model.shard(3)
    assert digests(run(model.fetch(), tmp_path / "sharded")) == digests(whole)


@pytest.mark.parametrize(
    ("scheme", "layout"),
    [("int8_wo", "hf"), ("fp16", "hf"), ("fp16", "trtllm"), ("fp8", "trtllm"), ("int8_sq", "hf"), ("int4_awq", "hf")],
)
def test_the_bytes_do_not_depend_on_threads_or_processors(
    scheme: str, layout: str, make_model: Make, tmp_path: Path
) -> None:
    checkpoint = make_model(hidden_size=512, intermediate_size=2048, head_dim=64).fetch()
    threads, processors, found = torch.get_num_threads(), os.sched_getaffinity(0), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            os.sched_setaffinity(0, {min(processors)} if number == 1 else processors)
            memory = Resources(max_ram_bytes=10**10 * number)
            found.append(digests(run(checkpoint, tmp_path / str(number), scheme, layout, resources=memory)))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, processors)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("layout", "tp_size"), [("hf", 1), ("trtllm", 2)])
def test_a_model_is_never_in_memory_as_a_whole(layout: str, tp_size: int, make_model: Make, tmp_path: Path) -> None:
    model = make_model(hidden_size=512, intermediate_size=2048, num_hidden_layers=4)
    checkpoint = model.fetch()
    total = sum(tensor.nbytes for tensor in model.tensors.values())
    tracemalloc.start()
    try:
        run(checkpoint, tmp_path / "out", layout=layout, tp_size=tp_size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    largest = max(tensor.nbytes for tensor in model.tensors.values())
    assert peak < 2 * largest < total / 5


@pytest.mark.parametrize("layout", ["hf", "trtllm"])
def test_a_copy_needs_no_torch(layout: str, make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    expected = digests(run(model.fetch(), tmp_path / "here", layout=layout))
    (tmp_path / "there").mkdir()
    program = f"""
import sys
sys.modules["torch"] = None
from pathlib import Path
from builder.digests import DigestCache
from builder.fetch import fetch
from builder.quantize import quantize
from builder.quantize.recipe import Recipe
from trtllm_kit.console import Silent
rest = {{"tp_size": 1, "pp_size": 1, "talk": Silent()}}
checkpoint = fetch({str(model.path)!r}, trust_remote_code=False, digests=DigestCache(Path("d.json")), talk=Silent())
quantize(checkpoint, Recipe(precision="bf16"), layout={layout!r}, out=Path("there"), **rest)
try:
    quantize(checkpoint, Recipe(precision="fp16"), layout="hf", out=Path("cast"), **rest)
except Exception as error:
    print(type(error).__name__, error)
"""
    (tmp_path / "cast").mkdir()
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert digests(tmp_path / "there") == expected
    assert done.stdout.startswith("HostError casting BF16 to F16 needs torch")


def test_casts_round_to_nearest_even(make_model: Make, tmp_path: Path) -> None:
    model = make_model(torch_dtype="float32")
    made = {
        scheme: load_file(run(model.fetch(), tmp_path / scheme, scheme) / "model.safetensors")
        for scheme in ("bf16", "fp16")
    }
    for name, tensor in model.tensors.items():
        assert torch.equal(made["bf16"][name], tensor.to(torch.bfloat16))
        assert torch.equal(made["fp16"][name], tensor.to(torch.float16))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.down_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(
    scheme: str, name: str, bad: float, make_model: Make, tmp_path: Path
) -> None:
    model = make_model(hidden_size=128, intermediate_size=256, head_dim=16)
    model.tensors[name].view(-1)[-1] = bad
    model.save()
    with pytest.raises(SpecError, match=f"{name} holds NaN or infinite"):
        run(model.fetch(), tmp_path / "out", scheme)


def test_a_value_past_float16_is_refused_with_the_way_out(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    model.tensors["model.norm.weight"][5] = 70000.0
    model.save()
    checkpoint = model.fetch()
    with pytest.raises(SpecError, match=r"model\.norm\.weight has the value 7\.014e\+04") as refused:
        run(checkpoint, tmp_path / "half", "fp16")
    assert "bf16" in refused.value.fix
    run(checkpoint, tmp_path / "brain", "bf16")


def test_an_unknown_precision_is_refused_with_the_nearest(make_model: Make, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="'int8' is unknown") as refused:
        run(make_model().fetch(), tmp_path / "out", "int8")
    assert refused.value.fix == "write 'int8_wo'"
    assert all(name in refused.value.expected for name in SCHEMES)


def test_an_unknown_layout_is_refused(make_model: Make, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="bf16 does not exist in the gguf layout"):
        run(make_model().fetch(), tmp_path / "out", layout="gguf")


def test_weights_that_shrink_after_the_check_are_refused_and_do_not_kill_the_process(
    make_model: Make, tmp_path: Path
) -> None:
    model = make_model()
    checkpoint = model.fetch()
    weights = model.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4096])
    with pytest.raises(IntegrityError):
        run(checkpoint, tmp_path / "out")


def test_progress_ends_at_the_whole(make_model: Make, tmp_path: Path) -> None:
    seen: list[float] = []

    class Listener(Silent):
        def progress(self, done: float, total: float, what: str) -> None:
            seen.append(done / total)

    run(make_model().fetch(), tmp_path / "out", talk=Listener())
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 1)


def test_calibrated_layers_hold_what_transformers_computes(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    checkpoint = model.fetch()
    out = run(checkpoint, tmp_path / "out", "fp8")
    seen: dict[str, float] = {}
    reference = transformers.AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    for name, module in reference.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(
                lambda _module, inputs, name=name: seen.update({name: float(inputs[0].abs().max())})
            )
    with torch.inference_mode():
        reference(torch.from_numpy(tokens(checkpoint).ids))
    held = load_file(out / "model.safetensors")
    for name, largest in seen.items():
        assert float(held[f"{name}.input_scale"]) == pytest.approx(largest / 448, rel=1e-5)
    assert len(seen) == 14


def test_layers_are_calibrated_on_quantized_predecessors(make_model: Make, tmp_path: Path) -> None:
    """Against a model whose first layer holds the weights that were written, and rounds its inputs as FP8 does."""
    model = make_model()
    checkpoint = model.fetch()
    out = run(checkpoint, tmp_path / "out", Recipe(precision="fp8", quantized_predecessors=True))
    plain = run(checkpoint, tmp_path / "plain", "fp8")
    held = load_file(out / "model.safetensors")
    reference = transformers.AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    seen: dict[str, float] = {}
    for name, module in reference.named_modules():
        if name.startswith("model.layers.0.") and name.endswith("_proj"):
            weight = held[f"{name}.weight"].float() * held[f"{name}.weight_scale"]
            module.weight = torch.nn.Parameter(weight)
            scale = held[f"{name}.input_scale"]
            module.register_forward_pre_hook(
                lambda _module, inputs, scale=scale: (
                    (inputs[0] / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
                )
            )
        elif name.endswith("_proj"):
            module.register_forward_pre_hook(
                lambda _module, inputs, name=name: seen.update({name: float(inputs[0].abs().max())})
            )
    with torch.inference_mode():
        reference(torch.from_numpy(tokens(checkpoint).ids))
    assert len(seen) == 7
    for name, largest in seen.items():
        assert float(held[f"{name}.input_scale"]) == pytest.approx(largest / 448, rel=1e-4)
    others = load_file(plain / "model.safetensors")
    assert any(held[f"{name}.input_scale"] != others[f"{name}.input_scale"] for name in seen)


def test_scales_of_the_kv_cache_are_those_of_what_is_cached(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    checkpoint = model.fetch()
    out = run(checkpoint, tmp_path / "out", Recipe(precision="fp8", kv_cache="nvfp4"))
    held = load_file(out / "model.safetensors")
    reference = transformers.AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    with torch.inference_mode():
        cache = reference(torch.from_numpy(tokens(checkpoint).ids), use_cache=True).past_key_values
    for layer, (keys, values, *_) in enumerate(cache):
        for name, cached in (("k_proj.k_scale", keys), ("v_proj.v_scale", values)):
            scale = float(held[f"model.layers.{layer}.self_attn.{name}"])
            assert scale == pytest.approx(float(cached.abs().max()) / (6 * 448), rel=1e-5)


def test_a_precision_without_calibration_has_neutral_kv_scales(make_model: Make, tmp_path: Path) -> None:
    out = run(make_model().fetch(), tmp_path / "out", Recipe(precision="int8_wo", kv_cache="fp8"), calibration=None)
    assert load_file(out / "model.safetensors")["model.layers.0.self_attn.k_proj.k_scale"] == 1


def test_activations_that_are_not_finite_stop_with_the_name_of_the_layer(make_model: Make, tmp_path: Path) -> None:
    model = make_model(torch_dtype="float32")
    model.tensors["model.layers.1.input_layernorm.weight"].fill_(3e38)
    model.save()
    with pytest.raises(SpecError, match=r"model\.layers\.1\.self_attn\.q_proj"):
        run(model.fetch(), tmp_path / "out", "int8_sq")
    assert not list((tmp_path / "out").iterdir())


def test_weights_are_quantized_from_the_checkpoint_whatever_the_forward_pass_computes_in(
    make_model: Make, tmp_path: Path
) -> None:
    checkpoint = make_model(hidden_size=128, head_dim=16, torch_dtype="float32").fetch()
    made = [
        load_file(
            run(checkpoint, tmp_path / dtype, Recipe(precision="fp8", calibration_dtype=dtype)) / "model.safetensors"
        )
        for dtype in ("float32", "bfloat16")
    ]
    for name in made[0]:
        if name.endswith(("_proj.weight", "_proj.weight_scale")):
            assert torch.equal(made[0][name].float(), made[1][name].float())
        if name.endswith("input_scale"):
            assert made[1][name] == pytest.approx(float(made[0][name]), rel=0.03)


def test_missing_calibration_is_refused(make_model: Make, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="fp8 takes its scales from what passes through the model"):
        run(make_model().fetch(), tmp_path / "out", "fp8", calibration=None)


def test_groups_that_do_not_divide_are_refused_with_what_fits(make_model: Make, tmp_path: Path) -> None:
    checkpoint = make_model(hidden_size=128, intermediate_size=192, head_dim=16).fetch()
    with pytest.raises(SpecError, match=r"model\.layers\.0\.mlp\.down_proj has 192 in-features") as refused:
        run(checkpoint, tmp_path / "out", "int4_awq")
    assert refused.value.fix == "set quantization.group_size to 64"
    run(checkpoint, tmp_path / "narrow", Recipe(precision="int4_awq", group_size=64))
    with pytest.raises(SpecError, match="cannot divide by 16") as refused:
        run(make_model(intermediate_size=72).fetch(), tmp_path / "none", "nvfp4")
    assert "exclude it (quantization.exclude: ['*.down_proj'])" in refused.value.fix


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(precision="mixed", layers={"*.q_proj": "fp8", "*": "int8_wo"}),
        Recipe(precision="fp8", exclude=("*.up_proj",)),
    ],
)
def test_linears_of_one_input_must_share_a_precision(recipe: Recipe, make_model: Make, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="both read the same input"):
        run(make_model().fetch(), tmp_path / "out", recipe)


def test_every_layer_can_have_a_precision_of_its_own(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    recipe = Recipe(
        precision="mixed", layers={"*.layers.0.mlp.*": "int8_wo", "*.mlp.*": "fp8"}, exclude=("*.down_proj",)
    )
    held = load_file(run(model.fetch(), tmp_path / "out", recipe) / "model.safetensors")
    kinds = {name: tensor.dtype for name, tensor in held.items() if name.endswith("_proj.weight")}
    assert {name for name, kind in kinds.items() if kind == torch.int8} == {
        f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up")
    }
    assert {name for name, kind in kinds.items() if kind == torch.float8_e4m3fn} == {
        f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up")
    }


def test_a_full_disk_is_told_of_and_leaves_nothing_that_looks_finished(
    make_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, room = make_model().fetch(), 100_000
    allocate = os.posix_fallocate

    def small_disk(file: int, offset: int, length: int) -> None:
        nonlocal room
        room -= length
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(file, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", small_disk)
    with pytest.raises(HostError, match="No space left on device"):
        run(checkpoint, tmp_path / "out", "fp8")
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.undo()
    run(checkpoint, tmp_path / "again", "fp8")


def test_too_little_memory_is_refused_with_numbers(make_model: Make, tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"needs about 0\.\d\d GB of memory .* --max-ram allows 0\.01 GB"):
        run(make_model().fetch(), tmp_path / "out", "fp8", resources=Resources(max_ram_bytes=10**7))
