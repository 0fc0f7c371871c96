"""Checkpoints made to measure: any family and shape, weights drawn from a seed, written by the safetensors package; and
what OpenVINO computes from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from builder import manifest
from builder.checkpoint import Checkpoint
from builder.compile.openvino_ir.model import write_ir
from builder.digests import DigestCache
from builder.families import config_of, family_of
from builder.fetch import fetch
from builder.plan import BuildPlan
from trtllm_kit.console import Silent
from trtllm_kit.files import pretty_json, sha256_file

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "bfloat16",
}


def write_tokenizer(folder: Path, *, size: int) -> None:
    vocab = {f"<{number}>": number for number in range(size)}
    added = [{"id": size - 1, "content": f"<{size - 1}>", "special": True}]
    tree = {"version": "1.0", "added_tokens": added, "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


class ModelFolder:
    """A checkpoint that a test can change before it is fetched."""

    def __init__(self, path: Path, **overrides: Any) -> None:
        path.mkdir(parents=True)
        self.path = path
        self.config = {**BASE, **overrides}
        config = config_of(self.config)
        generator = torch.Generator().manual_seed(7)
        dtype = getattr(torch, config.dtype)
        self.tensors = {
            name: (torch.randn(shape, generator=generator) * 0.1).to(dtype)
            for name, shape in family_of(config.architecture).shapes(config).items()
        }
        write_tokenizer(path, size=config.vocab_size)
        self.save()

    def save(self) -> None:
        (self.path / "config.json").write_text(json.dumps(self.config))
        save_file(self.tensors, self.path / "model.safetensors", metadata={"format": "pt"})

    def shard(self, parts: int) -> list[Path]:
        """Write the weights as numbered shards with an index instead."""
        (self.path / "model.safetensors").unlink()
        names = sorted(self.tensors)
        files = [self.path / f"model-{part + 1:05d}-of-{parts:05d}.safetensors" for part in range(parts)]
        weight_map: dict[str, str] = {}
        for part, file in enumerate(files):
            held = {name: self.tensors[name] for name in names[part::parts]}
            save_file(held, file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(held, file.name)
        index = {"metadata": {}, "weight_map": weight_map}
        (self.path / "model.safetensors.index.json").write_text(json.dumps(index))
        return files

    def fetch(self, **options: Any) -> Checkpoint:
        digests = DigestCache(self.path.parent / "digests.json")
        return fetch(str(self.path), **{"trust_remote_code": False, "digests": digests, "talk": Silent(), **options})


@pytest.fixture
def make_artifact(plan_for: Callable[..., BuildPlan], tmp_path: Path) -> Callable[..., Path]:
    """`make_artifact(files, versions, target__sku="l4", ...)`: an artifact of those files with the kit's manifest."""

    def make(files: Mapping[str, bytes] | None = None, versions: Mapping[str, str] | None = None, **keys: Any) -> Path:
        keys = {"target__sku": "cpu", "precision": "bf16", **keys}
        files = files or {
            "engine/rank0.engine": bytes(range(256)) * 9,
            "tokenizer/tokenizer.json": b"{}",
            "spec.yaml": b"a",
        }
        folder = tmp_path / f"artifact{len(list(tmp_path.glob('artifact*')))}"
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        digests = {name: sha256_file(folder / name) for name in files}
        plan = plan_for(BASE, **keys)
        content = manifest.make(plan, {"compile": "c" * 64}, versions or {"openvino_genai": "1"}, digests, facts={})
        (folder / manifest.MANIFEST).write_text(pretty_json(content))
        return folder

    return make


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., ModelFolder]:
    """`make_model(hidden_size=..., ...)`: a new Llama with these keys changed in its config."""
    made: list[ModelFolder] = []

    def make(**overrides: Any) -> ModelFolder:
        made.append(ModelFolder(tmp_path / f"model{len(made)}", **overrides))
        return made[-1]

    return make


EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "INFERENCE_NUM_THREADS": "1",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
Logits = Callable[[Path, np.ndarray, Path], np.ndarray]


def compiled(folder: Path, out: Path) -> Any:
    """The engine of the checkpoint in `folder`, written to `out`."""
    openvino = pytest.importorskip("openvino")
    out.mkdir(exist_ok=True)
    write_ir(folder, config_of(json.loads((folder / "config.json").read_text())), out)
    return openvino.Core().compile_model(out / "openvino_model.xml", "CPU", EXACT)


@pytest.fixture(scope="session")
def ir_logits() -> Logits:
    """`ir_logits(checkpoint, ids, out)`: float32 [sequences, tokens, vocabulary], in one step without a cache."""

    def run(folder: Path, ids: np.ndarray, out: Path) -> np.ndarray:
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": positions}
        feeds["beam_idx"] = np.arange(len(ids), dtype=np.int32)
        return np.array(compiled(folder, out).create_infer_request().infer(feeds)["logits"])

    return run


@pytest.fixture(scope="session")
def runtime_types() -> Callable[[Path, Path], list[str]]:
    """`runtime_types(checkpoint, out)`: the type in which the plugin holds the weight of each matrix product."""

    def run(folder: Path, out: Path) -> list[str]:
        nodes = compiled(folder, out).get_runtime_model().get_ops()
        products = [node for node in nodes if node.get_rt_info()["layerType"].value == "FullyConnected"]
        return [node.input_value(1).get_element_type().get_type_name() for node in products]

    return run
