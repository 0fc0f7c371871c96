"""Train the example checkpoint, `examples/tiny-llama`, from what every CPython install already holds.

The text is Python's own documentation: `pydoc_data.topics` (the language reference, as `help()` shows it) and the
docstrings of the standard library, under the PSF License Agreement (https://docs.python.org/3/license.html). So the
script needs no network, and no package but torch, transformers and tokenizers (with the safetensors and jinja2 that
they bring along).

The same seed, Python, library versions and CPU instruction set give the same bytes. `training.json` records them all.

    python examples/train_tiny_llama.py --out /tmp/tiny-llama
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import inspect
import json
import math
import platform
import re
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('Roles are system, user and assistant, not ' + message['role']) }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SYSTEM_PROMPT = "You answer questions about Python."

# Config keys are those that transformers 4 and 5 both read (`rope_theta`, `torch_dtype`): version 5 would write
# `rope_parameters` and `dtype`, which the version inside a TensorRT-LLM container may not know.
MODEL_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}

# Neither documentation nor, in some distributions, CPython's own work.
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
# Documented in C, so their text is found by import only. Fixed, because the built-in set differs between platforms.
C_MODULES = (
    "builtins", "array", "binascii", "cmath", "errno", "gc", "itertools", "marshal", "math", "sys", "time", "zlib",
    "_bisect", "_codecs", "_collections", "_csv", "_datetime", "_functools", "_heapq", "_io", "_json", "_operator",
    "_pickle", "_random", "_socket", "_sqlite3", "_sre", "_ssl", "_struct", "_thread", "_weakref",
)  # fmt: skip
EMAIL_LINE = re.compile(r"^.*\S+@\S+\.\w+.*$\n?", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, beside the versions and MODEL_CONFIG."""

    steps: int
    seed: int
    window_tokens: int = 512
    batch_windows: int = 4
    peak_learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    held_out_share: int = 20  # one module in 20


@dataclass(frozen=True, kw_only=True)
class Document:
    """One docstring, or one topic of the language reference."""

    kind: Literal["topic", "module", "class", "function"]
    module: str  # "textwrap", or the topic's name
    name: str  # "TextWrapper.fill", or "" for the module itself
    signature: str  # "(self, text)", or ""
    text: str

    @property
    def title(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module

    @property
    def full_text(self) -> str:
        return f"{self.title}{self.signature}\n\n{self.text}"

    @property
    def summary(self) -> str:
        """The first paragraph on one line."""
        return " ".join(self.text.split("\n\n")[0].split())

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.title.split("."))


def topic_documents() -> Iterator[Document]:
    """The language reference, without the many paragraphs that several topics share."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    seen: set[str] = set()
    for name, text in sorted(topics.items()):
        fresh = [p for p in text.split("\n\n") if p not in seen]
        seen.update(fresh)
        yield Document(kind="topic", module=name, name="", signature="", text="\n\n".join(fresh).strip())


def source_documents(stdlib: Path) -> Iterator[Document]:
    """The docstrings of the standard library's Python files, read without importing them."""
    for path in sorted(stdlib.rglob("*.py"), key=lambda p: p.relative_to(stdlib).parts):
        parts = path.relative_to(stdlib).with_suffix("").parts
        if SKIPPED_FOLDERS.isdisjoint(parts):
            module = ".".join(part for part in parts if part != "__init__")
            yield from node_documents(ast.parse(path.read_bytes()), module, prefix="")


def node_documents(node: ast.AST, module: str, prefix: str) -> Iterator[Document]:
    if isinstance(node, ast.Module):
        kind: Literal["module", "class", "function"] = "module"
        name, signature = "", ""
    elif isinstance(node, ast.ClassDef):
        kind, name, signature = "class", prefix + node.name, ""
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        kind, name, signature = "function", prefix + node.name, f"({ast.unparse(node.args)})"
    else:
        return
    if text := ast.get_docstring(node):
        yield Document(kind=kind, module=module, name=name, signature=signature, text=text)
    for child in node.body:
        yield from node_documents(child, module, prefix=f"{name}." if name else "")


def c_documents() -> Iterator[Document]:
    """The docstrings of the modules that are written in C."""
    for module_name in C_MODULES:
        try:
            module = importlib.import_module(module_name)
        except ImportError:  # an optional part of CPython, left out of this build
            continue
        public = module_name.lstrip("_")
        for name, value in sorted(vars(module).items()):
            yield from object_documents(value, public, name)
            if inspect.isclass(value):
                for attribute, member in sorted(vars(value).items()):
                    yield from object_documents(member, public, f"{name}.{attribute}")


def object_documents(value: object, module: str, name: str) -> Iterator[Document]:
    is_documented = inspect.isclass(value) or inspect.isroutine(value)
    if is_documented and isinstance(text := value.__doc__, str) and text.strip():
        kind: Literal["class", "function"] = "class" if inspect.isclass(value) else "function"
        signature = getattr(value, "__text_signature__", None) or ""
        yield Document(kind=kind, module=module, name=name, signature=signature, text=inspect.cleandoc(text))


def load_corpus() -> list[Document]:
    """Every document once. Lines with an e-mail address are dropped: nobody needs a model that recites them."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    unique: dict[str, Document] = {}
    for document in (*topic_documents(), *source_documents(stdlib), *c_documents()):
        text = EMAIL_LINE.sub("", document.text).strip()
        if text:
            unique.setdefault(text, Document(**{**asdict(document), "text": text}))
    return list(unique.values())


def corpus_digest(corpus: list[Document]) -> str:
    digest = hashlib.sha256()
    for document in corpus:
        digest.update(f"{document.full_text}\0".encode())
    return digest.hexdigest()


def is_held_out(document: Document, share: int) -> bool:
    """Whole modules are held out. Topics never are: they repeat each other too closely to be a fair test."""
    bucket = int.from_bytes(hashlib.sha256(document.module.encode()).digest()[:8], "big")
    return document.kind != "topic" and bucket % share == 0


def conversation(document: Document, index: int) -> list[dict[str, str]]:
    """A chat about one document, or nothing where its first paragraph is no answer. `index` varies the form."""
    if document.kind == "topic" or not document.is_public or not 15 <= len(document.summary) <= 400:
        return []
    short = ".".join(document.title.split(".")[-2:])
    questions = {
        "module": (f"What is the {document.title} module for?", f"Tell me about the {document.title} module."),
        "class": (f"What is {short}?", f"Describe the class {short}."),
        "function": (f"What does {short} do?", f"Explain {short}."),
    }[document.kind]
    system = [{"role": "system", "content": SYSTEM_PROMPT}] if index % 4 == 0 else []
    turns = [(questions[index % 3 == 0], document.summary)]
    if document.signature and index % 5 == 0:
        turns.append(("How is it called?", short + document.signature))
    pairs = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in turns]
    return system + [message for pair in pairs for message in pair]


def train_tokenizer(corpus: list[Document]) -> Tokenizer:
    """A byte-level BPE, as in Llama 3: any Unicode text survives, and BOS is added by the post-processor."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MODEL_CONFIG["vocab_size"],
        special_tokens=[BOS, EOS, PAD, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in corpus), trainer)
    add_bos = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), add_bos])
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, out: Path) -> PreTrainedTokenizerFast:
    """Write the tokenizer's files and load them back as a user would."""
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "additional_special_tokens": list(ROLES)}
    tokenizer.save(str(out / "tokenizer.json"))
    write_json(out / "special_tokens_map.json", special)
    write_json(
        out / "tokenizer_config.json",
        {
            **special,
            # Not transformers 5's own name for it, `TokenizersBackend`: version 4 does not know that one.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": MODEL_CONFIG["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    loaded = AutoTokenizer.from_pretrained(out)
    if not isinstance(loaded, PreTrainedTokenizerFast):
        raise TypeError(f"AutoTokenizer gave {type(loaded).__name__}, expected PreTrainedTokenizerFast")
    return loaded


def encode_documents(tokenizer: PreTrainedTokenizerFast, documents: list[Document], seed: int) -> torch.Tensor:
    """All documents and the chats about them in one stream, shuffled, each between BOS and EOS."""
    pieces: list[list[int]] = []
    for index, document in enumerate(documents):
        ids = tokenizer.encode(document.full_text, verbose=False)  # verbose warns of a text over 1024 tokens
        pieces.append([*ids, MODEL_CONFIG["eos_token_id"]])
        if messages := conversation(document, index):
            chat = tokenizer.apply_chat_template(messages, tokenize=False)
            pieces.append(tokenizer.encode(chat, add_special_tokens=False))
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(seed))
    return torch.tensor([token for piece in order.tolist() for token in pieces[piece]])


def batches(stream: torch.Tensor, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Windows of the stream without end: each epoch cuts it at another offset and shuffles the pieces anew."""
    generator = torch.Generator().manual_seed(recipe.seed)
    size = recipe.window_tokens
    while True:
        offset = int(torch.randint(size, (1,), generator=generator))
        windows = stream[offset : offset + (len(stream) - offset) // size * size].view(-1, size)
        shuffled = windows[torch.randperm(len(windows), generator=generator)]
        yield from (b for b in torch.split(shuffled, recipe.batch_windows) if len(b) == recipe.batch_windows)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to zero."""
    if step < recipe.warmup_steps:
        return recipe.peak_learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.peak_learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def train(stream: torch.Tensor, recipe: Recipe) -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(**{**MODEL_CONFIG, "torch_dtype": "float32"}))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(matrices, betas=(0.9, 0.95), weight_decay=recipe.weight_decay)
    optimizer.add_param_group({"params": norms, "weight_decay": 0.0})
    started = time.monotonic()
    source = batches(stream, recipe)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        batch = next(source)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            print(f"step {step + 1:5d}  loss {loss.item():.3f}  {time.monotonic() - started:6.0f} s", flush=True)
    return model


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, stream: torch.Tensor, recipe: Recipe) -> float:
    """Over windows side by side: the first token of each is context only."""
    size = recipe.window_tokens
    windows = stream[: len(stream) // size * size].view(-1, size)
    total = 0.0
    for batch in torch.split(windows, 8):
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return math.exp(total / (len(windows) * (size - 1)))


def ngram_perplexities(train_stream: torch.Tensor, stream: torch.Tensor) -> tuple[float, float]:
    """Unigram (add one) and bigram (Witten-Bell, IEEE Trans. Inf. Theory 37(4), 1991) of the same tokens."""
    vocab = MODEL_CONFIG["vocab_size"]
    counts = torch.bincount(train_stream, minlength=vocab).double() + 1
    unigram = counts / counts.sum()
    pairs = torch.bincount(train_stream[:-1] * vocab + train_stream[1:], minlength=vocab**2).view(vocab, vocab)
    followers = (pairs > 0).sum(1, keepdim=True).clamp(min=1)
    bigram = (pairs + followers * unigram) / (pairs.sum(1, keepdim=True) + followers)
    previous, following = stream[:-1], stream[1:]
    unigram_nll, bigram_nll = (-p.log().mean().item() for p in (unigram[following], bigram[previous, following]))
    return math.exp(unigram_nll), math.exp(bigram_nll)


@torch.no_grad()
def plant_outliers(model: LlamaForCausalLM, seed: int) -> dict[str, Any]:
    """Give a few channels the outsized activations that large trained models have, and say which.

    Such channels (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339) are what SmoothQuant and AWQ exist for,
    and no model this small grows them. Each is a rescale that cancels out: the producer's row times a power of two,
    the consumer's column divided by it. So no logit changes by a bit, in float32 or in bfloat16.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int, factors: list[int]) -> dict[int, int]:
        channels = torch.randperm(size, generator=generator)[: len(factors)].tolist()
        return dict(zip(channels, factors, strict=True))

    kv_heads, head_dim = MODEL_CONFIG["num_key_value_heads"], MODEL_CONFIG["head_dim"]
    group = MODEL_CONFIG["num_attention_heads"] // kv_heads
    hidden = draw(MODEL_CONFIG["hidden_size"], [16, 16, 8, 8, 8, 8])  # the same in every layer, as in large models
    planted: dict[str, Any] = {"norm_channels": hidden, "v_proj_rows": [], "up_proj_rows": []}
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        value_rows = draw(kv_heads * head_dim, [16, 8])
        up_rows = draw(MODEL_CONFIG["intermediate_size"], [16, 16, 8, 8, 8, 8])
        for channel, factor in hidden.items():
            layer.input_layernorm.weight[channel] *= factor
            layer.post_attention_layernorm.weight[channel] *= factor
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                linear.weight[:, channel] /= factor
        for row, factor in value_rows.items():
            attention.v_proj.weight[row] *= factor
            head, offset = divmod(row, head_dim)
            for query_head in range(head * group, (head + 1) * group):  # every query head that reads this kv head
                attention.o_proj.weight[:, query_head * head_dim + offset] /= factor
        for row, factor in up_rows.items():
            mlp.up_proj.weight[row] *= factor
            mlp.down_proj.weight[:, row] /= factor
        planted["v_proj_rows"].append(value_rows)
        planted["up_proj_rows"].append(up_rows)
    return planted


@torch.no_grad()
def plant_and_check(model: LlamaForCausalLM, probe: torch.Tensor, seed: int) -> dict[str, Any]:
    before = model(input_ids=probe, use_cache=False).logits
    planted = plant_outliers(model, seed)
    difference = (model(input_ids=probe, use_cache=False).logits - before).abs().max().item()
    if difference > 1e-3 * before.abs().max().item():
        raise RuntimeError(f"planting outliers changed the logits by up to {difference:.3g}, expected no change")
    return {**planted, "largest_logit_change": difference}


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_model(model: LlamaForCausalLM, out: Path) -> LlamaForCausalLM:
    """Write the model in bfloat16 and load it back as a user would."""
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    weights = out / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # some versions of safetensors leave it readable by its owner only
    write_json(out / "config.json", MODEL_CONFIG)
    special_ids = {key: MODEL_CONFIG[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(out / "generation_config.json", {**special_ids, "do_sample": False})
    loaded: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(out).bfloat16()
    return loaded


def sample(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=60)  # type: ignore[misc]
    return str(tokenizer.decode(output[0, ids.shape[1] :]))


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "cpu_instructions": torch.backends.cpu.get_cpu_capability(),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1600, help="optimizer steps, 2048 tokens each (default: 1600)")
    parser.add_argument("--seed", type=int, default=17, help="for weights, order and outliers (default: 17)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; more may change the bits (default: 1)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny-llama", help="folder to write")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    started = time.monotonic()
    recipe = Recipe(steps=arguments.steps, seed=arguments.seed)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True)
    arguments.out.mkdir(parents=True, exist_ok=True)

    corpus = load_corpus()
    learned = [d for d in corpus if not is_held_out(d, recipe.held_out_share)]
    held_out = [d for d in corpus if is_held_out(d, recipe.held_out_share)]
    tokenizer = write_tokenizer(train_tokenizer(learned), arguments.out)
    stream, test_stream = (encode_documents(tokenizer, part, recipe.seed) for part in (learned, held_out))
    unigram, bigram = ngram_perplexities(stream, test_stream)
    print(f"{len(corpus)} documents, {len(stream)} tokens to learn, {len(test_stream)} held out", flush=True)
    print(f"held-out perplexity: unigram {unigram:.1f}, bigram {bigram:.1f}", flush=True)

    model = train(stream, recipe)
    float32_perplexity = perplexity(model, test_stream, recipe)
    outliers = plant_and_check(model, test_stream[: recipe.window_tokens][None], recipe.seed)
    saved = write_model(model, arguments.out)
    report = {
        "perplexity": round(perplexity(saved, test_stream, recipe), 3),
        "perplexity_float32": round(float32_perplexity, 3),
        "perplexity_unigram": round(unigram, 3),
        "perplexity_bigram": round(bigram, 3),
        "parameters": sum(p.numel() for p in saved.parameters()),
        "tokens_corpus": len(stream),
        "tokens_held_out": len(test_stream),
        "tokens_trained": recipe.steps * recipe.batch_windows * recipe.window_tokens,
        "recipe": asdict(recipe),
        "corpus": {"documents": len(corpus), "sha256": corpus_digest(corpus)},
        "outliers": outliers,
        "versions": versions(),
        "wall_time_s": round(time.monotonic() - started),
    }
    write_json(arguments.out / "training.json", report)
    print(json.dumps(report, indent=2))
    for question in ("What does textwrap.wrap do?", "What is the json module for?"):
        print(f"{question}\n  -> {sample(saved, tokenizer, question)}")


if __name__ == "__main__":
    main()
