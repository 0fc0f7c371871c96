"""What `fetch` accepts, and that everything else is refused before any work with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trtllm_kit.errors import HostError, IntegrityError, SpecError

Make = Callable[..., Any]


def test_a_sound_checkpoint(make_model: Make) -> None:
    model = make_model()
    checkpoint = model.fetch()
    assert set(checkpoint.tensors) == set(model.tensors)
    assert set(checkpoint.files) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert (checkpoint.source, checkpoint.path) == (str(model.path), model.path)
    assert checkpoint.revision is None


def test_the_digest_follows_the_content_and_nothing_else(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    digest = model.fetch().digest
    (model.path / "README.md").write_text("changed")
    moved = Path(shutil.copytree(model.path, tmp_path / "elsewhere"))
    model.path = moved
    assert model.fetch().digest == digest
    (moved / "chat_template.jinja").write_text("{{ messages }}")
    assert model.fetch().digest != digest


def test_old_buffers_and_a_tied_output_layer_are_left_out(make_model: Make) -> None:
    model = make_model(tie_word_embeddings=True)
    model.tensors["lm_head.weight"] = model.tensors["model.embed_tokens.weight"].clone()
    model.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    model.save()
    left_out = {"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"}
    assert set(model.fetch().tensors) == set(model.tensors) - left_out


def remove(name: str) -> Callable[[Any], None]:
    return lambda model: (model.path / name).unlink()


def write(name: str, text: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        (model.path / name).write_text(text)

    return change


def configure(**keys: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.config.update(keys)
        (model.path / "config.json").write_text(json.dumps(model.config))

    return change


def tensor(name: str, value: torch.Tensor | None) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        if value is None:
            del model.tensors[name]
        else:
            model.tensors[name] = value
        model.save()

    return change


def only_pickles(model: Any) -> None:
    (model.path / "model.safetensors").rename(model.path / "pytorch_model.bin")


def weights_are_a_pointer(model: Any) -> None:
    (model.path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def lose_a_shard(model: Any) -> None:
    model.shard(3)[1].unlink()


def lose_a_shard_and_the_index(model: Any) -> None:
    lose_a_shard(model)
    (model.path / "model.safetensors.index.json").unlink()


def index_names_an_absent_tensor(model: Any) -> None:
    model.shard(2)
    index = model.path / "model.safetensors.index.json"
    tree = json.loads(index.read_text())
    tree["weight_map"]["model.layers.9.mlp.up_proj.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(tree))


def index_names_the_wrong_shard(model: Any) -> None:
    model.shard(2)
    index = model.path / "model.safetensors.index.json"
    tree = json.loads(index.read_text())
    tree["weight_map"]["lm_head.weight"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(tree))


def index_leads_out_of_the_folder(model: Any) -> None:
    model.shard(2)
    index = model.path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00002-of", "../model-00002-of"))


def the_same_tensor_twice(model: Any) -> None:
    first, second = model.shard(2)
    (model.path / "model.safetensors.index.json").unlink()
    shutil.copyfile(first, second)


REFUSALS: list[tuple[Callable[[Any], None], str]] = [
    (remove("config.json"), "has no config.json"),
    (write("config.json", "{"), "is not JSON"),
    (write("config.json", "[]"), "holds no keys"),
    (configure(architectures=["GPT2LMHeadModel"]), "'GPT2LMHeadModel' is unknown"),
    (configure(auto_map={"AutoModel": "modeling_x.Model"}), "code of its own"),
    (configure(quantization_config={"quant_method": "gptq", "bits": 4}), "quantized already, with quant_method 'gptq'"),
    (configure(quantization_config={"quant_method": "awq", "bits": 4}), "(by awq), and none of its linears is"),
    (write("hf_quant_config.json", "{}"), "quantized already, with no quant_algo"),
    (remove("model.safetensors"), "has no weights"),
    (only_pickles, "only pickled weights (pytorch_model.bin)"),
    (lose_a_shard, "lacks the shard model-00002-of-00003.safetensors"),
    (lose_a_shard_and_the_index, "lacks the shard model-00002-of-00003.safetensors"),
    (write("model.safetensors.index.json", "{}"), "has no weight_map"),
    (index_leads_out_of_the_folder, "names the file '../model-00002-of"),
    (tensor("model.norm.weight", None), "1 tensors are missing: model.norm.weight"),
    (tensor("lm_head.weight", None), "1 tensors are missing: lm_head.weight"),
    (tensor("model.layers.1.self_attn.k_proj.weight", torch.ones(8, 64)), "k_proj.weight in model.safetensors has the"),
    (tensor("model.layers.0.mlp.up_proj.weight", torch.ones(128, 64, dtype=torch.int8)), "is I8: the checkpoint looks"),
    (tensor("model.layers.0.mlp.up_proj.weight", torch.ones(128, 64, dtype=torch.float64)), "is F64"),
    (tensor("model.layers.0.self_attn.q_proj.bias", torch.ones(64)), "1 tensors have no place in a LlamaForCausalLM"),
    (tensor("model.layers.2.mlp.up_proj.weight", torch.ones(128, 64)), "no place"),
    (configure(num_hidden_layers=3), "tensors are missing: model.layers.2"),
    (configure(num_hidden_layers=10**12), "tensors are missing"),
    (configure(tie_word_embeddings="no"), "'tie_word_embeddings' is 'no'"),
    (remove("tokenizer.json"), "has no tokenizer.json"),
    (write("tokenizer.json", "{"), "is not JSON"),
    (write("tokenizer.json", "{}"), "holds no vocabulary"),
    (write("tokenizer.json", '{"model": {"vocab": {}}}'), "holds no vocabulary"),
    (write("tokenizer.json", '{"model": {"vocab": {"a": Infinity}}}'), "holds no vocabulary"),
    (write("tokenizer.json", '{"model": {"vocab": {"a": 50}}}'), "token 'a' has the id 50"),
    (
        write("tokenizer.json", '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 77, "content": "<x>"}]}'),
        "token '<x>' has the id 77",
    ),
    (write("tokenizer.json", json.dumps({"model": {"vocab": [["a", 0.0]] * 51}})), "has the id 50"),
    (write("tokenizer_config.json", "no"), "is not JSON"),
    (configure(eos_token_id=[1, 50]), "eos_token_id 50 is outside"),
    (configure(bos_token_id=-1), "bos_token_id -1 is outside"),
    (write("generation_config.json", '{"eos_token_id": 128009}'), "generation_config.json: eos_token_id 128009"),
]


@pytest.mark.parametrize(("damage", "happened"), REFUSALS)
def test_refused_with_what_to_do(damage: Callable[[Any], None], happened: str, make_model: Make) -> None:
    model = make_model()
    damage(model)
    with pytest.raises(SpecError) as refused:
        model.fetch()
    assert happened in refused.value.happened
    assert refused.value.expected
    assert refused.value.fix


@pytest.mark.parametrize(
    ("damage", "happened"),
    [
        (weights_are_a_pointer, "is a Git LFS pointer"),
        (index_names_an_absent_tensor, "that no shard holds"),
        (index_names_the_wrong_shard, "holds lm_head.weight, that is in model-00001-of-00002.safetensors"),
        (the_same_tensor_twice, "is both in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors"),
    ],
)
def test_inconsistent_files_are_an_integrity_error(
    damage: Callable[[Any], None], happened: str, make_model: Make
) -> None:
    model = make_model()
    damage(model)
    with pytest.raises(IntegrityError) as refused:
        model.fetch()
    assert happened in refused.value.happened
    assert refused.value.fix


def test_foreign_code_is_accepted_with_the_flag_and_never_run(make_model: Make) -> None:
    model = make_model()
    configure(auto_map={"AutoModel": "modeling_x.Model"})(model)
    (model.path / "modeling_x.py").write_text("raise SystemExit('was run')")
    assert model.fetch(trust_remote_code=True).config.architecture == "LlamaForCausalLM"


def test_fewer_tokens_than_rows_and_no_pad_token_are_fine(make_model: Make) -> None:
    model = make_model()
    write("tokenizer.json", '{"model": {"vocab": {"a": 0, "b": 1}}}')(model)
    configure(pad_token_id=-1, eos_token_id=None)(model)
    assert model.fetch().config.eos_token_ids == ()


def test_a_file_that_cannot_be_read_is_an_error_of_the_host(make_model: Make) -> None:
    class Failing:
        def sha256(self, file: Path) -> str:
            raise PermissionError(13, "Permission denied", str(file))

    with pytest.raises(HostError, match="cannot be read") as refused:
        make_model().fetch(digests=Failing())
    assert "config.json" in refused.value.happened


def test_a_missing_tokenizer_file_comes_with_the_command_that_makes_it(make_model: Make) -> None:
    model = make_model()
    remove("tokenizer.json")(model)
    with pytest.raises(SpecError) as refused:
        model.fetch()
    assert "save_pretrained" in refused.value.fix
    assert str(model.path) in refused.value.fix
