"""The commands a user runs next: printed at the end of a run, repeated in its report."""

import shlex
from pathlib import Path

from ssl_vision.config import load_train_config
from ssl_vision.recipes import find_recipe
from ssl_vision.typed import as_word
from ssl_vision.zoo.formats import FORMATS

_FINE_TUNING = "supervised/small"


def next_commands(
    run_dir: Path,
    *,
    has_classifier: bool,
    is_in_timm: bool,
    num_samples: int | None = None,
    has_labels: bool = True,
) -> dict[str, str]:
    """What for -> command, to be pasted into a shell as it is.

    Capital words stand for the user's own paths.

    Args:
        run_dir: The run folder.
        has_classifier: Whether its network classifies.
        is_in_timm: Whether timm alone can build its network.
        num_samples: There are to learn from, held-out ones not among them; commands suit so many.
        has_labels: Whether these had classes.
    """
    run = as_word(run_dir)
    following = run_dir.with_name(f"{run_dir.name}_finetuned")
    start = shlex.quote(f"init_from={shlex.split(run)[0]}")
    # run_dir has a pattern of its own, whose braces are doubled.
    into = shlex.quote(f"run_dir={str(following).replace('{', '{{').replace('}', '}}')}")
    tasks = " tasks=knn,linear" if has_labels else ""  # by default what the data allow
    commands = {"score": f"ssl-vision evaluate {run} data.path=DIR{tasks}"}
    if has_classifier:
        commands["predict"] = f"ssl-vision predict {run} IMAGES OUT.csv"
    commands["embed"] = f"ssl-vision embed {run} data.path=DIR OUT"
    if is_in_timm:
        commands["search"] = f"ssl-vision search {run} data.path=DIR INDEX"
        if not has_classifier:
            commands["fine-tune"] = (
                f"ssl-vision train {_FINE_TUNING} {start} data.path=DIR {into}"
                f"{_batch_for(num_samples)}"
            )
        form = "torch_export" if FORMATS["onnx"].missing else "onnx"
        commands["export"] = f"ssl-vision export {run} OUT formats=timm,{form}"
    return commands


def _batch_for(num_samples: int | None) -> str:
    """The setting of a batch that fine-tuning on few samples can fill; none where it fills its own.

    A power of two: of eight batches an epoch or more, as far as there are as many samples.
    """
    if num_samples is None:
        return ""
    own = load_train_config([find_recipe(_FINE_TUNING)], ["data.path=DIR"]).data.global_batch_size
    if num_samples >= own:
        return ""
    return f" data.global_batch_size={1 << max(0, (num_samples // 8).bit_length() - 1)}"
