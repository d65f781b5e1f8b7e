"""The commands a user runs next: printed at the end of a run, repeated in its report."""

import shlex
from pathlib import Path

from ssl_vision.typed import as_word


def next_commands(run_dir: Path, *, has_classifier: bool, is_in_timm: bool) -> dict[str, str]:
    """What for -> command, to be pasted into a shell as it is.

    Capital words stand for the user's own paths.

    Args:
        run_dir: The run folder.
        has_classifier: Whether its network classifies.
        is_in_timm: Whether timm alone can build its network.
    """
    run = as_word(run_dir)
    following = run_dir.with_name(f"{run_dir.name}_finetuned")
    start = shlex.quote(f"init_from={shlex.split(run)[0]}")
    # run_dir has a pattern of its own, whose braces are doubled.
    into = shlex.quote(f"run_dir={str(following).replace('{', '{{').replace('}', '}}')}")
    commands = {"score": f"ssl-vision evaluate {run} data.path=DIR tasks=knn,linear"}
    if has_classifier:
        commands["predict"] = f"ssl-vision predict {run} IMAGES OUT.csv"
    commands["embed"] = f"ssl-vision embed {run} data.path=DIR OUT"
    if is_in_timm:
        commands["search"] = f"ssl-vision search {run} data.path=DIR INDEX"
        if not has_classifier:
            commands["fine-tune"] = (
                f"ssl-vision train supervised/small {start} data.path=DIR {into}"
            )
        commands["export"] = f"ssl-vision export {run} OUT formats=timm,onnx"
    return commands
