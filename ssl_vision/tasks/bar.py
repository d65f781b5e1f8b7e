"""A bar over one pass of samples through a network, for a terminal only."""

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ssl_vision.types import Batch


def with_bar(batches: Iterable[Batch], num: int, *, console: Console | None) -> Iterator[Batch]:
    """The batches; meanwhile a bar of their samples, which goes when they end.

    Args:
        batches: Of one pass.
        num: Samples in all of them.
        console: Where the bar is shown, if that is a terminal; None shows none.
    """
    if console is None or not console.is_terminal or console.quiet:
        yield from batches
        return
    columns = TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("images through the network", total=num)
        for batch in batches:
            yield batch
            progress.advance(task, len(batch.index))
