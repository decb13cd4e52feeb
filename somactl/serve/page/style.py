"""How the status page looks, and the policy that lets a browser use this style and nothing else."""

from __future__ import annotations

import base64
import hashlib

COLOURS = {"ok": "#166a3d", "warn": "#845300", "bad": "#b01e17", "dark": "#5b3fa8"}
STYLE = """
:root { color-scheme: light dark;
  --ground: #fbfbfa; --raised: #fff; --text: #1c1e21; --quiet: #585d65; --rule: #dcdee2; --code: #eeeff1;
  --ok: #166a3d; --warn: #845300; --bad: #b01e17; --dark: #5b3fa8;
  --ok-tint: #eaf5ee; --warn-tint: #fdf3e0; --bad-tint: #fdecea; --dark-tint: #f0ecfb }
@media (prefers-color-scheme: dark) { :root {
  --ground: #141619; --raised: #1b1e22; --text: #e4e6e9; --quiet: #a1a7b0; --rule: #31363d; --code: #262b31;
  --ok: #6fd39b; --warn: #e9b65a; --bad: #ff9088; --dark: #b9a3f5;
  --ok-tint: #16281f; --warn-tint: #2c2415; --bad-tint: #341d1c; --dark-tint: #241f36 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem clamp(.75rem, 2.5vw, 2rem) 2rem; max-width: 80rem;
  background: var(--ground); color: var(--text); overflow-wrap: break-word;
  font: .875rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums }
h1, h2, p, dl, dd, table, ul { margin: 0; padding: 0 }
h2 { margin: 1.75rem 0 .375rem; font-size: 1rem; font-weight: 600 }
a { color: inherit; text-underline-offset: .15em }
:focus-visible { outline: 2px solid var(--text); outline-offset: 2px }
code, .number, .name {
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .9375em }
code { color: var(--text); background: var(--code); border-radius: .25rem; padding: .1em .35em;
  white-space: pre-wrap; overflow-wrap: anywhere;
  -webkit-box-decoration-break: clone; box-decoration-break: clone }
.aside, .note, .unknown { color: var(--quiet) }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap }
.name, .said { white-space: pre-wrap; unicode-bidi: isolate; overflow-wrap: anywhere }
.escape { color: var(--warn); font-size: .875em }
.mark { display: inline-block; min-width: .85em; font-weight: 700 }
.ok { color: var(--ok) } .warn { color: var(--warn) } .bad { color: var(--bad) } .dark { color: var(--dark) }
.word { font-weight: 600 }

.verdict { border: 1px solid var(--rule); border-left: .375rem solid currentColor; border-radius: .375rem;
  padding: .75rem 1rem .875rem; background: var(--tint) }
.verdict.ok { --tint: var(--ok-tint) } .verdict.warn { --tint: var(--warn-tint) }
.verdict.bad { --tint: var(--bad-tint) } .verdict.dark { --tint: var(--dark-tint) }
h1 { font-size: 1.5rem; line-height: 1.25; font-weight: 700 }
.verdict p { color: var(--text); margin-top: .125rem }
.verdict .sentence { font-size: 1rem }
.do { margin-top: .5rem; color: var(--text) }
.do div { display: flex; gap: .75rem; margin-top: .25rem; align-items: baseline }
.do dt { color: var(--quiet); flex: 0 0 4.25rem } .do dd { min-width: 0 }
.do code { background: var(--raised) }
.banner { margin-top: .5rem; padding: .5rem 1rem; border: 1px dashed currentColor; border-radius: .375rem }

.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.25rem, 1fr)); gap: 1px;
  margin-top: 1rem; border: 1px solid var(--rule); border-radius: .375rem; background: var(--raised);
  overflow: hidden }
.facts div { padding: .5rem .75rem; box-shadow: 1px 1px 0 var(--rule) }
.facts dt, .facts .aside { color: var(--quiet); font-size: .8125rem }
.facts dd { font-size: 1rem }

table { width: 100%; border-collapse: collapse }
caption { text-align: left; color: var(--quiet); padding-bottom: .25rem }
th, td { text-align: left; vertical-align: top; padding: .3125rem 1rem .3125rem 0; font-weight: 400 }
tbody th, tbody td { border-top: 1px solid var(--rule) }
thead th { color: var(--quiet); font-size: .8125rem; vertical-align: bottom; white-space: nowrap }
td:last-child, th:last-child { padding-right: 0 }
.right { text-align: right } td.right { white-space: nowrap }
.word { white-space: nowrap }
td .aside, th .aside { font-size: .8125rem }
.under { line-height: 1.3 }
tbody th { min-width: 8rem }
.key { max-height: 4.4em; overflow-y: auto; overflow-x: clip; text-align: left }
.spark { display: flex; gap: .5rem; align-items: center; justify-content: flex-end }
.spark .number { min-width: 8ch; text-align: right; white-space: nowrap }
svg { display: block; flex: none; overflow: hidden; fill: none; stroke: currentColor }
svg path { stroke-linecap: square }
svg .line { stroke: var(--text); stroke-width: 1.25; opacity: .75 }
svg .over, svg .marks { stroke: var(--bad); stroke-width: 3 }
svg .tolerance { stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 2 3; stroke-linecap: butt }
.reasons { list-style: none }
.reasons li { border-top: 1px solid var(--rule); padding: .375rem 0 .5rem }
.reasons p + p { margin-top: .125rem; padding-left: 1.15em }
footer { margin-top: 2rem; padding-top: .75rem; border-top: 1px solid var(--rule); color: var(--quiet) }
nav { margin-top: .25rem } nav a { display: inline-block; margin-right: 1rem; padding: .125rem 0 }

@media (max-width: 60rem) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
  table, caption, tbody { display: block }
  tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.75rem, 1fr)); gap: .0625rem .75rem;
    border-top: 1px solid var(--rule); padding: .375rem 0 }
  th, td { display: flex; gap: .375rem; align-items: baseline; padding: 0; min-width: 0 }
  .right { text-align: left } td.right { white-space: normal } td > div { min-width: 0 }
  .wide { grid-column: 1 / -1 }
  tbody th, tbody td { border: 0 }
  tbody th { display: block; grid-column: 1 / -1 }
  td[data-label]::before { content: attr(data-label); color: var(--quiet); font-size: .8125rem; flex: none }
  td .under { display: inline } td .under::before { content: " · " }
  .spark { justify-content: flex-start; flex-wrap: wrap; gap: 0 .375rem }
  .spark svg { width: 2.75rem; height: 1.125rem } .spark .number { min-width: 0; font-size: .8125rem }
}
"""


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; style-src 'sha256-{_digest(STYLE)}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy: no script at all, no style but STYLE, no picture but the page's own."""
