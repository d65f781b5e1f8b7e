"""Pages in a real browser: Debian's Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)

# Widths that no one has to scroll to, pictures that are there, and text that can be read: contrast
# of 4.5 with whatever lies behind it (WCAG 2.1, level AA). Boxes that scroll by themselves may hold
# wide tables. All sections are opened first.
_LOOK = """
async (width) => {
  document.querySelectorAll('details').forEach(each => each.open = true);
  const faults = [];
  const name = e => e.tagName.toLowerCase() + '.' + (e.getAttribute('class') || '') + ' '
    + (e.textContent || '').trim().slice(0, 40);
  const root = document.documentElement;
  if (root.scrollWidth > width)  // a phone's innerWidth grows with the page
    faults.push(`scrolls sideways: ${root.scrollWidth} of ${width} px`);
  for (const e of document.body.querySelectorAll('*'))
    if (!e.closest('.wide') && e.getBoundingClientRect().right > width + 1)
      faults.push('too wide: ' + name(e));
  const sources = [...document.querySelectorAll('img')].map(e => e.src)
    .concat([...document.querySelectorAll('image')].map(e => e.getAttribute('href')));
  for (const source of new Set(sources)) {
    const image = new Image();
    image.src = source;
    try { await image.decode(); } catch { faults.push('no image: ' + source.slice(0, 40)); }
  }
  for (const e of document.querySelectorAll('img'))
    if (!e.alt || !e.naturalWidth) faults.push('image without words or pixels: ' + name(e));
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => {
    const [r, g, b] = numbers(c).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor, alpha = numbers(color)[3];
      if (alpha === undefined || alpha > 0.99) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || ['SCRIPT', 'STYLE'].includes(e.tagName)) continue;
    if (e.closest('svg') && e.getAttribute('fill') && e.getAttribute('fill') !== 'currentColor')
      continue;  // on a cell of its own colour
    const style = getComputedStyle(e), ink = e.closest('svg') ? style.fill : style.color;
    const [a, b] = [light(ink), light(behind(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faults.push(`contrast ${contrast.toFixed(1)}: ` + name(e));
    if (e.closest('svg') && e.getBoundingClientRect().height < 8)
      faults.push('letters too small: ' + name(e));
  }
  return {faults, background: light(behind(document.body))};
}
"""


@contextmanager
def browser() -> Iterator[Any]:
    """A headless browser, closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root has no sandbox; containers have a small /dev/shm.
        args = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        found = playwright.chromium.launch(executable_path=BROWSER, args=args)
        try:
            yield found
        finally:
            found.close()


def faults(
    shown: Any, path: Path, *, width: int, scheme: str, picture: Path | None = None
) -> list[str]:
    """What is wrong with a page, a line each.

    Args:
        shown: The browser.
        path: The page.
        width: Of the window, px; below 600 a phone's.
        scheme: light or dark, as the reader prefers.
        picture: Where to write a picture of the whole page.
    """
    context = shown.new_context(
        viewport={"width": width, "height": 844},
        color_scheme=scheme,
        is_mobile=width < 600,
        device_scale_factor=1,
    )
    said: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: said.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("requestfailed", lambda request: said.append(f"not loaded: {request.url[:80]}"))
    page.on("request", lambda r: None if _is_own(r.url, path) else said.append(f"asks: {r.url}"))
    page.goto(path.absolute().as_uri())
    found = page.evaluate(_LOOK, width)
    if (found["background"] < 0.5) != (scheme == "dark"):
        said.append(f"{scheme} page on a background of lightness {found['background']:.2f}")
    if picture is not None:
        page.screenshot(path=picture, full_page=True)
    context.close()
    return [*said, *found["faults"]]


def _is_own(url: str, path: Path) -> bool:
    return url.startswith("data:") or url == path.absolute().as_uri()
