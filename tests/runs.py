"""Fixtures of runs of seconds: a two-block ViT on the built-in digits."""

import functools
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks._children import fork, wait

from ssl_vision.config import TrainConfig, load_train_config

_PLAIN = "crop_area: [0.5, 1.0], flip_prob: 0.0"
_METHODS = {
    "barlow_twins": (
        "{name: barlow_twins, projector_dims: [64, 64]}",
        {"a": f"{{size_px: 16, {_PLAIN}}}", "b": f"{{size_px: 16, {_PLAIN}}}"},
    ),
    "simclr": (
        "{name: simclr, projection_dim: 32, temperature: 0.2}",
        {"a": f"{{size_px: 16, {_PLAIN}}}", "b": f"{{size_px: 16, {_PLAIN}}}"},
    ),
    "vicreg": (
        "{name: vicreg, projector_dims: [64, 64]}",
        {"a": f"{{size_px: 16, {_PLAIN}}}", "b": f"{{size_px: 16, {_PLAIN}}}"},
    ),
    "lejepa": (
        "{name: lejepa, projector_dims: [64, 16], num_directions: 64}",
        {"global": f"{{size_px: 16, count: 2, {_PLAIN}}}"},
    ),
    "supervised": ("{name: supervised}", {"train": f"{{size_px: 16, {_PLAIN}}}"}),
    "mae": (
        "{name: mae, decoder_width: 16, decoder_depth: 1, decoder_num_heads: 2}",
        {"view": f"{{size_px: 16, {_PLAIN}}}"},
    ),
    "ijepa": (
        "{name: ijepa, init: xavier, predictor_width: 16, predictor_depth: 1, "
        "predictor_num_heads: 2, teacher_momentum: 0.98, blocks: {min_keep: 3}}",
        {"view": f"{{size_px: 16, {_PLAIN}}}"},
    ),
    "croco": (
        "{name: croco, mask_ratio: 0.75, decoder_width: 16, decoder_depth: 1, "
        "decoder_num_heads: 2}",
        {"first": f"{{size_px: 16, {_PLAIN}}}", "second": f"{{size_px: 16, {_PLAIN}}}"},
    ),
    "distill": (
        "{name: distill, patch_weight: 0.0, "
        "teachers: {one: {weights: 'zoo:barlow_twins_mnist5k'}}}",
        {"view": f"{{size_px: 16, {_PLAIN}}}"},
    ),
    "random_teacher": (
        "{name: random_teacher, num_prototypes: 64, hidden_dim: 32, bottleneck_dim: 16, "
        "student_init: near, student_distance: 0.1}",
        {"view": "{size_px: 16, crop: whole, flip_prob: 0.0}"},
    ),
    "dino": (
        "{name: dino, num_prototypes: 64, hidden_dim: 32, bottleneck_dim: 16}",
        {
            "global_1": f"{{size_px: 16, {_PLAIN}}}",
            "global_2": f"{{size_px: 16, {_PLAIN}}}",
            "local": f"{{size_px: 8, count: 2, {_PLAIN}}}",
        },
    ),
}


def write_recipe(path: Path, method: str) -> Path:
    settings, views = _METHODS[method]
    is_patches_only = method in ("ijepa", "croco")
    extra = ", class_token: false, global_pool: avg, fc_norm: false" if is_patches_only else ""
    path_of_data = "blocks" if method == "croco" else "digits"
    lines = "\n".join(f"    {name}: {view}" for name, view in views.items())
    path.write_text(
        f"""
method: {settings}
backbone:
  name: vit_tiny_patch16_224
  drop_path: 0.1
  args: {{patch_size: 4, embed_dim: 24, depth: 2, num_heads: 2{extra}}}
data:
  path: {path_of_data}
  global_batch_size: 256
  num_threads: 1
  eval_size_px: 16
  views:
{lines}
optim: {{name: adamw, base_lr: 1e-3, warmup_epochs: 1}}
trainer: {{epochs: 2, log_every_steps: 3, accelerator: cpu}}
online_eval: {{every_epochs: 0}}
"""
    )
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., TrainConfig]:
    """`recipe("dino", "trainer.epochs=3")` -> a configuration whose run folder is in tmp_path."""

    def build(method: str = "barlow_twins", *overrides: str, run: str = "run") -> TrainConfig:
        path = write_recipe(tmp_path / f"{method}.yaml", method)
        return load_train_config([path], [f"run_dir={tmp_path / run}", *overrides])

    return build


@pytest.fixture(scope="session")
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One run here, so that forked processes find kernels compiled and modules imported."""
    from ssl_vision.engine.train import train

    folder = tmp_path_factory.mktemp("warm")
    path = write_recipe(folder / "recipe.yaml", "dino")
    train(load_train_config([path], [f"run_dir={folder / 'run'}", "trainer.max_steps=1"]))


@pytest.fixture
def child(_warm: None) -> Callable[[Callable[[], Any]], int]:
    """`child(function)` -> exit status of a process that ran it."""
    return lambda function: wait(fork(function))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def launch(function: Callable[[int], Any], *, world_size: int = 2) -> list[int]:
    """Run `function(rank)` in forked processes as torchrun would; their exit statuses."""
    port, pids = free_port(), []

    def go(rank: int) -> None:
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            GROUP_RANK="0",
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            TORCHELASTIC_RUN_ID="test",
        )
        function(rank)

    for rank in range(world_size):
        pids.append(fork(functools.partial(go, rank)))
    return [wait(pid) for pid in pids]


@pytest.fixture
def processes(_warm: None) -> Callable[..., list[int]]:
    """`processes(function, world_size=2)` -> exit statuses of `function(rank)`."""
    return launch


@pytest.fixture
def mae_run(recipe: Callable[..., TrainConfig]) -> Path:
    """A run folder of MAE, as training leaves it."""
    import torch

    from ssl_vision.config import to_yaml
    from ssl_vision.engine.checkpoint import SCHEMA, write_checkpoint
    from ssl_vision.engine.train import build_method
    from ssl_vision.methods.base import TrainPlan
    from ssl_vision.zoo.export import export_backbone

    config = recipe("mae")
    plan = TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=8, input_size=16)
    method = build_method(config, plan)
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    run = config.run_path
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(config))
    state = {"schema": SCHEMA, "step": 1, "state_dict": method.state_dict()}
    write_checkpoint(run / "checkpoints", state, step=1)
    export_backbone(
        method.export_backbone(),
        run / "export",
        mean=config.data.input_spec.mean,
        std=config.data.input_spec.std,
        interpolation="bicubic",
        size_px=16,
    )
    return run


def bars_of(page: str) -> dict[str, tuple[str, float]]:
    """Scores of a report: name -> what is written beside its bar, and the bar's share."""
    bar = r"<span>([^<]*)</span><span><i[^>]*width:([\d.]+)%[^>]*></i></span><b>([^<]*)</b>"
    return {name: (value, float(length) / 100) for name, length, value in re.findall(bar, page)}
