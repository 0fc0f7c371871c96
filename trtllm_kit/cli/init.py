"""`trtllm-kit init`: a commented spec to start from."""

from __future__ import annotations

import os
from pathlib import Path

import click

from trtllm_kit import spec as specs
from trtllm_kit.errors import SpecError, UsageError
from trtllm_kit.files import write_text_atomic

_TEXT = """\
# What to build, for what, and how it is served. Every key is optional but `model`; what stands here as a comment is
# the default. `auto` is decided at build time: `trtllm-kit plan` shows each decision with its reason. See docs/spec.md.

model: {model}              # Hugging Face id (org/name@revision) or a folder
# name: my-model               # the identifier's first part; default: from the model's name
# trust_remote_code: false     # only ever by this switch

precision: auto                # bf16, fp8, int8_wo, int4_awq, nvfp4, ...: see docs/quantization.md
runtime: auto                  # tensorrt | pytorch | cpu
# trtllm_version: auto         # the line that the artifact is for; 1.2.1 is the last with engines

target:
  sku: auto                    # h100_sxm, l40s, ..., cpu; auto asks NVML
  # tp_size: auto              # tensor parallel ranks; auto: the fewest that hold the weights
  # pp_size: 1

kv_cache:
  # dtype: auto                # of keys and values; auto: the model's own
  # free_gpu_memory_fraction: 0.9
  # enable_block_reuse: auto   # prefix caching
  # max_tokens: auto           # capacity of the paged pool in tokens

quantization:
  # exclude: []                # patterns of layer names that stay in 16 bits, e.g. ["*.layers.0.*", "*.down_proj"]
  # auto_exclude: 0            # leave so many of the most sensitive layers in 16 bits
  # layers: {{}}                 # of `precision: mixed`: pattern -> precision, e.g. {{"*.mlp.*": int4_awq, "*": fp8}}
  # group_size: auto           # of AWQ: 128 or 64

calibration:                   # for precisions that measure what passes through the model
  # data: default              # JSONL of texts or chats, a dataset id, or the bundled text; your own is better
  # samples: auto
  # max_seq_len: auto

evaluation:                    # the quality gate: exit 6 when more is lost than this allows
  # enabled: auto              # auto: wherever weights have fewer than 16 bits
  # data: []                   # your own prompts as JSONL, beside the bundled held-out text
  # limits: {{}}                # in place of the precision's own, e.g. {{perplexity_increase: 0.3, kl_mean: 0.02}}

build:                         # limits and flags of trtllm-build, by its own names
  max_batch_size: auto
  max_seq_len: auto            # prompt and answer together
  max_num_tokens: auto         # tokens in one step of in-flight batching
  # use_paged_context_fmha: enable

serving:
  # concurrency: auto          # requests that BLS serves at once
  # decoupled_mode: true       # token streaming
  # max_queue_size: auto       # 0: no limit
  # batch_scheduler_policy: guaranteed_no_evict

validation:
  concurrencies: [1, 4, 8]
  # input_len: auto
  # output_len: auto
  # ttft_p95_ms: 1000          # limits: `validate` exits with 7 when one is missed
  # tpot_p95_ms: 50
  # min_output_tokens_per_s: 100
"""


@click.command()
@click.option("--model", required=True, help="Hugging Face id (org/name@revision) or folder.")
@click.option(
    "-f",
    "--spec",
    "path",
    type=click.Path(path_type=Path),
    default=specs.SPEC_NAME,
    show_default=True,
    help="Where to write it.",
)
@click.option("--force", is_flag=True, help="Replace a spec that is there.")
def init(model: str, path: Path, force: bool) -> None:
    """Write a commented trtllm-kit.yaml for MODEL."""
    if path.exists() and not force:
        raise UsageError(
            f"{path} is there already",
            expected="a new file",
            fix="edit it, choose another name with --spec, or use --force",
        )
    write_text_atomic(path, _TEXT.format(model=_as_seen_from(path.parent, model)))
    click.echo(path)
    click.echo("next: trtllm-kit plan", err=True)


def _as_seen_from(folder: Path, model: str) -> str:
    """A folder relative to the spec, so that both can be moved together; a Hugging Face id as it is."""
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise SpecError(
                f"{model} has no config.json",
                expected="the folder of a Hugging Face checkpoint",
                fix="name the folder that holds config.json and *.safetensors",
            )
        return os.path.relpath(Path(model).resolve(), folder.resolve())
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise SpecError(f"no folder {model}", expected="a folder, or a Hugging Face id such as org/name@revision")
    return model
