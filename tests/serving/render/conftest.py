"""Plans to render, and artifacts with a tokenizer to serve them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import model_repo_templates
from builder.plan import BuildPlan
from serving.render import render, write

TEXTS = (
    "The quick brown fox jumps over the lazy dog. ",
    "def main(argument: str) -> None: return argument.split() ",
    "Grüße, señor; naïve café, 東京 и Москва. ",
)


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 8,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "vocab_size": 512,
    "max_position_embeddings": 128,
}
SPEC: dict[str, Any] = {
    "precision": "bf16",
    "runtime": "tensorrt",
    "trtllm_version": "1.2.1",
    "target__sku": "l40s",
    "target__tp_size": 1,
    "kv_cache__free_gpu_memory_fraction": 0.85,
    "kv_cache__enable_block_reuse": True,
    "build__max_batch_size": 8,
    "build__max_input_len": 96,
    "build__max_seq_len": 128,
    "build__max_num_tokens": 256,
    "serving__concurrency": 4,
    "serving__preprocessing_instance_count": 1,
    "serving__postprocessing_instance_count": 1,
    "serving__bls_instance_count": 1,
    "serving__max_queue_size": 16,
    "serving__enable_chunked_context": True,
}


@pytest.fixture(scope="session")
def make_plan(plan_for: Callable[..., BuildPlan]) -> Callable[..., BuildPlan]:
    """A small plan; keyword arguments change keys of its spec, `build__max_batch_size=4` those of a group."""

    def make(**keys: Any) -> BuildPlan:
        return plan_for(CONFIG, **{**SPEC, **keys})

    return make


def _byte_level() -> Tokenizer:
    """As Llama 3 and Qwen have it: any byte is a token, so an emoji takes several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|turn|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>"))]
    )
    return tokenizer


def _byte_fallback() -> Tokenizer:
    """As Llama 2 and Mistral have it: `▁` for a space, bytes for what has no piece, first space of a text dropped."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz.,"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocab |= {"".join(pair): len(vocab) + index for index, pair in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return tokenizer


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Tokenizer]:
    return {"byte_level": _byte_level(), "byte_fallback": _byte_fallback()}


@pytest.fixture(scope="session")
def tokenizer(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    """The one that the servers of these tests serve."""
    return tokenizers["byte_level"]


@pytest.fixture(scope="session")
def write_artifact(tokenizer: Tokenizer) -> Callable[[BuildPlan, Path], Path]:
    """A folder laid out like an artifact, with a rendered repository and an engine that has a config only."""

    def make(plan: BuildPlan, root: Path) -> Path:
        write(render(plan), root / "model_repository")
        for name in ("engine", "tokenizer"):
            (root / name).mkdir()
        (root / "engine" / "config.json").write_text(json.dumps({"vocab_size": 512}))
        # As saved by somebody who trained with it: neither may reach a prompt.
        kept = Tokenizer.from_str(tokenizer.to_str())
        kept.enable_truncation(max_length=4)
        kept.enable_padding(length=32)
        kept.save(str(root / "tokenizer" / "tokenizer.json"))
        settings = {"eos_token": "<|end|>", "bos_token": "<|begin|>", "tokenizer_class": "PreTrainedTokenizerFast"}
        (root / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
        ends = [tokenizer.token_to_id("<|turn|>"), tokenizer.token_to_id("<|end|>")]
        (root / "tokenizer" / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        return root

    return make


@pytest.fixture(scope="session")
def load_template() -> Callable[[str], ModuleType]:
    """A template's Python file as a module, for files that need no server."""

    def load(path: str) -> ModuleType:
        (folder,) = model_repo_templates.__path__
        spec = importlib.util.spec_from_file_location(Path(path).stem, Path(folder) / path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
