"""The quality report as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from builder.evaluate.bootstrap import Estimate
from builder.evaluate.charts import Line, Whisker, intervals, layer_lines, layer_map
from builder.evaluate.decision import OVERALL, Judgement
from builder.evaluate.limits import LIMITED
from builder.evaluate.result import QualityReport
from trtllm_kit.files import write_text_atomic

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#5f6b7a;--line:#e1e5ea;--card:#f6f8fa;
--pass:#1a7f37;--undecided:#9a6700;--fail:#cf222e;--a:#0969da;--b:#bf5b04}
@media(prefers-color-scheme:dark){:root{--bg:#0f1318;--fg:#e4e9ef;--dim:#94a1b0;--line:#2b323b;--card:#171c23;
--pass:#3fb950;--undecided:#d29922;--fail:#f85149;--a:#58a6ff;--b:#f0883e}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 20px 60px}h1{font-size:1.4rem;margin:0 0 4px}
h2{font-size:1.05rem;margin:36px 0 10px}.dim,small{color:var(--dim);font-weight:400}
.verdict{border-left:6px solid;background:var(--card);padding:14px 18px;margin:20px 0;border-radius:6px}
.verdict b{font-size:1.3rem;text-transform:uppercase;letter-spacing:.03em}
.verdict ul{margin:8px 0 0;padding-left:20px;color:var(--fg)}
.pass{color:var(--pass)}.undecided{color:var(--undecided)}.fail{color:var(--fail)}
.tiles{display:flex;flex-wrap:wrap;gap:12px}.tile{background:var(--card);border-radius:6px;
padding:12px 18px;min-width:150px}.tile b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:7px 12px;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child,.words td{text-align:left}.words td{white-space:normal;overflow-wrap:anywhere}
th{color:var(--dim);font-weight:600}.charts{display:grid;
grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:20px}
figure{margin:0;background:var(--card);border-radius:6px;padding:14px}figcaption{font-weight:600;margin-bottom:6px}
svg{width:100%;height:auto;display:block}svg text{fill:var(--dim);font-size:12px}.grid{stroke:var(--line)}
svg g{stroke:currentColor;fill:currentColor;stroke-width:2.5}line.limit{stroke:var(--fg);stroke-dasharray:4 3}
svg text.limit{fill:var(--fg)}.cell{fill:var(--a)}
polyline{fill:none;stroke-width:2.5}polyline.a{stroke:var(--a)}polyline.b{stroke:var(--b)}
circle.a{fill:var(--a)}circle.b{fill:var(--b)}.legend{display:flex;gap:16px;font-size:13px;
color:var(--dim);padding-left:8px}.key::before{content:"";display:inline-block;width:12px;height:3px;margin-right:6px;
vertical-align:middle}.key.a::before{background:var(--a)}.key.b::before{background:var(--b)}
"""
_COLUMNS = (
    ("perplexity_base", "perplexity, base", False),
    ("perplexity", "quantized", False),
    ("perplexity_increase", "increase", False),
    ("kl_mean", "KL mean", False),
    ("kl_p99", "KL p99", False),
    ("top1_agreement", "agreement", True),
)
_SHOWN_GROUPS = 20


def write_report(report: QualityReport, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text_atomic(path, html_page(report))


def html_page(report: QualityReport) -> str:
    """Decision, figures, pictures, tables, conditions."""
    algorithm = report.about.get("quant_algo") or "unquantized"
    title = f"Quality of {report.about.get('architecture', 'a model')}, {algorithm}"
    body = [
        f"<h1>{escape(title)}</h1>",
        '<div class="dim">against the checkpoint that it was made from, on held-out text</div>',
        _verdict(report),
        _tiles(report),
        _limits(report),
        _layers(report),
        _slices(report),
        _sensitivity(report),
        _conditions(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _verdict(report: QualityReport) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in report.reasons)
    return f'<section class="verdict {report.decision}"><b>{report.decision}</b><ul>{reasons}</ul></section>'


def _tiles(report: QualityReport) -> str:
    if OVERALL not in report.slices:
        return ""
    overall = report.slices[OVERALL]
    found = {name: estimate.value for name, estimate in overall.metrics.items()}
    rows = [
        (f"{found['perplexity_base']:.4g} → {found['perplexity']:.4g}", "perplexity, base → quantized"),
        (f"{found['kl_mean']:.3g}", "mean KL divergence, nats a token"),
        (f"{found['kl_p99']:.3g}", "its 99th percentile"),
        (f"{found['top1_agreement']:.2%}", "same first choice"),
        (f"{overall.tokens:,}", f"tokens of {overall.documents} documents"),
    ]
    tiles = (f'<div class="tile"><b>{escape(value)}</b><small>{escape(name)}</small></div>' for value, name in rows)
    return f'<section class="tiles">{"".join(tiles)}</section>'


def _limits(report: QualityReport) -> str:
    if not report.judgements:
        return ""
    figures = []
    for name, limit in report.limits.items():
        judged = [row for row in report.judgements if row.metric == name]
        figures.append(
            intervals(_sentence(LIMITED[name].what), [_row(row) for row in judged], limit, percent=_is_share(name))
        )
    confidence = report.about.get("confidence", 0.0)
    return (
        f"<h2>Against the limits <small>dots with {confidence:.0%} intervals</small></h2>"
        f'<section class="charts">{"".join(figures)}</section>'
    )


def _row(row: Judgement) -> Whisker:
    found = row.estimate
    return Whisker(name=row.slice, value=found.value, low=found.low, high=found.high, css=row.decision)


def _layers(report: QualityReport) -> str:
    if not report.layers:
        return ""
    lines = [
        Line(name="up to this layer", css="a", values=[row.stream_error for row in report.layers]),
        Line(name="of this layer alone", css="b", values=[row.own_error for row in report.layers]),
    ]
    figures = [layer_lines("Relative error of the hidden states after each layer", lines)]
    names = list(dict.fromkeys(_kind(group.modules) for row in report.layers for group in row.groups))
    if names:
        found = [{_kind(group.modules): group.output_error for group in row.groups} for row in report.layers]
        cells = [[row.get(name) for row in found] for name in names]
        figures.append(layer_map("The same by the linears that are quantized alone", names, cells))
    return f'<h2>Where it comes from</h2><section class="charts">{"".join(figures)}</section>'


def _kind(modules: Sequence[str]) -> str:
    """What a group is called on an axis: `q k v`, `gate up`; all experts of a layer are too many to tell apart."""
    return " ".join(module.rpartition(".")[2].removesuffix("_proj") for module in modules)


def _short(modules: Sequence[str]) -> str:
    """`model.layers.3.mlp: gate_proj, up_proj`."""
    parents = {module.rpartition(".")[0] for module in modules}
    names = ", ".join(module.rpartition(".")[2] for module in modules)
    return f"{parents.pop()}: {names}" if len(parents) == 1 else ", ".join(modules)


def _slices(report: QualityReport) -> str:
    if not report.slices:
        return ""
    head = ("", "documents", "tokens", *(title for _, title, _ in _COLUMNS))
    rows = (
        (
            name,
            f"{row.documents}",
            f"{row.tokens:,}",
            *(_cell(key, row.metrics[key], share) for key, _, share in _COLUMNS),
        )
        for name, row in report.slices.items()
    )
    return f'<h2>By slice <small>with intervals</small></h2><div class="scroll">{_table(head, rows)}</div>'


def _cell(name: str, found: Estimate, share: bool) -> str:
    scale, unit = (100, " %") if share else (1, "")
    value, low, high = (f"{scale * end:.3g}" for end in (found.value, found.low, found.high))
    return f"{value}{unit} [{low}, {high}]" if name in LIMITED else value


def _sensitivity(report: QualityReport) -> str:
    if not report.sensitivity:
        return ""
    rows = (
        (
            _short(row.modules),
            f"{row.output_error:.3%}",
            "" if row.kl is None else f"{row.kl:.3g}",
            f"{row.extra_bytes / 1e6:,.2f} MB",
        )
        for row in report.sensitivity[:_SHOWN_GROUPS]
    )
    left = len(report.sensitivity) - _SHOWN_GROUPS
    head = ("linears that read one input", "error of these alone", "KL of these alone", "to leave them out costs")
    rest = f'<p class="dim">{left} more cost less</p>' if left > 0 else ""
    return f'<h2>The costliest linears</h2><div class="scroll">{_table(head, rows)}</div>{rest}'


def _conditions(report: QualityReport) -> str:
    cells = ((escape(key.replace("_", " ")), escape(str(value))) for key, value in report.about.items())
    rows = "".join(f"<tr><td>{key}</td><td>{value}</td></tr>" for key, value in cells)
    return f'<h2>Conditions</h2><table class="words">{rows}</table>'


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{header}</tr>{body}</table>"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _is_share(metric: str) -> bool:
    return LIMITED[metric].at_least
