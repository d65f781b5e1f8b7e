"""Largest relative difference between our numbers and those of the authors' official code.

    SSL_VISION_GOLDEN=FOLDER tools/benchmark.py parity

FOLDER holds the golden values (barlow.npz, dino.npz, mae.npz, poa_loss.npz, ...), by default
../shared/golden beside the checkout. A difference is max |ours - theirs| / max |theirs|; 0 means
equal to the last bit. The same comparisons, with tolerances, are in the tests.
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssl_vision import losses, schedules
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.losses.reconstruction import normalize_patches
from ssl_vision.masking import num_kept, random_mask
from ssl_vision.nn.centering import Center
from ssl_vision.nn.decoder import MaskedDecoder
from ssl_vision.nn.heads import PrototypeHead
from ssl_vision.nn.patches import patchify, sincos_2d
from ssl_vision.optim import LARS, OptimConfig, clip_gradients
from ssl_vision.optim.recipe import learning_rate, weight_decay

Golden = dict[str, Any]
Row = tuple[str, float, float | None]  # what, difference of values, of gradients


@dataclass
class Plan:
    """Length of a run, for the schedules."""

    steps_per_epoch: int
    epochs: int
    global_batch_size: int = 256

    @property
    def total_steps(self) -> int:
        """Updates of the run."""
        return self.steps_per_epoch * self.epochs


def difference(ours: Any, theirs: Any) -> float:
    """Max |ours - theirs| / max |theirs|."""
    a = np.asarray(ours.detach() if isinstance(ours, torch.Tensor) else ours, dtype=np.float64)
    b = np.asarray(theirs, dtype=np.float64)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-300))


def barlow_twins(load: Callable[[str], Golden]) -> Iterator[Row]:
    """Loss, rates and LARS."""
    values = load("barlow")
    for case in ("n16_d8", "n32_d24"):
        z = [torch.tensor(values[f"loss_{case}_z{i}"], requires_grad=True) for i in (1, 2)]
        loss = losses.barlow_twins_loss(*z, redundancy_weight=0.0051)
        loss.backward()
        gradients = [difference(z[i].grad, values[f"loss_{case}_grad_z{i + 1}"]) for i in (0, 1)]
        value = difference(loss, values[f"loss_{case}_loss"])
        yield f"Barlow Twins: loss, {case}", value, max(gradients)
    recipe = OptimConfig(name="lars", base_lr=0.2, end_lr_fraction=0.001)
    plan = Plan(50, 1000, 2048)
    rates = [learning_rate(recipe, plan=plan, step=int(s)) for s in values["lr_steps"]]
    yield "Barlow Twins: learning rate", difference(rates, values["lr_weights"]), None
    for decay in ("1e-6", "1e-1"):
        names, prefix = ("p_w", "p_conv", "p_zero", "p_b"), f"lars_wd{decay}_"
        found = [
            _lars(values, prefix + n, values[prefix + ("lrs_1d" if n == "p_b" else "lrs_weights")],
                  weight_decay=float(decay))
            for n in names
        ]  # fmt: skip
        yield f"Barlow Twins: LARS, 3 steps, weight decay {decay}", max(found), None


def _lars(values: Golden, prefix: str, rates: Any, **settings: float) -> float:
    parameter = nn.Parameter(torch.tensor(values[f"{prefix}_init"]))
    optimizer = LARS([parameter], lr=0.0, **settings)
    worst = 0.0
    for step in range(3):
        optimizer.param_groups[0]["lr"] = rates[step]
        parameter.grad = torch.tensor(values[f"{prefix}_grad{step}"])
        optimizer.step()
        worst = max(worst, difference(parameter, values[f"{prefix}_after{step}"]))
    return worst


def dino(load: Callable[[str], Golden]) -> Iterator[Row]:
    """Loss with its centre, heads, schedules, clip."""
    values = load("dino")
    center, found = Center(12, momentum=0.9), []
    for step, epoch in enumerate(values["loss_epochs"]):
        student = torch.tensor(values[f"loss_step{step}_student"], requires_grad=True)
        teacher = torch.tensor(values[f"loss_step{step}_teacher"])
        loss = losses.dino_loss(
            student,
            teacher,
            center=center.center,
            student_temperature=0.1,
            teacher_temperature=float(values["loss_teacher_temp_schedule"][epoch]),
            num_views=5,
        )
        loss.backward()
        center.collect(teacher)
        center.update()
        prefix = f"loss_step{step}_"
        found.append(
            (
                difference(loss, values[prefix + "loss"]),
                difference(student.grad, values[prefix + "grad_student"]),
                difference(center.center, values[prefix + "center_after"]),
            )
        )
    value, gradient, moved = np.max(found, axis=0)
    yield "DINO: loss, 4 steps", float(value), float(gradient)
    yield "DINO: centre after each step", float(moved), None
    for case, settings in (("plain", {}), ("bn", {"has_batch_norm": True}),
                           ("oneLayer", {"num_layers": 1})):  # fmt: skip
        yield _dino_head(values, f"head_{case}_", settings)
    steps = range(42)
    rates = [
        schedules.warmup_cosine(i, start=0.0, peak=1e-3, end=1e-6, warmup_steps=14,
                                total_steps=42, is_peak_included=True)
        for i in steps
    ]  # fmt: skip
    yield "DINO: learning rate", difference(rates, values["sched_lr_full"]), None
    for name, key, start, end in (
        ("weight decay", "sched_wd_full", 0.04, 0.4),
        ("teacher momentum", "sched_ema_full", 0.996, 1.0),
    ):
        curve = [schedules.cosine(i, start=start, end=end, total_steps=42) for i in steps]
        yield f"DINO: {name}", difference(curve, values[key]), None
    parameters = [nn.Parameter(torch.tensor(values[f"clip_{n}_grad_before"])) for n in "ab"]
    for parameter in parameters:
        parameter.grad = parameter.detach().clone()
    clip_gradients([parameters], max_norm=float(values["clip_value"]), mode="per_tensor")
    found_clip = [
        difference(p.grad, values[f"clip_{n}_grad_after"])
        for n, p in zip("ab", parameters, strict=True)
    ]
    yield "DINO: clip per tensor", max(found_clip), None


def _dino_head(values: Golden, prefix: str, settings: dict[str, Any]) -> Row:
    head = PrototypeHead(6, 9, hidden_dim=10, bottleneck_dim=4, **settings)
    start = prefix + "state_"
    state = {k.removeprefix(start): torch.tensor(v) for k, v in values.items() if start in k}
    head.load_state_dict(state, strict=False)
    x = torch.tensor(values[prefix + "in"], requires_grad=True)
    out = head(x)
    out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
    return (
        f"DINO: head, {prefix.split('_')[1]}",
        difference(out, values[prefix + "out"]),
        difference(x.grad, values[prefix + "grad_in"]),
    )


def mae(load: Callable[[str], Golden]) -> Iterator[Row]:
    """Positions, patches, loss, whole forward, rates."""
    values = load("mae")
    tables = [
        difference(
            sincos_2d(dim, grid=grid, num_prefix=1),
            values[f"sincos_dim{dim}_grid{grid}_cls"].astype(np.float32),
        )
        for dim, grid in ((8, 3), (16, 4), (32, 14))
    ]
    yield "MAE: sine-cosine positions", max(tables), None
    patches = patchify(torch.tensor(values["image"]), patch_px=4)
    yield "MAE: patches", difference(patches, values["patchify"]), None
    for is_normalized in (0, 1):
        pred = torch.tensor(values["loss_pred"], requires_grad=True)
        target = normalize_patches(patches) if is_normalized else patches
        loss = losses.masked_patch_loss(pred, target, torch.tensor(values["loss_mask"]))
        loss.backward()
        key = f"loss_normpix{is_normalized}"
        kind = "normalised" if is_normalized else "plain"
        gradient = difference(pred.grad, values[f"{key}_grad_pred"])
        yield f"MAE: loss, {kind} target", difference(loss, values[key]), gradient
    yield from _mae_forward(values, patches)
    recipe, plan = OptimConfig(base_lr=1.5e-4, warmup_epochs=40), Plan(1000, 800, 4096)
    rates = [learning_rate(recipe, plan=plan, step=round(e * 1000)) for e in values["lr_epochs"]]
    expected = values["lr_plain_and_half_scale"][:, 0]
    yield "MAE: learning rate", difference(rates, expected), None
    found = [_lars(values, f"lars_{name}", [6.4] * 3) for name in ("p0", "p1")]
    yield "MAE: LARS of the linear probe, 3 steps", max(found), None


def _mae_forward(values: Golden, patches: torch.Tensor) -> Iterator[Row]:
    size = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0}
    backbone = build_backbone(BackboneConfig(name="vit_tiny_patch16_224", args=size), input_size=16)
    decoder = MaskedDecoder(24, 48, grid=4, width=16, depth=1, num_heads=2, mlp_ratio=2.0)
    states: dict[bool, dict[str, torch.Tensor]] = {False: {}, True: {}}
    for key in (k for k in values if k.startswith("full_state_")):
        name = key.removeprefix("full_state_")
        is_decoder = name.startswith("decoder_") or name == "mask_token"
        states[is_decoder][name.removeprefix("decoder_")] = torch.tensor(values[key])
    backbone.model.load_state_dict(states[False])
    decoder.load_state_dict(states[True])
    split = random_mask(torch.tensor(values["mask_noise"]), num_keep=num_kept(16, mask_ratio=0.75))
    latent = backbone.forward_visible(torch.tensor(values["image"]), keep=split.keep)
    pred = decoder(latent, restore=split.restore)
    loss = losses.masked_patch_loss(pred, patches, split.mask)
    loss.backward()
    yield "MAE: encoder", difference(latent, values["full_latent"]), None
    yield "MAE: prediction", difference(pred, values["full_pred"]), None
    gradient = max(
        difference(
            backbone.model.patch_embed.proj.weight.grad, values["full_grad_patch_embed_weight"]
        ),
        difference(decoder.mask_token.grad, values["full_grad_mask_token"]),
    )
    yield "MAE: whole step", difference(loss, values["full_loss_normpix0"]), gradient


def simclr(load: Callable[[str], Golden]) -> Iterator[Row]:
    """NT-Xent, LARS in classic-momentum order, rates, distillation."""
    values = load("simclr_tf")
    for temperature in (0.1, 0.5, 1.0):
        hidden = torch.tensor(values["ntx_hidden"], requires_grad=True)
        loss = 2 * losses.nt_xent_loss(*hidden.chunk(2), temperature=temperature).loss
        loss.backward()
        yield (
            f"SimCLR: twice NT-Xent, temperature {temperature}",
            difference(loss.detach(), values[f"ntx_loss_T{temperature}"]),
            difference(hidden.grad, values[f"ntx_grad_T{temperature}"]),
        )
    names = ("conv.kernel", "batch_normalization.gamma", "head_supervised.kernel")
    params = [nn.Parameter(torch.tensor(values[f"lars_init_{name}"])) for name in names]
    groups = [{"params": [p], "is_adapted": p.shape == (3, 4)} for p in params]
    optimizer = LARS(groups, lr=0.5, weight_decay=0.01, is_lr_in_momentum=True)
    worst = 0.0
    for step in range(3):
        for name, param in zip(names, params, strict=True):
            param.grad = torch.tensor(values[f"lars_grad_{name}_{step}"])
        optimizer.step()
        for name, param in zip(names, params, strict=True):
            worst = max(
                worst, difference(param.detach(), values[f"lars_classic_{name}_step{step}"])
            )
    yield "SimCLR: LARS with the rate in the momentum, 3 steps", worst, None
    for temperature in (0.1, 1.0, 2.0):
        student = torch.tensor(values["kd_student"], requires_grad=True)
        loss = losses.class_distillation(
            student, torch.tensor(values["kd_teacher"]), temperature=temperature
        )
        loss.backward()
        yield (
            f"SimCLRv2: distillation of classes, temperature {temperature}",
            difference(loss.detach(), values[f"kd_loss_T{temperature}"]),
            difference(student.grad, values[f"kd_grad_T{temperature}"]),
        )


def shared_parts(load: Callable[[str], Golden]) -> Iterator[Row]:
    """What POA, Point-MAE and SMMix share with the methods above."""
    values = load("poa_loss")
    q = losses.sinkhorn(torch.tensor(values["sk.logits"]), temperature=0.07)
    yield "POA: Sinkhorn", difference(q, values["sk.out_t0.07"]), None
    keys = [k for k in values if "koleo." in k and k.endswith(".in")]
    found = [
        difference(losses.koleo(torch.tensor(values[k])), values[k[:-2] + "out"]) for k in keys
    ]
    yield "POA: KoLeo, 9 batches", max(found), None
    for recipe, plan, warmup_epochs, scale in (
        ("vit", Plan(800, 346, 1600), 10, 0.78),
        ("swin", Plan(625, 346, 2048), 30, 0.90),
        ("resnet", Plan(1000, 692, 1280), 30, 1.0),
    ):
        config = OptimConfig(
            base_lr=0.004, lr_scaling="sqrt", lr_reference_batch=1024, end_lr=2e-5,
            warmup_epochs=warmup_epochs, is_peak_in_warmup=True,
            weight_decay=0.04, weight_decay_end=0.4, schedule_stretch=1 / scale,
        )  # fmt: skip
        steps = [int(s) for s in values[f"sched.{recipe}.iters"]]
        rates = [learning_rate(config, plan=plan, step=s) for s in steps]
        decays = [weight_decay(config, plan=plan, step=s) for s in steps]
        worst = max(
            difference(rates, values[f"sched.{recipe}.lr"]),
            difference(decays, values[f"sched.{recipe}.wd"]),
        )
        yield f"POA: learning rate and weight decay, {recipe}", worst, None
    for name, key, warmup_epochs, end in (
        ("point", "lr_per_epoch_used_301", 10, 1e-6),
        ("smmix", "lr_per_epoch_used_300", 5, 1e-5),
    ):
        expected = load(name)[key]
        rates = [
            schedules.timm_cosine(i, start=1e-6, peak=1e-3, end=end,
                                  warmup_epochs=warmup_epochs, total_epochs=300)
            for i in range(len(expected))
        ]  # fmt: skip
        title = {"point": "Point-MAE", "smmix": "SMMix"}[name]
        yield f"{title}: learning rate per epoch", difference(rates, expected), None


def main(arguments: list[str]) -> int:
    """Print the table; the exit status."""
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("SSL_VISION_GOLDEN") or root.parent / "shared" / "golden")
    if arguments or not folder.is_dir():
        print(
            f"{__doc__}\n{folder} is not a folder." if not arguments else __doc__, file=sys.stderr
        )
        return 2

    def load(name: str) -> Golden:
        with np.load(folder / f"{name}.npz") as arrays:
            return dict(arrays)

    torch.set_num_threads(1)  # sums in the order of the authors' run
    print("| what | value | gradient |\n| --- | --- | --- |")
    for part in (barlow_twins, dino, mae, simclr, shared_parts):
        for what, value, gradient in part(load):
            print(f"| {what} | {value:.1e} | {'' if gradient is None else f'{gradient:.1e}'} |")
    return 0
