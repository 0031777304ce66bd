"""Style sheet and script of the page, kept as text so that the report needs no files beside the package."""

from __future__ import annotations

from benchmarks.report.style import INK, MARKS, MUTED

ROLE_RULES = "\n".join(f".role-{role} {{ --role: {mark.colour}; }}" for role, mark in MARKS.items())

STYLE = f"""
:root {{ --ink: {INK}; --muted: {MUTED}; --line: #dde3ea; --page: #f4f6f9; --card: #fff; --accent: #005a8f;
  --good: #00694c; --bad: #a33b00; --role: #000; color-scheme: light; }}
{ROLE_RULES}
* {{ box-sizing: border-box; }}
html {{ scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }}
body {{ margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }}
.wide {{ max-width: 1240px; margin: 0 auto; padding: 0 24px; }}
.skip {{ position: absolute; left: -999px; }}
.skip:focus {{ left: 8px; top: 8px; padding: 8px 12px; background: var(--card); z-index: 3; }}
:focus-visible {{ outline: 3px solid #56b4e9; outline-offset: 2px; }}
a {{ color: var(--accent); }}

.top {{ background: var(--card); border-top: 4px solid #0072b2; border-bottom: 1px solid var(--line); }}
.top .wide {{ padding-top: 18px; padding-bottom: 14px; }}
.brand {{ margin: 0; font-size: .8125rem; font-weight: 600; letter-spacing: .02em; color: var(--accent); }}
h1 {{ margin: 2px 0 4px; font-size: 1.5rem; line-height: 1.25; letter-spacing: -.01em; overflow-wrap: anywhere; }}
.about {{ margin: 0; color: var(--muted); font-size: .9375rem; }}
.sections {{ margin-top: 12px; overflow-x: auto; }}
.sections ul {{ display: flex; flex-wrap: wrap; gap: 6px; margin: 0; padding: 3px 0; list-style: none;
  white-space: nowrap; }}
.sections a {{ display: block; padding: 4px 10px; border: 1px solid var(--line); border-radius: 999px;
  font-size: .8125rem; text-decoration: none; }}
.sections a:hover {{ border-color: var(--accent); }}

section {{ margin: 40px 0; }}
h2 {{ margin: 0 0 4px; font-size: 1.25rem; letter-spacing: -.01em; }}
h3 {{ margin: 0 0 8px; font-size: 1rem; }}
.note {{ margin: 0 0 14px; max-width: 78ch; color: var(--muted); font-size: .9375rem; }}

.verdict {{ margin-top: 28px; padding: 22px 26px; background: var(--card); border: 1px solid var(--line);
  border-left: 8px solid var(--status); border-radius: 12px; }}
.verdict p:first-of-type {{ margin: 0 0 8px; font-size: 1.375rem; font-weight: 650; line-height: 1.35;
  letter-spacing: -.01em; }}
.verdict p {{ margin: 6px 0 0; max-width: 112ch; font-size: 1.0625rem; }}
.verdict-passed {{ --status: var(--good); }}
.verdict-failed {{ --status: #c23b00; background: #fff4ee; }}
.verdict-failed p:first-of-type {{ color: var(--bad); }}
.verdict-unknown {{ --status: #8a93a3; }}

.cards {{ display: grid; grid-template-columns: repeat(5, 1fr); gap: 16px; margin: 14px 0 0; }}
.card {{ padding: 16px 18px; background: var(--card); border: 1px solid var(--line);
  border-top: 4px solid var(--status); border-radius: 10px; --status: #8a93a3; }}
.card dt {{ font-size: .8125rem; font-weight: 600; color: var(--muted); }}
.card dd {{ margin: 0; color: var(--muted); font-size: .8125rem; line-height: 1.4; }}
.card .value {{ margin: 2px 0 4px; font-size: 2rem; font-weight: 700; line-height: 1.15; letter-spacing: -.02em;
  color: var(--ink); font-variant-numeric: tabular-nums; }}
.card.good {{ --status: var(--good); }}
.card.good .value {{ color: var(--good); }}
.card.bad {{ --status: #c23b00; }}
.card.bad .value {{ color: var(--bad); }}

.scroll {{ position: relative; overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }}
.scroll + .scroll, .scroll + .facts, .facts + .scroll {{ margin-top: 16px; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
.scroll table {{ width: 100%; font-size: .875rem; }}
.scroll caption {{ padding: 10px 14px; text-align: left; color: var(--muted); font-size: .8125rem; }}
.scroll caption span {{ position: sticky; left: 14px; display: inline-block; max-width: calc(100vw - 60px); }}
.scroll th, .scroll td {{ padding: 8px 10px; border-top: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }}
.scroll th:first-child {{ position: sticky; left: 0; background: var(--card); text-align: left; z-index: 1; }}
.scroll thead th {{ color: var(--muted); font-size: .8125rem; font-weight: 600; vertical-align: bottom;
  white-space: normal; }}
.scroll thead button {{ all: unset; cursor: pointer; text-decoration: underline dotted #8a93a3;
  text-underline-offset: 3px; }}
.scroll thead button:hover {{ color: var(--ink); text-decoration-style: solid; }}
.scroll thead button:focus-visible {{ outline: 3px solid #56b4e9; outline-offset: 2px; }}
.scroll thead [aria-sort="ascending"] button::after {{ content: " ↑"; color: var(--ink); }}
.scroll thead [aria-sort="descending"] button::after {{ content: " ↓"; color: var(--ink); }}
.scroll small {{ display: block; color: #687282; font-size: .6875rem; font-weight: 400; }}
.wrapped td {{ white-space: normal; }}
.models th, .models td {{ padding: 8px 6px; }}
.models thead th {{ font-size: .75rem; }}
.models tbody th {{ border-left: 5px solid var(--role); font-weight: 600; }}
.models code {{ display: block; font-weight: 400; font-size: .6875rem; color: var(--muted); }}
.models .group td, .models .group th {{ border-top: 2px solid #aab4c2; }}
.models th small {{ color: var(--muted); }}
.models .best {{ background: #e3f3ec; font-weight: 700; }}
.models .best small {{ color: #4d5a66; }}
.bar {{ display: block; height: 6px; min-width: 2px; margin: 7px 0 0 auto; border-radius: 3px; background: #56b4e9; }}
.yes {{ color: var(--good); font-weight: 600; }}
.no {{ color: var(--bad); font-weight: 700; }}
.hidden {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }}

.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); gap: 20px; }}
figure {{ margin: 0; padding: 18px 20px 14px; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }}
figcaption {{ font-size: .8125rem; color: var(--muted); }}
.chart {{ display: block; width: 100%; max-width: 480px; height: auto; margin: 6px auto 8px; }}
.chart * {{ stroke-linejoin: round; }}

.pairs {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 20px; }}
.pairs .scroll {{ margin: 0; }}
.pairs table th:first-child {{ white-space: normal; min-width: 12em; }}
.example > div > .scroll {{ margin-top: 16px; border-width: 1px; border-radius: 10px; }}
.example ul {{ margin: 0; font-size: .875rem; }}

.heats {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); gap: 20px; }}
.heats > div {{ padding: 16px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }}
.heat {{ width: 100%; border-spacing: 3px; border-collapse: separate; table-layout: fixed; }}
.heat caption {{ padding: 0 0 8px; text-align: left; font-weight: 600; }}
.heat th {{ padding: 4px; font-size: .8125rem; font-weight: 500; color: var(--muted); }}
.heat tr > :first-child {{ width: 3.2em; text-align: left; }}
.heat tbody td {{ padding: 9px 4px; border-radius: 6px; text-align: center; }}
.heat td {{ color: var(--ink); }}
.heat b {{ display: block; font-size: 1.0625rem; }}
.heat small {{ display: block; font-size: .6875rem; line-height: 1.35; }}
.heat small span {{ display: inline-block; padding: 0 3px; }}

.example {{ margin-top: 12px; }}
.example .scroll {{ border-width: 1px 0 0; border-radius: 0 0 10px 10px; }}
.example summary {{ padding: 14px 20px; }}
.example summary h3 {{ display: inline; margin: 0 10px 0 4px; }}
.example summary span {{ color: var(--muted); font-size: .875rem; font-weight: 400; }}
.example > div {{ padding: 0 20px 18px; }}
.history {{ margin: 0 0 12px; font-size: .875rem; color: var(--muted); overflow-wrap: anywhere; }}
.history b {{ color: var(--ink); font-weight: 600; }}
.lists {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); gap: 16px 24px; }}
.lists h4 {{ margin: 0 0 4px; padding-left: 8px; border-left: 4px solid var(--role); font-size: .875rem; }}
.lists ol {{ margin: 0; padding-left: 1.9em; font-size: .875rem; overflow-wrap: anywhere; }}
.hit {{ background: #e3f3ec; font-weight: 650; }}

.facts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); gap: 1px; margin: 0;
  border: 1px solid var(--line); border-radius: 10px; background: var(--card); overflow: hidden; }}
.facts div {{ padding: 10px 16px; }}
.facts dt {{ font-size: .8125rem; color: var(--muted); }}
.facts code {{ font-size: .75rem; font-weight: 400; }}
.facts dd {{ margin: 0; font-weight: 600; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }}
details {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px; }}
summary {{ padding: 12px 16px; cursor: pointer; font-weight: 600; }}
pre {{ margin: 0; padding: 14px 16px; overflow-x: auto; background: #eef2f6; border-radius: 10px; font-size: .875rem;
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }}
details pre {{ border-radius: 0 0 10px 10px; max-height: 480px; overflow: auto; }}
footer {{ padding: 18px 0 34px; color: var(--muted); font-size: .875rem; }}

@media (max-width: 1000px) {{ .cards {{ grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }} }}
@media (max-width: 600px) {{
  .wide {{ padding: 0 14px; }}
  section {{ margin: 30px 0; }}
  .sections ul {{ flex-wrap: nowrap; padding: 3px; }}
  .verdict {{ margin-top: 16px; padding: 16px 18px; }}
  .verdict p:first-of-type {{ font-size: 1.1875rem; }}
  .verdict p {{ font-size: 1rem; }}
  .cards {{ gap: 10px; }}
  .card {{ padding: 12px 14px; }}
  .card .value {{ font-size: 1.625rem; }}
  figure {{ padding: 14px 10px 12px; }}
  figure h3, figcaption {{ padding: 0 4px; }}
  .facts {{ grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }}
  .heats > div {{ padding: 12px 8px; }}
  .scroll th:first-child {{ min-width: 132px; white-space: normal; overflow-wrap: anywhere; }}
}}
@media print {{
  body {{ background: #fff; }}
  .sections, .skip {{ display: none; }}
  figure, .example {{ break-inside: avoid; }}
}}
"""

# Sorting is the only thing that scripts add: without them the table simply stays grouped by role.
SCRIPT = """
for (const table of document.querySelectorAll("table.models")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") !== "descending" && column > 0;
      const rising = !falling;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const key = row => row.cells[column].dataset.value;
      const order = (a, b) => {
        if (column === 0) return key(a).localeCompare(key(b));
        if (key(a) === undefined || key(b) === undefined) return (key(a) === undefined) - (key(b) === undefined);
        return (key(a) - key(b)) * (rising ? 1 : -1);
      };
      for (const row of [...body.rows].sort(order)) { row.classList.remove("group"); body.append(row); }
    });
  });
}
"""
