"""A bar is shown on a terminal only, and changes nothing of the batches."""

import io

import pytest
import torch
from rich.console import Console

from ssl_vision.tasks.bar import with_bar
from ssl_vision.types import Batch


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("is_quiet", [False, True])
def test_the_bar(is_terminal: bool, is_quiet: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=is_terminal, quiet=is_quiet, width=80)
    batches = [Batch(views={}, index=torch.arange(2), label=None, epoch=0) for _ in range(3)]
    assert list(with_bar(batches, 6, console=console)) == batches
    assert ("6/6" in text.getvalue()) == (is_terminal and not is_quiet)


def test_no_console_no_bar() -> None:
    assert list(with_bar([], 0, console=None)) == []
