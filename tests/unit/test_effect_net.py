"""Silhouettes and the effect network: what they start from, what they never do, and that a stopped fit goes on."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from magic_insert.core.errors import UserError
from magic_insert.core.rand import Dice
from magic_insert.core.silhouettes import cast, contact, foot_frame, frame_coordinates
from magic_insert.inserters.effect import without_rim
from magic_insert.models.effect_net import (
    Effect,
    EffectNet,
    EffectNetConfig,
    contact_shade,
    crisp,
    load_effect_net,
    predict,
)
from magic_insert.models.tensor_file import read_tensors, save_tensors
from magic_insert.training.effect import (
    EffectFit,
    as_batch,
    fit_effect,
    fit_tells,
    randomised,
    toybox_drawings,
    write_weights,
)


@pytest.fixture(scope="module")
def net() -> EffectNet:
    torch.manual_seed(0)
    return EffectNet(EffectNetConfig((8, 8, 8, 8), 1, 4)).eval()


def block(left: int, right: int, top: int, bottom: int, side: int = 64) -> torch.Tensor:
    mask = torch.zeros(1, 1, side, side)
    mask[..., top:bottom, left:right] = 1.0
    return mask


def test_a_contact_shadow_lies_at_the_foot_and_follows_a_mirrored_mask() -> None:
    assert foot_frame(block(10, 20, 12, 42)).tolist() == [[15.0, 42.0, 30.0]]
    mask = block(20, 36, 12, 42)
    shade = contact_shade(mask)
    assert float(shade[0, 0, 42, 28]) < 0.75
    assert float(shade[0, 0, 8, 28]) == 1.0
    assert torch.allclose(contact_shade(mask.flip(-1)).flip(-1), shade, atol=1e-5)


def test_contact_does_not_depend_on_where_the_subject_stands() -> None:
    there, here = block(20, 36, 12, 42), block(25, 41, 16, 46)
    frames = [foot_frame(m) for m in (there, here)]
    shadows = [
        contact(m, f, frame_coordinates(f, 64, 64)) for m, f in zip((there, here), frames, strict=True)
    ]
    for a, b in zip(*shadows, strict=True):
        assert torch.allclose(a[..., :55, :55], b[..., 4:59, 5:60], atol=1e-4)


def test_a_silhouette_cast_to_the_right_lies_to_the_right() -> None:
    mask = block(28, 36, 12, 42)
    frame = foot_frame(mask)
    shadow = cast(mask, frame, frame_coordinates(frame, 64, 64), 0.8, -0.3)
    columns = torch.arange(64) + 0.5
    assert float((shadow[0, 0].sum(0) * columns).sum() / shadow.sum()) > 36


def test_a_mirrored_picture_is_given_the_mirrored_effect_and_the_mirrored_sun() -> None:
    torch.manual_seed(1)
    net = EffectNet(EffectNetConfig((8, 8, 8, 8), 1, 4)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    scene, mask = torch.rand(1, 3, 64, 64), block(20, 36, 12, 42)
    with torch.no_grad():
        one = predict(net, scene, scene, mask)
        other = predict(net, scene.flip(-1), scene.flip(-1), mask.flip(-1))
    assert float(one.log_shade.abs().amax()) > 0
    assert torch.allclose(other.log_shade.flip(-1), one.log_shade, atol=1e-5)
    assert torch.allclose(other.light.flip(-1), one.light, atol=1e-5)
    assert torch.allclose(other.sun[:, 0], -one.sun[:, 0], atol=1e-5)


def test_an_untrained_network_draws_the_contact_shadow_and_a_shut_gate_nothing(net: EffectNet) -> None:
    mask = block(20, 36, 12, 42)
    scene = torch.rand(1, 3, 64, 64)
    effect = net(scene, scene, mask)
    dark = contact_shade(mask) < 0.75
    assert torch.allclose(
        torch.exp(effect.log_shade).mean(1, keepdim=True)[dark], contact_shade(mask)[dark], atol=0.02
    )
    far = contact_shade(mask) > 0.999
    assert float(effect.log_shade[far.expand(1, 3, 64, 64)].abs().max()) < 0.01
    other = EffectNet(net.config)
    other.load_state_dict(net.state_dict())
    other.last.bias.data[6] = -50.0
    effect = other(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64), block(20, 36, 12, 42))
    assert float(effect.log_shade.abs().max()) == 0.0
    assert float(effect.light.abs().max()) == 0.0


NOBODY = torch.zeros(1, 1, 1, 3)


def test_a_likely_shadow_is_drawn_darker_an_unlikely_one_fainter_and_none_where_there_is_none() -> None:
    dark = torch.tensor([0.0, 0.4, 0.9]).view(1, 1, 1, 3)
    at = {
        logit: 1.0 - torch.exp(crisp(layer_of(dark, logit), NOBODY).log_shade)[0, 0, 0]
        for logit in (-9.0, 0.0, 9.0)
    }
    assert torch.allclose(at[-9.0], torch.tensor([0.0, 0.45 * 0.4, 0.45 * 0.9]), atol=1e-5)
    assert torch.allclose(at[9.0], torch.tensor([0.0, 1.2 * 0.4, 0.95]), atol=1e-5)
    assert bool((at[-9.0] <= at[0.0]).all())
    assert bool((at[0.0] <= at[9.0]).all())


def layer_of(dark: torch.Tensor, logit: float, tells: float = 9.0) -> Effect:
    log_shade = torch.log1p(-dark.expand(-1, 3, -1, -1))
    gate = torch.full_like(log_shade[:, :1], logit)
    return Effect(log_shade, torch.full_like(log_shade, 0.2), gate, torch.zeros(1, 5), torch.tensor([tells]))


def test_a_picture_that_does_not_tell_its_light_gets_a_contact_shadow_and_no_light() -> None:
    mask = block(20, 36, 12, 42)
    dark = torch.rand(1, 1, 64, 64)
    told, half, untold = (crisp(layer_of(dark, 0.0, tells), mask) for tells in (9.0, 1.0, -9.0))
    under = 1.2 * torch.log(contact_shade(mask)).expand(1, 3, 64, 64)
    assert torch.allclose(untold.log_shade, under)
    assert float(untold.light.max()) == 0.0
    assert float(told.light.min()) == pytest.approx(0.2)
    share = float(half.told)
    assert 0.1 < share < 0.9
    assert torch.allclose(half.log_shade, share * told.log_shade + (1 - share) * under, atol=1e-6)


def test_what_was_made_up_is_told_from_what_was_rendered(drawings: Any, tmp_path: Path) -> None:
    torch.manual_seed(2)
    net = EffectNet(EffectNetConfig((8, 8, 8, 8), 1, 4)).requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fit_tells(net, drawings, EffectFit(steps=12, batch_size=1, lr=1e-3, seed=0, scenes=1))
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"tells.weight", "tells.bias"}
    dice = Dice(torch.Generator().manual_seed(99))
    batch = randomised(as_batch(*drawings.rows([0, 1, 2] * 10)), dice, 128)
    tells = net(batch.scene, batch.pasted, batch.mask).tells
    assert float(tells[batch.told > 0].mean()) > float(tells[batch.told == 0].mean()) + 0.5


def test_a_given_sun_is_used_only_where_it_is_given(net: EffectNet) -> None:
    torch.manual_seed(1)
    steered = EffectNet(net.config).eval()
    for parameter in steered.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    scene, mask = torch.rand(2, 3, 64, 64), block(20, 36, 12, 42).expand(2, -1, -1, -1)
    free = steered(scene, scene, mask)
    sun = torch.tensor([[-0.6, 0.6, 0.5, 0.1, 0.8]] * 2)
    given = steered(scene, scene, mask, sun, torch.tensor([0.0, 1.0]))
    assert torch.allclose(free.gate_logit[0], given.gate_logit[0], atol=1e-5)
    assert not torch.allclose(free.gate_logit[1], given.gate_logit[1], atol=1e-4)
    assert torch.equal(free.sun, given.sun)


def test_weights_that_do_not_say_whether_a_picture_tells_its_light_are_followed(
    net: EffectNet, tmp_path: Path
) -> None:
    write_weights(net, tmp_path / "new.safetensors")
    tensors, about = read_tensors(tmp_path / "new.safetensors")
    older = {name: value for name, value in tensors.items() if not name.startswith("tells.")}
    save_tensors(tmp_path / "old.safetensors", older, about)
    scene, mask = torch.rand(1, 3, 64, 64), block(20, 36, 12, 42)
    assert float(load_effect_net(tmp_path / "old.safetensors")(scene, scene, mask).told) == 1.0
    save_tensors(tmp_path / "bad.safetensors", dict(list(older.items())[1:]), about)
    with pytest.raises(UserError, match="weights of an effect network"):
        load_effect_net(tmp_path / "bad.safetensors")


def test_a_short_fit_that_goes_on_from_a_network_keeps_what_it_is_told_by(drawings: Any) -> None:
    net = EffectNet(EffectNetConfig((8, 8, 8, 8), 1, 4)).requires_grad_(False)
    settings = EffectFit(steps=98, batch_size=1, lr=1e-3, seed=0, scenes=1, start="of another")
    fit_tells(net, drawings, settings)
    assert float(net.tells.weight.abs().max()) == 0.0


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with toybox_drawings(tmp_path_factory.mktemp("drawings"), 0, 1) as drawn:
        yield drawn


def test_a_stopped_fit_goes_on_to_the_weights_of_an_unbroken_one(drawings: Any, tmp_path: Path) -> None:
    settings = EffectFit(steps=2, batch_size=1, lr=1e-3, seed=0, scenes=1, save_every=1)

    def fit(name: str, stop: bool = False, **changes: float) -> bytes:
        def power_cut(done: int, total: int) -> None:
            if stop:
                raise ConnectionError("power cut")

        how = replace(settings, **changes)  # type: ignore[arg-type]
        return fit_effect(how, tmp_path / name, drawings, device="cpu", on_step=power_cut).read_bytes()

    whole = fit("whole")
    with pytest.raises(ConnectionError):
        fit("cut", stop=True)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["checkpoint-00000001.safetensors"]
    assert fit("cut") == whole
    with pytest.raises(UserError, match="choose another out"):
        fit("cut", lr=2e-3)


def test_a_dark_rim_high_up_goes_while_a_shadow_beside_and_the_contact_below_stay() -> None:
    covered = torch.zeros(1, 64, 64)
    covered[:, 10:50, 26:38] = 1.0
    around = torch.nn.functional.max_pool2d(covered, 5, stride=1, padding=2) - covered
    dark = 0.6 * around.expand(3, 64, 64).clone()
    dark[:, 18:26, 38:60] = 0.4  # a shadow that leaves the subject
    clean = without_rim(dark, covered)
    assert float(clean[:, 8:12].max()) == 0.0
    assert torch.equal(clean[:, 44:], dark[:, 44:])
    assert torch.equal(clean[:, 18:26, 41:], dark[:, 18:26, 41:])
    assert float(clean[:, 20:24, 38].min()) == pytest.approx(0.4)
    nothing = torch.zeros(1, 64, 64)
    assert torch.equal(without_rim(dark, nothing), dark)
