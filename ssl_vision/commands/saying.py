"""Lines on the terminal whose texts are the user's: names, paths, reasons."""

from rich.console import Console


def say(console: Console, line: str, *, style: str | None = None) -> None:
    """Print a line as it is: no markup, no colours of its own, not broken."""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
