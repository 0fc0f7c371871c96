"""`trtllm-kit nightly init`: a commented matrix to start from."""

from __future__ import annotations

from pathlib import Path

import click

from serving.nightly.spec import NIGHTLY_NAME
from trtllm_kit.errors import UsageError
from trtllm_kit.files import write_text_atomic

_TEXT = """\
# Every night: which cells there are, who builds them, when a build is promoted, who is told. Every key is optional;
# what stands here as a comment is the default. See docs/nightly.md.

# depot: s3://bucket/depot       # artifacts and refs, shared by all who build; default: a folder in the local store

base: {base}                # a spec file, or its keys here

matrix:                          # every combination is a cell
  # model: [org/name@main, ../folder]
  precision: [auto]              # e.g. [fp8, nvfp4]
  sku: [auto]                    # e.g. [h100_sxm, l40s]; cpu runs everywhere
  # runtime: [tensorrt, pytorch]
  # trtllm_version: [1.2.1]
  # build.max_batch_size: [64, 256]   # any other key of the spec; give such cells a `name` each

# include:                       # cells beside the product
#   - {{model: org/other, precision: bf16, sku: cpu}}
# exclude:                       # globs on identifiers, or parts of a combination
#   - "*-nvfp4-{{l40s,a100_*}}-*"
#   - {{precision: fp8, sku: a100_sxm_80gb}}
# overrides:                     # other keys for the cells whose identifier matches; later ones win
#   - select: "*-h100_sxm-*"
#     set: {{build.max_batch_size: 128}}

limits:
  stage_minutes: {{default: 240}}  # a cell that hangs is ended; by stage: fetch, quantize, compile, ..., compare

executor:
  kind: local                    # local | ray; `nightly install` writes it for Kubernetes and Slurm
  # jobs: auto                   # cells at once
  # memory_gb: auto

promotion:                       # when a candidate takes the incumbent's place; see docs/nightly_ab.md
  # max_slowdown: 0.05           # of TTFT, TPOT and throughput
  # max_perplexity_increase: 0.01
  # minutes: 30                  # of load, at most

report:
  folder: nightly-report
  # prometheus: /var/lib/node_exporter/trtllm_kit_nightly.prom
  # webhook: ${{NIGHTLY_WEBHOOK}}  # a variable of the environment: no secret belongs into this file

# keep_days: 14                  # what no ref needs is kept so long; `trtllm-kit artifact gc`
"""


@click.command()
@click.option(
    "-f",
    "--file",
    "path",
    type=click.Path(path_type=Path),
    default=NIGHTLY_NAME,
    show_default=True,
    help="Where to write it.",
)
@click.option("--base", default="trtllm-kit.yaml", show_default=True, help="The spec that every cell starts from.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(path: Path, base: str, force: bool) -> None:
    """Write a commented nightly.yaml."""
    if path.exists() and not force:
        raise UsageError(
            f"{path} is there already",
            expected="a new file",
            fix="edit it, choose another name with -f, or use --force",
        )
    write_text_atomic(path, _TEXT.format(base=base))
    click.echo(path)
    click.echo("next: trtllm-kit nightly plan", err=True)
