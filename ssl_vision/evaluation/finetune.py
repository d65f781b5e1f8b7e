"""Fine-tuning of images as an evaluation: one process, the MAE recipe by default.

He et al. 2021, arXiv 2111.06377, table 9. For long runs, several GPUs or resuming use the method
`supervised` (`tools/train.py configs/supervised/...`), which trains by the same parts.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.classifier import (
    classifier_from,
    classifier_names,
    classify,
    freeze_all_but_classifier,
)
from ssl_vision.bounds import check_bounds, check_prob, check_range
from ssl_vision.evaluation.classification import ClassificationReport, classification_report
from ssl_vision.evaluation.tuning import tune
from ssl_vision.losses.smmix import smooth_labels, soft_cross_entropy
from ssl_vision.nn.mixup import mix_batch
from ssl_vision.optim.groups import ParamGroup, split_parameters
from ssl_vision.optim.recipe import OptimConfig, apply_schedules, build_optimizer
from ssl_vision.randomness import derive_key, seeded
from ssl_vision.types import Batch
from ssl_vision.views import EraseConfig, RandAugmentConfig, ViewConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Defaults are MAE's for ViT-B; `FINETUNE_PRESETS` has the others."""

    preset: str = "mae_b"  # where the other values come from; see FINETUNE_PRESETS
    tune: Literal["all", "head"] = "all"  # head: a linear classifier on frozen features
    start: Literal["weights", "random"] = "weights"  # random: the same network from scratch
    epochs: int = 100
    batch_size: int = 1024
    base_lr: float = 5e-4  # for 256 images
    layer_decay: float = 0.65
    weight_decay: float = 0.05
    warmup_epochs: float = 5.0
    end_lr: float = 1e-6
    drop_path: float = 0.1
    global_pool: str | None = "avg"  # of ViTs; null keeps the pretrained network's
    head_init_std: float = 2e-5
    label_smoothing: float = 0.1
    mixup_alpha: float = 0.8  # 0 switches it off
    cutmix_alpha: float = 1.0  # 0 switches it off
    crop_area: tuple[float, float] = (0.08, 1.0)
    flip_prob: float = 0.5
    rand_augment: RandAugmentConfig | None = field(default_factory=RandAugmentConfig)
    erase_prob: float = 0.25
    train_fraction: float = 1.0  # of each class's training images
    train_list: str | None = None  # text file of the training images to use

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            check_bounds(f"finetune.{name}", getattr(self, name), least=1)
        for name in ("base_lr", "layer_decay", "train_fraction"):
            check_bounds(f"finetune.{name}", getattr(self, name), above=0)
        for name in ("layer_decay", "train_fraction"):
            check_bounds(f"finetune.{name}", getattr(self, name), most=1)
        for name in ("weight_decay", "warmup_epochs", "end_lr", "head_init_std"):
            check_bounds(f"finetune.{name}", getattr(self, name), least=0)
        for name in ("mixup_alpha", "cutmix_alpha"):
            check_bounds(f"finetune.{name}", getattr(self, name), least=0)
        for name in ("label_smoothing", "drop_path"):
            check_bounds(f"finetune.{name}", getattr(self, name), least=0, below=1)
        check_range("finetune.crop_area", self.crop_area, low=1e-6, high=1.0)
        for name in ("flip_prob", "erase_prob"):
            check_prob(f"finetune.{name}", getattr(self, name))

    def view(self, *, size_px: int, interpolation: Literal["bicubic", "bilinear"]) -> ViewConfig:
        """How training images are shown."""
        return ViewConfig(
            size_px=size_px,
            crop_area=self.crop_area,
            interpolation=interpolation,
            flip_prob=self.flip_prob,
            rand_augment=self.rand_augment,
            erase=EraseConfig(prob=self.erase_prob) if self.erase_prob else None,
        )

    def optim(self) -> OptimConfig:
        """The optimizer's recipe."""
        return OptimConfig(
            name="adamw",
            base_lr=self.base_lr,
            layer_decay=self.layer_decay,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
            end_lr=self.end_lr,
        )


FINETUNE_PRESETS = {
    "mae_b": FinetuneConfig(),
    "mae_l": FinetuneConfig(
        preset="mae_l", epochs=50, base_lr=1e-3, layer_decay=0.75, drop_path=0.2
    ),
    "mae_h": FinetuneConfig(
        preset="mae_h", epochs=50, base_lr=1e-3, layer_decay=0.75, drop_path=0.3
    ),
    # Thousands of small images and a network of a few blocks, minutes on a CPU; settings are ours.
    "small": FinetuneConfig(
        preset="small",
        epochs=30,
        batch_size=64,
        base_lr=4e-3,
        layer_decay=0.75,
        warmup_epochs=3.0,
        drop_path=0.0,
        global_pool=None,
        head_init_std=0.02,
        mixup_alpha=0.0,
        cutmix_alpha=0.0,
        crop_area=(0.5, 1.0),
        flip_prob=0.0,
        rand_augment=None,
        erase_prob=0.0,
    ),
}


class Batches(Protocol):
    """Batches of an epoch, which can be counted and gone through again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True, kw_only=True)
class FinetunePlan:
    """Length of a fine-tuning; what schedules need to know."""

    steps_per_epoch: int
    epochs: int
    global_batch_size: int

    @property
    def total_steps(self) -> int:
        """Updates of the whole training."""
        return self.steps_per_epoch * self.epochs


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """What came out.

    Attributes:
        report: Of the last epoch's network on the test images.
        losses: Mean training loss of each epoch.
        network: The classifier, in evaluation mode.
        seconds: Of the training.
    """

    report: ClassificationReport
    losses: tuple[float, ...]
    network: Backbone
    seconds: float


def finetune(
    backbone: Backbone,
    train: Batches,
    test: Iterable[Batch],
    *,
    num_classes: int,
    config: FinetuneConfig,
    normalize: Callable[[Tensor], Tensor],
    input_size: int,
    class_names: list[str] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    autocast: AbstractContextManager[object] | None = None,
) -> FinetuneResult:
    """Train a classifier from a network's weights and score its last epoch on the test images.

    Args:
        backbone: Network to start from; left as it is.
        train: Labelled training batches of one view; each pass over it is an epoch.
        test: Labelled test batches of one view.
        num_classes: Number of classes.
        config: Settings.
        normalize: From the views' values to what the network takes.
        input_size: Side of the training view.
        class_names: For the report.
        seed: Of the classifier's start, mixing and stochastic depth.
        device: Where to train.
        autocast: Context of reduced precision around forward passes.
    """
    key = derive_key(seed, "finetune")
    with seeded(key):
        network = start_network(backbone, num_classes, config, input_size=input_size)
    network.to(device)
    plan = FinetunePlan(
        steps_per_epoch=len(train), epochs=config.epochs, global_batch_size=config.batch_size
    )
    optim = config.optim()
    optimizer = build_optimizer(layer_groups(network, optim), optim)
    precision = autocast or nullcontext()

    def loss_of(batch: Batch, step: int) -> Tensor:
        images, labels = _images_and_labels(batch, normalize, device)
        with precision:
            return training_loss(network, images, labels, num_classes, config, key=key + step)

    began = time.perf_counter()
    losses = tune(
        network,
        lambda _: train,
        loss_of,
        optimizer=optimizer,
        set_rates=lambda step: apply_schedules(optimizer, optim, plan=plan, step=step),
        epochs=config.epochs,
        key_of=lambda step: derive_key(key, step),
        way_out=f"use another finetune.batch_size than {config.batch_size}",
    )
    means = tuple(float(sum(of_epoch) / len(of_epoch)) for of_epoch in losses)
    seconds = time.perf_counter() - began
    network.eval()
    scores, truth = predict(network, test, normalize=normalize, device=device, autocast=precision)
    report = classification_report(scores, truth, class_names=class_names)
    return FinetuneResult(report=report, losses=means, network=network, seconds=seconds)


def start_network(
    backbone: Backbone, num_classes: int, config: FinetuneConfig, *, input_size: int
) -> Backbone:
    """The classifier before its first update; frozen but for the classifier with `tune: head`."""
    network = classifier_from(
        backbone,
        num_classes=num_classes,
        std=config.head_init_std,
        drop_path=0.0 if config.tune == "head" else config.drop_path,
        # A frozen network is read as it was trained.
        global_pool=None if config.tune == "head" else config.global_pool,
        input_size=input_size,
        is_random=config.start == "random",
    )
    if config.tune == "head":
        freeze_all_but_classifier(network)
    return network.train(config.tune == "all")


def layer_groups(network: Backbone, optim: OptimConfig) -> list[ParamGroup]:
    """Parameters with layer decay; no weight decay on 1-d tensors, positions and class tokens."""
    head_names = classifier_names(network)
    exempt: set[str] = getattr(network.model, "no_weight_decay", set)()
    return split_parameters(
        network.named_parameters(),
        config=optim,
        decays=lambda name, p: p.ndim > 1 and name.removeprefix("model.") not in exempt,
        layer_id=lambda name: None if name in head_names else network.layer_id(name),
        num_layers=network.num_layers,
    )


def training_loss(
    network: Backbone,
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    config: FinetuneConfig,
    *,
    key: int,
) -> Tensor:
    """Cross-entropy of mixed images and smoothed labels."""
    even = len(images) // 2 * 2
    if even and (config.mixup_alpha or config.cutmix_alpha):
        images, targets = mix_batch(
            images[:even],
            labels[:even],
            num_classes=num_classes,
            smoothing=config.label_smoothing,
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
            switch_prob=0.5,
            prob=1.0,
            key=derive_key(key, "mix"),
        )
    else:
        targets = smooth_labels(labels, num_classes=num_classes, smoothing=config.label_smoothing)
    logits = classify(network, network(images).pooled)
    return soft_cross_entropy(logits, targets)


@torch.inference_mode()
def predict(
    network: Backbone,
    batches: Iterable[Batch],
    *,
    normalize: Callable[[Tensor], Tensor],
    device: torch.device | str,
    autocast: AbstractContextManager[object],
) -> tuple[Tensor, Tensor]:
    """Scores (N, classes) and labels (N,) of labelled batches, on the CPU."""
    scores, truth = [], []
    for batch in batches:
        images, labels = _images_and_labels(batch, normalize, device)
        with autocast:
            scores.append(classify(network, network(images).pooled).float().cpu())
        truth.append(labels.cpu())
    return torch.cat(scores), torch.cat(truth)


def _images_and_labels(
    batch: Batch, normalize: Callable[[Tensor], Tensor], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    batch = batch.to(device, non_blocking=True)
    (images,) = batch.views.values()
    assert batch.label is not None, "fine-tuning is asked for labelled data only"
    return normalize(images), batch.label.repeat(len(images) // batch.num_samples)
