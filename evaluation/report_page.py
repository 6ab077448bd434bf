"""How the report looks; knows nothing of what it shows."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5b6670; --line: #d9dee3;
  --paper: #ffffff; --raised: #f4f6f8; --accent: #0b6e57; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #98a3ad; --line: #343c44;
  --paper: #14181c; --raised: #1d2329; --accent: #58c9a8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1400px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 24px; font-weight: 650; margin: 0 0 4px; }
h2 { font-size: 18px; font-weight: 650; margin: 40px 0 2px; }
p { margin: 0 0 14px; color: var(--soft); max-width: 78ch; }
.facts { overflow-wrap: anywhere; max-width: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin-top: 18px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 18px 7px 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
thead th { color: var(--soft); font-weight: 500; font-size: 13px; }
th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left; }
tbody th { font-weight: 600; }
td.best { font-weight: 700; color: var(--accent); }
.grid { display: grid; gap: 14px 10px; min-width: calc(var(--columns) * 200px);
  grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--raised); }
figcaption { font-size: 12.5px; color: var(--soft); padding-top: 3px; overflow-wrap: anywhere; }
"""
