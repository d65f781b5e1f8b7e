"""A student learns what a random network, which never changes, answers to the same images.

Sarnthein, Bachmann, Anagnostidis, Hofmann 2023, "Random Teachers are Good Teachers", arXiv
2302.12091. Authors' code: safelix/dinopl, dino.py with `t_mode=no_update` and init_distill.py.
It is DINO without what teaches: no augmentation, no average, no centre, temperatures of 1. A
diagnostic: whatever the student's features gain comes of learning alone.

Where we differ:
* The authors' dino.py computes normalised prototypes and then does not use them; their
  init_distill.py, and the paper, do. `is_head_normalized: false` is the former.
* Their init_distill.py has ReLU in the head, their dino.py (as here) GELU.
* As in their code, parameters between two networks are all moved alike, the scales of batch norms
  too: near the teacher they start at 1 + distance.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.bounds import check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.losses.distillation import centered_targets, cross_entropy_rows, entropy
from ssl_vision.methods.base import (
    Method,
    MethodConfig,
    TrainPlan,
    detached,
    feature_std,
)
from ssl_vision.methods.checks import check_prototype_head, check_view_names
from ssl_vision.nn.ema import FrozenCopy
from ssl_vision.nn.heads import PrototypeHead
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.randomness import derive_key, seeded
from ssl_vision.types import Batch, LossOutput, at_least_float32
from ssl_vision.views import ViewConfig

StudentInit = Literal["teacher", "near", "between", "independent"]
_AT_DISTANCE = ("near", "between")


@dataclass(frozen=True, kw_only=True)
class RandomTeacherConfig(MethodConfig):
    """Defaults are those of the authors' runs on CIFAR-10."""

    name: Literal["random_teacher"] = "random_teacher"
    loss: Literal["cross_entropy", "kl", "mse"] = "cross_entropy"  # kl has the same gradient
    student_temperature: float = 1.0
    teacher_temperature: float = 1.0
    # Where the student starts: t, t + d f, (1 - d) t + d f, or f, of the teacher's weights t and
    # those f of another draw
    student_init: StudentInit = "teacher"
    student_distance: float | None = None  # d of near (epsilon) and between (alpha, 0 to 1)
    is_variance_preserved: bool = False  # near, between: divide so that the weights keep their size
    # Head
    num_prototypes: int = 65536  # K
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    num_head_layers: int = 3
    is_head_normalized: bool = True  # false: prototypes of any length, as the authors' dino.py

    def __post_init__(self) -> None:
        # The softmax of one logit is 1 whatever it is; squared errors may have one.
        check_bounds(
            "method.num_prototypes", self.num_prototypes, least=1 if self.loss == "mse" else 2
        )
        check_prototype_head(self)
        for name in ("student_temperature", "teacher_temperature"):
            check_bounds(f"method.{name}", getattr(self, name), above=0, below=math.inf)
        self._check_start()

    def _check_start(self) -> None:
        distance, init = self.student_distance, self.student_init
        if init not in _AT_DISTANCE:
            if distance is not None or self.is_variance_preserved:
                given = (
                    "is_variance_preserved=true" if distance is None
                    else f"student_distance={distance}"
                )  # fmt: skip
                raise ConfigError(
                    f"method.{given} has no meaning with method.student_init={init}; use near or "
                    "between, or leave it out."
                )
            return
        most = 1.0 if init == "between" else math.inf
        if distance is None or not 0 <= distance <= most or math.isinf(distance):
            allowed = "from 0 (the teacher) to 1 (another draw)" if most == 1 else "0 or more"
            raise ConfigError(
                f"method.student_distance={'null' if distance is None else distance}: "
                f"method.student_init={init} needs a number {allowed}."
            )

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """One view, `view`, which both see alike; drawn once or more."""
        check_view_names(views, required=("view",), repeatable=("view",), method=self.name)


class RandomTeacher(Method):
    """A student, and a frozen random network of the same kind, each a backbone and a head.

    Attributes:
        teacher: The random backbone, in evaluation mode: its batch norms scale by what they have
            stored, which is nothing, while the student's see the batch.
    """

    reading = (
        "<code>kl</code> is what separates the student's answers from the random teacher's; the "
        "loss is that plus <code>teacher_entropy</code>, which never changes much and is near "
        "ln K, so its curve looks flat. A falling <code>kl</code> says that the student comes to "
        "answer alike, not that its features are good: judge by kNN or a probe, beside those of "
        "the start, which are the teacher's. Gains are modest; this method is a diagnostic."
    )

    config: RandomTeacherConfig

    def __init__(
        self,
        config: RandomTeacherConfig,
        backbone: Backbone,
        *,
        optim: OptimConfig,
        plan: TrainPlan,
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        self.head = _head(config, backbone.width)
        self.teacher = FrozenCopy(backbone)
        self.teacher_head = FrozenCopy(self.head)
        self._place(self.backbone, self._other_backbone)
        self._place(self.head, lambda: _head(config, backbone.width))

    # The algorithm -----------------------------------------------------------------------

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Distance of the student's answers from the teacher's to the same images."""
        config, images = self.config, batch.views["view"]
        student = self.backbone(images).pooled
        logits = self.head(student)  # (B, K)
        answers = self.teacher_head(self.teacher(images).pooled)
        targets = centered_targets(answers, center=0.0, temperature=config.teacher_temperature)
        rows = cross_entropy_rows(logits, targets, temperature=config.student_temperature)
        cross_entropy, of_teacher = rows.mean(), entropy(targets)
        kl = cross_entropy - of_teacher
        losses = {"cross_entropy": cross_entropy, "kl": kl}
        loss = losses.get(config.loss)
        if loss is None:
            loss = _squared_error(
                logits,
                answers,
                temperatures=(config.student_temperature, config.teacher_temperature),
            )
        metrics = {"kl": kl, "teacher_entropy": of_teacher, "feature_std": feature_std(student)}
        return LossOutput(loss=loss, metrics=detached(**metrics))

    # Where it starts -----------------------------------------------------------------------

    def _place(self, student: nn.Module, draw: Callable[[], nn.Module]) -> None:
        """Move a student from its teacher's weights to where the settings want it to start.

        Args:
            student: Of the teacher's weights.
            draw: Gives another of random weights.
        """
        config = self.config
        if config.student_init == "teacher":
            return
        with seeded(derive_key(self.plan.seed, "random teacher's student", type(student).__name__)):
            fresh = draw()
        with torch.no_grad():
            for name, weight in student.named_parameters():
                if weight.requires_grad:
                    weight.copy_(self._between(weight, fresh.get_parameter(name)))

    def _between(self, teacher: Tensor, fresh: Tensor) -> Tensor:
        config, d = self.config, self.config.student_distance
        fresh = fresh.to(teacher)
        if d is None:
            return fresh
        if config.student_init == "near":
            moved, variance = teacher + d * fresh, 1 + d**2
        else:
            moved, variance = (1 - d) * teacher + d * fresh, (1 - d) ** 2 + d**2
        return moved / math.sqrt(variance) if config.is_variance_preserved else moved

    def _other_backbone(self) -> Backbone:
        if self.backbone.redraw is None:
            raise ConfigError(
                f"method.student_init={self.config.student_init} draws a network like "
                f"{self.backbone.architecture} anew, which works for networks of a recipe; use "
                "student_init=teacher for one that was handed over."
            )
        return self.backbone.redraw()

    def on_weights_loaded(self) -> None:
        """The teacher is given these weights, and the student starts from there again."""
        self.teacher.restart(self.backbone)
        self._place(self.backbone, self._other_backbone)

    def notes(self) -> tuple[str, ...]:
        """Where the first gradient is 0 but for rounding."""
        has_batch_norm = any(
            isinstance(m, nn.modules.batchnorm._NormBase) for m in self.backbone.modules()
        )
        is_equal = self.config.student_init == "teacher" or self.config.student_distance == 0
        if has_batch_norm or not is_equal:
            return ()
        return (
            "the student starts equal to its teacher, and without batch norms it answers alike: "
            "the first gradients are rounding errors, which AdamW makes as large as any. "
            "method.student_init=near method.student_distance=0.1 starts beside it",
        )


def _squared_error(
    student: Tensor, teacher: Tensor, *, temperatures: tuple[float, float]
) -> Tensor:
    """Mean over prototypes and batch of the squared difference of logits over temperatures."""
    ours, theirs = at_least_float32(student), at_least_float32(teacher)
    return (ours / temperatures[0] - theirs / temperatures[1]).square().mean()


def _head(config: RandomTeacherConfig, width: int) -> PrototypeHead:
    return PrototypeHead(
        width,
        config.num_prototypes,
        hidden_dim=config.hidden_dim,
        bottleneck_dim=config.bottleneck_dim,
        num_layers=config.num_head_layers,
        is_last_normalized=config.is_head_normalized,
        last_std=0.02,
    )
