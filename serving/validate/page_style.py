"""The look of the report's page: light and dark by the reader's system, no font or script from elsewhere."""

from __future__ import annotations

from html import escape

COLOURS = ("a", "b", "c", "d", "e", "f")
"""Classes of the lines of a chart, in the order in which they are given out."""

_LINE = (
    "polyline.{name}{{stroke:var(--{name})}}circle.{name}{{fill:var(--{name})}}"
    ".key.{name}::before{{background:var(--{name})}}"
)
_PAGE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#5f6b7a;--line:#e1e5ea;--card:#f6f8fa;
--pass:#1a7f37;--warn:#9a6700;--fail:#cf222e;--skipped:#6e7781;--a:#0969da;--b:#bf5b04;--c:#8250df;
--d:#1a7f7a;--e:#b3336d;--f:#7a6a00}
@media(prefers-color-scheme:dark){:root{--bg:#0f1318;--fg:#e4e9ef;--dim:#94a1b0;--line:#2b323b;--card:#171c23;
--pass:#3fb950;--warn:#d29922;--fail:#f85149;--skipped:#8b949e;--a:#58a6ff;--b:#f0883e;--c:#bc8cff;
--d:#56d4cf;--e:#f778ba;--f:#d4c04a}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 20px 60px}h1{font-size:1.4rem;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:36px 0 10px}.dim,small,figcaption small{color:var(--dim);font-weight:400}
.verdict{border-left:6px solid;background:var(--card);padding:14px 18px;margin:20px 0;border-radius:6px}
.verdict b{font-size:1.3rem;text-transform:uppercase;letter-spacing:.03em}.verdict ul{margin:8px 0 0;padding-left:20px}
.pass{color:var(--pass)}.warn{color:var(--warn)}.fail{color:var(--fail)}.skipped{color:var(--skipped)}
.verdict ul,.facts{color:var(--fg)}
.tiles{display:flex;flex-wrap:wrap;gap:12px}.tile{background:var(--card);border-radius:6px;
padding:12px 18px;min-width:150px}.tile b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:7px 12px;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child,.words td,.words th{text-align:left}.words td{white-space:normal;overflow-wrap:anywhere}
.words td:not(:last-child){white-space:nowrap;overflow-wrap:normal;vertical-align:top}
th{color:var(--dim);font-weight:600}.charts{display:grid;
grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));
gap:20px}figure{margin:0;background:var(--card);border-radius:6px;padding:14px}figcaption{font-weight:600;margin-bottom:6px}
svg{width:100%;height:auto;display:block}svg text{fill:var(--dim);font-size:12px}.grid{stroke:var(--line)}
polyline{fill:none;stroke-width:2}.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:13px;
color:var(--dim);padding-left:8px}.key::before{content:"";display:inline-block;width:12px;height:3px;margin-right:6px;
vertical-align:middle}details{margin:8px 0}summary{cursor:pointer;color:var(--dim);margin:6px 0}
"""

STYLE = _PAGE + "".join(_LINE.format(name=name) for name in COLOURS)


def document(title: str, body: str, style: str = STYLE) -> str:
    """One self-contained page around `body`, which is HTML already."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
