"""The page's style and script; both are named by their hash in the page's policy, so neither may change when it is written."""

from __future__ import annotations

STYLE = """
:root {
  --ground: #ffffff; --panel: #f6f7f8; --ink: #16181d; --quiet: #667080; --line: #dfe3e8; --link: #0072b2;
  --above: #00775a; --below: #b84a00; --best: #0072b2; --above-ground: #e6f5f0; --row: #f0f4f8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14161a; --panel: #1c1f25; --ink: #e8eaed; --quiet: #98a2b0; --line: #30353d; --link: #6fbcec;
    --above: #4fcea5; --below: #ff9d5c; --best: #6fbcec; --above-ground: #14302a; --row: #1d242c;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif;
}
header, main, footer { max-width: 88rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 3rem; }
h1 { margin: 0 0 .4rem; font-size: 2rem; line-height: 1.2; letter-spacing: -.015em; }
h2 { margin: 3rem 0 1rem; font-size: 1.25rem; letter-spacing: -.005em; }
header p { margin: 0; max-width: 46rem; color: var(--quiet); font-size: 1.05rem; }
nav { margin-top: 1.2rem; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; font-size: .92rem; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
.findings { max-width: 52rem; margin: 0 0 1.4rem; padding: .9rem 1.2rem .9rem 2.2rem; background: var(--panel);
  border-left: 3px solid var(--link); border-radius: 0 8px 8px 0; }
.findings li { margin: .2rem 0; overflow-wrap: anywhere; }
.wide { overflow: auto; max-height: 88vh; border: 1px solid var(--line); border-radius: 10px; }
.wide:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: separate; border-spacing: 0; min-width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums lining-nums; }
th, td { padding: .5rem .8rem; text-align: right; vertical-align: top; white-space: nowrap; background: var(--ground);
  border-bottom: 1px solid var(--line); }
tbody:last-of-type tr:last-child > * { border-bottom: 0; }
tfoot tr > * { border-top: 1px solid var(--line); border-bottom: 0; color: var(--quiet); background: var(--panel); }
thead th { position: sticky; top: 0; z-index: 2; background: var(--panel); font-weight: 600;
  vertical-align: bottom; }
thead th:has(button) { padding: 0; }
th:first-child { position: sticky; left: 0; z-index: 1; text-align: left; min-width: 10.5rem; max-width: 18rem;
  white-space: normal; overflow-wrap: break-word; border-right: 1px solid var(--line); }
thead th:first-child { z-index: 3; }
tbody th { font-weight: 500; }
tr.parent > * { background: var(--row); }
tr.parent th { font-weight: 700; }
tbody:not(:first-of-type) tr:first-child > * { border-top: 2px solid var(--line); }
.left { text-align: left; white-space: normal; min-width: 8rem; }
.first { border-left: 2px solid var(--line); }
button { all: unset; box-sizing: border-box; display: block; width: 100%; padding: .5rem .8rem; cursor: pointer; }
button:hover { color: var(--link); }
button:focus-visible { outline: 2px solid var(--link); outline-offset: -2px; }
th[aria-sort] button::after { content: " \\2193"; }
th[aria-sort="ascending"] button::after { content: " \\2191"; }
small { display: block; color: var(--quiet); font-size: .76rem; font-weight: 400; line-height: 1.35; }
td i { display: inline-block; width: 1.05em; margin-left: .1em; font-style: normal; font-size: .72em; text-align: center; }
td:has(i) small { padding-right: .95em; }
.above i { color: var(--above); }
.below i { color: var(--below); }
.best small:nth-of-type(2) { color: var(--best); font-weight: 600; }
td b { padding: .06em .28em; margin-right: -.28em; border-radius: 4px; background: var(--above-ground); color: var(--above); }
figure { margin: 0 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figure { padding: 1.2rem; background: #ffffff; border: 1px solid var(--line); border-radius: 10px; }
figcaption { max-width: 56rem; margin: 1rem auto 0; color: #4d5662; font-size: .92rem; }
figcaption strong { color: #16181d; }
#meaning p { max-width: 46rem; margin: .5rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.6rem; margin: 0 0 1.4rem; font-size: .94rem; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { margin: 0; padding: 1rem 1.2rem; overflow: auto; background: var(--panel); border: 1px solid var(--line);
  border-radius: 10px; font: .88rem/1.6 ui-monospace, "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
details { margin: .6rem 0; }
summary { cursor: pointer; padding: .3rem 0; }
.said { max-width: 22rem; overflow-wrap: anywhere; font-size: .86rem; }
footer { padding-top: 3rem; padding-bottom: 3rem; color: var(--quiet); font-size: .86rem; }
@media (max-width: 44rem) { th:first-child { min-width: 6.5rem; max-width: 8.5rem; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
@media print { .wide { overflow: visible; max-height: none; } nav { display: none; } }
"""

SCRIPT = """
"use strict";
// A click sorts numbers from high to low and words from a to z, the next the other way, a third puts the rows back; parents
// stay on top.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.querySelectorAll("thead th")];
  const bodies = [...table.tBodies].map((body) => [body, [...body.rows]]);
  const key = (row, at) => {
    const cell = row.cells[at];
    return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  };
  const words = new Intl.Collator(undefined, { numeric: true });
  heads.forEach((head, at) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const number = bodies.some(([, rows]) => rows.some((row) => key(row, at) !== null));
      const ways = number ? ["descending", "ascending", null] : ["ascending", "descending", null];
      const now = ways[(ways.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (now) head.setAttribute("aria-sort", now);
      const way = now === "descending" ? -1 : 1;
      for (const [body, rows] of bodies) {
        const sorted = [...rows];
        if (now) {
          sorted.sort((one, two) => {
            if (!number) return way * words.compare(one.cells[at].textContent, two.cells[at].textContent);
            const a = key(one, at), b = key(two, at);
            if (a === null || b === null) return (a === null) - (b === null);
            return way * (a - b);
          });
        }
        body.append(...sorted);
      }
    });
  });
}
addEventListener("load", () => {
  const pictures = [...document.images];
  document.documentElement.dataset.pictures = pictures.length;
  document.documentElement.dataset.visible = pictures.filter((one) => one.complete && one.naturalWidth > 0).length;
});
"""
