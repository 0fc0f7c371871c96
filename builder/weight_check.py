"""Whether the tensors that are there are those that the family needs: names, shapes, dtypes, nothing left over."""

from __future__ import annotations

from collections.abc import Mapping

from builder.checkpoint import Prequantized, TensorEntry
from builder.families import Family
from builder.model_config import ModelConfig
from builder.part_check import FLOAT_DTYPES, kv_scales, quantized_parts
from trtllm_kit.console import Talk
from trtllm_kit.errors import SpecError

_BUFFERS = (".rotary_emb.inv_freq", ".masked_bias")  # old transformers saved them; they follow from the config


def check_weights(
    family: Family,
    config: ModelConfig,
    tensors: Mapping[str, TensorEntry],
    talk: Talk,
    quantized: Prequantized | None = None,
) -> dict[str, TensorEntry]:
    """The tensors that the model needs, by name. SpecError for a missing, mis-shaped, non-float or unknown tensor.

    Where the checkpoint is `quantized`, a linear may consist of the parts of a known format instead of its weight.
    """
    if config.num_hidden_layers > len(tensors):
        raise _missing(family, [f"{family.layers}.{len(tensors)}.*"])
    wanted = family.shapes(config)
    parts: dict[str, TensorEntry] = {}
    if quantized is not None:
        parts = quantized_parts(family, config, tensors, quantized)
        linears = {name.rpartition(".")[0] for name in parts}
        wanted = {name: shape for name, shape in wanted.items() if name.removesuffix(".weight") not in linears}
        parts |= kv_scales(tensors)
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise _missing(family, missing)
    for name, shape in wanted.items():
        _check_tensor(name, tensors[name], shape)
    unknown = [name for name in tensors if name not in wanted and name not in parts and not name.endswith(_BUFFERS)]
    if config.tie_word_embeddings and family.lm_head in unknown:
        talk.warn(f"{family.lm_head} is ignored: tie_word_embeddings says that the embedding is the output layer too")
        unknown.remove(family.lm_head)
    if unknown:
        raise SpecError(
            f"{len(unknown)} tensors have no place in a {family.architecture}: {', '.join(sorted(unknown)[:4])}",
            expected="the family's own tensors: without the others the model would compute something else",
            fix="check that config.json belongs to these weights; merge adapters into the model first",
        )
    return {name: tensors[name] for name in wanted} | parts


def _missing(family: Family, names: list[str]) -> SpecError:
    tied = names == [family.lm_head]
    return SpecError(
        f"{len(names)} tensors are missing: {', '.join(names[:4])}",
        expected=f"all tensors of a {family.architecture} of the size that config.json gives",
        fix="set tie_word_embeddings in config.json, if the output layer is the embedding"
        if tied
        else "check that config.json belongs to these weights, and that all shards are there",
    )


def _check_tensor(name: str, entry: TensorEntry, shape: tuple[int, ...]) -> None:
    if entry.shape != shape:
        raise SpecError(
            f"{name} in {entry.file.name} has the shape {list(entry.shape)}",
            expected=f"{list(shape)}, as config.json says",
            fix="check that config.json belongs to these weights",
        )
    if entry.dtype not in FLOAT_DTYPES:
        raise SpecError(
            f"{name} in {entry.file.name} is {entry.dtype}: the checkpoint looks quantized already, nothing says how",
            expected="weights in " + ", ".join(FLOAT_DTYPES) + ", or a quantization_config",
            fix="start from the original checkpoint",
        )
