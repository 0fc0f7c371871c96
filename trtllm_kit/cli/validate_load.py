"""The options of `validate` that say what is sent, and the Load, Search and Endpoint that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.plan import ValidationPlan
from builder.resolve.serving import INPUT_LEN, OUTPUT_LEN, REQUESTS_PER_LEVEL
from serving.load.arrivals import GAPS
from trtllm_kit.cli import options
from trtllm_kit.errors import UsageError
from trtllm_kit.spec import ValidationSpec

if TYPE_CHECKING:
    from serving.load.lengths import Lengths
    from serving.validate.load import Load
    from serving.validate.saturation import Kind, Search

_POSITIVE = click.FloatRange(min=0, min_open=True)
_COUNT = click.IntRange(min=1)
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)

_OPTIONS = (
    click.option("--concurrency", "concurrencies", multiple=True, type=_COUNT, help="Closed loop; repeat for more."),
    click.option("--requests-per-level", type=_COUNT, help="Counted at each concurrency, without --duration."),
    click.option("--rate", "rates", multiple=True, type=_POSITIVE, help="Open loop, requests/s; repeat for more."),
    click.option("--arrivals", type=click.Choice(list(GAPS)), default="poisson", show_default=True, help="Of --rate."),
    click.option("--burstiness", type=_POSITIVE, default=1.0, show_default=True, help="Shape of gamma; < 1 is bursty."),
    click.option(
        "--duration",
        "duration_s",
        type=options.SECONDS,
        metavar="TIME",
        help="Of each level.  [default: 30s where --rate or --find-max]",
    ),
    click.option("--within", "within_percent", type=_POSITIVE, help="End a level once its means are known so well, %."),
    click.option("--repeats", type=_COUNT, default=1, show_default=True, help="Runs of each level; the median counts."),
    click.option("--input-len", "input_text", metavar="LEN", help="Tokens of a prompt: 128, 64-256, normal:512:128."),
    click.option("--output-len", "output_text", metavar="LEN", help="Tokens of an answer, likewise."),
    click.option(
        "--prefix-share", type=click.FloatRange(0, 1), default=0.0, help="Of each prompt; others begin so too."
    ),
    click.option("--prefix-pool", type=_COUNT, default=1, show_default=True, help="How many shared beginnings."),
    click.option("--turns", type=_COUNT, default=1, show_default=True, help="Of each conversation."),
    click.option("--prompts", type=_FILE, help="JSONL: prompt, messages or turns in each line."),
    click.option("--trace", type=_FILE, help="JSONL with timestamps: replay its arrivals."),
    click.option("--trace-speed", type=_POSITIVE, default=1.0, show_default=True, help="2 replays in half the time."),
    click.option("--seed", type=int, help="The same seed sends the same bytes."),
    click.option(
        "--timeout",
        "timeout_s",
        type=options.SECONDS,
        default="300s",
        show_default=True,
        metavar="TIME",
        help="Of a request.",
    ),
    click.option("--metrics-url", help="The server's metrics.  [default: found beside its HTTP port]"),
    click.option("--slo", "slo_text", metavar="SLO", help="For goodput, e.g. ttft:500ms,tpot:50ms,e2e:10s."),
    click.option("--ttft-p95-ms", type=_POSITIVE, help="Limit; exit 7 when missed."),
    click.option("--tpot-p95-ms", type=_POSITIVE, help="Limit; exit 7 when missed."),
    click.option("--min-output-tokens-per-s", type=_POSITIVE, help="Limit of the best level."),
    click.option("--find-max", type=click.Choice(["rate", "concurrency"]), help="Search the highest one within --slo."),
    click.option("--find-from", type=_POSITIVE, default=1.0, show_default=True, help="Where the search begins."),
    click.option("--find-to", type=_POSITIVE, default=4096.0, show_default=True, help="Where it ends."),
)

load_options = options.together(*_OPTIONS)
"""All of them."""


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """The options as click hands them over."""

    concurrencies: tuple[int, ...]
    requests_per_level: int | None
    rates: tuple[float, ...]
    arrivals: str
    burstiness: float
    duration_s: float | None
    within_percent: float | None
    repeats: int
    input_text: str | None
    output_text: str | None
    prefix_share: float
    prefix_pool: int
    turns: int
    prompts: Path | None
    trace: Path | None
    trace_speed: float
    seed: int | None
    timeout_s: float
    metrics_url: str | None
    slo_text: str | None
    ttft_p95_ms: float | None
    tpot_p95_ms: float | None
    min_output_tokens_per_s: float | None
    find_max: Kind | None
    find_from: float
    find_to: float

    @classmethod
    def take(cls, keywords: dict[str, Any]) -> LoadRequest:
        """Move its options out of a command's keywords."""
        return cls(**{field.name: keywords.pop(field.name) for field in fields(cls)})

    def load(self, content: Mapping[str, Any] | None, tokenizer_dir: Path | None) -> Load:
        """The artifact's own load and limits, else the defaults; what stands on the command line wins.

        Files are read here, before anything is sent; UsageError says what is wrong with them or with the options.
        """
        from serving.load.dataset import read_dataset, read_trace
        from serving.load.slo import parse_slo
        from serving.validate.load import OPEN_LOOP_S, SEED, Load

        self._check()
        lengths = {"input_len": _lengths(self.input_text), "output_len": _lengths(self.output_text)}
        plan = _plan(content, self, {name: found for name, found in lengths.items() if found})
        seed = SEED if self.seed is None else self.seed
        given, replay = None, None
        if self.prompts is not None:
            given = read_dataset(self.prompts, max_tokens=plan.output_len, seed=self.seed)
        elif self.trace is not None:
            replay, given = read_trace(
                self.trace, max_tokens=plan.output_len, speed=self.trace_speed, tokenizer_dir=tokenizer_dir
            )
        return Load(
            plan=plan,
            rates=self.rates,
            arrivals=self.arrivals,
            burstiness=self.burstiness,
            duration_s=self.duration_s or (OPEN_LOOP_S if self.find_max else None),
            precision=self.within_percent / 100 if self.within_percent else None,
            repeats=self.repeats,
            seed=seed,
            **lengths,
            prefix_share=self.prefix_share,
            prefix_pool=self.prefix_pool,
            turns=self.turns,
            given=given,
            replay=replay,
            slo=None if self.slo_text is None else parse_slo(self.slo_text),
            timeout_s=self.timeout_s,
            metrics_url=self.metrics_url,
        )

    def search(self) -> Search | None:
        """What --find-max asks for."""
        from serving.validate.saturation import Search

        if self.find_max is None:
            return None
        return Search(kind=self.find_max, start=self.find_from, most=self.find_to)

    def _check(self) -> None:
        ways = {
            "--concurrency": bool(self.concurrencies),
            "--rate": bool(self.rates),
            "--trace": self.trace is not None,
            "--find-max": self.find_max is not None,
        }
        chosen = [name for name, given in ways.items() if given]
        if len(chosen) > 1:
            raise UsageError(f"{' and '.join(chosen)} exclude each other", expected="one of them")
        if self.prompts is not None and self.trace is not None:
            raise UsageError("--prompts and --trace exclude each other", expected="one of them")
        if self.find_max is not None and self.slo_text is None:
            raise UsageError("--find-max needs an SLO to search by", expected="--slo, e.g. ttft:500ms,tpot:50ms")
        if self.within_percent and self.duration_s is None and not self.rates:
            raise UsageError("--within needs --duration", expected="the longest time that a level may take")


def _plan(content: Mapping[str, Any] | None, asked: LoadRequest, lengths: Mapping[str, Lengths]) -> ValidationPlan:
    if content is not None:
        written = dict(content["spec"]["validation"])
    else:
        sizes = {"requests_per_level": REQUESTS_PER_LEVEL, "input_len": INPUT_LEN, "output_len": OUTPUT_LEN}
        written = {**ValidationSpec().model_dump(), **sizes}
    plan = ValidationPlan(**{**written, "concurrencies": tuple(written["concurrencies"])})
    names = [field.name for field in fields(plan) if hasattr(asked, field.name)]
    flags: dict[str, Any] = {name: value for name in names if (value := getattr(asked, name))}
    return replace(plan, **{**flags, **{name: _mean(found) for name, found in lengths.items()}})


def _lengths(text: str | None) -> Lengths | None:
    from serving.load.lengths import parse_lengths

    return parse_lengths(text) if text else None


def _mean(lengths: Lengths) -> int:
    """What stands in the report and in the baseline's name."""
    return round((lengths.first + lengths.second) / 2 if lengths.kind == "uniform" else lengths.first)
