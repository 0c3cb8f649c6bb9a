"""The style sheet of the page: any width, light and dark, and paper."""

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1f1e1c; --soft: #66645e; --line: #dedcd5; --panel: #f6f5f1;
  --rate: #2a78d6; --loss: #d98200; --info: #d98200; --good: #14784a; --bad: #c22f2b; --mid: #8a5a00; --rest: #9b988f; }
@media (prefers-color-scheme: dark) {
  :root { --page: #181715; --ink: #eceae4; --soft: #aba79e; --line: #3a3834; --panel: #22201e;
    --rate: #5b9df0; --loss: #f0ab45; --info: #f0ab45; --good: #55c48e; --bad: #ff817b; --mid: #f0ab45;
    --rest: #827f77; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 3rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p, li, dd { max-width: 44rem; }
a { color: inherit; text-underline-offset: .15em; }
code { font: .85em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.facts, .note, dl.terms { font-size: .875rem; color: var(--soft); }
.facts { margin: .25rem 0 0; max-width: none; }
nav { font-size: .875rem; display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin-top: 1.5rem; }
.headline { margin: 1.25rem 0 1rem; padding: .9rem 1.1rem; background: var(--panel); border-left: .3rem solid; }
.headline strong { display: block; font-size: 1.35rem; line-height: 1.3; }
.headline span { color: var(--ink); }
.good { color: var(--good); } .bad { color: var(--bad); } .mid { color: var(--mid); }

.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(max(10.25rem, 23%), 1fr)); gap: .6rem;
  margin: 0; }
.tiles > div { background: var(--panel); padding: .7rem .8rem; border-radius: 6px; break-inside: avoid; }
.tiles dt { font-size: .8125rem; font-weight: 600; }
.tiles dd { margin: 0; }
.tiles .value { font-size: 1.3rem; line-height: 1.35; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tiles .value small { font-size: .875rem; color: var(--soft); }
.tiles .why { font-size: .8125rem; line-height: 1.4; color: var(--soft); }

.sum { display: flex; height: 1.4rem; margin: .25rem 0 .4rem; border-radius: 4px; overflow: hidden; }
.sum span { border-right: 1px solid var(--page); background: var(--rest); }
.sum span.rate { background: var(--rate); }
.key { display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; font-size: .8125rem; color: var(--soft);
  margin: .25rem 0 .75rem; padding: 0; list-style: none; }
.key li { display: flex; align-items: center; gap: .4rem; }
.key i { flex: none; width: .8rem; height: .8rem; border-radius: 2px; background: currentColor; }
.key i.ceiling { width: 0; border-left: 2px dashed var(--bad); border-radius: 0; background: none; height: 1rem; }
.key i.wide { width: 4rem; }

table { border-collapse: collapse; width: 100%; font-size: .9375rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .75rem .4rem 0; text-align: right; vertical-align: middle; border-bottom: 1px solid var(--line);
  font-weight: normal; }
thead th { font-size: .8125rem; line-height: 1.3; color: var(--soft); vertical-align: bottom; }
td { white-space: nowrap; }
.text { text-align: left; }
.text, .range { white-space: normal; } .range span { white-space: nowrap; }
tbody th, th:first-child { text-align: left; }
tbody th { font-weight: 600; }
tr > :last-child { padding-right: 0; }
tbody th small { font-weight: normal; color: var(--soft); white-space: nowrap; }
.bars { width: 40%; min-width: 8rem; }
.track { position: relative; display: block; height: .6rem; margin: .2rem 0; background: var(--panel);
  border-radius: 2px; }
.track > * { position: absolute; top: 0; bottom: 0; border-radius: 2px; }
.track .rate { background: var(--rate); } .track .loss { background: var(--loss); }
.track .info { background: var(--info); top: -.15rem; bottom: -.15rem; }
.track .error { top: 50%; bottom: auto; height: 1px; border-radius: 0; background: var(--ink); }
.track .ceiling { width: 0; top: -.45rem; bottom: -.45rem; border-left: 2px dashed var(--bad); border-radius: 0; }
.chip { display: inline-block; padding: 0 .5rem; border: 1px solid; border-radius: 1rem; font-size: .8125rem; }
dl.terms { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .9rem 0; }
dl.terms dt { font-weight: 600; } dl.terms dd { margin: 0; }

.columns { display: flex; align-items: flex-end; height: 11rem; gap: .5rem; border-bottom: 1px solid var(--line); }
.columns > div, .sides > div { display: flex; align-items: flex-end; height: 100%; gap: 1px; min-width: 0; }
.columns span { flex: 1; background: var(--rate); min-height: 1px; } .columns span.bad { background: var(--bad); }
.sides { display: flex; gap: .5rem; font-size: .75rem; color: var(--soft); }
.sides > div { height: auto; justify-content: center; white-space: nowrap; overflow: hidden; }

.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 0 2rem; }
.pair figure { display: grid; grid-row: span 3; grid-template-rows: subgrid; gap: 0; align-items: start; }
.pair figure:has(.many) { grid-column: 1 / -1; }
.pair .grid { justify-content: start; }
figure { margin: 1.5rem 0 0; break-inside: avoid; }
figure h3 { margin: 0; }
figcaption { font-size: .875rem; color: var(--soft); margin: 0 0 .5rem; max-width: 44rem; }
.grid { display: grid; grid-template-columns: auto minmax(0, 1fr); width: 100%; }
.grid img { grid-column: 2; width: 100%; height: auto; image-rendering: pixelated; display: block; }
.across, .down { grid-column: 2; display: flex; font-size: .75rem; line-height: 1.25; color: var(--soft); }
.across > *, .down > * { flex: 1 1 0; min-width: 0; text-align: center; overflow-wrap: normal; }
.across { align-items: flex-end; padding-bottom: .2rem; }
.many .across { font-size: .625rem; }
.down { grid-column: 1; flex-direction: column; padding-right: .4rem; }
.down > * { display: flex; align-items: center; white-space: nowrap; }
.about { grid-column: 2; font-size: .75rem; color: var(--soft); }

.plot { display: grid; grid-template-columns: 3.25rem minmax(0, 1fr); max-width: 44rem; font-size: .75rem;
  color: var(--soft); }
.plot svg { width: 100%; height: 15rem; display: block; border-left: 1px solid var(--line);
  border-bottom: 1px solid var(--line); overflow: visible; }
.plot svg * { vector-effect: non-scaling-stroke; fill: none; }
.plot svg .line { stroke: var(--line); } .plot svg .limit { stroke: var(--soft); stroke-dasharray: 2 3; }
.plot .y { position: relative; } .plot .y span { position: absolute; right: .4rem; transform: translateY(-50%); }
.plot .x { grid-column: 2; position: relative; height: 1.3rem; }
.plot .x span { position: absolute; transform: translateX(-50%); }
.plot .name { grid-column: 2; text-align: center; }
.remedy { background: var(--panel); padding: .75rem 1rem; border-radius: 6px; margin: .6rem 0; break-inside: avoid; }
.remedy h3 { margin: 0; } .remedy p { margin: .25rem 0 0; font-size: .9375rem; }
summary { cursor: pointer; margin: 1rem 0 .25rem; }

@media screen and (max-width: 48rem) {
  thead { position: absolute; display: block; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  table, tbody { display: block; }
  tr { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .1rem .5rem; padding: .6rem 0;
    border-bottom: 1px solid var(--line); }
  th, td { border: 0; padding: 0; text-align: left; white-space: normal; }
  td { display: flex; flex-direction: column; justify-content: space-between; font-size: .875rem; }
  td::before { content: attr(data-label); display: block; font-size: .75rem; line-height: 1.3; color: var(--soft); }
  tbody th { grid-column: 1 / -1; }
  td.bars { grid-column: 1 / -1; width: auto; } td.bars::before, td.chipped::before { display: none; }
  table.levels tr { grid-template-columns: repeat(2, minmax(0, 1fr)); } table.levels tbody th { grid-column: 1; }
  table.levels td.chipped { grid-column: 2; grid-row: 1; align-items: flex-end; }
  td.text { grid-column: 2 / 4; } td.range { grid-column: 1 / -1; display: block; }
  dl.terms { display: block; } dl.terms dd { margin: 0 0 .5rem; }
  .columns, .sides, .columns > div { gap: .25rem; } .columns > div { gap: 0; }
}
@media print {
  :root { --page: #fff; --ink: #000; --soft: #444; --line: #bbb; --panel: #f3f3f3; --rate: #2a78d6; --loss: #d98200;
    --info: #d98200; --good: #14784a; --bad: #c22f2b; --mid: #8a5a00; --rest: #9b988f; color-scheme: light; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  @page { margin: 14mm; }
  html { font-size: 12px; }
  body { max-width: none; padding: 0; }
  nav { display: none; }
  h2 { break-after: avoid; margin-top: 1.5rem; } h3, figcaption, h2 + .note { break-after: avoid; }
  tr, .plot, .headline { break-inside: avoid; }
  details::details-content { content-visibility: visible; height: auto; }
}
"""
