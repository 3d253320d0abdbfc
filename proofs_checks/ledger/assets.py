"""Style and script of the HTML page. Colours are from a palette that survives colour blindness; shapes repeat them."""

STYLE = """
:root { --ink: #1a1a1a; --soft: #5a5f66; --line: #d5d9de; --back: #fff; --panel: #f6f7f9; --link: #0b5394;
        --good: #0a6b58; --bad: #b3400a; --open: #6b5b00; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1.6rem 4rem; max-width: 1240px; color: var(--ink); background: var(--back);
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.55rem; margin: .2rem 0; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.1rem 0 .3rem; }
p { margin: .4rem 0; max-width: 80ch; } p.small { max-width: 110ch; } a { color: var(--link); }
nav a { margin-right: 1rem; } .soft { color: var(--soft); } .small { font-size: .87rem; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: .86em; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 4px; padding: .6rem;
      overflow: auto; max-height: 22rem; }
table { border-collapse: collapse; font-size: .88rem; } .wide { overflow-x: auto; }
th, td { padding: .26rem .55rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { border-bottom: 2px solid #8b929b; white-space: nowrap; }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; }
#matrix thead th { position: sticky; top: 0; background: var(--back); } #matrix th button { all: unset; cursor: pointer; }
#matrix th button:focus-visible { outline: 2px solid var(--link); } #matrix td:first-child a { white-space: nowrap; }
#matrix td:first-child .small { display: inline-block; max-width: 36ch; line-height: 1.3; }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
.filters { display: flex; flex-wrap: wrap; gap: .5rem 1rem; margin: .6rem 0; align-items: center; }
.filters select, .filters input { font: inherit; padding: .15rem .3rem; }
.verdict { white-space: nowrap; font-weight: 600; } .holds { color: var(--good); } .fails { color: var(--bad); }
.undecided, .error { color: var(--open); } .notrun { color: var(--soft); }
.unexpected { border: 2px solid #000; border-radius: 3px; padding: 0 .3em; color: #000; background: #fff; white-space: nowrap; }
.badge { display: inline-block; color: var(--ink); min-width: 2.1em; text-align: center;
         border: 1px solid #55606b; border-radius: 3px; padding: 0 .25em; }
.s0 { background: #fff; border-style: dotted; } .s1 { background: #eef3f8; } .s2 { background: #d3e1ef; }
.s3 { background: #a9c6e0; }
.s4 { background: #6f9fc8; } .s5 { background: #2f6ea5; color: #fff; }
.squares { letter-spacing: .12em; white-space: nowrap; }
details.card { border: 1px solid var(--line); border-left-width: 6px; border-radius: 5px; margin: .6rem 0; padding: 0 .9rem; }
details.card[open] { padding-bottom: .9rem; } details.card > summary { cursor: pointer; padding: .45rem 0; }
details.card.is-holds { border-left-color: var(--good); } details.card.is-fails { border-left: 6px double var(--bad); }
details.card:target { outline: 3px solid #f0c000; }
.statement { background: var(--panel); border-left: 3px solid #8b929b; padding: .5rem .8rem; margin: .5rem 0; max-width: 90ch; }
.witness { border: 1px solid var(--line); border-radius: 5px; padding: .5rem .8rem; margin: .6rem 0; }
.nets { display: flex; flex-wrap: wrap; gap: .6rem 2rem; align-items: flex-start; } figure { margin: 0; max-width: 100%; }
figcaption { color: var(--soft); font-size: .87rem; } svg { max-width: 100%; height: auto; }
.wide svg.graph { max-width: none; }
table.data td, table.data th { padding: .1rem .5rem; text-align: right; font-variant-numeric: tabular-nums; }
svg text { font-family: system-ui, "DejaVu Sans", sans-serif; }
.net .edge { fill: none; stroke: #56606b; stroke-width: 1.4; } .net .edge.zero { stroke-dasharray: 1 4; stroke-linecap: round; }
.net .edge.deadedge { stroke-dasharray: 6 4; } .net .unit { fill: #fff; stroke: #1a1a1a; stroke-width: 1.4; }
.net .output { stroke-width: 3; } .net .dead { fill: #e3e3e3; stroke-dasharray: 4 3; }
.net .constant { fill: #f2ecd2; stroke-dasharray: 2 2; }
.net .cross { stroke: #b3400a; stroke-width: 1.2; opacity: .55; fill: none; } .net .name { text-anchor: middle; }
.net .weight { font-size: 12px; text-anchor: middle; paint-order: stroke; stroke: #fff; stroke-width: 5px; stroke-linejoin: round; }
.net .under { font-size: 10.5px; text-anchor: middle; fill: #333; paint-order: stroke; stroke: #fff; stroke-width: 3px; }
.graph .claim { stroke: #1a1a1a; stroke-width: 1.3; } .graph .refuted { stroke: #b3400a; stroke-width: 2; }
.graph .ondark { stroke: #fff; stroke-width: 1.3; }
.graph .absent { stroke-dasharray: 3 3; fill: #fff; } .graph .claimname { font-size: 12px; text-anchor: middle; }
.graph .needs { fill: none; stroke: #555; stroke-width: 1.1; }
.graph .repair { fill: none; stroke: #b3400a; stroke-width: 1.5; stroke-dasharray: 6 4; }
.legend { max-width: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .85rem; color: var(--soft); }
footer { margin-top: 3rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .87rem; }
footer dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
footer dd { margin: 0; overflow-wrap: anywhere; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; } nav, .filters, .json { display: none; }
  details.card, .witness, tr, svg { break-inside: avoid; } details.card { break-inside: auto; }
  a { color: inherit; text-decoration: none; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""

SCRIPT = """
(function () {
  'use strict';
  var table = document.getElementById('matrix');
  if (table) {
    var body = table.tBodies[0], heads = table.tHead.rows[0].cells;
    var key = function (row, k) { return row.cells[k].dataset.key || row.cells[k].textContent.trim(); };
    Array.prototype.forEach.call(heads, function (head, k) {
      head.querySelector('button').addEventListener('click', function () {
        var up = head.getAttribute('aria-sort') !== 'ascending';
        Array.prototype.forEach.call(heads, function (other) { other.removeAttribute('aria-sort'); });
        head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
        Array.from(body.rows).sort(function (a, b) {
          var x = key(a, k), y = key(b, k), d = Number(x) - Number(y);
          var order = isNaN(d) ? x.localeCompare(y) : d;
          return up ? order : -order;
        }).forEach(function (row) { body.appendChild(row); });
      });
    });
    var controls = document.querySelectorAll('.filters select, .filters input');
    var filter = function () {
      var shown = 0;
      Array.from(body.rows).forEach(function (row) {
        var visible = Array.from(controls).every(function (control) {
          if (!control.value) { return true; }
          if (control.name === 'text') { return row.textContent.toLowerCase().includes(control.value.toLowerCase()); }
          return row.dataset[control.name] === control.value;
        });
        row.hidden = !visible;
        shown += visible;
      });
      document.getElementById('shown').textContent = shown + ' of ' + body.rows.length + ' claims';
    };
    controls.forEach(function (control) { control.addEventListener('input', filter); });
    filter();
  }
  var open = function () {
    var card = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (card && card.tagName === 'DETAILS') { card.open = true; card.scrollIntoView(); }
  };
  window.addEventListener('hashchange', open);
  open();
  var before = null;
  window.addEventListener('beforeprint', function () {
    before = Array.from(document.querySelectorAll('details.card:not([open])'));
    before.forEach(function (card) { card.open = true; });
  });
  window.addEventListener('afterprint', function () { (before || []).forEach(function (card) { card.open = false; }); });
  var all = document.getElementById('toggle-all');
  if (all) {
    all.addEventListener('click', function () {
      var cards = document.querySelectorAll('details.card'), some = document.querySelector('details.card:not([open])');
      cards.forEach(function (card) { card.open = Boolean(some); });
    });
  }
})();
"""
