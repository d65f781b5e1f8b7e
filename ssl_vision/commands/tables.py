"""CSV files that people open in spreadsheets."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from ssl_vision.errors import CheckpointError
from ssl_vision.files import write_atomically


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV; texts that spreadsheets would run are disarmed."""
    return "".join(_line(row) for row in rows)


def _line(row: Sequence[object]) -> str:
    text = io.StringIO()
    # A cell with a carriage return is quoted only where line ends have one.
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([disarmed(c) if isinstance(c, str) else c for c in row])
    return text.getvalue().removesuffix("\r\n") + "\n"


def write_csv(path: str | Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows to a file, whole or not at all.

    Raises:
        CheckpointError: It cannot be written.
    """
    target = Path(path).expanduser()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, csv_text(rows))
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written ({error.strerror}).") from error


def disarmed(text: str) -> str:
    """A text that spreadsheets would run as a formula, with an apostrophe before it.

    Bytes of a name that are no UTF-8 are escaped: a CSV file is UTF-8.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
