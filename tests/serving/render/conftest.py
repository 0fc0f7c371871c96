"""Plans to render, and artifacts with a tokenizer to serve them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import model_repo_templates
from builder.checkpoint import Checkpoint
from builder.model_config import ModelConfig
from builder.plan import BuildFlags, BuildPlan, KvCache, ServingPlan, ValidationPlan
from profiles.skus import Sku
from serving.render import render, write
from trtllm_kit.identifier import BuildIdentifier

TEXTS = (
    "The quick brown fox jumps over the lazy dog. ",
    "def main(argument: str) -> None: return argument.split() ",
    "Grüße, señor; naïve café, 東京 и Москва. ",
)


def _flags() -> BuildFlags:
    words = {"str": "disable", "int": 64, "bool": False}
    values: dict[str, Any] = {
        field.name: words.get(str(field.type).split(" ")[0]) for field in dataclasses.fields(BuildFlags)
    }
    enabled = ("remove_input_padding", "context_fmha", "use_paged_context_fmha", "use_fused_mlp")
    values |= dict.fromkeys(enabled, "enable") | dict.fromkeys(("gpt_attention_plugin", "gemm_plugin"), "auto")
    return BuildFlags(
        **values
        | {
            "max_batch_size": 8,
            "max_input_len": 96,
            "max_seq_len": 128,
            "max_num_tokens": 256,
            "opt_num_tokens": None,
            "max_beam_width": 1,
            "kv_cache_type": "paged",
            "tokens_per_block": 32,
            "logits_dtype": "float32",
            "speculative_decoding_mode": None,
            "max_draft_len": 0,
            "workers": 1,
        }
    )


def _serving() -> ServingPlan:
    return ServingPlan(
        concurrency=4,
        decoupled_mode=True,
        triton_max_batch_size=8,
        preprocessing_instance_count=1,
        postprocessing_instance_count=1,
        bls_instance_count=1,
        max_queue_size=16,
        max_queue_delay_microseconds=0,
        batch_scheduler_policy="guaranteed_no_evict",
        enable_chunked_context=True,
        exclude_input_in_output=True,
        add_special_tokens=True,
        skip_special_tokens=True,
        accumulate_tokens=True,
        cpu_threads=0,
        root="",
    )


def _config() -> ModelConfig:
    shape = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "num_hidden_layers": 2}
    raw = {"architectures": ["LlamaForCausalLM"], "vocab_size": 512, "max_position_embeddings": 128, **shape}
    return ModelConfig.from_hf(raw, attention_bias=False, attention_output_bias=False, qk_norm=False)


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., BuildPlan]:
    """A small plan; keyword arguments change fields, `build__max_batch_size=4` those of a part."""

    def make(**changes: Any) -> BuildPlan:
        runtime = changes.get("runtime", "tensorrt")
        tp, pp = changes.get("tp_size", 1), changes.get("pp_size", 1)
        plan = BuildPlan(
            identifier=BuildIdentifier(model="tiny", precision="bf16", sku="l40s", tp=tp, pp=pp, runtime=runtime),
            checkpoint=Checkpoint(source="tiny", path=Path("tiny"), config=_config(), tensors={}, files={}, digest="0"),
            precision="bf16",
            sku=Sku(id="l40s", name="L40S", arch="Ada", sm=89, memory_gb=48.0),
            tp_size=1,
            pp_size=1,
            runtime="tensorrt",
            trtllm_version="1.2.1",
            kv_cache=KvCache(dtype="auto", free_gpu_memory_fraction=0.85, enable_block_reuse=True, max_tokens=None),
            build=_flags(),
            serving=_serving(),
            validation=ValidationPlan(
                concurrencies=(1,),
                requests_per_level=1,
                input_len=8,
                output_len=8,
                ttft_p95_ms=None,
                tpot_p95_ms=None,
                min_output_tokens_per_s=None,
            ),
        )
        for key, value in changes.items():
            part, _, field = key.partition("__")
            new = dataclasses.replace(getattr(plan, part), **{field: value}) if field else value
            plan = dataclasses.replace(plan, **{part: new})
        return plan

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
