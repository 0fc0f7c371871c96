"""When a candidate takes the incumbent's place: the `promotion:` group of nightly.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Margin = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


class Rule(BaseModel):
    """Margins are relative changes for the worse: 0.05 is 5 %. Throughput may fall to 1 / (1 + margin)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    max_slowdown: Margin = 0.05
    max_slowdown_ttft: Margin | None = None  # None, here and below: `max_slowdown`
    max_slowdown_tpot: Margin | None = None
    max_slowdown_throughput: Margin | None = None
    max_cost_increase: Margin | None = None
    usd_per_hour: Positive | None = None  # of the whole replica; None: the SKU's on-demand price, where one is known
    max_cold_start_increase: Positive = 0.5
    cold_start_floor_s: Annotated[float, Field(ge=0)] = 5.0  # an increase up to here is never too much
    max_perplexity_increase: Margin = 0.01
    max_accuracy_loss: Margin = 0.05  # of the next tokens that the incumbent got right
    contexts: Annotated[int, Field(ge=100)] = 1000  # of held-out text, whose next token is asked for
    text_tokens: Annotated[int, Field(ge=1000)] = 32768  # of held-out text, for perplexity
    concurrency: Count = 4
    input_len: Count | None = None  # tokens; None: as `validation:` in the candidate's spec
    output_len: Count | None = None
    blocks: Annotated[int, Field(ge=1)] = 3  # of each side, for each start of the two
    block_s: Positive = 1.0  # about
    minutes: Positive = 30.0  # for the load, at most
    start_timeout_s: Positive = 900.0
    seed: int = 0
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    side_by_side: bool | Literal["auto"] = "auto"
    lost_incumbent: Literal["undecided", "promote"] = "undecided"
    """What becomes of a candidate that passes its own gates when the incumbent cannot be served here any more."""
