"""The `anneal` command: weights of a run at the end of a falling rate, beside the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ssl_vision.bounds import check_bounds
from ssl_vision.commands.arguments import parse
from ssl_vision.commands.saying import say
from ssl_vision.engine.anneal import anneal


@dataclass(frozen=True, kw_only=True)
class AnnealSettings:
    """Length of the branch."""

    steps: int | None = None  # updates; null: a quarter of those that the run has done

    def __post_init__(self) -> None:
        check_bounds("steps", self.steps, least=1)


def run_anneal(arguments: Sequence[str]) -> int:
    """`anneal RUN [OUT] [steps=N] [key=value ...]`.

    Raises:
        SslVisionError: As `engine.anneal.anneal` does.
    """
    given = parse("anneal", arguments, num_words=(1, 2))
    settings, rest = given.take(AnnealSettings)
    run, *out = map(Path, given.words)
    anneal(
        run,
        out[0] if out else None,
        steps=settings.steps,
        overrides=rest,
        say=lambda text: say(Console(), text),
    )
    return 0
