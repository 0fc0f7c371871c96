"""What an engine is doing, as numbers; taken between two steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """Counts of requests and KV blocks at one moment. The library does not tell how many blocks were reused."""

    iteration: int  # steps since the engine started
    active_requests: int  # accepted and not ended
    scheduled_requests: int  # took part in the last step
    context_requests: int  # scheduled and still without a first token
    context_tokens: int  # prompt tokens of the context requests
    max_requests: int  # may take part in one step
    max_blocks: int
    used_blocks: int  # held by requests, or kept for prefix reuse
    tokens_per_block: int

    @property
    def waiting_requests(self) -> int:
        """Accepted, but not in the last step."""
        return max(self.active_requests - self.scheduled_requests, 0)

    @property
    def generation_requests(self) -> int:
        """Scheduled and past their first token."""
        return self.scheduled_requests - self.context_requests

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds."""
        return self.max_blocks - self.used_blocks

    @property
    def used_fraction(self) -> float:
        """Used share of the KV blocks, 0 to 1."""
        return self.used_blocks / self.max_blocks
