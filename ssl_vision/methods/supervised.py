"""Supervised training, from scratch (DeiT's recipe) or fine-tuning, with SMMix as a choice.

DeiT: Touvron et al. 2020, arXiv 2012.12877. Fine-tuning: MAE, He et al. 2021, arXiv 2111.06377,
appendix A.1. SMMix: Chen et al. 2022, arXiv 2212.12977, and github.com/ChenMnZ/SMMix.

Where we differ from SMMix's code:
    The coin between SMMix and Mixup, the region side and lambda are equal on all processes (where
    there is no SMMix, Mixup and CutMix are drawn per process, as DeiT's and MAE's) and drawn from
    (seed, step); theirs are per process, the side unseeded.
    The pass that finds the regions runs in the precision of the run; theirs always in float32.
    Class tokens start as timm's, N(0, 1e-6); theirs, as DeiT's, from N(0, 0.02).
    An EMA of the weights, if asked for, does follow the weights; theirs is stored at its start.
    Optional: the class token's row, or the EMA teacher, as source of the map.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_vision.backbones.attention import check_attention, forward_with_attention
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import set_drop_path
from ssl_vision.backbones.classifier import (
    add_classifier,
    add_head_layers,
    classifier_names,
    classify,
    freeze_all_but_classifier,
    init_linear,
    load_head_layers,
)
from ssl_vision.bounds import MAX_LAYERS, check_bounds, check_prob
from ssl_vision.distributed import rank
from ssl_vision.errors import ConfigError
from ssl_vision.losses.smmix import (
    masked_token_means,
    smmix_loss,
    smooth_labels,
    soft_cross_entropy,
)
from ssl_vision.methods.base import Method, MethodConfig, TrainPlan, detached
from ssl_vision.mixing.smmix import (
    draw_region_side,
    max_min_regions,
    paste_regions,
    square_side,
)
from ssl_vision.nn.ema import EmaTeacher
from ssl_vision.nn.mixup import mix_batch
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.randomness import derive_key, keyed_generator
from ssl_vision.types import Batch, LossOutput
from ssl_vision.views import ViewConfig


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """How images of a batch are mixed with those of the batch reversed."""

    name: Literal["none", "mixup", "cutmix", "mixup_cutmix", "smmix"] = "none"
    prob: float = 1.0  # of mixing a batch at all
    switch_prob: float = 0.5  # of CutMix (mixup_cutmix) or SMMix (smmix); Mixup otherwise
    mixup_alpha: float = 0.8  # both parameters of the Beta distribution
    cutmix_alpha: float = 1.0
    min_side: float = 0.25  # smmix: side of the pasted square, fraction of the image's
    max_side: float = 0.75
    queries: Literal["patches", "class"] = "patches"  # smmix: whose attention is the map
    map_from: Literal["student", "teacher"] = "student"  # smmix: teacher is the EMA's last state

    def __post_init__(self) -> None:
        check_prob("method.mixing.prob", self.prob)
        check_prob("method.mixing.switch_prob", self.switch_prob)
        for name in ("mixup_alpha", "cutmix_alpha"):
            check_bounds(f"method.mixing.{name}", getattr(self, name), above=0)
        if not 0 < self.min_side <= self.max_side < 1:
            raise ConfigError(
                f"method.mixing.min_side={self.min_side} and max_side={self.max_side} must rise "
                "between 0 and 1."
            )


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(MethodConfig):
    """Defaults train from scratch; recipes of fine-tuning say what they change."""

    name: Literal["supervised"] = "supervised"
    tune: Literal["all", "head"] = "all"  # head: a frozen backbone in evaluation mode
    from_head_layer: int = 0  # SimCLR's layers kept below the classifier; 1 in SimCLRv2
    mixing: MixingConfig = field(default_factory=MixingConfig)
    label_smoothing: float = 0.1
    head_init_std: float = 0.02  # MAE's fine-tuning starts from 2e-5
    head_lr_factor: float = 1.0  # of the classifier, beside the backbone's rate
    ema_momentum: float | None = None  # per update; its weights are evaluated and exported

    def __post_init__(self) -> None:
        check_bounds("method.label_smoothing", self.label_smoothing, least=0, below=1)
        check_bounds("method.from_head_layer", self.from_head_layer, least=0, most=MAX_LAYERS)
        for name in ("head_init_std", "head_lr_factor"):
            check_bounds(f"method.{name}", getattr(self, name), above=0)
        check_bounds("method.ema_momentum", self.ema_momentum, least=0, below=1)
        is_smmix = self.mixing.name == "smmix"
        if is_smmix and self.tune == "head":
            raise ConfigError(
                "method.mixing.name=smmix trains output tokens, which method.tune=head freezes; "
                "use method.tune=all or another mixing."
            )
        if is_smmix and self.mixing.map_from == "teacher" and self.ema_momentum is None:
            raise ConfigError(
                "method.mixing.map_from=teacher needs a teacher; set method.ema_momentum=0.999."
            )

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """One view, of any name; its `count` is the number of repeats of each image."""
        if len(views) != 1:
            raise ConfigError(
                f"method.name=supervised takes exactly one view, as data.views.train; got "
                f"{', '.join(f'data.views.{name}' for name in views) or 'none'}. For repeated "
                "augmentation raise its count."
            )

    def check_start(self, init_from: str | None) -> None:
        """Layers of a pretraining's head come with its weights, and from nowhere else."""
        if self.from_head_layer and init_from is None:
            raise ConfigError(
                f"method.from_head_layer={self.from_head_layer} starts inside the head of a "
                "pretraining, and init_from=null names none; set init_from= to weights of "
                "method.name=simclr (a run or an export), or method.from_head_layer=0."
            )


class Supervised(Method):
    """A classifier; it is the timm model's own, so that exports are plain timm classifiers."""

    reading = (
        "The loss is the cross-entropy with the labels; with mixed images and smoothed labels it "
        "stays well above 0 however good the network is. Judge by the validation accuracy."
    )

    reads_labels = True
    config: SupervisedConfig

    def __init__(
        self,
        config: SupervisedConfig,
        backbone: Backbone,
        *,
        optim: OptimConfig,
        plan: TrainPlan,
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        if plan.num_classes is None:
            raise ConfigError(
                "method.name=supervised needs labels; give data.path a folder with one folder per "
                "class, or a labelled set."
            )
        self.num_classes = plan.num_classes
        if config.from_head_layer:
            add_head_layers(backbone, num_layers=config.from_head_layer)
        add_classifier(backbone, num_classes=self.num_classes, std=config.head_init_std)
        self._head_names = classifier_names(backbone)
        self.token_head: nn.Linear | None = None
        if config.mixing.name == "smmix":
            check_attention(backbone, queries=config.mixing.queries)
            _check_grid(backbone, size_px=plan.input_size)
            self.token_head = nn.Linear(backbone.width, self.num_classes)
            init_linear(self.token_head, std=config.head_init_std)
        if config.tune == "head":
            freeze_all_but_classifier(backbone)
        self.teacher: EmaTeacher[Backbone] | None = None
        if config.ema_momentum is not None:
            self.teacher = EmaTeacher(backbone)
            set_drop_path(self.teacher, 0.0)
        self.train()

    # The algorithm -----------------------------------------------------------------------

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Cross-entropy of mixed images and labels, or SMMix's three terms."""
        images, labels = self._images_and_labels(batch)
        mixing, smoothing = self.config.mixing, self.config.label_smoothing
        generator = keyed_generator(self.key("mixing"))
        is_mixed, is_smmix = torch.rand(2, generator=generator).lt(
            torch.tensor([mixing.prob, mixing.switch_prob])
        )
        if mixing.name == "smmix" and is_mixed and is_smmix:
            return self._smmix_loss(images, labels, generator)
        if mixing.name == "none" or not is_mixed or len(images) < 2:
            targets = smooth_labels(labels, num_classes=self.num_classes, smoothing=smoothing)
        else:
            even = len(images) // 2 * 2  # partners are pairs: a last odd image sits out
            images, targets = mix_batch(
                images[:even],
                labels[:even],
                num_classes=self.num_classes,
                smoothing=smoothing,
                mixup_alpha=0.0 if mixing.name == "cutmix" else mixing.mixup_alpha,
                cutmix_alpha=mixing.cutmix_alpha if "cutmix" in mixing.name else 0.0,
                switch_prob=mixing.switch_prob,
                prob=1.0,
                key=self._mixup_key(),
            )
        logits = self.logits(images)
        loss = soft_cross_entropy(logits, targets)
        metrics = detached(classification=loss, accuracy=_accuracy(logits, targets))
        if self.token_head is not None:  # DDP wants every parameter in every step's graph
            loss = loss + 0.0 * sum(p.sum() for p in self.token_head.parameters())
        return LossOutput(loss, metrics)

    def _mixup_key(self) -> int:
        """Key of a batch's draws: per process, as in DeiT and MAE; SMMix draws once for all."""
        key = self.key("mixup")
        if self.config.mixing.name == "smmix":
            return key
        return derive_key(key, self.micro_step, rank())

    def _smmix_loss(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> LossOutput:
        """Find regions without mixing, mix, and train on the mixed images (section 3)."""
        mixing, token_head = self.config.mixing, self.token_head
        assert token_head is not None
        unmixed_logits, attention = self._look(images)
        grid_side = square_side(attention.shape[1])
        side = draw_region_side(
            grid_side, min_side=mixing.min_side, max_side=mixing.max_side, generator=generator
        )
        regions = max_min_regions(attention, side=side)
        mixed = paste_regions(images, regions, side=side, grid_side=grid_side)
        features = self.backbone(mixed.images)
        assert features.patches is not None
        # Networks that average their patches norm after the average: so are regions of them.
        norm = getattr(self.backbone.model, "fc_norm", nn.Identity())
        means = masked_token_means(features.patches, mixed.is_source)
        target, source = (norm(mean) for mean in means)
        terms = smmix_loss(
            classify(self.backbone, features.pooled),
            token_head(target),
            token_head(source),
            unmixed_logits,
            smooth_labels(
                labels, num_classes=self.num_classes, smoothing=self.config.label_smoothing
            ),
            area=mixed.target_area,
        )
        accuracy = (unmixed_logits.argmax(dim=1) == labels).float().mean()
        return LossOutput(terms.total, detached(**terms._asdict(), accuracy=accuracy))

    @torch.no_grad()
    def _look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and attention map of un-mixed images, (B, classes) and (B, N)."""
        mixing = self.config.mixing
        network = self.backbone
        if mixing.map_from == "teacher":
            assert self.teacher is not None
            network = self.teacher.network
        was_training = network.training
        network.eval()
        features = forward_with_attention(network, images, queries=mixing.queries)
        network.train(was_training)
        assert features.attention is not None
        return classify(network, features.pooled), features.attention

    def after_update(self, step: int) -> None:
        """The average follows; batch-norm statistics are copied, they are averages already."""
        if self.teacher is None or self.config.ema_momentum is None:
            return
        self.teacher.update(self.backbone, momentum=self.config.ema_momentum)
        buffers = zip(self.teacher.network.buffers(), self.backbone.buffers(), strict=True)
        for average, value in buffers:
            average.copy_(value)

    # What others ask ---------------------------------------------------------------------

    def logits(self, images: Tensor) -> Tensor:
        """Class scores of normalised images by the network in training, (B, classes)."""
        if self.config.tune == "head":
            with torch.no_grad():
                pooled = self.backbone(images).pooled
        else:
            pooled = self.backbone(images).pooled
        return classify(self.backbone, pooled)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Class scores by the network that is exported, in evaluation mode, (B, classes)."""
        network = self.export_backbone()
        was_training = network.training
        network.eval()
        scores = classify(network, network(images).pooled)
        network.train(was_training)
        return scores

    def export_backbone(self) -> Backbone:
        """The average of the weights where there is one."""
        return self.backbone if self.teacher is None else self.teacher.network

    def take_heads(self, heads: Mapping[str, Tensor], *, source: str) -> None:
        """Start the layers below the classifier from a pretraining's, if there are any."""
        if self.config.from_head_layer:
            load_head_layers(self.backbone, heads, source=source)

    def on_weights_loaded(self) -> None:
        """Let the average start from weights that came after construction (`init_from`)."""
        if self.teacher is not None:
            self.teacher.restart(self.backbone)

    def train(self, mode: bool = True) -> "Supervised":
        """The average, and a frozen backbone, stay in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        if self.config.tune == "head":
            self.backbone.eval()
        return self

    # Roles of parameters -----------------------------------------------------------------

    def layer_id(self, name: str) -> int | None:
        """Depth by MAE's counting; the classifier is a head although the timm model owns it."""
        is_above = self._is_head(name) or name.startswith("backbone.head_layers.")
        return None if is_above else super().layer_id(name)

    def lr_factor(self, name: str) -> float:
        """Heads learn at another rate than the backbone, by `head_lr_factor`."""
        is_head = self._is_head(name) or name.startswith("token_head.")
        return self.config.head_lr_factor if is_head else 1.0

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Not biases and norms, nor what timm exempts: positions and class tokens."""
        no_decay: set[str] = getattr(self.backbone.model, "no_weight_decay", set)()
        is_exempt = name.removeprefix("backbone.model.") in no_decay
        return super().decays(name, parameter) and not is_exempt

    def _is_head(self, name: str) -> bool:
        return name.removeprefix("backbone.") in self._head_names

    def _images_and_labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The one view and its labels, repeated as often as the images are."""
        (images,) = batch.views.values()
        assert batch.label is not None, "a labelled set yields labels"
        return images, batch.label.repeat(len(images) // batch.num_samples)


def _check_grid(backbone: Backbone, *, size_px: int) -> None:
    """Raise ConfigError unless the image is a whole number of square cells."""
    grid_side = square_side(backbone.num_patches(size_px))
    if size_px % grid_side:
        raise ConfigError(
            f"method.mixing.name=smmix pastes whole cells of the network's {grid_side} x "
            f"{grid_side} grid, and data.views.NAME.size_px={size_px} does not divide by it; use "
            f"data.views.NAME.size_px={size_px // grid_side * grid_side}."
        )


def _accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of images whose heaviest label is predicted."""
    return (logits.argmax(dim=1) == targets.argmax(dim=1)).float().mean()
