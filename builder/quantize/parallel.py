"""Where each Hugging Face tensor goes when a model is split: one table, for the writer and, backwards, the reader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from builder.families import Family, Linear
from builder.model_config import ModelConfig
from trtllm_kit.errors import SpecError

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


@dataclass(frozen=True, kw_only=True)
class Place:
    """`source[rows, columns]` of a Hugging Face tensor lies in `name` of `rank` from row `at_row` on."""

    rank: int
    name: str
    rows: slice
    columns: slice = field(default_factory=lambda: EVERYTHING)
    at_row: int = 0


def check_split(config: ModelConfig, ranks: Ranks) -> None:
    """SpecError for a tp_size or pp_size that does not divide this model."""
    tp, pp, kv_heads = ranks.tp_size, ranks.pp_size, config.num_key_value_heads
    for count, size, what, flag in (
        (config.num_attention_heads, tp, "attention heads", "tp_size"),
        (config.hidden_size, tp, "hidden features", "tp_size"),
        (config.intermediate_size, tp, "intermediate features", "tp_size"),
        (config.num_hidden_layers, pp, "layers", "pp_size"),
    ):
        if count % size:
            raise SpecError(
                f"{flag} {size} does not divide the model's {count} {what}",
                expected=f"a {flag} among {', '.join(map(str, _divisors(count)))}",
                fix=f"set target.{flag} to one of these",
            )
    if kv_heads % tp and tp % kv_heads:
        raise SpecError(
            f"tp_size {tp} and the model's {kv_heads} key-value heads do not divide each other",
            expected="whole key-value heads for each rank, or whole ranks for each head",
            fix="set target.tp_size to a divisor or a multiple of them",
        )


def check_features(family: Family, config: ModelConfig, ranks: Ranks, multiple: int, scheme: str) -> None:
    """SpecError for linears that upstream would pad, because their features do not divide by `multiple` × tp_size."""
    step = multiple * ranks.tp_size
    sizes: dict[str, int] = {}
    for linear in family.linears:
        rows, _ = _piece(linear, config, ranks.tp_size, tp_rank=0)
        shared = 1 if linear.split == "row" else ranks.tp_size  # duplicated key-value heads count for each rank
        side = f"{linear.trtllm} has {{}} out features"
        sizes[side] = sizes.get(side, 0) + shared * _length(rows, linear.rows(config))
        sizes[f"{linear.trtllm} has {{}} in features"] = linear.columns(config)
    for side, size in sizes.items():
        if size % step:
            raise SpecError(
                f"{side.format(size)}, which {scheme} engines at tp_size {ranks.tp_size} cannot take",
                expected=f"a multiple of {step} ({multiple} × tp_size)",
                fix="choose a smaller tp_size, the precision bf16, or the `pytorch` runtime",
            )


def embedding_places(config: ModelConfig, ranks: Ranks) -> Iterator[Place]:
    """On the first stage; and where the last one has to compute logits from it, also as its lm_head.

    A single rank finds the tied embedding by itself, so its file needs no lm_head.
    """
    name = "transformer.vocab_embedding.weight"
    for tp_rank, rank in enumerate(ranks.stage(0)):
        split = _vocabulary_rows(config, ranks.tp_size, tp_rank) if ranks.parallel_embedding else EVERYTHING
        yield Place(rank=rank, name=name, rows=split)
    if config.tie_word_embeddings and ranks.world_size > 1:
        yield from lm_head_places(config, ranks)


def lm_head_places(config: ModelConfig, ranks: Ranks) -> Iterator[Place]:
    """Rows of the vocabulary, evenly among the ranks of the last stage."""
    for tp_rank, rank in enumerate(ranks.stage(ranks.pp_size - 1)):
        yield Place(rank=rank, name="lm_head.weight", rows=_vocabulary_rows(config, ranks.tp_size, tp_rank))


def final_norm_places(ranks: Ranks) -> Iterator[Place]:
    """On all ranks of the last stage."""
    for rank in ranks.stage(ranks.pp_size - 1):
        yield Place(rank=rank, name="transformer.ln_f.weight", rows=EVERYTHING)


def layer_places(
    family: Family, config: ModelConfig, ranks: Ranks, layer: int
) -> Iterator[tuple[str, tuple[Place, ...]]]:
    """(Hugging Face name, its places) for every tensor of a decoder layer. Layers are numbered within their stage."""
    per_stage = config.num_hidden_layers // ranks.pp_size
    stage = ranks.stage(layer // per_stage)
    source, target = f"{family.layers}.{layer}", f"transformer.layers.{layer % per_stage}"
    for norm in family.norms_of(config):
        places = tuple(Place(rank=rank, name=f"{target}.{norm.trtllm}.weight", rows=EVERYTHING) for rank in stage)
        yield f"{source}.{norm.hf}.weight", places
    filled: dict[str, int] = {}  # rows of a fused linear that its earlier parts take, the same on each rank
    for linear in family.linears:
        at_row = filled.get(linear.trtllm, 0)
        pieces = [_piece(linear, config, ranks.tp_size, tp_rank) for tp_rank in range(ranks.tp_size)]
        filled[linear.trtllm] = at_row + _length(pieces[0][0], linear.rows(config))
        yield (
            f"{source}.{linear.hf}.weight",
            tuple(
                Place(rank=rank, name=f"{target}.{linear.trtllm}.weight", rows=rows, columns=columns, at_row=at_row)
                for rank, (rows, columns) in zip(stage, pieces, strict=True)
            ),
        )
        if linear.bias(config):
            yield (
                f"{source}.{linear.hf}.bias",
                tuple(
                    Place(rank=rank, name=f"{target}.{linear.trtllm}.bias", rows=rows, at_row=at_row)
                    for rank, (rows, _) in zip(stage, pieces, strict=True)
                ),
            )


def all_places(family: Family, config: ModelConfig, ranks: Ranks) -> dict[str, tuple[Place, ...]]:
    """The places of every tensor of a model, by Hugging Face name."""
    places = {family.embedding: tuple(embedding_places(config, ranks))}
    for layer in range(config.num_hidden_layers):
        places.update(layer_places(family, config, ranks, layer))
    places[family.final_norm] = tuple(final_norm_places(ranks))
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


def _piece(linear: Linear, config: ModelConfig, tp_size: int, tp_rank: int) -> tuple[slice, slice]:
    rows, columns = linear.rows(config), linear.columns(config)
    if linear.split == "column":
        return _share(rows, tp_size, tp_rank), EVERYTHING
    if linear.split == "row":
        return EVERYTHING, _share(columns, tp_size, tp_rank)
    if linear.split == "kv" and tp_size > config.num_key_value_heads:
        head = tp_rank * config.num_key_value_heads // tp_size
        return slice(head * config.head_size, (head + 1) * config.head_size), EVERYTHING
    if linear.split == "kv":
        return _share(rows, tp_size, tp_rank), EVERYTHING
    return EVERYTHING, EVERYTHING


def _share(size: int, parts: int, part: int) -> slice:
    step = size // parts
    return slice(part * step, (part + 1) * step)


def _length(piece: slice, size: int) -> int:
    return len(range(*piece.indices(size)))


def _divisors(count: int) -> list[int]:
    return [number for number in range(1, min(count, 64) + 1) if count % number == 0]
