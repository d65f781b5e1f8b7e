"""Frozen networks to learn from: loaded by name, shown the student's images as they want them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_vision.backbones.classifier import classify
from ssl_vision.bounds import check_bounds
from ssl_vision.data.config import InputSpec
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.types import Features
from ssl_vision.zoo.weights import LoadedBackbone, resolve_weights


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """A frozen network to learn from."""

    weights: str  # a run or export folder, zoo:NAME or timm:NAME
    match: Literal["auto", "classes", "features"] = "auto"  # auto: classes if it has a classifier
    weight: float = 1.0  # of its terms in the loss
    size_px: int | None = None  # side of what it is shown, resized from the view; null: its own

    def __post_init__(self) -> None:
        check_bounds("weight", self.weight, above=0)
        check_bounds("size_px", self.size_px, least=1)


class FrozenTeacher:
    """A network in evaluation mode that no optimizer, checkpoint or `train()` reaches.

    Attributes:
        backbone: The network; on the device of the images it saw last.
        has_classes: Whether its class scores are learned from, else its features.
        class_names: What its classes are, where they are learned and have names, in the order of
            `logits`.
        sha256: Of its weights.
        weights: What names them.
    """

    def __init__(
        self, loaded: LoadedBackbone, config: TeacherConfig, *, has_classes: bool, key: str
    ) -> None:
        self.backbone = loaded.backbone.eval().requires_grad_(False)
        self.has_classes = has_classes
        self.class_names = loaded.class_names if has_classes else ()
        self.sha256 = loaded.sha256
        self._order: list[int] | None = None  # of its own outputs in `logits`
        self.weights, self._key = config.weights, key
        self._spec = loaded.spec
        self._asked_px = config.size_px
        self._size_px = config.size_px or loaded.input_size

    @torch.no_grad()
    def __call__(self, images: Tensor, *, shown_as: InputSpec | None) -> Features:
        """Features of images as the student is shown them, (B, C, S, S)."""
        held = next(self.backbone.parameters())
        if held.device != images.device or held.dtype != images.dtype:
            self.backbone.to(images)
        return self.backbone(self._as_own(images, shown_as))

    def logits(self, features: Features) -> Tensor:
        """Class scores, (B, classes)."""
        with torch.no_grad():
            scores = classify(self.backbone, features.pooled)
            return scores if self._order is None else scores[:, self._order]

    def take_order(self, names: tuple[str, ...]) -> None:
        """Give class scores in the order of these names, its own in another order."""
        number = {name: row for row, name in enumerate(self.class_names)}
        self._order = [number[name] for name in names]
        self.class_names = names

    def describe(self) -> str:
        """Size, and what is learned from it, in words."""
        millions = sum(p.numel() for p in self.backbone.parameters()) / 1e6
        model = self.backbone.model
        learned = f"{model.num_classes} classes" if self.has_classes else "features"
        return f"{millions:.3g} M parameters, shown {self._size_px} px: its {learned} are learned"

    def _as_own(self, images: Tensor, shown_as: InputSpec | None) -> Tensor:
        """Images of the teacher's side, mean and std."""
        if images.shape[-1] != self._size_px:
            images = F.interpolate(
                images, size=(self._size_px, self._size_px), mode="bicubic", antialias=True
            )
        if shown_as is None or (shown_as.mean, shown_as.std) == (self._spec.mean, self._spec.std):
            return images
        mean, std, own_mean, own_std = (
            images.new_tensor(values)[:, None, None]
            for values in (shown_as.mean, shown_as.std, self._spec.mean, self._spec.std)
        )
        return (images * std + mean - own_mean) / own_std

    def check_size(self) -> None:
        """Refuse a size the network does not take, before anything is trained.

        Raises:
            ConfigError: One line with the setting of the size.
        """
        size_px, asked = self._size_px, self._asked_px
        reason = self.backbone.misfit(size_px)
        if reason is None and asked is not None:
            reason = self._failure(size_px)
        if reason is None:
            return
        owner = self._key.removesuffix(".weights")
        key = f"{owner}.size_px" if owner != self._key else "data.views.NAME.size_px"
        raise ConfigError(
            f"{key}={size_px}: {self._key}={self.weights} does not take images of it: {reason}; "
            f"set {key} to a size it takes" + (", or null for its own." if asked else ".")
        )

    @torch.no_grad()
    def _failure(self, size_px: int) -> str | None:
        """What the network raises on a black image; None where it takes it."""
        held = next(self.backbone.parameters())
        try:
            self.backbone(held.new_zeros(1, *self.backbone.sample_shape(size_px)))
        except Exception as error:  # families check their input in ways of their own
            return (str(error) or type(error).__name__).splitlines()[0][:200]
        return None

    def check_same(self, sha256: object) -> None:
        """Refuse to go on with another teacher than a run began with.

        Args:
            sha256: Of the weights it had then.

        Raises:
            CheckpointError: These are others.
        """
        if sha256 != self.sha256:
            raise CheckpointError(
                f"{self._key}={self.weights} holds other weights than when this run began; "
                "put the old ones back, or take a new run_dir."
            )


def match_classes(teachers: Mapping[str, FrozenTeacher]) -> None:
    """Let all teachers give their class scores in the order of the first that names its classes.

    Raises:
        ConfigError: Two of them name other classes.
    """
    named = [(name, each) for name, each in teachers.items() if each.class_names]
    for name, each in named[1:]:
        first, wanted = named[0][0], named[0][1].class_names
        if each.class_names == wanted:
            continue
        if differing := sorted(set(each.class_names) ^ set(wanted)):
            raise ConfigError(
                f"method.teachers: {first} and {name} have other classes, only one of them "
                f"{', '.join(differing[:3])}, and the student has one classifier; set "
                f"method.teachers.{name}.match=features."
            )
        if len(set(wanted)) < len(wanted):
            raise ConfigError(
                f"method.teachers: {first} and {name} have their classes in another order, and "
                "several of one name, so that they cannot be matched; set "
                f"method.teachers.{name}.match=features."
            )
        each.take_order(wanted)


def load_teacher(config: TeacherConfig, *, modality: str, key: str) -> FrozenTeacher:
    """The teacher of a setting.

    Args:
        config: The setting.
        modality: What the student takes.
        key: Name of the setting that holds the weights, for messages.

    Raises:
        ConfigError: It takes other samples than the student, or has no classifier to learn from.
        CheckpointError: Its weights cannot be read.
    """
    loaded = resolve_weights(config.weights, with_classifier=config.match != "features")
    backbone = loaded.backbone
    if backbone.modality != modality:
        raise ConfigError(
            f"{key}={config.weights} is a network of {backbone.modality}, and the student "
            f"is shown {modality}."
        )
    has_classes = config.match != "features" and int(backbone.model.num_classes) > 0
    if config.match == "classes" and not has_classes:
        raise ConfigError(
            f"{key.removesuffix('.weights')}.match=classes: {config.weights} has no classifier; "
            "use match=features."
        )
    teacher = FrozenTeacher(loaded, config, has_classes=has_classes, key=key)
    teacher.check_size()
    return teacher
