"""In-flight batching in its steady state: throughput when saturated, TPOT and TTFT in a closed loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from profiles.performance import step
from profiles.performance.columns import Array, Columns
from profiles.performance.memory import SHARPNESS, capacity, chunk_tokens, least
from profiles.performance.step import Constants

_FEWEST_MIXED = 1e-3
_SERVED_SHARPNESS = 24.0  # with a corner, whole answers of waiting would hang on the last byte of memory, and fits stop


@dataclass(frozen=True)
class Steady:
    """What holds when requests enter as fast as they leave. Arrays [n]; seconds and sequences."""

    sequences: Array  # in flight in the replica
    token_s: Array  # between two tokens of one sequence: one step of every pipeline stage
    least_token_s: Array  # by the roofline
    fixed_s: Array  # of `token_s`, what does not depend on the number of sequences


def steady(c: Columns, k: Constants) -> Steady:
    """Solve the steady state: as many sequences as load and memory allow, prompts spread over the steps."""
    sequences = least(capacity(c, k), c.load, sharpness=np.where(c.serving > 0, _SERVED_SHARPNESS, SHARPNESS))
    rank = sequences / c.pp / c.dp
    others = np.where(c.serving > 0, np.maximum(rank - 1, 0), rank)  # a user's own prefill is no part of its TPOT
    prompts = others * c.isl / c.osl
    share = _mixed_share(c, rank, prompts)
    return Steady(
        sequences=sequences,
        token_s=c.pp * step.step_s(c, k, rank, prompts, share),
        least_token_s=c.pp * step.roofline_s(c, rank, prompts),
        fixed_s=c.pp * step.fixed_s(c, k),
    )


def throughput(c: Columns, k: Constants, state: Steady) -> Array:
    """Output tokens/s of the replica with all requests there from the start.

    A run of finitely many requests ends with a wave that is not full; its fixed costs are spread over the whole run.
    """
    waves = np.maximum(c.requests / state.sequences, 1)
    partly = np.where(np.isinf(waves), 0, (1 - np.exp(-2 * (np.minimum(waves, 1e6) - 1))) / waves)
    tail = k["tail_share"] * partly * np.minimum(state.fixed_s, state.token_s)
    return np.asarray(state.sequences / (state.token_s + tail) * k["speed"])


def ttft_s(c: Columns, k: Constants, state: Steady, token_s: Array) -> Array:
    """Time to the first token: overhead, a step under way, the prefill itself, those of others, and the queue.

    Those who find no room wait for whole answers of others. `token_s` is between two tokens, as finally predicted.
    """
    rank = state.sequences / c.pp / c.dp
    alone = c.pp * (
        step.linear_s(c, k, c.isl)
        + step.prefill_attention_s(c, k, c.isl)
        + step.elementwise_s(c, k, c.isl)
        + step.communication_s(c, k, c.isl)
    )
    admitted = k["ttft_overhead_s"] + alone * (1 + k["ttft_crowding"] * np.maximum(rank - 1, 0)) + token_s
    waiting = np.where(c.serving > 0, np.minimum(c.load, 1e9) / state.sequences - 1, 0)
    return np.asarray(admitted + waiting * (admitted + (c.osl - 1) * token_s))


def _mixed_share(c: Columns, rank: Array, prompts: Array) -> Array:
    """Share of the steps that carry prompt tokens: few when the token budget swallows many prompts at once."""
    room = np.maximum(chunk_tokens(c, rank) - rank, 0.05 * chunk_tokens(c, rank))
    filled = prompts / room
    return np.asarray(np.maximum(filled / (1 + filled**4) ** 0.25, _FEWEST_MIXED))
