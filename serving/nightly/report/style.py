"""What the night's page needs beyond the look that all pages share."""

from __future__ import annotations

from serving.validate import page_style

_NIGHT = """
:root{--new:#0969da}@media(prefers-color-scheme:dark){:root{--new:#58a6ff}}.new{color:var(--new)}
a{color:inherit}
h3{font-size:1rem;margin:0;overflow-wrap:anywhere}h4{font-size:.85rem;color:var(--dim);margin:16px 0 4px}
.cell{background:var(--card);border-radius:6px;padding:14px 18px;margin:12px 0;scroll-margin-top:12px}
.cell p{margin:4px 0}.cell ul{margin:4px 0;padding-left:20px}.cell .dim b{color:var(--fg);font-weight:400}
:target{outline:2px solid var(--new)}
.grid-of-cells{width:auto}.grid-of-cells th{text-align:left;background:var(--bg)}
.grid-of-cells th:first-child{position:sticky;left:0}
.grid-of-cells td{padding:0;border:2px solid var(--bg);text-align:left}.grid-of-cells td[class]{background:var(--card)}
.grid-of-cells a{display:block;padding:7px 12px;text-decoration:none;border-left:4px solid}
.states{display:flex;flex-wrap:wrap;gap:4px 20px;font-size:13px;color:var(--dim)}
svg.small{width:200px;height:26px;display:inline-block;vertical-align:middle;flex:none}
.middle{stroke:var(--dim)}.limit{stroke:var(--fg);stroke-dasharray:3 3}line.whisker{stroke:currentColor;stroke-width:2}
circle.whisker{fill:currentColor}.axis{width:212px}th.axis span:first-child{float:left}
.figures td{vertical-align:middle}.figures td:first-child{font-weight:600}
.bars td{text-align:left;padding:3px 12px 3px 0;border:0}.bars .track{width:100%;min-width:120px}
.bar{height:12px;min-width:2px;border-radius:2px;background:currentColor}
.spark{display:inline-flex;flex-wrap:wrap;align-items:center;gap:6px;margin-right:24px}
.words.pairs td{white-space:normal;overflow-wrap:anywhere;width:50%;vertical-align:top}
pre{overflow-x:auto;font-size:12px;line-height:1.4;margin:0}
@media(max-width:600px){main{padding:20px 12px 40px}
.grid-of-cells th{white-space:normal;overflow-wrap:anywhere;font-size:12px;padding:4px}
.grid-of-cells a{padding:7px 6px}.grid-of-cells a span{display:none}
.figures tr{display:grid;grid-template-columns:1fr 1fr;padding:8px 0;border-bottom:1px solid var(--line)}
.figures tr:first-child{display:none}.figures td{text-align:left;border:0;padding:1px 8px 1px 0;white-space:normal}
.figures td:last-child{order:-1;text-align:right}.figures td:first-child{order:-2}
.figures .axis{grid-column:1/-1;width:auto}.figures .allowed:not(:empty)::before{content:"allowed "}
.figures .allowed{order:1}.pairs tr{display:block;border-bottom:1px solid var(--line);padding:6px 0}
.words.pairs td{display:block;border:0;padding:1px 0;width:auto}}
"""

STYLE = page_style.STYLE + _NIGHT
