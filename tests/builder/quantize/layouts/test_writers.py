"""The writers as such: every tensor once, the same bytes however the run went, and a killed run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from builder.checkpoint import Checkpoint
from builder.quantize.layouts import LayoutWriter, Ranks, open_layout
from builder.quantize.layouts.ledger import JOURNAL_NAME
from builder.quantize.raw import NUMPY_DTYPE, RawTensor
from builder.quantize.reader import open_checkpoint
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import Layout
from builder.safetensors_index import read_header
from trtllm_kit.errors import IntegrityError

Make = Callable[..., Any]
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
}
SHAPE = {"hidden_size": 128, "head_dim": 16, "intermediate_size": 256, "num_key_value_heads": 4}
LAYOUTS: list[Layout] = ["trtllm", "hf"]


@pytest.fixture
def checkpoint(make_model: Make) -> Checkpoint:
    found: Checkpoint = make_model(**SHAPE).fetch()
    return found


def open_in(
    out: Path, checkpoint: Checkpoint, layout: Layout, precision: str = "fp8", *, resume: bool = False, **knobs: Any
) -> LayoutWriter:
    out.mkdir(exist_ok=True)
    recipe, ranks = Recipe(precision=precision, **knobs), Ranks(tp_size=2, pp_size=2)
    return open_layout(
        checkpoint, recipe, layout, dtype="bfloat16", ranks=ranks, out=out, max_shard_bytes=100_000, resume=resume
    )


def bits(writer: LayoutWriter, name: str) -> RawTensor:
    """Any bits, the same for the same name; scales of whole tensors are all one number."""
    entry = writer.entries[name]
    if entry.part.rows is None:
        return RawTensor(entry.dtype, np.full(entry.shape, 0x3F80, dtype=NUMPY_DTYPE[entry.dtype]))
    generator = np.random.default_rng(len(name) + hash(entry.shape) % 97)
    return RawTensor(entry.dtype, generator.integers(0, 100, entry.shape).astype(NUMPY_DTYPE[entry.dtype]))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def whole(out: Path, checkpoint: Checkpoint, layout: Layout, **knobs: Any) -> dict[str, str]:
    writer = open_in(out, checkpoint, layout, **knobs)
    for name in writer.entries:
        writer.write(name, bits(writer, name))
    writer.close()
    return digests(out)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_that_was_killed_goes_on_after_its_last_flush(
    layout: Layout, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """What was written after the flush is written again, and may have been anything."""
    out = tmp_path / "killed"
    killed = open_in(out, checkpoint, layout, kv_cache="int8")
    names = list(killed.entries)
    for name in names[:20]:
        killed.write(name, bits(killed, name))
    killed.flush()
    for name in names[20:40]:
        wrong = bits(killed, name).array
        killed.write(name, RawTensor(killed.entries[name].dtype, wrong + 1 if wrong.shape else wrong))
    killed.abandon()
    with (out / JOURNAL_NAME).open("a") as journal:
        journal.write('["a line that was cut sho')

    resumed = open_in(out, checkpoint, layout, kv_cache="int8", resume=True)
    assert resumed.written == set(names[:20])
    for name in names[20:]:
        resumed.write(name, bits(resumed, name))
    resumed.close()
    assert digests(out) == whole(tmp_path / "whole", checkpoint, layout, kv_cache="int8")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_order_of_writes_changes_no_byte(layout: Layout, checkpoint: Checkpoint, tmp_path: Path) -> None:
    backwards = open_in(tmp_path / "backwards", checkpoint, layout)
    for name in reversed(list(backwards.entries)):
        backwards.write(name, bits(backwards, name))
    backwards.close()
    assert digests(tmp_path / "backwards") == whole(tmp_path / "forwards", checkpoint, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_that_never_flushed_begins_anew(layout: Layout, checkpoint: Checkpoint, tmp_path: Path) -> None:
    killed = open_in(tmp_path / "out", checkpoint, layout)
    killed.abandon()
    again = open_in(tmp_path / "out", checkpoint, layout, resume=True)
    assert again.written == frozenset()
    again.abandon()


def test_files_of_another_recipe_are_not_written_on(checkpoint: Checkpoint, tmp_path: Path) -> None:
    first = open_in(tmp_path / "out", checkpoint, "hf")
    first.flush()
    first.abandon()
    with pytest.raises(IntegrityError, match="begun for other tensors"):
        open_in(tmp_path / "out", checkpoint, "hf", "int8_wo", resume=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tensor_is_written_once_and_as_it_was_announced(
    layout: Layout, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    writer = open_in(tmp_path / "out", checkpoint, layout)
    name = "model.layers.0.self_attn.q_proj.weight"
    with pytest.raises(RuntimeError, match="has no place"):
        writer.write("model.layers.0.self_attn.q_proj.weight_scale_2", bits(writer, name))
    with pytest.raises(RuntimeError, match=r"not F8_E4M3 \(128, 128\)"):
        writer.write(name, RawTensor("F8_E4M3", np.zeros((64, 128), dtype=np.uint8)))
    writer.write(name, bits(writer, name))
    with pytest.raises(RuntimeError, match="written twice"):
        writer.write(name, bits(writer, name))
    with pytest.raises(RuntimeError, match="tensors were not written"):
        writer.close()
    writer.abandon()


def test_linears_that_engines_fuse_must_have_equal_scales(checkpoint: Checkpoint, tmp_path: Path) -> None:
    writer = open_in(tmp_path / "out", checkpoint, "trtllm")
    one, other = (RawTensor("F32", np.array(value, dtype=np.float32).view(np.uint32)) for value in (0.5, 0.25))
    writer.write("model.layers.0.self_attn.q_proj.weight_scale", one)
    writer.write("model.layers.0.mlp.gate_proj.weight_scale", one)
    writer.write("model.layers.0.mlp.up_proj.weight_scale", other)  # a tensor of its own there
    with pytest.raises(RuntimeError, match="differs from what is fused with it"):
        writer.write("model.layers.0.self_attn.k_proj.weight_scale", other)
    writer.abandon()


@pytest.mark.parametrize("precision", ["fp8", "nvfp4"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_of_experts_come_back(layout: Layout, precision: str, make_model: Make, tmp_path: Path) -> None:
    """Stacked by expert in an engine's file, where only the scale of the input is one for all of them."""
    checkpoint = make_model(**SHAPE, **MIXTRAL).fetch()
    whole(tmp_path / "out", checkpoint, layout, precision=precision)
    reader, writer = open_checkpoint(tmp_path / "out"), open_in(tmp_path / "again", checkpoint, layout, precision)
    for module in reader.modules():
        for role, raw in reader.parts(module).items():
            written = bits(writer, f"{module}.{role}")
            assert raw.dtype == written.dtype
            assert np.array_equal(raw.array.reshape(written.array.shape), written.array), f"{module}.{role}"
    writer.abandon()
    if layout == "trtllm":
        stored = {name: entry.shape for name, entry in read_header(tmp_path / "out" / "rank0.safetensors").items()}
        mlp = {
            name.removeprefix("transformer.layers.0.mlp."): shape for name, shape in stored.items() if "0.mlp" in name
        }
        assert mlp["fc.activation_scaling_factor"] == (1,)
        per_expert = "fc.weights_scaling_factor" if precision == "fp8" else "fc.weights_scaling_factor_2"
        assert mlp[per_expert] == ((3, 1) if precision == "fp8" else (3,))


def test_scales_that_an_engine_has_one_of_are_the_largest(make_model: Make, tmp_path: Path) -> None:
    """Of all experts' inputs, and of keys and values: a smaller one would clip some of them."""
    checkpoint = make_model(**SHAPE, **MIXTRAL).fetch()
    writer = open_in(tmp_path / "out", checkpoint, "trtllm", kv_cache="int8")
    values = {
        "self_attn.k_proj.k_scale": 0.25,
        "self_attn.v_proj.v_scale": 0.5,
        **{f"block_sparse_moe.experts.{e}.w2.input_scale": value for e, value in enumerate((1.0, 3.0, 2.0))},
    }
    for name in writer.entries:
        value = values.get(name.removeprefix("model.layers.1."))
        exact = None if value is None else RawTensor("F32", np.array(value, dtype=np.float32).view(np.uint32))
        writer.write(name, exact or bits(writer, name))
    writer.close()
    for rank in (2, 3):  # the second stage
        tensors = load_file(tmp_path / "out" / f"rank{rank}.safetensors")
        assert tensors["transformer.layers.0.attention.kv_cache_scaling_factor"].tolist() == [0.5]
        assert tensors["transformer.layers.0.mlp.proj.activation_scaling_factor"].tolist() == [3.0]


def test_files_have_their_size_from_the_start(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """So that a disk that is too small is found before hours of work."""
    whole(tmp_path / "whole", checkpoint, "hf")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "whole").glob("*.safetensors")}
    writer = open_in(tmp_path / "out", checkpoint, "hf")
    taken = {path.name: path.stat() for path in (tmp_path / "out").iterdir()}
    assert {name: stat.st_size for name, stat in taken.items()} == sizes
    assert all(stat.st_blocks * 512 >= stat.st_size for stat in taken.values())
    writer.abandon()
