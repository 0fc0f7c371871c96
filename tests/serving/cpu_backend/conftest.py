"""A tiny engine with random weights, and artifacts around it whose repository is rendered as for any other build."""

from __future__ import annotations

import dataclasses
import json
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from builder.compile.openvino_ir.model import write_ir
from builder.compile.openvino_ir.settings import CpuEngineSettings, runtime_version
from builder.families import config_of
from builder.plan import BuildPlan
from serving.cpu_backend.engine import Engine
from serving.cpu_backend.flight import Delta
from serving.cpu_backend.request import GenerationRequest
from serving.deploy.server import RunningServer, running_server
from serving.deploy.tritonserver import cpu_backend_files
from serving.render import render, write

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "float32",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SETTINGS = CpuEngineSettings(
    max_batch_size=8,
    max_num_tokens=256,
    max_seq_len=256,
    num_kv_blocks=33,
    enable_block_reuse=True,
    kv_cache_precision="f32",
    inference_precision="f32",
    dynamic_quantization_group_size=0,
    vocab_size=320,
    eos_token_ids=(2,),
    pad_token_id=0,
    openvino_version=runtime_version() or "",
)


@pytest.fixture(scope="session")
def engine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    config = config_of(CONFIG)
    random = np.random.default_rng(0)
    hidden, inner, kv = config.hidden_size, config.intermediate_size, config.num_key_value_heads * config.head_size
    shapes = {"q": (hidden, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, hidden)}
    tensors = {"model.embed_tokens.weight": (config.vocab_size, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        tensors |= {f"{name}.self_attn.{part}_proj.weight": shape for part, shape in shapes.items()}
        tensors |= {f"{name}.mlp.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
        tensors |= {f"{name}.mlp.down_proj.weight": (hidden, inner)}
        tensors |= {f"{name}.{part}_layernorm.weight": (hidden,) for part in ("input", "post_attention")}
    arrays = {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in tensors.items()}
    save_file(arrays, folder / "model.safetensors")
    out = tmp_path_factory.mktemp("engine")
    write_ir(folder, config, out)
    (out / "config.json").write_text(json.dumps(CONFIG))
    SETTINGS.write(out)
    return out


@pytest.fixture
def engine(engine_folder: Path) -> Iterator[Engine]:
    with Engine.open(engine_folder) as engine:
        yield engine


class Stream:
    """Collects the news of one request."""

    def __init__(self, engine: Engine, **fields: Any) -> None:
        self.news: queue.Queue[Delta] = queue.Queue()
        self.flight = engine.submit(GenerationRequest(**fields), self.news.put)

    def next(self) -> Delta:
        return self.news.get(timeout=60)

    def all(self) -> list[Delta]:
        deltas = [self.next()]
        while deltas[-1].finish is None:
            deltas.append(self.next())
        return deltas

    def tokens(self) -> list[int]:
        return [token for delta in self.all() for token in delta.tokens]


@pytest.fixture
def stream() -> type[Stream]:
    return Stream


@pytest.fixture(scope="session")
def plan(plan_for: Callable[..., BuildPlan]) -> BuildPlan:
    """A plan whose rendered repository fits the tiny engine."""
    return plan_for(
        CONFIG,
        precision="bf16",
        runtime="cpu",
        trtllm_version="1.2.1",
        target__sku="cpu",
        kv_cache__max_tokens=1024,
        build__max_batch_size=8,
        build__max_input_len=255,
        build__max_seq_len=256,
        build__max_num_tokens=256,
        serving__max_queue_size=0,
        serving__bls_instance_count=8,
        serving__enable_chunked_context=False,
        serving__cpu_threads=1,
    )


@pytest.fixture(scope="session")
def make_artifact(
    engine_folder: Path, plan: BuildPlan, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """An artifact of the tiny engine with the LLM's own part of the repository; `serving` changes the plan."""

    def make(edit: Callable[[str], str] = lambda text: text, **serving: Any) -> Path:
        changed = dataclasses.replace(plan, serving=dataclasses.replace(plan.serving, **serving))
        root = tmp_path_factory.mktemp("artifact")
        (root / "engine").symlink_to(engine_folder)
        files = {path: text for path, text in render(changed).items() if path.startswith("tensorrt_llm/")}
        files["tensorrt_llm/config.pbtxt"] = edit(files["tensorrt_llm/config.pbtxt"])
        write(files, root / "model_repository")
        return root

    return make


@pytest.fixture(scope="session")
def server(make_artifact: Callable[..., Path]) -> Iterator[RunningServer]:
    with running_server(make_artifact(), cpu_backend=cpu_backend_files()) as server:
        yield server
