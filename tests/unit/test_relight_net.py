"""The relighting network: what it starts from, that it keeps to its subject, and that the shipped one helps."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.compositing import Region
from magic_insert.core.effect_layer import in_shade
from magic_insert.core.errors import UserError
from magic_insert.core.rand import Dice, generator
from magic_insert.core.records import Box, Scene, Subject
from magic_insert.data.relit_pairs import Sitting, render_relit
from magic_insert.inserters.base import Inserted, Window, insert_cutout, seen_in
from magic_insert.inserters.effect import EffectInserter
from magic_insert.models.effect_net import Effect, predict
from magic_insert.models.relight_net import RelightNet, RelightNetConfig, load_relight_net, predict_shade
from magic_insert.paths import effect_weights
from magic_insert.toybox.scenes import STUDIO_LIGHT, sample_scene
from magic_insert.toybox.subjects import sample_subject
from magic_insert.training.effect import Batch, invented, toybox_drawings
from magic_insert.training.relight import RelightFit, fit_relight


def small_net(seed: int = 0) -> RelightNet:
    torch.manual_seed(seed)
    return RelightNet(RelightNetConfig((8, 8, 8), 1)).eval()


def shown(side: int = 64) -> tuple[Tensor, Tensor, Tensor, Effect]:
    """A scene, a paste, its mask and an effect, all without symmetry."""
    draw = generator(0, "shown")
    scene, own = torch.rand(2, 1, 3, side, side, generator=draw)
    mask = torch.zeros(1, 1, side, side)
    mask[..., 12:42, 20:36] = 1.0
    planes = torch.rand(1, 7, side, side, generator=draw)
    sun, tells = torch.tensor([[0.6, 0.6, 0.5, 0.1, 0.6]]), torch.tensor([9.0])
    effect = Effect(-planes[:, :3], planes[:, 3:6], planes[:, 6:], sun, tells)
    return scene, mask * own + (1 - mask) * scene, mask, effect


def inserted(**settings: float) -> Inserted:
    """A grey box in a random scene, by the shipped networks."""
    draw = generator(1, "scene")
    scene = Scene(torch.rand(3, 96, 120, generator=draw), "scene")
    subject = Subject(torch.full((3, 40, 24), 0.6), torch.ones(1, 40, 24), "box")
    how = InserterConfig(name="effect", sun="40", **settings)  # type: ignore[arg-type]
    return insert_cutout(scene, subject, Box(40, 30, 24, 40), inserter=EffectInserter(how), draw=(0, "draw"))


def test_an_untrained_network_leaves_a_subject_as_it_is() -> None:
    with torch.no_grad():
        shade = predict_shade(small_net(), *shown())
    assert torch.equal(shade, torch.ones(1, 1, 32, 32))


def test_a_mirrored_picture_is_given_the_mirrored_shade_and_no_shade_brightens() -> None:
    net = small_net()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    scene, pasted, mask, effect = shown()
    with torch.no_grad():
        one = predict_shade(net, scene, pasted, mask, effect)
        other = predict_shade(net, scene.flip(-1), pasted.flip(-1), mask.flip(-1), effect.mirrored)
    assert float((1 - one).amax()) > 0.01
    assert float(one.amax()) <= 1.0
    assert torch.allclose(other.flip(-1), one, atol=1e-5)


def test_what_a_box_shows_of_a_plane_does_not_depend_on_the_plane_s_size() -> None:
    ramp = (torch.arange(64) + 0.5) / 64
    plane = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64)])
    found = seen_in(Region(-10, 20, 128), plane, Box(22, 52, 32, 16))
    across = (torch.arange(22, 54) + 0.5 + 10) / 128
    down = (torch.arange(52, 68) + 0.5 - 20) / 128
    assert torch.allclose(found[0], across.expand(16, 32), atol=1e-5)
    assert torch.allclose(found[1], down[:, None].expand(16, 32), atol=1e-5)


def test_the_shade_on_a_subject_touches_nothing_else_and_goes_as_far_as_it_is_asked_to() -> None:
    none, half, whole = (inserted(relight=share) for share in (0.0, 0.5, 1.0))
    outside = none.final.mask == 0
    assert torch.equal(none.final.rgb * outside, whole.final.rgb * outside)
    assert torch.equal(none.subject.rgb, torch.full((3, 40, 24), 0.6))
    assert torch.allclose(2 * half.subject.rgb, none.subject.rgb + whole.subject.rgb, atol=1e-5)
    assert float(whole.subject.rgb.min()) < 0.59
    assert torch.equal(whole.subject.rgb, whole.final.rgb[:, 30:70, 40:64])
    assert "relight_sha256" in whole.final.provenance
    assert "relight_sha256" not in none.final.provenance


@pytest.fixture(scope="module")
def sittings() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Six held-out subjects lit by the studio in held-out scenes: scene, subject, mask and truth."""
    sat = [
        Sitting(
            sample_scene(2024 + i, "heldout"),
            sample_subject(77 + i, "heldout"),
            STUDIO_LIGHT,
            ["photo"],
            0.5,
            i,
        )
        for i in range(6)
    ]
    drawn = render_relit(sat, side=128, traced=128)
    parts = (drawn.without, drawn.own, drawn.mask, drawn.with_subject)
    scene, own, mask, truth = (torch.from_numpy(part) / 255.0 for part in parts)
    return scene, own, mask, truth


def test_a_given_sun_turns_the_shade_to_the_other_side(sittings: Any) -> None:
    scene, own, mask, _ = (part[:3] for part in sittings)
    covered = torch.nn.functional.avg_pool2d(mask, 2)
    across = torch.arange(64) - (covered * torch.arange(64)).sum((1, 2, 3), keepdim=True) / covered.sum(
        (1, 2, 3), keepdim=True
    )
    slopes = []
    for sun in ("-60", "60"):
        inserter = EffectInserter(InserterConfig(name="effect", sun=sun))
        shades = [
            inserter(Window(z, m * x + (1 - m) * z, m)).shade
            for z, x, m in zip(scene, own, mask, strict=True)
        ]
        weight = covered * across
        slopes.append((torch.stack(shades) * weight).sum((1, 2, 3)) / (weight * across).sum((1, 2, 3)))
    assert bool((slopes[1] - slopes[0] > 0.001).all())  # a hundredth over ten of the subject's cells


def test_unseen_rendered_scenes_tell_their_light_and_made_up_ones_do_not(sittings: Any) -> None:
    scene, own, mask, truth = (part.repeat(4, 1, 1, 1) for part in sittings)
    sun, one = torch.zeros(len(scene), 5), torch.ones(len(scene))
    batch = Batch(scene, own, mask, truth, sun, one, one)
    made_up = invented(batch, Dice(torch.Generator().manual_seed(0)), 1.0)
    net = EffectInserter(InserterConfig(name="effect", relight=0.0)).net
    rendered, other = (predict(net, x.scene, x.pasted, x.mask).told for x in (batch, made_up))
    assert float(rendered.mean()) > 0.8
    assert float(other[made_up.told == 0].mean()) < 0.4


def test_studio_subjects_in_held_out_scenes_come_nearer_to_the_truth(sittings: Any) -> None:
    """In five of six scenes at least, and by a fifth of the squared error over all."""
    scene, own, mask, truth = sittings
    inserter = EffectInserter(InserterConfig(name="effect"))
    assert inserter.relight is not None
    pasted = mask * own + (1 - mask) * scene
    with torch.no_grad():
        shade = predict_shade(
            inserter.relight, scene, pasted, mask, predict(inserter.net, scene, pasted, mask)
        )
    large = torch.nn.functional.interpolate(shade, (128, 128), mode="bilinear")
    lit = torch.stack([in_shade(*row) for row in zip(own, large, strict=True)])
    before, after = (((x - truth).square() * (mask > 0.9)).sum((1, 2, 3)) for x in (own, lit))
    assert int((after < before).sum()) >= 5
    assert float(after.sum()) < 0.8 * float(before.sum())


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with toybox_drawings(tmp_path_factory.mktemp("drawings"), 0, 1) as drawn:
        yield drawn


@pytest.mark.slow
def test_a_stopped_fit_goes_on_to_the_weights_of_an_unbroken_one(drawings: Any, tmp_path: Path) -> None:
    settings = RelightFit(steps=2, batch_size=1, lr=1e-3, seed=0, scenes=1, save_every=1, effect="of a test")
    effect = EffectInserter(InserterConfig(name="effect", relight=0.0)).net

    def fit(name: str, stop: bool = False, **changes: float) -> bytes:
        def power_cut(done: int, total: int) -> None:
            if stop:
                raise ConnectionError("power cut")

        how = replace(settings, **changes)  # type: ignore[arg-type]
        made = fit_relight(how, tmp_path / name, drawings, effect, device="cpu", on_step=power_cut)
        assert load_relight_net(made).config == RelightNetConfig()
        return made.read_bytes()

    whole = fit("whole")
    with pytest.raises(ConnectionError):
        fit("cut", stop=True)
    assert fit("cut") == whole
    with pytest.raises(UserError, match="choose another out"):
        fit("cut", lr=2e-3)


def test_weights_of_another_network_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="expected the weights of a relighting network"):
        load_relight_net(effect_weights())
