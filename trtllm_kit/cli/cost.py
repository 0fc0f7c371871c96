"""`trtllm-kit cost`: money for tokens, each figure with its formula and its numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from profiles import cost as formulas
from profiles.cost import Flow, Worked
from trtllm_kit.cli import options, speed_options
from trtllm_kit.cli.cost_mix import blend, mix
from trtllm_kit.cli.figures import show
from trtllm_kit.cli.speed_options import Speed, SpeedRequest
from trtllm_kit.errors import PerformanceError, SpecError, UsageError

if TYPE_CHECKING:
    from profiles.performance import Setup

_CACHED_RATIO = 0.1  # an assumption: what a cached input token costs beside a computed one
_POSITIVE = click.FloatRange(min=0, min_open=True)
_output_ratio = click.option(
    "--output-ratio", type=_POSITIVE, help="Output token's cost in input tokens.  [default: by the speeds]"
)
_cached_ratio = click.option(
    "--cached-ratio", type=_POSITIVE, default=_CACHED_RATIO, show_default=True, help="Cached input token's cost."
)


@click.group()
def cost() -> None:
    """Prices of tokens, break-even, GPU mix, utilisation, and the bill of a workload."""


cost.add_command(mix)
cost.add_command(blend)


@cost.command("per-token")
@speed_options.speed_options
@_output_ratio
@_cached_ratio
@options.output
def per_token(output: str, output_ratio: float | None, cached_ratio: float, **request: Any) -> None:
    """Dollars for a million input, cached input and output tokens, from a speed and a price."""
    asked = speed_options.take(request)
    hour, speed = asked.usd_per_hour(), asked.speed()
    lines = [hour, _speed(speed), *_by_output(hour, speed)]
    if speed.input_per_s is not None:
        lines += _by_kind(hour, speed, output_ratio, cached_ratio)
    show(lines, output)


@cost.command()
@click.option("--target", required=True, type=_POSITIVE, metavar="USD", help="Dollars for a million output tokens.")
@speed_options.speed_options
@options.output
def required(target: float, output: str, **request: Any) -> None:
    """The speed at which a million output tokens cost TARGET; exit 7 when a given speed does not reach it."""
    asked = speed_options.take(request)
    hour = asked.usd_per_hour()
    need = formulas.required_tokens_per_s(hour.value, target)
    if asked.tokens_per_s is None and asked.report is None and asked.model is None:
        show([hour, need], output)
        return
    speed = asked.speed()
    reached = Worked(
        "reached", speed.output_per_s / need.value, "%", f"{speed.output_per_s:,.6g} / {need.value:,.6g} tokens/s"
    )
    show([hour, need, _speed(speed), reached], output)
    if reached.value < 1:
        raise PerformanceError(
            f"{speed.output_per_s:,.0f} tokens/s are {reached.value:.0%} of what ${target:g}/M takes",
            expected=f"{need.value:,.0f} tokens/s",
            fix="look for a cheaper configuration with `trtllm-kit plan --sku any`",
        )


@cost.command("break-even")
@click.option("--api-price", required=True, type=_POSITIVE, metavar="USD", help="The API's, for a million tokens.")
@click.option("--tokens-per-month", type=_POSITIVE, help="Also say what is saved or lost at that volume.")
@speed_options.speed_options
@options.output
def break_even(api_price: float, tokens_per_month: float | None, output: str, **request: Any) -> None:
    """Where a replica of one's own costs what an API does: tokens a month, sustained tokens/s, and its utilisation."""
    asked = speed_options.take(request)
    hour = asked.usd_per_hour()
    month = speed_options.monthly(hour)
    speed = asked.speed() if asked.tokens_per_s or asked.report or asked.model else None
    lines = [hour, month, *([_speed(speed)] if speed else [])]
    lines += formulas.break_even(month.value, api_price, speed.output_per_s if speed else None)
    if tokens_per_month is not None:
        lines.append(formulas.saving(month.value, api_price, tokens_per_month))
    too_much = any(line.name == "utilisation" and line.value > 1 for line in lines)
    show(lines, output, "this replica can never serve that much: the API stays cheaper" if too_much else "")


@cost.command()
@speed_options.speed_options
@click.option("--batch", required=True, type=_POSITIVE, help="Sequences in flight.")
@options.output
def utilisation(batch: float, output: str, **request: Any) -> None:
    """MFU and MBU of a speed, and the floor under TPOT."""
    asked = speed_options.take(request)
    setup = asked.setup()
    given = asked.tokens_per_s is not None or asked.report is not None
    speed = (replace(asked, model=None) if given else asked).speed()
    show(_utilisation(asked, setup, speed, batch), output)


@cost.command()
@click.option(
    "--workload", required=True, type=click.Path(path_type=Path, dir_okay=False), help="YAML; see docs/cost.md."
)
@speed_options.speed_options
@_output_ratio
@_cached_ratio
@options.output
def estimate(workload: Path, output: str, output_ratio: float | None, cached_ratio: float, **request: Any) -> None:
    """The monthly bill of a workload, line by line; a figure that the file leaves out is an error."""
    from profiles.workload import load

    written = load(workload)
    asked = speed_options.take(request)
    hour, speed = asked.usd_per_hour(), asked.speed()
    if speed.input_per_s is None:
        raise UsageError("input tokens must be priced too", expected="--isl and --osl of the speed", fix="give both")
    token = _by_kind(hour, speed, output_ratio, cached_ratio)
    by_name = {line.name: line.value for line in token}
    bill = written.bill(by_name["input"], by_name["cached input"], by_name["output"])
    bill.insert(3, _idle(speed_options.monthly(hour), sum(line.value for line in bill[:3])))
    total = Worked(
        "together", sum(line.value for line in bill), "$", " + ".join(f"${line.value:,.2f}" for line in bill)
    )
    gpu = sum(line.value for line in bill[:4])
    share = Worked("share of GPUs", gpu / total.value, "%", f"${gpu:,.2f} / ${total.value:,.2f}")
    show([hour, _speed(speed), *token, *bill, total, share], output)


def _idle(month: Worked, used: float) -> Worked:
    """Replicas are whole: what of them the workload does not use is paid too."""
    replicas = max(1, math.ceil(used / month.value))
    plural = "s" * (replicas > 1)
    formula = f"{replicas} replica{plural} × ${month.value:,.2f} a month - ${used:,.2f} in use"
    return Worked("idle capacity", replicas * month.value - used, "$", formula)


def _speed(speed: Speed) -> Worked:
    return Worked("speed", speed.output_per_s, "tokens/s", f"{speed.source}")


def _by_output(hour: Worked, speed: Speed) -> list[Worked]:
    return [
        replace(formulas.per_million(hour.value, speed.output_per_s), name="a million output tokens, input free"),
        formulas.tokens_per_dollar(hour.value, speed.output_per_s),
    ]


def _by_kind(hour: Worked, speed: Speed, output_ratio: float | None, cached_ratio: float) -> list[Worked]:
    """Prices by kind of token; nothing is cached in a speed that was measured or predicted without reuse."""
    assert speed.input_per_s is not None
    lines = []
    if output_ratio is None:
        if speed.prefill_per_s is None:
            raise UsageError(
                "how much dearer an output token is than an input token does not follow from one speed",
                expected="--output-ratio, e.g. 3",
                fix="give it, or a report or a prediction",
            )
        lines = [formulas.output_ratio(speed.prefill_per_s, speed.input_per_s, speed.output_per_s)]
        output_ratio = lines[0].value
    flow = Flow(
        input_per_s=speed.input_per_s,
        cached_per_s=0,
        output_per_s=speed.output_per_s,
        output_ratio=output_ratio,
        cached_ratio=cached_ratio,
    )
    return [*lines, *formulas.token_prices(hour.value, flow)]


def _utilisation(asked: SpeedRequest, setup: Setup, speed: Speed, batch: float) -> list[Worked]:
    from profiles.performance.hardware import device

    gpu, shape, gpus = device(setup.sku, setup.precision), setup.shape, asked.replica_gpus
    if gpu.assumed:
        raise SpecError(
            f"{setup.sku.id}: its own figures are not confirmed",
            expected="a SKU with them",
            fix="see `trtllm-kit sku list`",
        )
    weight_bytes = shape.active_linear_params * gpu.weight_bytes + 2 * shape.head_params
    context = (speed.isl or 0) + (speed.osl or 0) / 2
    kv_bytes = shape.kv_elements_per_token * setup.kv_bits / 8 * context
    active = shape.active_linear_params + shape.head_params
    tokens_per_s = speed.output_per_s + (speed.input_per_s or 0)
    bandwidth_gbs = gpu.bandwidth / 1e9 * gpus
    return [
        _speed(speed),
        formulas.mfu(tokens_per_s, active, gpu.flops / 1e12 * gpus),
        formulas.mbu(speed.output_per_s, batch, weight_bytes, kv_bytes, bandwidth_gbs),
        formulas.decode_floor(weight_bytes, bandwidth_gbs),
    ]
