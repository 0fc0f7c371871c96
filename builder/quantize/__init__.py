"""Checkpoint → quantized checkpoint: streams one decoder layer at a time from mapped shards into the layout's files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builder.checkpoint import Checkpoint
from builder.families import Family, family_of
from builder.model_config import ModelConfig
from builder.quantize.algorithms import ALGORITHMS, PLAIN, Algorithm
from builder.quantize.hf_layout import MAX_SHARD_BYTES, HfLayout
from builder.quantize.layout import LayoutWriter
from builder.quantize.parallel import Ranks, check_features, check_split
from builder.quantize.raw import TensorSource
from builder.quantize.schemes import LayoutFacts, Scheme, find_scheme, layout_facts
from builder.quantize.trtllm_layout import TrtllmLayout
from trtllm_kit.console import Talk
from trtllm_kit.files import disk_errors


def quantize(
    checkpoint: Checkpoint,
    *,
    scheme: str,
    layout: str,
    tp_size: int,
    pp_size: int,
    out: Path,
    talk: Talk,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Fill the empty folder `out` with `checkpoint` in precision `scheme`.

    Args:
        layout: "trtllm" (split into tp_size × pp_size ranks) or "hf" (never split, whatever the sizes).
        max_shard_bytes: bound of a shard of the hf layout; a larger single tensor gets a shard of its own.

    The bytes depend on the checkpoint and the arguments alone. Raises SpecError for what cannot be done: before any
    work where headers tell, naming the tensor where only weights tell. HostError when torch or disk space is missing.
    """
    row = find_scheme(scheme)
    facts = layout_facts(row, layout)
    config, family = checkpoint.config, family_of(checkpoint.config.architecture)
    ranks = Ranks(tp_size=tp_size, pp_size=pp_size)
    if layout == "trtllm":
        check_split(config, ranks)
        check_features(family, config, ranks, facts.feature_multiple, row.name)
    job = _Job(family, config, ALGORITHMS[facts.algorithm], half_precision(row, config))
    with disk_errors(out):
        writer = job.open_layout(checkpoint, layout, facts, ranks, out, max_shard_bytes)
        try:
            job.stream(checkpoint, writer, talk, f"quantize to {row.name}")
        except BaseException:
            writer.abandon()
            raise
        writer.close()


def half_precision(scheme: Scheme, config: ModelConfig) -> str:
    """The dtype of what stays unquantized. A float32 checkpoint becomes bfloat16, which has the same range."""
    return scheme.dtype or ("bfloat16" if config.dtype == "float32" else config.dtype)


class _Job:
    """One model, one algorithm, one dtype."""

    def __init__(self, family: Family, config: ModelConfig, algorithm: Algorithm, dtype: str) -> None:
        self._family, self._config, self._algorithm, self._dtype = family, config, algorithm, dtype
        self._shapes = family.shapes(config)
        self._linears = family.linear_names(config)

    def open_layout(
        self, checkpoint: Checkpoint, layout: str, facts: LayoutFacts, ranks: Ranks, out: Path, max_shard_bytes: int
    ) -> LayoutWriter:
        entries = {
            name + suffix: output
            for name, shape in self._shapes.items()
            for suffix, output in self._for(name).outputs(shape, self._dtype).items()
        }
        if layout == "trtllm":
            return TrtllmLayout(checkpoint, self._family, entries, facts, dtype=self._dtype, ranks=ranks, out=out)
        return HfLayout(checkpoint, entries, facts, dtype=self._dtype, out=out, max_shard_bytes=max_shard_bytes)

    def stream(self, checkpoint: Checkpoint, writer: LayoutWriter, talk: Talk, title: str) -> None:
        """Read, transform, write and drop, a decoder layer at a time."""
        source = TensorSource(checkpoint.tensors)
        steps = self._config.num_hidden_layers + 2
        for done, names in enumerate(self._steps()):
            talk.progress(done, steps, title)
            for name in names:
                for suffix, raw in self._for(name).apply(name, source.read(name), self._dtype).items():
                    writer.write(name + suffix, raw)
        talk.progress(steps, steps, title)

    def _for(self, name: str) -> Algorithm:
        return self._algorithm if name in self._linears else PLAIN

    def _steps(self) -> Iterator[list[str]]:
        """Names of the tensors that are worked on together: the embedding, each layer, the output layer."""
        layers = [
            [name for name, _ in self._family.layer_shapes(self._config, layer)]
            for layer in range(self._config.num_hidden_layers)
        ]
        inside = {name for names in layers for name in names}
        yield [self._family.embedding]
        yield from layers
        yield [name for name in self._shapes if name not in inside and name != self._family.embedding]
