"""Where each Hugging Face tensor goes when a model is split: one table, for the writer and, backwards, the reader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from builder.families import Family
from builder.families.base import Module, Slice
from builder.model_config import ModelConfig

EVERYTHING = slice(None)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Sizes of a split. Rank r = pipeline rank × tp_size + tensor rank."""

    tp_size: int
    pp_size: int
    parallel_embedding: bool = False  # the embedding's rows are split too; ModelOpt's exports do that, ours do not

    @property
    def world_size(self) -> int:
        return self.tp_size * self.pp_size

    def stage(self, pp_rank: int) -> range:
        """The ranks of one pipeline stage."""
        return range(pp_rank * self.tp_size, (pp_rank + 1) * self.tp_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """`source[rows, columns]` of a Hugging Face tensor lies in `name` of `rank` from row `at_row` on."""

    rank: int
    name: str
    rows: slice
    columns: slice = field(default_factory=lambda: EVERYTHING)
    at_row: int = 0
    expert: int | None = None  # of tensors that all experts of a layer are stacked in
    dtype: str | None = None  # that upstream's parameter has, where it is not that of the model
    offset: float = 0.0  # upstream's value less Hugging Face's


def embedding_places(family: Family, config: ModelConfig, ranks: Ranks) -> Iterator[Place]:
    """On the first stage; and where the last one has to compute logits from it, also as its lm_head.

    A single rank finds the tied embedding by itself, so its file needs no lm_head.
    """
    name, parallel = "transformer.vocab_embedding.weight", ranks.parallel_embedding or family.parallel_embedding
    for tp_rank, rank in enumerate(ranks.stage(0)):
        split = _vocabulary_rows(config, ranks.tp_size, tp_rank) if parallel else EVERYTHING
        yield Place(rank=rank, name=name, rows=split)
    if config.tie_word_embeddings and ranks.world_size > 1:
        yield from lm_head_places(config, ranks)


def lm_head_places(config: ModelConfig, ranks: Ranks) -> Iterator[Place]:
    """Rows of the vocabulary, evenly among the ranks of the last stage."""
    for tp_rank, rank in enumerate(ranks.stage(ranks.pp_size - 1)):
        yield Place(rank=rank, name="lm_head.weight", rows=_vocabulary_rows(config, ranks.tp_size, tp_rank))


def final_norm_places(family: Family, ranks: Ranks) -> Iterator[Place]:
    """On all ranks of the last stage."""
    for rank in ranks.stage(ranks.pp_size - 1):
        yield Place(rank=rank, name="transformer.ln_f.weight", rows=EVERYTHING, offset=family.final_norm_offset)


def layer_places(
    family: Family, config: ModelConfig, ranks: Ranks, layer: int
) -> Iterator[tuple[str, tuple[Place, ...]]]:
    """(Hugging Face name, its places) for every tensor of a decoder layer. Layers are numbered within their stage."""
    per_stage = config.num_hidden_layers // ranks.pp_size
    stage, target = ranks.stage(layer // per_stage), f"transformer.layers.{layer % per_stage}"
    for norm in family.norms_of(config):
        name = f"{target}.{norm.trtllm}.weight"
        yield (
            f"{family.layers}.{layer}.{norm.hf}.weight",
            tuple(Place(rank=rank, name=name, rows=EVERYTHING, offset=norm.offset) for rank in stage),
        )
    filled: dict[tuple[str, int | None], int] = {}  # rows of a fused linear that its earlier parts take on each rank
    for module in family.modules(config, layer):
        fused = (module.linear.trtllm, module.expert)
        places = tuple(_linear_places(module, config, stage, f"{target}.{module.linear.trtllm}", filled.get(fused, 0)))
        filled[fused] = max(place.at_row + place.rows.stop - place.rows.start for place in places)
        yield f"{module.name}.weight", places
        if module.linear.bias(config):
            bias = f"{target}.{module.linear.trtllm}.bias"
            yield f"{module.name}.bias", tuple(replace(place, name=bias, columns=EVERYTHING) for place in places)


def _linear_places(module: Module, config: ModelConfig, stage: range, target: str, at_row: int) -> Iterator[Place]:
    for part in module.linear.slices:
        columns = module.linear.columns(config)
        pieces = [piece_of(part, columns, config, len(stage), tp_rank) for tp_rank in range(len(stage))]
        for rank, (rows, within) in zip(stage, pieces, strict=True):
            yield Place(
                rank=rank,
                name=f"{target}.weight",
                rows=rows,
                columns=within,
                at_row=at_row,
                expert=module.expert,
                dtype=module.linear.trtllm_dtype,
            )
        at_row += pieces[0][0].stop - pieces[0][0].start


def all_places(family: Family, config: ModelConfig, ranks: Ranks) -> dict[str, tuple[Place, ...]]:
    """The places of every tensor of a model, by Hugging Face name."""
    places = {family.embedding: tuple(embedding_places(family, config, ranks))}
    for layer in range(config.num_hidden_layers):
        places.update(layer_places(family, config, ranks, layer))
    places[family.final_norm] = tuple(final_norm_places(family, ranks))
    if not config.tie_word_embeddings:
        places[family.lm_head] = tuple(lm_head_places(config, ranks))
    return places


def padded_vocabulary(config: ModelConfig, tp_size: int) -> int:
    """Rows of all lm_heads together: the vocabulary, rounded up to whole rows for each rank."""
    return -(-config.vocab_size // tp_size) * tp_size


def _vocabulary_rows(config: ModelConfig, tp_size: int, tp_rank: int) -> slice:
    """May end, or even begin, past the vocabulary: those rows are padding."""
    share = padded_vocabulary(config, tp_size) // tp_size
    return slice(tp_rank * share, (tp_rank + 1) * share)


def piece_of(part: Slice, columns: int, config: ModelConfig, tp_size: int, tp_rank: int) -> tuple[slice, slice]:
    """(rows, columns) of a linear's slice that a rank holds."""
    rows = part.rows(config)
    if part.split == "kv" and tp_size > config.num_key_value_heads:
        head = tp_rank * config.num_key_value_heads // tp_size
        held = slice(head * config.head_size, (head + 1) * config.head_size)
    else:
        held = _share(rows, tp_size, tp_rank) if part.split in ("column", "kv") else slice(0, rows)
    start = part.start(config)
    within = _share(columns, tp_size, tp_rank) if part.split == "row" else EVERYTHING
    return slice(start + held.start, start + held.stop), within


def _share(size: int, parts: int, part: int) -> slice:
    step = size // parts
    return slice(part * step, (part + 1) * step)
