"""One HTML page for all reports: its style, tables, pictures; readable on a phone, light and dark.

A page is one file: it must open anywhere, without a network, and be mailed as it is.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence

from PIL import Image

# Widths are shares of the window, so that nothing needs scrolling sideways; wide tables scroll in
# a box of their own. Plots take their ink from `currentColor`.
_STYLE = """
:root { color-scheme: light dark; --ink: #1f262d; --soft: #5a6570; --line: #d9dfe4; --page: #fff;
  --card: #f4f6f8; --accent: #0a66b7; --good: #1f8a55; --good-card: #e8f5ee; --bad: #b3261e;
  --bad-card: #fcecea; --warn: #a86400; --warn-card: #fff4dc; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa6b1; --line: #353d45;
  --page: #14181c; --card: #1e242a; --accent: #6cb3f2; --good: #4cc38a; --good-card: #15301f;
  --bad: #ff8a80; --bad-card: #3a1b1a; --warn: #f0b04a; --warn-card: #352a12; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 1000px; margin: 0 auto;
  padding: 1rem 1rem 4rem; color: var(--ink); background: var(--page); overflow-wrap: anywhere; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: .6rem 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { margin: .5rem 0; } .sub { color: var(--soft); }
code, pre { font-family: ui-monospace, monospace; font-size: .85em; background: var(--card);
  border-radius: 4px; }
code { padding: 0 .25em; } pre { padding: .7rem .8rem; white-space: pre-wrap; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .94em; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  overflow-wrap: break-word; vertical-align: top; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.text { text-align: left; } td.text { color: var(--soft); min-width: 12em;
  overflow-wrap: anywhere; }
td:first-child { min-width: min(9.5em, 34vw); }
tr.main td { font-weight: 600; } tr.main td.text { font-weight: 400; }
.warn, .verdict { background: var(--warn-card); border-left: 4px solid var(--warn);
  padding: .5rem .8rem; margin: .6rem 0; border-radius: 0 4px 4px 0; }
.verdict { background: var(--good-card); border-color: var(--good); }
.verdict.problem { background: var(--bad-card); border-color: var(--bad); }
.plots { display: flex; flex-wrap: wrap; gap: .8rem 1.2rem; margin: .6rem 0; }
svg { display: block; max-width: 100%; height: auto; }
svg.map { width: 44rem; }
svg.curve { font: 12px system-ui, sans-serif; fill: currentColor; }
svg.curve .title { font-size: 14px; font-weight: 600; }
svg.curve polyline { fill: none; stroke-width: 1.6; }
svg.curve .axis { fill: none; stroke: currentColor; stroke-opacity: .4; }
svg.curve polyline { stroke: var(--accent); } svg.curve circle { fill: var(--accent); }
img { max-width: 100%; height: auto; vertical-align: bottom; border-radius: 3px; }
img.sheet { background: #fff; border: 1px solid var(--line); }
.bars { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr 4.5rem;
  gap: .35rem .7rem; align-items: center; margin: .6rem 0; font-size: .94em; }
.bars i { display: block; height: .8rem; border-radius: 3px; background: var(--soft);
  opacity: .55; min-width: 2px; }
.bars i.own { background: var(--accent); opacity: 1; }
.bars b { font-weight: 500; text-align: right; font-variant-numeric: tabular-nums; }
.near { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr));
  gap: 1.4rem 1.6rem; margin: .8rem 0; }
.near > div { display: grid; grid-template-columns: 1.25fr repeat(5, 1fr); gap: .3rem .4rem; }
.near .query { grid-row: 1 / span 2; padding-right: .4rem; }
figure { margin: 0; } figure img { width: 100%; }
figcaption { font-size: .75rem; line-height: 1.25; color: var(--soft); overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
figure.same img { outline: 3px solid var(--good); outline-offset: -1px; }
figure.query figcaption { color: var(--ink); font-weight: 600; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; margin: .4rem 0; }
.keys span::before { content: ""; display: inline-block; width: .75em; height: .75em;
  margin-right: .4em; border-radius: 2px; background: var(--key); }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); }
@media (max-width: 480px) { body { font-size: 15px; } h1 { font-size: 1.25rem; }
  .bars { grid-template-columns: minmax(6rem, 38%) 1fr 4rem; } th, td { padding: .25rem .4rem; } }
"""
# No request for an icon that is not there.
_HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
)


def page(title: str, body: str) -> str:
    """A whole HTML page, in the style of all reports, of a body that is HTML."""
    return (
        f'<!doctype html><html lang="en"><head>{_HEAD}<title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def html_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, main_row: int | None = None
) -> str:
    """A table, in a box that scrolls where it is too wide; a column named note is set as text.

    Args:
        header: Names of the columns.
        rows: Cells.
        main_row: Number of a row to stress.
    """
    kinds = [' class="text"' if name in ("note", "protocol") else "" for name in header]
    head = "".join(
        f"<th{kind}>{html.escape(cell)}</th>" for kind, cell in zip(kinds, header, strict=True)
    )
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(
            f"<td{kind}>{html.escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)
        )
        kind = ' class="main"' if number == main_row else ""
        lines.append(f"<tr{kind}>{cells}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def bars(values: Mapping[str, float], *, own: Sequence[str] = ()) -> str:
    """Shares as bars, one below the other.

    Args:
        values: Name -> share, 0 to 1.
        own: Names to stress.
    """
    parts = []
    for name, value in values.items():
        kind = ' class="own"' if name in own else ""
        width = 100 * min(max(value, 0.0), 1.0)
        parts.append(
            f'<span>{html.escape(name)}</span><span><i{kind} style="width:{width:.2f}%"></i></span>'
            f"<b>{100 * value:.2f} %</b>"
        )
    return f'<div class="bars">{"".join(parts)}</div>' if parts else ""


def color_keys(colors: Mapping[str, str]) -> str:
    """What each colour of a plot stands for: name -> colour."""
    keys = [f'<span style="--key:{c}">{html.escape(name)}</span>' for name, c in colors.items()]
    return f'<div class="keys">{"".join(keys)}</div>'


def folded(title: str, text: str) -> str:
    """A text that opens when its title is clicked."""
    return (
        f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
    )


def embedded(image: Image.Image, *, alt: str, is_sheet: bool = False, quality: int = 0) -> str:
    """An image inside the page.

    Args:
        image: The image.
        alt: What it shows, for those who do not see it.
        is_sheet: Whether it is drawn on white, and gets an edge.
        quality: Of a JPEG; 0 for a PNG, which keeps every level.
    """
    kind = ' class="sheet"' if is_sheet else ""
    return (
        f'<img{kind} alt="{html.escape(alt, quote=True)}" width="{image.width}" '
        f'height="{image.height}" src="{image_uri(image, quality=quality)}">'
    )


def image_uri(image: Image.Image, *, quality: int = 0) -> str:
    """An image as the text of an attribute: JPEG of this quality, or PNG with 0."""
    buffer = io.BytesIO()
    if quality:
        image.convert("RGB").save(buffer, format="JPEG", quality=quality)
    else:
        image.save(buffer, format="PNG")
    kind = "jpeg" if quality else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
