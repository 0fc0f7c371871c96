"""What a workload asks of a model in a month. Every figure must be written: one left out would count as 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from profiles.cost import Worked
from trtllm_kit.errors import SpecError

DAYS_PER_MONTH = 30


class Workload(BaseModel):
    """Tokens are means over requests. A 0 is fine where it is meant, and has to be written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_day: float = Field(gt=0)
    system_prompt_tokens: float = Field(ge=0)  # of each request, tools and few-shot examples included
    input_tokens: float = Field(gt=0)  # without the system prompt
    output_tokens: float = Field(gt=0)  # reasoning tokens included
    retry_rate: float = Field(ge=0)  # further attempts for each request, 0.05: one in twenty is sent again
    cached_share: float = Field(ge=0, le=1)  # of the system prompt's tokens, found in the KV cache
    storage_usd_per_month: float = Field(ge=0)
    egress_usd_per_month: float = Field(ge=0)
    operations_usd_per_month: float = Field(ge=0)  # people, monitoring, on-call

    @property
    def attempts_per_month(self) -> float:
        """Requests with their retries."""
        return self.requests_per_day * DAYS_PER_MONTH * (1 + self.retry_rate)

    @property
    def cached_tokens(self) -> float:
        """Input tokens of an attempt that the KV cache has."""
        return self.system_prompt_tokens * self.cached_share

    @property
    def computed_tokens(self) -> float:
        """Input tokens of an attempt that must be computed."""
        return self.system_prompt_tokens - self.cached_tokens + self.input_tokens

    def bill(self, input_usd: float, cached_usd: float, output_usd: float) -> list[Worked]:
        """Dollars a month by line, at prices of a million tokens of each kind."""
        return [
            self._line("input", self.computed_tokens, input_usd),
            self._line("cached input", self.cached_tokens, cached_usd),
            self._line("output", self.output_tokens, output_usd),
            Worked("storage", self.storage_usd_per_month, "$", "as written"),
            Worked("egress", self.egress_usd_per_month, "$", "as written"),
            Worked("operations", self.operations_usd_per_month, "$", "as written"),
        ]

    def _line(self, name: str, tokens: float, usd: float) -> Worked:
        formula = (
            f"{self.requests_per_day:,.6g} × {DAYS_PER_MONTH} days × (1 + {self.retry_rate:g}) attempts"
            f" × {tokens:,.6g} tokens × ${usd:.5g}/M"
        )
        return Worked(name, self.attempts_per_month * tokens * usd / 1e6, "$", formula)


def load(path: Path) -> Workload:
    """Read a workload file; SpecError names every field that is missing, unknown or impossible."""
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path} cannot be read: {error}", expected="a YAML file", fix=_FIX) from None
    try:
        return Workload.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(_problem(item["loc"], item["msg"]) for item in error.errors())
        raise SpecError(f"{path}: {problems}", expected="every field of a workload, written out", fix=_FIX) from None


_FIX = f"write all of {', '.join(Workload.model_fields)}; a figure that is 0 is written as 0"


def _problem(where: tuple[int | str, ...], message: str) -> str:
    return f"{'.'.join(map(str, where)) or 'the file'}: {message[0].lower()}{message[1:]}"
