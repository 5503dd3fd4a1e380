"""The style sheet of the report's pages: system fonts, light and dark, desktop to phone, nothing fetched.

Colours of the methods are Okabe and Ito's, which the colour-blind tell apart; dark mode has lighter ones.
"""

STYLE = """
:root { color-scheme: light dark;
  --page: #fbfaf7; --card: #ffffff; --ink: #1d1f23; --soft: #5a5f69; --rule: #e2dfd7; --faint: #f3f1eb;
  --irft: #0067a5; --rft: #c65200; --matched: #00805f; --sft: #6b6f78; --base: #9a9ea8; --mark: #fff3cf; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14161a; --card: #1b1e24; --ink: #e9e7e2; --soft: #a3a8b3; --rule: #33373f; --faint: #22262d;
  --irft: #5cb8f0; --rft: #f0904a; --matched: #3cc79d; --sft: #a6abb6; --base: #747a86; --mark: #4a3f1c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.55; font-size: 16px;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif; }
main, .head, footer { max-width: 1220px; margin: 0 auto; padding: 0 24px; }
.head { padding-top: 44px; padding-bottom: 8px; }
.kicker { font-size: 13px; letter-spacing: .06em; text-transform: uppercase; color: var(--soft); margin: 0 0 10px; }
h1 { font-size: clamp(26px, 4.2vw, 42px); line-height: 1.14; letter-spacing: -.015em; margin: 0 0 18px;
  max-width: 24em; text-wrap: balance; font-weight: 680; }
h2 { font-size: 23px; letter-spacing: -.01em; margin: 0 0 6px; line-height: 1.25; }
h3 { font-size: 16px; margin: 26px 0 8px; }
p { margin: 0 0 10px; max-width: 74ch; }
a { color: var(--irft); text-underline-offset: 2px; }
section { padding: 34px 0 8px; border-top: 1px solid var(--rule); margin-top: 30px; }
.lede { font-size: 17.5px; }
.lede ul { padding-left: 1.1em; margin: 0 0 12px; } .lede li { margin: 4px 0; max-width: 72ch; }
.note, figcaption, .caveats { color: var(--soft); font-size: 14px; }
.caveats { border-left: 3px solid var(--rule); padding-left: 14px; margin: 16px 0 0; }
.caveats p { margin: 4px 0; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 14px; margin: 22px 0 0; }
code, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; font-size: .9em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 22px 0 0; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 16px; }
.tile .name { font-size: 13px; color: var(--soft); }
.tile .value { font-size: 27px; font-weight: 640; font-variant-numeric: tabular-nums; letter-spacing: -.01em;
  line-height: 1.3; }
.tile .against { font-size: 13px; color: var(--soft); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  margin: 14px 0; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 7px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
tbody tr:last-child th, tbody tr:last-child td { border-bottom: 0; }
thead th { font-weight: 560; color: var(--soft); font-size: 12.5px; vertical-align: bottom; white-space: normal;
  line-height: 1.25; }
thead abbr { text-decoration: underline dotted; text-underline-offset: 3px; cursor: help; }
th:first-child, th.text, td.text { text-align: left; }
tbody th { font-weight: 560; } th:first-child { padding-left: 12px; }
th:last-child, td:last-child { padding-right: 12px; }
.models tbody th, .models thead th:first-child { position: sticky; left: 0; background: var(--card); }
.models tr.champion th, .models tr.champion td { background: var(--mark); }
tr.group th, tr.group td { border-top: 2px solid var(--rule); }
td b { font-weight: 720; } td .error { color: var(--soft); font-size: 12px; margin-left: 3px; }
.badge { font-size: 11px; font-weight: 600; border: 1px solid currentColor; border-radius: 20px; padding: 1px 7px;
  margin-left: 7px; letter-spacing: .02em; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 8px; background: var(--base); }
.dot.irft { background: var(--irft); } .dot.rft { background: var(--rft); border-radius: 1px; }
.dot.sft { background: var(--sft); } .dot.matched { background: var(--matched); }
details > summary { cursor: pointer; color: var(--irft); font-size: 14px; margin: 6px 0; }
dl.columns { display: grid; grid-template-columns: max-content 1fr; gap: 5px 18px; font-size: 14px; margin: 10px 0; }
dl.columns dt { font-weight: 600; } dl.columns dd { margin: 0; color: var(--soft); max-width: 80ch; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 18px;
  margin: 14px 0; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); gap: 12px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px 14px 12px; }
figure h3 { margin: 0 0 6px; font-size: 15px; } .panels figure h3 { font-size: 13.5px; font-weight: 560; }
.panels figure { padding: 10px 10px 6px; }
figure.wide { max-width: 860px; } figcaption { margin-top: 4px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 14px; margin: 12px 0 0; }
.legend svg { width: 34px; height: 14px; vertical-align: -2px; margin-right: 7px; }
svg { display: block; width: 100%; height: auto; overflow: visible; } .legend svg { display: inline-block; }
svg text { font-family: inherit; fill: var(--soft); font-size: 12.5px; font-variant-numeric: tabular-nums; }
.panels svg text { font-size: 11.5px; }
svg .label { fill: var(--ink); }
svg .grid { stroke: var(--rule); stroke-width: 1; } svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke: var(--base); }
svg .line.start { stroke-width: 1.4; stroke-dasharray: 2 4; }
svg .irft { stroke: var(--irft); } svg .rft { stroke: var(--rft); }
svg .line.sft { stroke: var(--sft); stroke-dasharray: 7 4; }
svg .line.matched { stroke: var(--matched); stroke-dasharray: 9 3 2 3; }
svg .line.base { stroke-dasharray: 1 4; stroke-width: 1.6; }
svg .line.raw { stroke-width: 1; opacity: .32; } svg .panel .line.smooth { stroke-dasharray: none; }
svg .line.smooth { stroke-dasharray: none; stroke-width: 1.9; } svg .line.raw { stroke-dasharray: none; }
svg .error { fill: none; stroke-width: 1.5; }
svg .mark { stroke: var(--card); stroke-width: 1.3; } svg .mark.irft { fill: var(--irft); stroke: var(--card); }
svg .mark.rft { fill: var(--rft); stroke: var(--card); }
svg .band { stroke: none; opacity: .14; } svg .band.sft { fill: var(--sft); stroke: none; }
svg .band.matched { fill: var(--matched); stroke: none; }
svg .boundary { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; opacity: .7; }
svg .bar.all { fill: var(--base); opacity: .38; } svg .bar.kept { fill: var(--irft); opacity: .85; }
svg .threshold { stroke: var(--ink); stroke-width: 1.4; stroke-dasharray: 4 3; }
.sample { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  margin: 14px 0; overflow: hidden; }
.sample .prompt { background: var(--faint); padding: 14px 16px; }
.sample .prompt, .sample .answer p { white-space: pre-wrap; overflow-wrap: anywhere; }
.sample .prompt, .sample .answer div { max-height: 19em; overflow-y: auto; }
.sample .answer { display: grid; grid-template-columns: 150px 1fr 132px; gap: 4px 16px; padding: 9px 16px;
  border-top: 1px solid var(--rule); align-items: baseline; }
.sample .answer.champion { background: var(--mark); }
.sample .answer p { margin: 0; max-width: none; } .sample .answer .who { font-size: 13.5px; font-weight: 560; }
.sample .answer .judged { font-size: 13px; color: var(--soft); text-align: right; font-variant-numeric: tabular-nums; }
.sample .empty { color: var(--soft); font-style: italic; }
.sample details { border-top: 1px solid var(--rule); } .sample details > summary { padding: 4px 16px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 0 18px;
  align-items: start; }
.facts table td { white-space: normal; overflow-wrap: anywhere; text-align: left; }
.facts table th { text-align: left; vertical-align: top; color: var(--soft); font-weight: 500; }
.costs { display: block; width: 100%; height: 26rem; border: 1px solid var(--rule); border-radius: 10px;
  background: var(--card); }
footer { color: var(--soft); font-size: 13px; padding-top: 26px; padding-bottom: 50px; }
body.plain { background: var(--card); font-size: 14px; } body.plain main { padding: 12px 14px; max-width: none; }
body.plain h1 { font-size: 16px; margin: 0 0 4px; }
@media (max-width: 640px) {
  .panels { grid-template-columns: repeat(auto-fill, minmax(min(100%, 210px), 1fr)); }
  main, .head, footer { padding-left: 16px; padding-right: 16px; } .head { padding-top: 26px; }
  .sample .answer { grid-template-columns: 1fr auto; } .sample .answer .text { grid-column: 1 / -1; grid-row: 2; }
  dl.columns { grid-template-columns: 1fr; gap: 1px; } dl.columns dd { margin-bottom: 8px; }
  .tiles { grid-template-columns: 1fr 1fr; } .tile { padding: 10px 12px; } .tile .value { font-size: 22px; }
  .lede { font-size: 16px; } figure { padding: 10px 8px; } svg text { font-size: 14px; }
  .panels svg text { font-size: 12px; }
}
@media print { nav, .costs { display: none; } section { break-inside: avoid-page; } .scroll { overflow: visible; } }
"""


def document(title: str, body: str, css: str = "") -> str:
    """A whole page: doctype, style sheet and body. `title` is already escaped."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n"
        f'<body class="{css}">\n{body}\n</body>\n</html>\n'
    )
