"""CroCo against the authors' numbers, against formulas written out, and what it is to do."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision import transforms

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.config import load_train_config
from ssl_vision.data.config import InputSpec
from ssl_vision.data.pairs.config import PairData
from ssl_vision.engine.saved_method import load_method
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError
from ssl_vision.masking import raster_mask
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.croco import Croco, CrocoConfig
from ssl_vision.nn.cross_decoder import CrossDecoder
from ssl_vision.nn.patches import patchify
from ssl_vision.optim import OptimConfig
from ssl_vision.optim.recipe import learning_rate
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig
from tests.test_recipes import CONFIGS

PATCHES_ONLY = {"class_token": False, "global_pool": "avg", "fc_norm": False}
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
DECODER = {"decoder_width": 16, "decoder_depth": 2, "decoder_num_heads": 2}
# The rate of the golden step's optimizer is a tenth of the way through a warm-up of ten updates.
RECIPE = OptimConfig(
    base_lr=1e-3, lr_scaling="none", betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=1,
    schedule_stretch=2.0,
)  # fmt: skip
PLAN = TrainPlan(steps_per_epoch=10, epochs=8, global_batch_size=3, input_size=32)
SCHEMES = {"cos": "vit_tiny_patch16_224", "rope": "rotary_vit_tiny"}


def _method(scheme="cos", *, args=None, plan=PLAN, optim=RECIPE, name=None, **settings):
    torch.manual_seed(0)
    fixed = PATCHES_ONLY if scheme == "cos" else {}
    args = {**SMALL, **fixed} if args is None else args
    backbone = build_backbone(
        BackboneConfig(name=name or SCHEMES[scheme], args=args), input_size=plan.input_size
    )
    config = CrocoConfig(**{"mask_ratio": 0.75, **DECODER, **settings})
    return Croco(config, backbone, optim=optim, plan=plan)


def _state(values, scheme):
    prefix = f"{scheme}.sd."
    return {
        name.removeprefix(prefix): torch.tensor(value)
        for name, value in values.items()
        if name.startswith(prefix)
    }


_ENCODER = {"enc_blocks": "blocks", "enc_norm": "norm", "patch_embed": "patch_embed"}
_DECODER = {"decoder_embed": "embed", "dec_blocks": "blocks", "dec_norm": "norm",
            "prediction_head": "pred", "mask_token": "mask_token"}  # fmt: skip


def _ours(name):
    """Where a tensor of the authors is in the method."""
    top, _, rest = name.partition(".")
    if top in _ENCODER:
        return f"backbone.model.{_ENCODER[top]}.{rest}"
    return f"decoder.{_DECODER[top]}{'.' * bool(rest)}{rest}"


def _golden_method(values, scheme, monkeypatch, **settings):
    method = _method(scheme, **settings)
    method.decoder = CrossDecoder(
        32, 192, grid=4, width=16, depth=2, num_heads=2, mlp_ratio=2.0,
        rotary_base=None if scheme == "cos" else 100.0,
    )  # fmt: skip
    state = {_ours(n): v for n, v in _state(values, scheme).items() if "pos_embed" not in n}
    missing, unexpected = method.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"backbone.model.pos_embed"}  # computed, not loaded
    noise = torch.tensor(values["mask_noise"])
    monkeypatch.setattr("ssl_vision.methods.croco.keyed_uniform", lambda key, ids, num: noise)
    return method


def _batch(values, dtype=torch.float32):
    images = {"first": values["img1"], "second": values["img2"]}
    views = {name: torch.tensor(image).to(dtype) for name, image in images.items()}
    return Batch(views=views, index=torch.arange(3))


def _close(ours, theirs, *, atol=1e-5):
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-5, atol=atol)


# The authors' numbers ---------------------------------------------------------------------------


def test_masks_equal_the_authors(golden):
    values = golden("croco")
    split = raster_mask(torch.tensor(values["mask_noise"]), num_masked=int(values["num_mask"]))
    np.testing.assert_array_equal(split.mask, values["mask"])
    for keep, mask in zip(split.keep, split.mask, strict=True):
        assert keep.tolist() == [i for i in range(16) if not mask[i]]
    plan = TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=1, input_size=224)
    large = _method(args={**SMALL, **PATCHES_ONLY, "patch_size": 16}, plan=plan, mask_ratio=0.9)
    assert large.num_masked == int(values["num_mask_196_090"])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_encoder_decoder_and_losses_equal_the_authors(golden, monkeypatch, scheme):
    values = golden("croco")
    method, batch = _golden_method(values, scheme, monkeypatch), _batch(values)
    if scheme == "cos":
        _close(method.backbone.model.pos_embed[0], values["cos.sd.enc_pos_embed"], atol=1e-7)
        _close(method.decoder.pos_embed[0], values["cos.sd.dec_pos_embed"], atol=1e-7)
    first, second = batch.views["first"], batch.views["second"]
    split = method.split(first, batch.index)
    seen = method.backbone.forward_visible(first, keep=split.keep)
    _close(seen, values[f"{scheme}.enc_vis"])
    memory = method.backbone(second).patches
    _close(memory, values[f"{scheme}.enc_full"])
    decoded = method.decoder.decode(seen, memory, mask=split.mask)
    _close(decoded.tokens, values[f"{scheme}.dec"])
    predicted = method.decoder(seen, memory, mask=split.mask)
    _close(predicted, values[f"{scheme}.pred"])
    assert method.compute_loss(batch).loss.item() == pytest.approx(
        float(values[f"{scheme}.loss_norm"]), rel=1e-6
    )
    everywhere = (predicted - method.target(first)).square().mean()
    assert everywhere.item() == pytest.approx(float(values[f"{scheme}.loss_unmasked"]), rel=1e-6)
    raw = _golden_method(values, scheme, monkeypatch, is_target_normalized=False)
    _close(raw.target(first), values[f"{scheme}.target"])
    assert raw.compute_loss(batch).loss.item() == pytest.approx(
        float(values[f"{scheme}.loss_raw"]), rel=1e-6
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradients_equal_the_authors(golden, monkeypatch, scheme):
    values = golden("croco")
    method = _golden_method(values, scheme, monkeypatch)
    method(_batch(values)).loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters()}
    prefix, seen = f"{scheme}.grad.", 0
    for name, value in values.items():
        if name.startswith(prefix):
            _close(gradients[_ours(name.removeprefix(prefix))], value, atol=1e-7)
            seen += 1
    assert seen == 7


@pytest.mark.parametrize("scheme", SCHEMES)
def test_binocular_features_equal_the_authors(golden, monkeypatch, scheme):
    values = golden("croco")
    method, batch = _golden_method(values, scheme, monkeypatch), _batch(values)
    found = method.eval().encode_pair(batch.views["first"], batch.views["second"])
    _close(found.decoded, values[f"{scheme}.binocular"])
    _close(found.second, values[f"{scheme}.enc_full"])
    assert found.first.shape == (3, 16, 32)
    assert [layer.shape for layer in found.layers] == [(3, 16, 16)] * 2
    torch.testing.assert_close(method.decoder.norm(found.layers[-1]), found.decoded)


def test_rates_and_decays_equal_the_authors(golden):
    values = golden("croco")
    recipe = OptimConfig(base_lr=1.0, lr_scaling="none", warmup_epochs=40, schedule_stretch=2.0)
    plan = TrainPlan(steps_per_epoch=1000, epochs=400, global_batch_size=1)
    for epoch, expected in zip(values["lr_epochs"], values["lr_values"], strict=True):
        step = round(epoch * 1000)
        if epoch < 800:  # a run of ours ends at 400
            assert learning_rate(recipe, plan=plan, step=step) == pytest.approx(expected, abs=1e-9)
    meta = json.loads(bytes(values["__meta__"]).decode())
    groups = {
        name: group["weight_decay_scale"] * RECIPE.weight_decay
        for group in _method().param_groups()
        for name in group["names"]
    }
    for decay, names in zip(meta["group_wd"], meta["group_names"], strict=True):
        assert {groups.pop(_ours(name)) for name in names} == {decay}
    assert not groups
    assert len(meta["group_names"][1]) == int(values["nodecay_count"])


def test_recipes_views_are_the_authors_transform(golden):
    """Their transform of a pair, built by torchvision of the recipe's numbers, with their seed."""
    values = golden("croco")
    data = load_train_config([CONFIGS / "croco/vit_b16_habitat.yaml"], ["data.path=somewhere"]).data
    assert isinstance(data, PairData)
    view = data.views["first"]
    assert view == data.views["second"]
    assert math.sqrt(view.crop_area[0]) * 256 == view.size_px == 224
    assert view.crop_area[0] == view.crop_area[1]
    assert view.crop_ratio == (1.0, 1.0)
    jitter = view.jitter
    assert jitter.prob == 1.0
    crop = transforms.RandomCrop(32)
    colour = transforms.ColorJitter(
        jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
    )
    images = [transforms.functional.to_pil_image(values[f"pair_in{i}"]) for i in (1, 2)]
    torch.manual_seed(11)
    first, second = (crop(image) for image in images)
    first = colour(first)
    torch.rand(1)  # theirs asks between the two whether they are coloured alike; they never are
    second = colour(second)
    for image, expected in ((first, values["pair_out1"]), (second, values["pair_out2"])):
        normalized = transforms.functional.normalize(
            transforms.functional.to_tensor(image), data.mean, data.std
        )
        _close(normalized, expected)


# A whole step, by formulas ------------------------------------------------------------------------


def _turned(x, rope):
    """RoPE channel by channel, on (B, heads, 16, d); the identity without it."""
    if not rope:
        return x
    d, out = x.shape[-1], x.clone()
    for token in range(16):
        for part, place in enumerate((token // 4, token % 4)):
            for i in range(d // 4):
                a, b = part * d // 2 + i, part * d // 2 + i + d // 4
                angle = place * 100.0 ** (-2 * i / (d // 2))
                cos, sin = math.cos(angle), math.sin(angle)
                out[:, :, token, a] = x[:, :, token, a] * cos - x[:, :, token, b] * sin
                out[:, :, token, b] = x[:, :, token, b] * cos + x[:, :, token, a] * sin
    return out


def _heads(x, num=2):
    return x.unflatten(-1, (num, -1)).transpose(1, 2)


def _attend(q, k, v, keys=None):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if keys is not None:
        scores = scores.masked_fill(~keys[:, None, None], -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _norm(p, name, x):
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps=1e-6)


def _linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def _self_attention(p, name, x, rope, keys=None):
    q, k, v = (_heads(part) for part in _linear(p, f"{name}.qkv", x).chunk(3, -1))
    return _linear(p, f"{name}.proj", _attend(_turned(q, rope), _turned(k, rope), v, keys))


def _mlp(p, name, x):
    return _linear(p, f"{name}.fc2", F.gelu(_linear(p, f"{name}.fc1", x)))


def _encoded(p, images, rope, keys=None):
    """All patches; those hidden are there, and nobody attends to them."""
    weight = p["patch_embed.proj.weight"]
    cut = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(3, 16, 192)
    x = cut @ weight.reshape(32, 192).T + p["patch_embed.proj.bias"]
    x = x if rope else x + p["enc_pos_embed"]
    for i in range(2):
        x = x + _self_attention(p, f"enc_blocks.{i}.attn", _norm(p, f"enc_blocks.{i}.norm1", x),
                                rope, keys)  # fmt: skip
        x = x + _mlp(p, f"enc_blocks.{i}.mlp", _norm(p, f"enc_blocks.{i}.norm2", x))
    return _norm(p, "enc_norm", x)


def _textbook_loss(p, first, second, mask, rope):
    x = _linear(p, "decoder_embed", _encoded(p, first, rope, ~mask))
    y = _linear(p, "decoder_embed", _encoded(p, second, rope))
    x = torch.where(mask[:, :, None], p["mask_token"], x)
    if not rope:
        x, y = x + p["dec_pos_embed"], y + p["dec_pos_embed"]
    for i in range(2):
        at = f"dec_blocks.{i}"
        x = x + _self_attention(p, f"{at}.attn", _norm(p, f"{at}.norm1", x), rope)
        asked, told = _norm(p, f"{at}.norm2", x), _norm(p, f"{at}.norm_y", y)
        q, k, v = (_heads(_linear(p, f"{at}.cross_attn.proj{n}", each))
                   for n, each in (("q", asked), ("k", told), ("v", told)))  # fmt: skip
        attended = _attend(_turned(q, rope), _turned(k, rope), v)
        x = x + _linear(p, f"{at}.cross_attn.proj", attended)
        x = x + _mlp(p, f"{at}.mlp", _norm(p, f"{at}.norm3", x))
    predicted = _linear(p, "prediction_head", _norm(p, "dec_norm", x))
    target = patchify(first, patch_px=8)
    target = (target - target.mean(-1, keepdim=True)) / (
        target.var(-1, keepdim=True, unbiased=True) + 1e-6
    ).sqrt()
    return (predicted - target).square().mean(-1)[mask].mean()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_whole_step_is_the_formulas(golden, monkeypatch, scheme):
    """Forward and backward written out, then AdamW by hand, in double precision."""
    values = golden("croco")
    rope, mask = scheme == "rope", torch.tensor(values["mask"])
    method = _golden_method(values, scheme, monkeypatch).double()
    p = {name: value.double() for name, value in _state(values, scheme).items()}
    learnt = {n: v.requires_grad_() for n, v in p.items() if "pos_embed" not in n}
    batch = _batch(values, torch.float64)
    loss = _textbook_loss(p, batch.views["first"], batch.views["second"], mask, rope)
    assert loss.item() == pytest.approx(float(values[f"{scheme}.loss_norm"]), rel=1e-6)
    loss.backward()

    method.step = 3  # in the warm-up: the rate is 3 tenths of the peak
    done = method.update(batch, method.make_optimizer())
    assert done.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    now, rate = dict(method.named_parameters()), 0.3e-3
    for name, before in learnt.items():
        gradient, kept = before.grad, before.detach()
        decay = 0.05 if before.ndim > 1 else 0.0
        # The first step of Adam: both averages, corrected, are the gradient and its square.
        expected = kept * (1 - rate * decay) - rate * gradient / (gradient.abs() + 1e-8)
        # Where a gradient is 0 but for rounding (biases of keys) its sign is noise.
        is_sure = gradient.abs() > 1e-6
        change = (now[_ours(name)].detach() - expected)[is_sure].abs()
        assert len(change) == 0 or change.max() < 1e-3 * rate, name


# What it is to do ------------------------------------------------------------------------------


def _random_batch(num=4, *, size=32, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    views = {
        name: torch.randn(num, 3, size, size, generator=generator).to(dtype)
        for name in ("first", "second")
    }
    return Batch(views=views, index=torch.arange(num) + 10 * seed)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_encoder_never_sees_what_is_to_be_predicted(scheme):
    """Without normalised targets, hidden pixels reach the loss as targets alone."""
    method, batch = _method(scheme).eval(), _random_batch(2)
    first = batch.views["first"].requires_grad_()
    split = method.split(first, batch.index)
    seen = method.backbone.forward_visible(first, keep=split.keep)
    memory = method.backbone(batch.views["second"]).patches
    method.decoder(seen, memory, mask=split.mask).sum().backward()
    touched = patchify(first.grad, patch_px=8).abs().sum(-1) > 0
    assert torch.equal(touched, ~split.mask)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_parameter_learns_and_the_second_view_is_read(scheme):
    method, batch = _method(scheme), _random_batch()
    second = batch.views["second"].requires_grad_()
    method.compute_loss(batch).loss.backward()
    assert (patchify(second.grad, patch_px=8).abs().sum(-1) > 0).all()
    learnt = dict(method.trainable_parameters())
    assert all(p.grad is not None for p in learnt.values())
    assert not any("pos_embed" in name for name in learnt)
    assert method.export_backbone() is method.backbone


def test_a_samples_mask_is_its_own():
    method, images = _method(), torch.zeros(4, 3, 32, 32)
    whole = method.split(images, torch.tensor([3, 8, 5, 1]))
    part = method.split(images[:2], torch.tensor([5, 3]))
    assert torch.equal(part.mask, whole.mask[[2, 0]])
    method.step = 1
    assert not torch.equal(method.split(images[:2], torch.tensor([5, 3])).mask, part.mask)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_training_under_a_stock_trainer_is_our_update(fit, scheme):
    batches = [_random_batch(seed=s) for s in range(3)]
    method, ours = _method(scheme), _method(scheme)
    fit(method, batches, epochs=2)
    optimizer = ours.make_optimizer()
    for batch in (*batches, *batches):
        ours.update(batch, optimizer)
    assert method.step == ours.step == 6
    for (name, a), b in zip(method.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


def test_completed_pictures_keep_what_was_seen():
    method, batch = _method(), _random_batch(2)
    found = method.complete(batch.views["first"], batch.views["second"], index=batch.index)
    is_hidden = found.masked == 0
    assert is_hidden.float().mean().item() == pytest.approx(0.75)
    first = batch.views["first"]
    assert torch.equal(found.pasted[~is_hidden], first[~is_hidden])
    assert torch.equal(found.pasted[is_hidden], found.predicted[is_hidden])


def test_the_picture_shows_each_pair_in_the_colours_of_its_images():
    spec = InputSpec(32, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    plan = TrainPlan(
        steps_per_epoch=10, epochs=8, global_batch_size=3, input_size=32, input_spec=spec
    )
    method = _method(plan=plan).train()
    levels = torch.randint(0, 256, (2, 2, 3, 1, 1)).expand(-1, -1, -1, 32, 32)
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    views = (levels / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    picture = method.picture({"first": views[0], "second": views[1]})
    assert method.training
    assert picture is not None
    shown = np.array(picture.image)
    assert shown.shape == (2 * 160 + 4, 4 * 160 + 3 * 4, 3)
    for row in range(2):
        at = row * 164 + 80
        assert shown[at, 80].tolist() == levels[0, row, :, 0, 0].tolist()
        assert shown[at, 3 * 164 + 80].tolist() == levels[1, row, :, 0, 0].tolist()
    assert method.picture({"view": views[0]}) is None


def test_cross_view_losses_are_of_the_second_views_they_name():
    method, batch = _method().eval(), _random_batch(3)
    found = method.cross_view_losses(batch)
    assert found["true"] == pytest.approx(method.compute_loss(batch).loss.item())
    first, second = batch.views["first"], batch.views["second"]
    for name, view in (("other", second[[2, 0, 1]]), ("blank", torch.zeros_like(second))):
        changed = Batch(views={"first": first, "second": view}, index=batch.index)
        assert found[name] == pytest.approx(method.compute_loss(changed).loss.item())


def test_the_second_view_is_learnt_to_be_read():
    """Views are one image: copying from the second is all there is to learn."""
    settings = {"decoder_width": 32, "decoder_depth": 2, "decoder_num_heads": 2}
    optim = OptimConfig(base_lr=3e-3, lr_scaling="none", betas=(0.9, 0.95), warmup_epochs=1)
    plan = TrainPlan(steps_per_epoch=10, epochs=20, global_batch_size=16, input_size=32)
    method = _method("rope", plan=plan, optim=optim, **settings)
    optimizer = method.make_optimizer()
    for step in range(150):
        batch = _random_batch(16, seed=step)
        same = F.interpolate(batch.views["first"][:, :, ::8, ::8], size=32, mode="bilinear")
        views = {"first": same, "second": same}
        method.update(Batch(views=views, index=batch.index), optimizer)
    found = method.cross_view_losses(Batch(views=views, index=batch.index))
    assert found["other"] - found["true"] > 0.05
    assert found["blank"] - found["true"] > 0.03


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"args": {**SMALL}}, "class_token: false"),
        ({"args": {**SMALL, **PATCHES_ONLY, "reg_tokens": 2}}, "registers"),
        ({"args": {**SMALL, **PATCHES_ONLY, "fc_norm": True}}, "fc_norm=false"),
        ({"args": {"layers": [1, 1, 1, 1]}, "name": "resnet18"}, "no patch tokens"),
        ({"mask_ratio": 0.01}, "hides 0 of 16"),
        ({"mask_ratio": 1.0}, "mask_ratio=1.0"),
        ({"decoder_width": 18}, "decoder_width=18"),
        ({"decoder_depth": 0}, "decoder_depth"),
        ({"scheme": "rope", "decoder_width": 12, "decoder_num_heads": 2}, "rotary positions"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        _method(**change)
    assert "\n" not in str(caught.value)


def test_pairs_of_another_size_are_refused():
    method = _method()
    with pytest.raises(ConfigError, match=r"\(B, C, 32, 32\) both"):
        method.encode_pair(torch.randn(1, 3, 40, 40), torch.randn(1, 3, 40, 40))
    with pytest.raises(ConfigError, match=r"\(2, 3, 32, 32\)"):
        method.encode_pair(torch.randn(1, 3, 32, 32), torch.randn(2, 3, 32, 32))


def test_views_are_checked():
    views = {"first": ViewConfig(size_px=32), "second": ViewConfig(size_px=32)}
    CrocoConfig().check_views(views)
    with pytest.raises(ConfigError, match=r"data\.views\.second is missing"):
        CrocoConfig().check_views({"first": ViewConfig()})
    with pytest.raises(ConfigError, match=r"second\.size_px=40 must be equal"):
        CrocoConfig().check_views({**views, "second": ViewConfig(size_px=40)})


def test_a_run_from_its_recipe_leaves_network_decoder_and_picture(tmp_path):
    config = load_train_config(
        [CONFIGS / "croco/tiny_cpu.yaml"],
        [f"run_dir={tmp_path / 'run'}", "trainer.max_steps=2", "backbone.args.depth=1",
         "online_eval.every_epochs=0", "data.num_threads=1"],
    )  # fmt: skip
    result = train(config)
    assert "Completion" in (result.run_dir / "report.html").read_text()
    method = load_method(result.run_dir)
    assert isinstance(method, Croco)
    images = torch.randn(1, 3, 56, 56)
    expected = method.backbone(images).pooled
    torch.testing.assert_close(result.load_backbone()(images), expected)
    assert method.encode_pair(images, images).decoded.shape == (1, 49, 96)
