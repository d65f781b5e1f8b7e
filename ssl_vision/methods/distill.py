"""Distillation: any timm network learns from frozen ones, on images without labels.

Class probabilities, where a teacher has a classifier: SimCLRv2's third stage, Chen, Kornblith,
Swersky, Norouzi, Hinton 2020, arXiv 2006.10029, equation 2. Authors' code: google-research/simclr.
Features otherwise, of one teacher or several, pooled and patch by patch through learned
projections: as AM-RADIO does, Ranzinger et al. 2023, arXiv 2312.06709, section 3.

The student leaves as a plain timm model; projections stay behind, and so do the teachers, of which
a checkpoint keeps only what their weights hash to.

Where we differ:
* SimCLRv2 can add the cross-entropy with labels where there are some; here are none.
* Features of a teacher are compared relative to their running mean (`center_momentum`): in narrow
  cones, where self-supervised networks put all images, the mean is most of every feature.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.classifier import add_classifier, classifier_names, classify
from ssl_vision.bounds import check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.losses.distill import FEATURE_LOSSES, class_distillation
from ssl_vision.methods.base import Method, MethodConfig, TrainPlan, detached, feature_std
from ssl_vision.methods.teachers import TeacherConfig as TeacherConfig
from ssl_vision.methods.teachers import load_teacher, match_classes
from ssl_vision.nn.centering import Center
from ssl_vision.nn.patches import resample_tokens
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.types import Batch, Features, LossOutput, at_least_float32
from ssl_vision.views import ViewConfig


@dataclass(frozen=True, kw_only=True)
class DistillConfig(MethodConfig):
    """Defaults are SimCLRv2's for a student smaller than its teacher."""

    name: Literal["distill"] = "distill"
    teachers: dict[str, TeacherConfig] = field(default_factory=dict)  # of any names
    temperature: float = 1.0  # tau, of classes; 0.1 for a student of the teacher's size
    feature_loss: Literal["cosine", "smooth_l1"] = "cosine"
    patch_weight: float = 1.0  # of the term on patch tokens, beside that on pooled features
    center_momentum: float = 0.99  # of the mean that features are compared about

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ConfigError(
                "method.teachers is empty: name one to learn from, for example "
                "method.teachers.one.weights=runs/dino (a run, an export, zoo:NAME or timm:NAME)."
            )
        check_bounds("method.temperature", self.temperature, above=0)
        check_bounds("method.patch_weight", self.patch_weight, least=0)
        check_bounds("method.center_momentum", self.center_momentum, least=0, most=1)

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """One view, of any name; with `count: k`, k crops of each image, all seen by all."""
        if len(views) != 1:
            raise ConfigError(
                "method.name=distill takes exactly one view, which teacher and student see alike; "
                f"got {', '.join(f'data.views.{name}' for name in views) or 'none'}. For several "
                "crops raise its count."
            )


class Distill(Method):
    """A student, frozen teachers, and what maps the student's features to theirs.

    Attributes:
        teachers: Name -> teacher; no part of the module.
    """

    reading = (
        "One curve per teacher, <code>loss_NAME</code>: of classes a cross-entropy that cannot "
        "fall below the teacher's own entropy (times the squared temperature); of features 1 - "
        "cosine, pooled and patches added up, from about 1 each at the start towards 0. "
        "<code>agreement_NAME</code> is the share of images that both give the same class. Judge "
        "by kNN beside the teacher's own."
    )

    redraws_backbone = False
    config: DistillConfig

    def __init__(
        self, config: DistillConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        self.teachers = {
            name: load_teacher(
                each, modality=backbone.modality, key=f"method.teachers.{name}.weights"
            )
            for name, each in config.teachers.items()
        }
        classes = {
            name: int(teacher.backbone.model.num_classes)
            for name, teacher in self.teachers.items()
            if teacher.has_classes
        }
        if len(set(classes.values())) > 1:
            raise ConfigError(
                f"method.teachers: {classes} have different numbers of classes, and the student "
                "has one classifier; set match=features for some."
            )
        match_classes(self.teachers)
        self._head_names: frozenset[str] = frozenset()
        if classes:
            add_classifier(backbone, num_classes=next(iter(classes.values())), std=0.02)
            self._head_names = classifier_names(backbone)
        self.projections = nn.ModuleDict()
        self.centers = nn.ModuleDict()
        for name, teacher in self.teachers.items():
            if not teacher.has_classes:
                for kind in ("pooled", "patches") if config.patch_weight else ("pooled",):
                    width = teacher.backbone.width
                    self.projections[f"{name}_{kind}"] = nn.Linear(backbone.width, width)
                    self.centers[f"{name}_{kind}"] = Center(width, momentum=config.center_momentum)

    def compute_loss(self, batch: Batch) -> LossOutput:
        """The teachers' terms, weighted."""
        (images,) = batch.views.values()
        student = self.backbone(images)
        metrics = {"feature_std": feature_std(student.pooled)}
        losses = []
        for name, teacher in self.teachers.items():
            seen = teacher(images, shown_as=self.plan.input_spec)
            if teacher.has_classes:
                ours, theirs = classify(self.backbone, student.pooled), teacher.logits(seen)
                loss = class_distillation(ours, theirs, temperature=self.config.temperature)
                is_same = ours.argmax(dim=1) == theirs.argmax(dim=1)
                metrics[f"agreement_{name}"] = is_same.float().mean()
            else:
                loss = self._feature_loss(name, student, seen)
            metrics[f"loss_{name}"] = loss
            losses.append(self.config.teachers[name].weight * loss)
        return LossOutput(loss=torch.stack(losses).sum(), metrics=detached(**metrics))

    def _feature_loss(self, name: str, student: Features, teacher: Features) -> Tensor:
        """Distance of projected features from a teacher's, pooled and patch by patch."""
        loss = self._distance(f"{name}_pooled", student.pooled, teacher.pooled)
        if not self.config.patch_weight:
            return loss
        ours, theirs = student.patches, teacher.patches
        if ours is None or theirs is None:
            raise ConfigError(
                f"method.patch_weight={self.config.patch_weight} compares patches, and the student "
                f"or the teacher {name} has none; set method.patch_weight=0."
            )
        theirs = resample_tokens(at_least_float32(theirs), side=isqrt(ours.shape[1]))
        return loss + self.config.patch_weight * self._distance(f"{name}_patches", ours, theirs)

    def _distance(self, key: str, ours: Tensor, theirs: Tensor) -> Tensor:
        """Of features from a teacher's about its mean; the mean moves with the update."""
        center = self.centers[key]
        assert isinstance(center, Center)
        center.collect(theirs.flatten(0, -2))
        target = at_least_float32(theirs) - center.center
        return FEATURE_LOSSES[self.config.feature_loss](self.projections[key](ours), target)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the first teacher that has some."""
        named = (each.class_names for each in self.teachers.values() if each.class_names)
        return next(named, ())

    def notes(self) -> tuple[str, ...]:
        """What each teacher is, what is learned from it, and which classes meet by number alone."""
        lines = [
            f"teacher {name}: {self.config.teachers[name].weights}, {each.describe()}"
            for name, each in self.teachers.items()
        ]
        scoring = {name: each for name, each in self.teachers.items() if each.has_classes}
        nameless = [name for name, each in scoring.items() if not each.class_names]
        if nameless and len(scoring) > 1:
            lines.append(
                f"teacher {', '.join(nameless)}: no names of classes came with the weights; class "
                "0 is taken for class 0 of the others, and so on."
            )
        return tuple(lines)

    # Around an update --------------------------------------------------------------------

    def after_update(self, step: int) -> None:
        """Means of the teachers' features move."""
        for center in self._centers():
            center.update()

    def after_skip(self, step: int) -> None:
        """Features of a skipped update must not reach the means."""
        for center in self._centers():
            center.discard()

    def _centers(self) -> list[Center]:
        return [center for center in self.centers.values() if isinstance(center, Center)]

    def layer_id(self, name: str) -> int | None:
        """The classifier is a head although the timm model owns it."""
        is_head = name.removeprefix("backbone.") in self._head_names
        return None if is_head else super().layer_id(name)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the teachers' weights hash to, not the weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["teachers"] = {name: each.sha256 for name, each in self.teachers.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other teachers.

        Raises:
            CheckpointError: A teacher's weights are not those the run began with.
        """
        super().on_load_checkpoint(checkpoint)
        for name, teacher in self.teachers.items():
            teacher.check_same(checkpoint["teachers"].get(name))
