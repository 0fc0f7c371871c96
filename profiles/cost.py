"""From a price and a speed to money per token, and back; every figure comes with its formula and its numbers.

Prices are US dollars, `usd_per_hour` is that of the whole replica (GPU price × GPUs), a month has 720 hours.
"""

from __future__ import annotations

from dataclasses import dataclass

from trtllm_kit.errors import SpecError

SECONDS_PER_HOUR = 3600
HOURS_PER_MONTH = 720
_MILLION = 10**6


@dataclass(frozen=True)
class Worked:
    """A figure, its unit, and how it was worked out, numbers filled in."""

    name: str
    value: float
    unit: str
    formula: str

    def __str__(self) -> str:
        return f"{self.name} = {self.formula} = {figure(self.value, self.unit)}"


def figure(value: float, unit: str) -> str:
    """A value as a person would write it."""
    if unit.startswith("$"):
        digits = f"{abs(value):,.5g}" if abs(value) < 1000 else f"{abs(value):,.2f}"
        return f"{'-' if value < 0 else ''}${digits}{unit[1:]}"
    if unit == "%":
        return f"{value:.1%}"
    return f"{value:,.6g} {unit}".rstrip() if abs(value) < 10000 else f"{value:,.0f} {unit}".rstrip()


def per_million(usd_per_hour: float, tokens_per_s: float) -> Worked:
    """Dollars for a million tokens at a sustained speed."""
    _positive(usd_per_hour=usd_per_hour, tokens_per_s=tokens_per_s)
    return Worked(
        "price of a million tokens",
        usd_per_hour * _MILLION / (tokens_per_s * SECONDS_PER_HOUR),
        "$/M",
        f"${usd_per_hour:g}/h × 1,000,000 / ({tokens_per_s:,.6g} tokens/s × 3,600 s)",
    )


def required_tokens_per_s(usd_per_hour: float, usd_per_million: float) -> Worked:
    """The speed at which a million tokens cost `usd_per_million`: the inverse of `per_million`."""
    _positive(usd_per_hour=usd_per_hour, usd_per_million=usd_per_million)
    return Worked(
        "required speed",
        usd_per_hour * _MILLION / (usd_per_million * SECONDS_PER_HOUR),
        "tokens/s",
        f"${usd_per_hour:g}/h × 1,000,000 / (${usd_per_million:g}/M × 3,600 s)",
    )


def tokens_per_dollar(usd_per_hour: float, tokens_per_s: float) -> Worked:
    """Tokens that a dollar buys at a sustained speed."""
    _positive(usd_per_hour=usd_per_hour, tokens_per_s=tokens_per_s)
    return Worked(
        "tokens for a dollar",
        tokens_per_s * SECONDS_PER_HOUR / usd_per_hour,
        "tokens/$",
        f"{tokens_per_s:,.6g} tokens/s × 3,600 s / ${usd_per_hour:g}/h",
    )


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Tokens a second through a replica, and what a token costs beside an uncached input token."""

    input_per_s: float  # computed by prefill
    cached_per_s: float  # found in the KV cache
    output_per_s: float
    output_ratio: float
    cached_ratio: float

    @property
    def input_equivalents_per_s(self) -> float:
        """All tokens, each weighted by its cost."""
        return self.input_per_s + self.cached_ratio * self.cached_per_s + self.output_ratio * self.output_per_s


def token_prices(usd_per_hour: float, flow: Flow) -> list[Worked]:
    """Prices of a million input, cached input and output tokens that together pay for the replica exactly."""
    _positive(usd_per_hour=usd_per_hour, output_ratio=flow.output_ratio, cached_ratio=flow.cached_ratio)
    unit = per_million(usd_per_hour, flow.input_equivalents_per_s).value
    formula = (
        f"${usd_per_hour:g}/h × 1,000,000 / (({flow.input_per_s:,.6g} input + {flow.cached_ratio:.3g} ×"
        f" {flow.cached_per_s:,.6g} cached + {flow.output_ratio:.3g} × {flow.output_per_s:,.6g} output)"
        " tokens/s × 3,600 s)"
    )
    return [
        Worked("input", unit, "$/M", formula),
        Worked("cached input", unit * flow.cached_ratio, "$/M", f"{flow.cached_ratio:.3g} × input"),
        Worked("output", unit * flow.output_ratio, "$/M", f"{flow.output_ratio:.3g} × input"),
    ]


def output_ratio(prefill_per_s: float, input_per_s: float, output_per_s: float) -> Worked:
    """How many input tokens an output token costs, from the time that each takes of a saturated replica.

    `prefill_per_s` is the speed when there is only prefill. A second holds input_per_s / prefill_per_s of prefill, the
    rest of it is decode: (1 - share) / output_per_s for each output token.
    """
    _positive(prefill_per_s=prefill_per_s, input_per_s=input_per_s, output_per_s=output_per_s)
    share = input_per_s / prefill_per_s
    if share >= 1:
        raise SpecError(
            f"{input_per_s:,.0f} input tokens/s are more than the {prefill_per_s:,.0f} tokens/s of prefill alone",
            expected="a measured or predicted speed within the prefill speed",
            fix="give --output-ratio",
        )
    return Worked(
        "cost of an output token in input tokens",
        (1 - share) / output_per_s * prefill_per_s,
        "",
        f"(1 - {input_per_s:,.6g}/{prefill_per_s:,.6g}) / {output_per_s:,.6g} × {prefill_per_s:,.6g}",
    )


def break_even(usd_per_month: float, api_usd_per_million: float, capacity_tokens_per_s: float | None) -> list[Worked]:
    """Where one's own replica costs what the API costs: tokens a month, sustained tokens/s, and load of the replica.

    `capacity_tokens_per_s` is what the replica can do; None leaves the load out.
    """
    _positive(usd_per_month=usd_per_month, api_usd_per_million=api_usd_per_million)
    tokens = usd_per_month / api_usd_per_million * _MILLION
    sustained = tokens / (HOURS_PER_MONTH * SECONDS_PER_HOUR)
    found = [
        Worked(
            "tokens a month",
            tokens,
            "tokens",
            f"${usd_per_month:,.6g} / ${api_usd_per_million:g}/M × 1,000,000",
        ),
        Worked("day and night", sustained, "tokens/s", f"{tokens:,.0f} tokens / ({HOURS_PER_MONTH} h × 3,600 s)"),
    ]
    if capacity_tokens_per_s is not None:
        _positive(capacity_tokens_per_s=capacity_tokens_per_s)
        share = sustained / capacity_tokens_per_s
        found.append(Worked("utilisation", share, "%", f"{sustained:,.6g} / {capacity_tokens_per_s:,.6g} tokens/s"))
    return found


def saving(usd_per_month: float, api_usd_per_million: float, tokens_per_month: float) -> Worked:
    """What one's own replica saves in a month against the API; negative: it loses."""
    _positive(usd_per_month=usd_per_month, api_usd_per_million=api_usd_per_million)
    api = tokens_per_month / _MILLION * api_usd_per_million
    return Worked(
        "saved a month",
        api - usd_per_month,
        "$",
        f"{tokens_per_month:,.0f} tokens × ${api_usd_per_million:g}/M - ${usd_per_month:,.6g}",
    )


def mfu(tokens_per_s: float, active_params: float, tflops: float) -> Worked:
    """Model FLOP/s utilisation: 2 FLOP for each active parameter and token, of the dense peak of all GPUs."""
    _positive(tokens_per_s=tokens_per_s, active_params=active_params, tflops=tflops)
    used = 2 * active_params * tokens_per_s / 1e12
    return Worked(
        "MFU",
        used / tflops,
        "%",
        f"2 × {active_params / 1e9:.4g}e9 parameters × {tokens_per_s:,.6g} tokens/s / {tflops:,.5g} TFLOP/s",
    )


def mbu(output_per_s: float, batch: float, weight_bytes: float, kv_bytes: float, bandwidth_gbs: float) -> Worked:
    """Memory bandwidth utilisation of decode: a step reads all weights once and the KV cache of each sequence.

    `kv_bytes` is one sequence's cache, `weight_bytes` and `bandwidth_gbs` are those of all GPUs together.
    """
    _positive(output_per_s=output_per_s, batch=batch, weight_bytes=weight_bytes, bandwidth_gbs=bandwidth_gbs)
    steps = output_per_s / batch
    return Worked(
        "MBU",
        steps * (weight_bytes + batch * kv_bytes) / (bandwidth_gbs * 1e9),
        "%",
        f"{output_per_s:,.6g}/{batch:,.4g} steps/s × ({weight_bytes / 1e9:.4g} GB weights + {batch:,.4g} ×"
        f" {kv_bytes / 1e9:.4g} GB KV) / {bandwidth_gbs:,.5g} GB/s",
    )


def decode_floor(weight_bytes: float, bandwidth_gbs: float) -> Worked:
    """The least time of a decode step: the weights must be read once."""
    _positive(weight_bytes=weight_bytes, bandwidth_gbs=bandwidth_gbs)
    formula = f"{weight_bytes / 1e9:.5g} GB / {bandwidth_gbs:,.5g} GB/s"
    return Worked("floor of TPOT", weight_bytes / bandwidth_gbs / 1e6, "ms", formula)


def _positive(**figures: float) -> None:
    for name, value in figures.items():
        if not 0 < value < float("inf"):
            raise SpecError(f"{name} is {value}", expected="a figure above 0", fix=f"give {name} as it is")
