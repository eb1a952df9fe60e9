"""How a page looks: one sheet for light, dark and paper. Plots take their colours from it."""

from __future__ import annotations

COLOURS = 8
"""Of the series of a plot."""

_LIGHT = (
    "--paper:#fff;--ink:#1b1f24;--soft:#5b6470;--rule:#dfe3e8;--grid:#e9ecf0;--card:#f7f8fa;"
    "--good:#17713a;--fair:#8a5a00;--bad:#b3261e;"
    "--c1:#2463b0;--c2:#c4570c;--c3:#17803d;--c4:#7a3fc0;--c5:#b3261e;--c6:#0b7285;--c7:#8a6d00;--c8:#6b7280"
)
_DARK = (
    "--paper:#14171b;--ink:#e6e9ed;--soft:#9aa4b0;--rule:#343b44;--grid:#272d34;--card:#1b2026;"
    "--good:#5fd38d;--fair:#e5b454;--bad:#ff8a80;"
    "--c1:#6ea8fe;--c2:#ff9f5a;--c3:#5fd38d;--c4:#c39bff;--c5:#ff8a80;--c6:#4fd0e0;--c7:#e0c14c;--c8:#a3adb8"
)

_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 18px 48px}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 4px}
h2{font-size:1.15rem;margin:36px 0 6px;padding-bottom:4px;border-bottom:1px solid var(--rule)}
p{margin:6px 0;max-width:80ch;overflow-wrap:anywhere}
li{max-width:80ch;overflow-wrap:anywhere}
.soft,.note{color:var(--soft)}
.note{font-size:.85rem;margin:4px 2px 0}
.lead{font-size:1.1rem;padding:12px 14px;background:var(--card);border-left:4px solid var(--c1);border-radius:4px}
.lead.warn{border-color:var(--bad)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,430px),1fr));gap:16px;
margin-top:14px;align-items:start}
figure{margin:0;padding:12px 12px 10px;background:var(--card);border:1px solid var(--rule);border-radius:8px;
min-width:0}
figcaption{font-weight:600;margin-bottom:2px}
.keys{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:.82rem;color:var(--soft);margin:2px 0 4px}
.keys span{display:inline-flex;align-items:center;gap:6px;overflow-wrap:anywhere}
.keys i{flex:none;width:14px;height:0;border-top:3px solid var(--c)}
.keys .again i,.keys .level i{border-top-style:dashed}
.scroll{overflow-x:auto;margin:10px 0}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{padding:5px 12px 5px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
th{color:var(--soft);font-weight:600}
td.n,th.n{text-align:right;white-space:nowrap}
.good{color:var(--good);font-weight:600}
.fair{color:var(--fair);font-weight:600}
.bad{color:var(--bad);font-weight:600}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 16px;margin:10px 0;font-size:.9rem}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto;font-family:system-ui,sans-serif}
svg text{fill:var(--soft);font-size:11px}
svg text.label{font-size:11.5px;fill:var(--ink)}
svg text.value{fill:var(--ink)}
.grid{stroke:var(--grid);stroke-width:1}
.zero,.axis{stroke:var(--soft);stroke-width:1}
.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}
.rule{fill:none;stroke:var(--c);stroke-width:1.5;stroke-dasharray:5 4}
.again .line{stroke-dasharray:6 3}
.spread{fill:none;stroke:var(--ink);stroke-width:1.2;opacity:.55}
.dot{fill:var(--c)}
.hit{fill:transparent}
.bar{fill:var(--c);opacity:.85}
.stem{stroke:var(--c);stroke-width:2;opacity:.6}
g:hover>.dot{stroke:var(--ink);stroke-width:1.5}
footer{margin-top:36px;font-size:.85rem;color:var(--soft)}
@media (max-width:480px){dl{grid-template-columns:1fr}dd{margin-bottom:6px}figure{padding:8px}
svg text,svg text.label{font-size:15px}}
@media print{main{max-width:none;padding:0}figure,tr{break-inside:avoid}h2{break-after:avoid}
.plots{grid-template-columns:1fr 1fr}.scroll{overflow:visible}*{print-color-adjust:exact}}
"""

_SERIES = "".join(f".c{number}{{--c:var(--c{number})}}" for number in range(1, COLOURS + 1))

STYLE = (
    f":root{{color-scheme:light dark;{_LIGHT}}}\n"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}\n{_SERIES}{_RULES}"
)
