"""What the memory ledger says about a build: how many GPUs it takes, and the limits that are safe there."""

from __future__ import annotations

from builder.checkpoint import Checkpoint
from profiles import ledger, precisions, weights
from profiles.ledger import Limits, Placement
from profiles.model_shape import ModelShape
from profiles.skus import Sku
from trtllm_kit.spec import Runtime, Spec

_MAX_NUM_TOKENS = 8192  # upstream's default
_FEWEST, _LARGEST_BATCH = 8, 256  # sequences in flight
_USUAL_SHARE = 4  # sequences are taken to fill a quarter of max_seq_len


def placement(
    spec: Spec, checkpoint: Checkpoint, sku: Sku, runtime: Runtime, weight_bits: float, max_seq_len: int
) -> Placement:
    """The build on one GPU, with the least limits that the spec allows: what they leave is dealt out later."""
    shape = ModelShape.from_config(checkpoint.config.raw)
    batch, tokens = spec.build.max_batch_size, spec.build.max_num_tokens
    share = spec.kv_cache.free_gpu_memory_fraction
    return Placement(
        shape=shape,
        weights=weights.of_tensors(checkpoint.tensors, shape) if checkpoint.tensors else None,
        weight_bits=weight_bits,
        sku=sku,
        limits=Limits(
            max_batch_size=_FEWEST if batch == "auto" else batch,
            max_num_tokens=min(1024, max_seq_len) if tokens == "auto" else tokens,
            max_seq_len=max_seq_len,
            kv_bits=precisions.KV_BITS[spec.kv_cache.dtype],
            tokens_per_block=spec.build.tokens_per_block,
            free_gpu_memory_fraction=0.9 if share == "auto" else share,
            runtime=runtime,
        ),
    )


def safe_batch(place: Placement) -> tuple[int, str]:
    """The largest whose usual sequences all find KV cache, in whole eights, with the reason."""
    usual = max(1, place.limits.max_seq_len // _USUAL_SHARE)
    held = ledger.largest_batch(place, usual)
    size = min(held - held % _FEWEST if held >= _FEWEST else max(held, 1), _LARGEST_BATCH)
    return size, f"the KV cache beside the weights holds {held} sequences of {usual} tokens, a quarter of max_seq_len"


def safe_num_tokens(place: Placement) -> tuple[int, str]:
    """Upstream's default, or as much of it as leaves KV cache for one full sequence, with the reason."""
    held = ledger.largest_num_tokens(place)
    if held >= _MAX_NUM_TOKENS:
        return _MAX_NUM_TOKENS, "upstream's default; its activations leave room for the KV cache"
    return max(held, place.limits.max_num_tokens), "all that leaves KV cache for one full sequence"
