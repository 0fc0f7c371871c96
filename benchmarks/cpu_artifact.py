"""What `cpu_engine.py` measures: checkpoints with random weights, and artifacts that serve plain token ids."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from builder.compile.openvino_ir.model import write_ir
from builder.compile.openvino_ir.settings import CpuEngineSettings, runtime_version
from builder.families import config_of
from builder.model_config import ModelConfig
from trtllm_kit.files import read_json

CONCURRENCY = 16
PROMPT_TOKENS = 32
OUTPUT_TOKENS = (8, 128)
_SHAPES = {  # hidden, intermediate, layers, heads, KV heads, vocabulary
    "random-30M": (512, 1408, 8, 8, 4, 4096),
    "random-5M": (256, 1024, 4, 4, 2, 2048),
}
_PBTXT = """name: "tensorrt_llm"
backend: "tensorrtllm"
max_batch_size: {batch}
model_transaction_policy {{ decoupled: true }}
dynamic_batching {{ }}
input [ {inputs} ]
output [ {{ name: "output_ids" data_type: TYPE_INT32 dims: [ -1, -1 ] }},
         {{ name: "sequence_length" data_type: TYPE_INT32 dims: [ -1 ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{parameters}
"""
_INPUTS = (("input_ids", "INT32", -1), ("input_lengths", "INT32", 1), ("request_output_len", "INT32", 1))
_PARAMETERS = {
    "gpt_model_type": "inflight_fused_batching",
    "gpt_model_path": "engine",
    "tokenizer_dir": "tokenizer",
    "xgrammar_tokenizer_info_path": "",
    "guided_decoding_backend": "",
    "exclude_input_in_output": "true",
}


def checkpoints(given: Path | None, scratch: Path) -> Iterator[tuple[str, Path]]:
    """(name, folder) of the given checkpoint, or of two made with random weights."""
    if given is not None:
        yield given.resolve().name, given
        return
    for name, shape in _SHAPES.items():
        yield name, _random_checkpoint(scratch / name, *shape)


def _random_checkpoint(
    folder: Path, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int
) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    raw = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "hidden_act": "silu"}
    raw |= {"intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads, "eos_token_id": 2}
    raw |= {"num_key_value_heads": kv_heads, "vocab_size": vocabulary, "max_position_embeddings": 2048}
    raw |= {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(raw))
    numbers = np.random.default_rng(0)
    shapes = _tensor_shapes(config_of(raw))
    tensors = {name: (0.02 * numbers.standard_normal(shape)).astype(np.float16) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def _tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner, kv = config.hidden_size, config.intermediate_size, config.num_key_value_heads * config.head_size
    table = (config.vocab_size, hidden)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": table, "lm_head.weight": table}
    shapes["model.norm.weight"] = (hidden,)
    parts = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden)}
    parts |= {"self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden)}
    rest = {"mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    for layer in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{layer}.{part}.weight": shape for part, shape in {**parts, **rest}.items()}
    return shapes


def write_artifact(checkpoint: Path, root: Path) -> Path:
    """An engine and the part of a model repository that serves token ids."""
    config = config_of(read_json(checkpoint / "config.json", "config.json"))
    engine, model = root / "engine", root / "model_repository" / "tensorrt_llm"
    engine.mkdir(parents=True)
    (model / "1").mkdir(parents=True)
    write_ir(checkpoint, config, engine)
    shutil.copy(checkpoint / "config.json", engine)
    _settings(config).write(engine)
    tensor = '{{ name: "{}" data_type: TYPE_{} dims: [ {} ] }}'
    inputs = [tensor.format(*row) for row in (*_INPUTS, ("streaming", "BOOL", 1))]
    rows = [f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}' for key, text in _PARAMETERS.items()]
    text = _PBTXT.format(batch=CONCURRENCY, inputs=", ".join(inputs), parameters="\n".join(rows))
    (model / "config.pbtxt").write_text(text)
    return root


def _settings(config: ModelConfig) -> CpuEngineSettings:
    return CpuEngineSettings(
        max_batch_size=CONCURRENCY,
        max_num_tokens=512,
        max_seq_len=PROMPT_TOKENS + OUTPUT_TOKENS[1],
        num_kv_blocks=CONCURRENCY * 6 + 33,
        enable_block_reuse=True,
        kv_cache_precision="f32",
        inference_precision="f32",
        dynamic_quantization_group_size=0,
        vocab_size=config.vocab_size,
        eos_token_ids=config.eos_token_ids,
        pad_token_id=None,
        openvino_version=runtime_version() or "",
    )
