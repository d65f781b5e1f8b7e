import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.data.config import InputSpec
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.mae import Mae, MaeConfig
from ssl_vision.nn.decoder import MaskedDecoder
from ssl_vision.nn.patches import sincos_2d
from ssl_vision.optim import OptimConfig
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig
from ssl_vision.zoo.export import export_backbone

PLAN = TrainPlan(steps_per_epoch=3, epochs=2, global_batch_size=64, input_size=16)
RECIPE = OptimConfig(base_lr=4e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=1)


def _method(*, name="vit_tiny_patch16_224", optim=RECIPE, size_px=16, args=None, **settings):
    torch.manual_seed(0)
    small = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0}
    backbone = build_backbone(
        BackboneConfig(name=name, args=small if args is None else args), input_size=size_px
    )
    sizes = {"decoder_width": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    plan = TrainPlan(steps_per_epoch=3, epochs=2, global_batch_size=64, input_size=size_px)
    return Mae(MaeConfig(**{**sizes, **settings}), backbone, optim=optim, plan=plan)


def _load_authors_weights(method, values):
    """Weights of the golden model; only the decoder's names differ."""
    encoder, decoder = {}, {}
    for key, value in values.items():
        name = key.removeprefix("full_state_")
        if name == key:
            continue
        if name.startswith("decoder_") or name == "mask_token":
            decoder[name.removeprefix("decoder_")] = torch.tensor(value)
        else:
            encoder[name] = torch.tensor(value)
    method.backbone.model.load_state_dict(encoder)
    method.decoder = MaskedDecoder(24, 48, grid=4, width=16, depth=1, num_heads=2, mlp_ratio=2.0)
    method.decoder.load_state_dict(decoder)


@pytest.mark.parametrize("is_normalized", [False, True])
def test_the_whole_forward_equals_the_authors(golden, monkeypatch, is_normalized):
    values = golden("mae")
    method = _method(is_target_normalized=is_normalized)
    _load_authors_weights(method, values)
    noise = torch.tensor(values["mask_noise"])
    monkeypatch.setattr("ssl_vision.methods.mae.keyed_uniform", lambda key, ids, num: noise)
    images = torch.tensor(values["image"])
    split = method.split(images, torch.arange(2))
    latent = method.backbone.forward_visible(images, keep=split.keep)
    np.testing.assert_allclose(latent.detach(), values["full_latent"], rtol=1e-4, atol=2e-6)
    np.testing.assert_array_equal(split.mask, values["full_mask"])
    np.testing.assert_array_equal(split.restore, values["full_ids_restore"])
    predicted = method.decoder(latent, restore=split.restore)
    np.testing.assert_allclose(predicted.detach(), values["full_pred"], rtol=1e-4, atol=2e-6)
    loss = method.compute_loss(Batch(views={"view": images}, index=torch.arange(2))).loss
    expected = float(values[f"full_loss_normpix{int(is_normalized)}"])
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_gradients_equal_the_authors(golden, monkeypatch):
    values = golden("mae")
    method = _method(is_target_normalized=False)
    _load_authors_weights(method, values)
    noise = torch.tensor(values["mask_noise"])
    monkeypatch.setattr("ssl_vision.methods.mae.keyed_uniform", lambda key, ids, num: noise)
    batch = Batch(views={"view": torch.tensor(values["image"])}, index=torch.arange(2))
    method.compute_loss(batch).loss.backward()
    for ours, key in (
        (method.backbone.model.patch_embed.proj.weight, "full_grad_patch_embed_weight"),
        (method.decoder.mask_token, "full_grad_mask_token"),
    ):
        np.testing.assert_allclose(ours.grad, values[key], rtol=1e-4, atol=1e-7)


def _textbook_forward(model, decoder, images, noise, num_keep):
    """MAE's forward pass image by image, with lists of patches instead of gathers."""
    losses = []
    for image, scores in zip(images, noise, strict=True):
        order = sorted(range(len(scores)), key=lambda i: scores[i].item())
        seen, hidden = order[:num_keep], order[num_keep:]
        side, p = 4, 4
        patches = [
            image[:, p * (i // side) : p * (i // side) + p, p * (i % side) : p * (i % side) + p]
            for i in range(side * side)
        ]
        embed = model.patch_embed.proj
        tokens = [model.cls_token[0, 0] + model.pos_embed[0, 0]]
        for i in seen:
            value = (embed.weight * patches[i]).sum(dim=(1, 2, 3)) + embed.bias
            tokens.append(value + model.pos_embed[0, 1 + i])
        x = torch.stack(tokens)[None]
        for block in model.blocks:
            x = block(x)
        x = decoder.embed(model.norm(x))[0]
        full = [x[0] + decoder.pos_embed[0, 0]]
        for i in range(side * side):
            token = x[1 + seen.index(i)] if i in seen else decoder.mask_token[0, 0]
            full.append(token + decoder.pos_embed[0, 1 + i])
        y = torch.stack(full)[None]
        for block in decoder.blocks:
            y = block(y)
        y = decoder.pred(decoder.norm(y))[0, 1:]
        for i in hidden:
            target = patches[i].permute(1, 2, 0).flatten()
            target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            losses.append((y[i] - target).square().mean())
    return torch.stack(losses).mean()


def _authors_lr(step, *, lr, warmup_epochs, epochs, steps_per_epoch):
    """Half a cosine after a line, by fractional epochs."""
    epoch = step / steps_per_epoch
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    return lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs)))


def test_training_equals_the_authors_loop(fit, random_views):
    method = _method().double()
    model, decoder = copy.deepcopy(method.backbone.model), copy.deepcopy(method.decoder)
    batches = [random_views({"view": 16}, num=4, seed=s, dtype=torch.float64) for s in range(3)]
    noises = []
    for step in range(6):
        method.step = step
        noises.append(method.split(batches[step % 3].views["view"], batches[step % 3].index))
    method.step = 0
    fit(method, batches, epochs=2)

    named = [*model.named_parameters(), *decoder.named_parameters()]
    named = [(n, p) for n, p in named if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if p.ndim == 1 or n.endswith(".bias")],
             "weight_decay": 0.0},
            {"params": [p for n, p in named if p.ndim > 1 and not n.endswith(".bias")],
             "weight_decay": 0.05},
        ],
        lr=0.0,
        betas=(0.9, 0.95),
    )  # fmt: skip
    for step in range(6):
        lr = _authors_lr(step, lr=4e-3 * 64 / 256, warmup_epochs=1, epochs=2, steps_per_epoch=3)
        for group in optimizer.param_groups:
            group["lr"] = lr
        images = batches[step % 3].views["view"]
        noise = _noise_of(noises[step])
        loss = _textbook_forward(model, decoder, images, noise, method.num_keep)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    ours = [*method.backbone.model.named_parameters(), *method.decoder.named_parameters()]
    for (name, a), (_, b) in zip(
        ours, [*model.named_parameters(), *decoder.named_parameters()], strict=True
    ):
        if name.endswith("qkv.bias"):  # the keys' gradient is 0; Adam makes its noise large
            third = len(a) // 3
            a, b = torch.cat([a[:third], a[-third:]]), torch.cat([b[:third], b[-third:]])
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=name)


def _noise_of(split):
    """Scores in the order of a split: what the textbook sorts."""
    return split.restore.double()


def test_the_encoder_computes_on_visible_patches_only():
    seen, flops = {}, {}
    for ratio in (0.25, 0.75):
        method = _method(mask_ratio=ratio)
        images = torch.randn(2, 3, 16, 16)
        sizes = []
        hook = method.backbone.model.blocks[0].register_forward_hook(
            lambda module, args, out, sizes=sizes: sizes.append(args[0].shape[1])
        )
        split = method.split(images, torch.arange(2))
        with FlopCounterMode(display=False) as counter:
            method.backbone.forward_visible(images, keep=split.keep)
        hook.remove()
        (seen[ratio],) = sizes
        flops[ratio] = counter.get_total_flops()
    assert seen == {0.25: 1 + 12, 0.75: 1 + 4}
    embedding = 2 * 2 * 16 * 48 * 24  # the patch embedding sees all patches: 2 images, multiply-add
    share = (flops[0.75] - embedding) / (flops[0.25] - embedding)
    assert share < 5 / 13 + 0.01  # blocks are linear in the tokens, attention less


def test_positions_are_fixed_and_travel_in_the_plain_model():
    method = _method()
    expected = sincos_2d(24, grid=4, num_prefix=1)[None]
    assert torch.equal(method.export_backbone().model.state_dict()["pos_embed"], expected)
    trained = [name for name, _ in method.trainable_parameters()]
    assert not any("pos_embed" in name for name in trained)
    decayed = next(g for g in method.param_groups() if g["weight_decay_scale"] == 1)["names"]
    assert {"backbone.model.cls_token", "decoder.mask_token"} <= set(decayed)


@pytest.mark.parametrize(
    "args",
    [
        {"no_embed_class": True, "reg_tokens": 2},
        {"class_token": False, "global_pool": "avg"},
        {"reg_tokens": 4},
    ],
)
def test_other_vits_are_taken_too(args, random_views):
    small = {"patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3, **args}
    method = _method(args=small)
    loss = method.compute_loss(random_views({"view": 16}, num=2)).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for _, p in method.trainable_parameters())


def test_a_samples_mask_is_its_own(random_views):
    method = _method()
    images = torch.zeros(4, 3, 16, 16)
    whole = method.split(images, torch.tensor([3, 8, 5, 1]))
    part = method.split(images[:2], torch.tensor([5, 3]))
    assert torch.equal(part.mask, whole.mask[[2, 0]])
    method.step = 1
    assert not torch.equal(method.split(images[:2], torch.tensor([5, 3])).mask, part.mask)


def test_reconstructions_keep_what_was_seen():
    method = _method()
    images = torch.randn(2, 3, 16, 16)
    pictures = method.reconstruct(images)
    is_hidden = pictures.masked == 0
    assert is_hidden.float().mean().item() == pytest.approx(0.75)
    assert torch.equal(pictures.masked[~is_hidden], images[~is_hidden])
    assert torch.equal(pictures.pasted[~is_hidden], images[~is_hidden])
    assert torch.equal(pictures.pasted[is_hidden], pictures.predicted[is_hidden])


def test_its_picture_shows_what_was_seen_in_the_images_own_levels():
    """Columns of a sheet, of patches of 10 px: seen ones are the image, hidden ones grey."""
    spec = InputSpec(size=16, mean=(0.1, 0.5, 0.7), std=(0.2, 0.3, 0.4))
    method = _method().train()
    method.plan = replace(method.plan, input_spec=spec)
    levels = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (spec.mean, spec.std))
    found = method.picture({"view": (levels / 255 - mean) / std})
    assert method.training
    pixels = np.asarray(found.image)[20:]  # below the words
    step = 160 + 6
    for row in range(2):
        image, shown, _, together = (
            torch.from_numpy(pixels[row * step :, 6 + i * step :][5:160:10, 5:160:10].copy()).long()
            for i in range(4)
        )
        assert torch.equal(image, levels[row].permute(1, 2, 0))
        is_hidden = (shown == 128).all(dim=-1)
        assert is_hidden.float().mean() == pytest.approx(0.75, abs=0.01)
        assert torch.equal(shown[~is_hidden], image[~is_hidden])
        assert torch.equal(together[~is_hidden], image[~is_hidden])
        assert not torch.equal(together[is_hidden], image[is_hidden])


def test_overfits_four_images(random_views):
    method = _method(optim=OptimConfig(base_lr=0.03), is_target_normalized=False)
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.interpolate(
        torch.randn(4, 3, 2, 2, generator=generator), size=16, mode="bilinear"
    )
    batch = Batch(views={"view": images}, index=torch.arange(4))
    optimizer = torch.optim.AdamW([p for _, p in method.trainable_parameters()], lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = method.compute_loss(batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]


def test_a_network_without_tokens_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"backbone.name=resnet18 has no patch tokens.*ViT"):
        _method(name="resnet18", args={})


def test_a_ratio_that_leaves_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"mask_ratio=0.99 leaves 0 of 16"):
        _method(mask_ratio=0.99)


@pytest.mark.parametrize(
    "settings", [{"mask_ratio": 1.0}, {"decoder_width": 30}, {"decoder_depth": 0}]
)
def test_impossible_settings_name_the_key(settings):
    with pytest.raises(ConfigError, match=f"method.{next(iter(settings))}"):
        MaeConfig(**settings)


def test_views_are_checked():
    with pytest.raises(ConfigError, match=r"data.views.view is missing"):
        MaeConfig().check_views({"a": ViewConfig()})


# Self-distillation for further pre-training: stage 2 ----------------------------------------------


TOKEN = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "global_pool": "token"}


@pytest.fixture
def stage_1(tmp_path):
    """An export of the network that stage 1 would leave."""
    torch.manual_seed(3)
    backbone = _method(args=TOKEN).backbone
    for parameter in backbone.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    folder = tmp_path / "stage_1"
    spec = InputSpec(size=16)
    export_backbone(
        backbone, folder, mean=spec.mean, std=spec.std, interpolation="bicubic", size_px=16
    )
    return folder


def test_stage_2_equals_a_loop_of_maes_step_and_the_distance_of_class_tokens(stage_1):
    settings = {"match_teacher": str(stage_1), "match_weight": 0.7}
    method = _method(args=TOKEN, **settings).double()
    plain = _method(args=TOKEN).double()
    encoder = plain.backbone.model
    teacher = timm.create_model(f"local-dir:{stage_1}", pretrained=True).double().eval()
    ours, theirs = method.make_optimizer(), plain.make_optimizer()
    generator = torch.Generator().manual_seed(5)
    matches = []
    for _ in range(3):
        images = torch.randn(4, 3, 16, 16, generator=generator).double()
        batch = Batch(views={"view": images}, index=torch.arange(4))
        output = method.update(batch, ours)
        plain.begin_update(theirs)
        theirs.zero_grad()
        reconstruction = plain(batch).loss
        reconstruction.backward()  # two backward passes into one gradient, as theirs
        tokens = encoder.forward_features(images)[:, 0]
        with torch.no_grad():
            target = teacher.forward_features(images)[:, 0]
        distance = sum(((s - t) ** 2).sum() for s, t in zip(tokens, target, strict=True)) / 4
        (0.7 * distance).backward()
        expected = (reconstruction + 0.7 * distance).item()
        assert output.loss.item() == pytest.approx(expected, rel=1e-10)
        assert output.metrics["match"].item() == pytest.approx(distance.item(), rel=1e-10)
        matches.append(distance.item())
        plain.end_update(plain.judge_update(theirs))
        theirs.step()
    assert min(matches) > 1
    for name, value in method.backbone.state_dict().items():
        torch.testing.assert_close(value, plain.backbone.state_dict()[name], rtol=1e-7, atol=1e-9)
    assert not any(name.startswith("match") for name in method.state_dict())


def test_another_network_of_stage_1_is_refused(stage_1):
    method = _method(args=TOKEN, match_teacher=str(stage_1))
    checkpoint: dict[str, object] = {}
    method.on_save_checkpoint(checkpoint)
    method.on_load_checkpoint(checkpoint)
    checkpoint["match_teacher"] = "of another"
    with pytest.raises(CheckpointError, match=r"method\.match_teacher=.* holds other weights"):
        method.on_load_checkpoint(checkpoint)
    wide = {**TOKEN, "embed_dim": 48}
    with pytest.raises(ConfigError, match=r"match_teacher=.* 24 numbers .* of 48"):
        _method(args=wide, match_teacher=str(stage_1))
    with pytest.raises(ConfigError, match=r"match_weight=0 must be above 0"):
        MaeConfig(match_weight=0)


def test_what_is_matched_is_said(stage_1):
    (token,) = _method(args=TOKEN, match_teacher=str(stage_1)).notes()
    assert "the class token of whole images" in token
    pooled = {**TOKEN, "global_pool": "avg", "fc_norm": False}
    (mean,) = _method(args=pooled, match_teacher=str(stage_1)).notes()
    assert "not the paper's token" in mean
    config = MaeConfig(match_teacher="gone")
    assert config.alone() == MaeConfig()
    assert _method().notes() == ()
