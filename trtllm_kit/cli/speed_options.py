"""How fast a replica is and what its hour costs: given, predicted, or read from a validation report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from profiles import cost
from profiles.cost import Worked
from trtllm_kit.cli import options
from trtllm_kit.cli.price_options import PriceRequest, price_options
from trtllm_kit.errors import SpecError, UsageError
from trtllm_kit.files import read_json

if TYPE_CHECKING:
    from profiles.performance import Setup

_POSITIVE = click.FloatRange(min=0, min_open=True)

_OPTIONS = (
    click.option("--price", type=_POSITIVE, metavar="USD", help="Dollars for a GPU hour, in place of the table's."),
    click.option("--gpus", type=click.IntRange(min=1), help="GPUs of the replica.  [default: tp × pp, else 1]"),
    click.option("--tokens-per-s", type=_POSITIVE, help="Output tokens/s of the replica, as given."),
    click.option(
        "--report", type=click.Path(path_type=Path, dir_okay=False), help="`validate --output json`, best level."
    ),
    click.option("--model", help="With --sku: predict the speed. Folder, config.json or a public model's name."),
    click.option("--sku", help="GPU SKU or MIG slice; also names the price."),
    click.option("--precision", default="fp8", show_default=True, help="Of a prediction."),
    click.option("--tp", "tp_size", default=1, show_default=True, type=click.IntRange(min=1)),
    click.option("--pp", "pp_size", default=1, show_default=True, type=click.IntRange(min=1)),
    click.option("--isl", type=click.IntRange(min=1), help="Tokens of a prompt."),
    click.option("--osl", type=click.IntRange(min=1), help="Tokens of an answer."),
    click.option("--concurrency", type=click.IntRange(min=1), help="Of a prediction.  [default: saturated]"),
)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens a second of a replica, and where the figure is from."""

    output_per_s: float
    isl: int | None
    osl: int | None
    prefill_per_s: float | None  # input tokens/s of prefill alone, where it is known
    source: str

    @property
    def input_per_s(self) -> float | None:
        """Input tokens/s that go with the output."""
        return None if self.isl is None or self.osl is None else self.output_per_s * self.isl / self.osl


@dataclass(frozen=True, kw_only=True)
class SpeedRequest:
    """The options as click hands them over."""

    price: float | None
    gpus: int | None
    tokens_per_s: float | None
    report: Path | None
    model: str | None
    sku: str | None
    precision: str
    tp_size: int
    pp_size: int
    isl: int | None
    osl: int | None
    concurrency: int | None
    prices: PriceRequest

    @property
    def replica_gpus(self) -> int:
        """GPUs of the replica."""
        return self.gpus or self.tp_size * self.pp_size

    def usd_per_hour(self) -> Worked:
        """Dollars for an hour of the whole replica."""
        if self.price is not None:
            return self._hour(self.price, "as given")
        if self.sku is None:
            raise UsageError("no price of a GPU hour", expected="--price USD, or --sku", fix="give one of them")
        from profiles import skus

        found = self.prices.of(skus.find(self.sku))
        return self._hour(found.usd_per_gpu_hour, f"{found}, {found.source}, {found.date}")

    def _hour(self, usd: float, source: str) -> Worked:
        formula = f"{self.replica_gpus} GPU{'s' * (self.replica_gpus > 1)} × ${usd:g} ({source})"
        return Worked("an hour of the replica", usd * self.replica_gpus, "$/h", formula)

    def speed(self) -> Speed:
        """From exactly one of --tokens-per-s, --report and --model."""
        given = [self.tokens_per_s is not None, self.report is not None, self.model is not None]
        if sum(given) != 1:
            raise UsageError(
                "the speed must come from one place" if any(given) else "no speed",
                expected="one of --tokens-per-s N, --report FILE and --model MODEL --sku SKU --isl N --osl N",
                fix="give exactly one",
            )
        if self.tokens_per_s is not None:
            return Speed(
                output_per_s=self.tokens_per_s, isl=self.isl, osl=self.osl, prefill_per_s=None, source="as given"
            )
        return _measured(self.report) if self.report is not None else self._predicted()

    def setup(self) -> Setup:
        """The replica that --model, --sku and the sizes describe; SpecError or FitError when it is none."""
        from profiles import capacity, fit_check, ledger, precisions, skus, support, versions
        from trtllm_kit.cli.model_source import read_model

        if self.model is None or self.sku is None:
            raise UsageError("no model or no SKU", expected="--model and --sku", fix="give both")
        model, sku = read_model(self.model), skus.find(self.sku)
        kv_dtype = capacity.usual_kv_dtype(self.precision)
        place = ledger.Placement(
            shape=model.shape,
            weights=model.weights,
            weight_bits=precisions.find(self.precision).weight_bits,
            sku=sku,
            tp_size=self.tp_size,
            pp_size=self.pp_size,
            limits=ledger.Limits(
                max_batch_size=1,
                max_seq_len=(self.isl or 0) + (self.osl or 1),
                kv_bits=precisions.KV_BITS[kv_dtype],
                runtime=support.choose_runtime(sku, self.precision, versions.DEFAULT, kv_dtype)[0],
            ),
        )
        fit_check.check_fits(place)
        found = capacity.configure(place, self.precision, kv_dtype, versions.DEFAULT)
        assert found is not None  # one sequence fits
        return found.setup

    def _predicted(self) -> Speed:
        from profiles import performance

        setup = self.setup()
        if self.isl is None or self.osl is None:
            raise UsageError("a prediction needs --isl and --osl", fix="give the tokens of prompt and answer")
        if self.concurrency is None:
            found = performance.max_throughput(setup, self.isl, self.osl)
        else:
            found = performance.at_concurrency(setup, self.isl, self.osl, self.concurrency).output_tokens_per_s
        prefill = performance.max_throughput(setup, self.isl, 1).value * self.isl
        return Speed(
            output_per_s=found.value,
            isl=self.isl,
            osl=self.osl,
            prefill_per_s=prefill,
            source=f"predicted, {found.low:,.0f} to {found.high:,.0f} ({found.basis})",
        )


def _measured(report: Path | None) -> Speed:
    """The fastest level of a validation's load, and prefill by TTFT of its lowest concurrency."""
    assert report is not None
    tree = read_json(report, "the validation report")
    checks = tree.get("checks", ()) if isinstance(tree, dict) else ()
    data: Mapping[str, Any] = next((check["data"] for check in checks if check.get("name") == "throughput"), {})
    levels = data.get("levels") or ()
    if not levels:
        raise SpecError(
            f"{report} has no throughput",
            expected="the JSON of `trtllm-kit validate --output json`",
            fix="validate again",
        )
    best = max(levels, key=lambda level: float(level["output_tokens_per_s"]))
    alone = min(levels, key=lambda level: int(level["concurrency"]))
    ttft = (alone.get("ttft_ms") or {}).get("p50")
    return Speed(
        output_per_s=float(best["output_tokens_per_s"]),
        isl=data["input_len"],
        osl=data["output_len"],
        prefill_per_s=data["input_len"] * 1000 / ttft if ttft else None,
        source=f"measured at concurrency {best['concurrency']}, {report.name}",
    )


speed_options = options.together(*_OPTIONS, price_options)
"""All of them, with those of the price."""


def take(request: dict[str, Any]) -> SpeedRequest:
    """Move the options of this file out of a command's keywords."""
    prices = PriceRequest(**{key: request.pop(key) for key in PriceRequest.__dataclass_fields__})
    own = {key: request.pop(key) for key in SpeedRequest.__dataclass_fields__ if key != "prices"}
    return SpeedRequest(**own, prices=prices)


def monthly(hour: Worked) -> Worked:
    """A month of the replica."""
    months = cost.HOURS_PER_MONTH
    return Worked("a month of the replica", hour.value * months, "$", f"${hour.value:g}/h × {months} h")
