"""What users named is printed as it is."""

import io

from rich.console import Console

from ssl_vision.commands.saying import say


def test_no_markup_and_no_breaks() -> None:
    out = io.StringIO()
    text = "[bold]a[/bold] 1.5 " + "x" * 200
    say(Console(file=out, width=40), text, style="bold")
    assert out.getvalue() == text + "\n"
