"""Fits the effect network to Toybox scenes that are rendered while it learns, or to pairs of one's own.

The subject is lit by its own picture, so the light has to be read from the scene. Batch k draws from the drawings that
it may know at that step and waits for those still to be rendered; they are kept in the run folder, so a killed fit goes
on to the same weights.

Every batch is randomised: the Toybox has clean surfaces and a handful of styles; real pictures do not. Every change
keeps the relation between condition and target: surfaces get a texture in both, looks and grain are laid over both, the
subject's shading is only its own. One group of rows in each batch stands on made-up ground with a made-up contact
shadow, so that where a picture resembles nothing known the network still knows what most pictures do. What tells such
rows from the others is fitted last (`fit_tells`).

Shape letters: B rows of a batch, H, W its pictures. Everything is float32 in [0, 1].
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from magic_insert.core.compositing import area_resize, luminance, region_around
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.jsonl import read_object, write_json
from magic_insert.core.masks import bounding_box
from magic_insert.core.rand import Dice, fold_in, generator
from magic_insert.core.regression import ridge_logistic
from magic_insert.core.silhouettes import foot_frame, frame_coordinates, soft_shadow
from magic_insert.data.pairs import PairSet
from magic_insert.data.relit_pairs import training_chunk
from magic_insert.models.effect_net import (
    SIDE,
    Effect,
    EffectNet,
    EffectNetConfig,
    crisp,
    predict,
)
from magic_insert.models.tensor_file import save_tensors
from magic_insert.paths import effect_weights
from magic_insert.toybox.styles.view import LOOKS
from magic_insert.training.checkpoint import clear_checkpoints, is_finished
from magic_insert.training.trainer import TrainerOptions, TrainingModule, fit

STORED, TRACED = 144, 192  # sides of kept pictures and of traced ones
CHUNK, DRAWINGS = 4, 3  # scenes rendered at once, drawings of each
WINDOWS = (1.9, 2.4, 3.1)  # on a pair, in units of the subject's longer side
FIRST = 256  # drawings before the first step
INVENTED, SCENE_LIT = 0.3, 0.2  # shares of rows: on made-up ground; whose subject keeps the scene's light
# The most and the fewest batches that `fit_tells` needs, and the penalty on the squares of its weights.
TELLS_BATCHES, TELLS_FEWEST, TELLS_RIDGE = 400, 50, 0.01
TOLD = 0.4  # share of rows that are told the sun
TOGETHER = 16  # held-out drawings judged at once
VISIBLE = 0.04  # a change of this size is an effect without doubt
CARD = "card.json"
PICTURES, SUNS, STATE = "pictures.npy", "suns.npy", "state.json"


@dataclass(frozen=True)
class EffectFit:
    """How the network is fitted to `scenes` scenes.

    start: digest of the weights to go on from, None for none.
    data: digest of the pairs that the scenes are, None for the Toybox's.
    """

    steps: int
    batch_size: int
    lr: float
    seed: int
    scenes: int
    precision: str = "32-true"
    ema_decay: float | None = 0.998
    clip_norm: float = 1.0
    save_every: int = 100
    start: str | None = None
    data: str | None = None


class Batch(NamedTuple):
    """Condition and target: the scene, the subject under its own light, its mask; the scene with it; its sun."""

    scene: Tensor  # B 3 H W
    own: Tensor  # B 3 H W
    mask: Tensor  # B 1 H W
    truth: Tensor  # B 3 H W, right outside the mask
    sun: Tensor  # B 5
    known: Tensor  # B, 1 where `sun` is the scene's
    told: Tensor  # B, 0 where the scene is made up and tells no light

    @property
    def pasted(self) -> Tensor:
        return self.mask * self.own + (1.0 - self.mask) * self.scene


def fit_effect(
    settings: EffectFit,
    folder: Path,
    drawings: "Drawings",
    *,
    device: str,
    start: EffectNet | None = None,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
    on_step: OnStep = no_step,
) -> Path:
    """Trains the network and writes `effect.safetensors` and `card.json` into `folder`; the path of the weights.

    Args:
        start: the network to go on from; None for one that draws the plain contact shadow.
        drawings: what it learns from.

    Raises:
        UserError: the folder holds another fit.
    """
    with torch.random.fork_rng():
        torch.manual_seed(fold_in(settings.seed, "effect start") % 2**32)
        net = EffectNet(EffectNetConfig()) if start is None else start
    module = EffectModule(net.train().requires_grad_(True), settings)
    product = folder / effect_weights().name
    return fit_light(
        module,
        settings,
        product,
        drawings,
        device=device,
        log=log,
        on_step=on_step,
        finish=lambda net: fit_tells(net, drawings, settings, on_step),
    )


def fit_light(
    module: "LightModule",
    settings: EffectFit,
    product: Path,
    drawings: "Drawings",
    *,
    device: str,
    log: Callable[[int, Mapping[str, float]], None] | None,
    on_step: OnStep,
    finish: Callable[[Any], None] = lambda net: None,
) -> Path:
    """Trains the `net` of `module`, an effect or a relighting network, and writes it to `product` with its card.

    `finish` is what is done to the trained network before it is written.

    Raises:
        UserError: the folder holds another fit.
    """
    key = digest({name: value for name, value in asdict(settings).items() if name != "save_every"})
    folder, card = product.parent, product.parent / CARD
    if is_finished(card, key):
        return product
    options = TrainerOptions(
        steps=settings.steps,
        key=key,
        device=device,
        precision=settings.precision,
        clip_norm=settings.clip_norm,
        ema_decay=settings.ema_decay,
        ema_warmup=True,
        save_every=settings.save_every,
        alone=True,
    )
    fit(module, effect_batches(drawings, settings), options, folder, log=log, on_step=on_step)
    net = module.net
    finish(net)
    write_weights(net, product)
    facts = {"parameters": sum(p.numel() for p in net.parameters())}
    sums = {product.name: sha256_file(product)}
    write_json(card, {"key": key, **asdict(settings), **facts, "weights_sha256": sums})
    clear_checkpoints(folder)
    return product


@torch.no_grad()
def fit_tells(net: EffectNet, drawings: "Drawings", settings: EffectFit, on_step: OnStep = no_step) -> None:
    """Fits what says whether a picture tells its light, on the trained network: a ridge logistic regression.

    It parts made-up scenes from those that were rendered or given, by what each level sees of them. Real pictures that
    resemble none of those are often taken for made-up ones, though it has seen none (experiments/LOG.md). A training
    too short for it that went on from a network keeps what that network had.
    """
    net.eval()
    device, batches = next(net.parameters()).device, min(-(-settings.steps // 2), TELLS_BATCHES)
    if settings.start is not None and batches < TELLS_FEWEST:
        return
    drawings.take(drawings.count)
    rows, told = [], []
    for step in range(batches):
        draw = generator(settings.seed, "tells", step)
        numbers = torch.randint(0, drawings.count, (TOGETHER,), generator=draw).tolist()
        dice = Dice(torch.Generator(device).manual_seed(fold_in(settings.seed, "tells looks", step)))
        pictures, suns = drawings.rows(numbers)
        shown = randomised(as_batch(pictures.to(device), suns.to(device)), dice, SIDE)
        rows.append(net.look(shown.scene, shown.pasted, shown.mask).summary.double().cpu())
        told.append(shown.told.double().cpu())
        on_step(step + 1, batches)
    seen = torch.cat(rows)
    mean, spread = seen.mean(0), seen.std(0, correction=0) + 1e-6
    standard, ridge = ((seen - mean) / spread).numpy(), 2 * len(seen) * TELLS_RIDGE
    found = ridge_logistic(standard, torch.cat(told).numpy(), ridge, bias_penalty=0.01 * ridge)
    bias, weight = torch.from_numpy(found).tensor_split([1])
    net.tells.weight.copy_(weight / spread)
    net.tells.bias.copy_(bias - (weight * mean / spread).sum())


def write_weights(net: Any, path: Path) -> None:
    """The weights in half precision, with what is needed to build the network, its `config`, in the metadata."""
    shape = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in asdict(net.config).items()
    }
    save_tensors(path, {k: v.to("cpu", torch.float16) for k, v in net.state_dict().items()}, shape)


class Drawings:
    """Scenes with and without a subject, made in order as far as they are asked for, and kept in `folder`.

    `made(done)` yields the rest, some at a time: pictures (uint8 B 10 S S: scene, own, mask, truth) and suns (B 5, not
    a number where nobody knows the sun).
    """

    def __init__(
        self, folder: Path, count: int, made: Callable[[int], Iterable[tuple[np.ndarray, np.ndarray]]]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.count = folder, count
        shapes = {PICTURES: ((10, STORED, STORED), np.uint8), SUNS: ((5,), np.float32)}
        self.pictures, self.suns = (
            np.lib.format.open_memmap(
                folder / name,
                mode="r+" if (folder / name).is_file() else "w+",
                dtype=dtype,
                shape=(count, *shape),
            )
            for name, (shape, dtype) in shapes.items()
        )
        self.done = int(read_object(folder / STATE)["done"]) if (folder / STATE).is_file() else 0
        self.made = iter(made(self.done))

    def take(self, count: int) -> None:
        """Returns when the first `count` are there."""
        while self.done < min(count, self.count):
            pictures, suns = next(self.made)
            place = slice(self.done, self.done + len(suns))
            self.pictures[place], self.suns[place] = pictures, suns
            # Pixels reach the disk before the count that vouches for them.
            self.pictures.flush()
            self.suns.flush()
            self.done = place.stop
            write_json(self.folder / STATE, {"done": self.done})

    def rows(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """Pictures, uint8 B 10 S S (scene, own, mask, truth), and suns, B 5."""
        return torch.from_numpy(self.pictures[numbers]), torch.from_numpy(self.suns[numbers])


@contextmanager
def toybox_drawings(root: Path, seed: int, scenes: int, workers: int = 0) -> Iterator[Drawings]:
    """Drawings of Toybox scenes in training styles; `workers` processes render, below 2 the caller does."""
    with ExitStack() as opened:

        def made(done: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            jobs = [(seed, i, min(CHUNK, scenes - i)) for i in range(done // DRAWINGS, scenes, CHUNK)]
            if workers < 2 or not jobs:
                return map(_render, jobs)
            # Ctrl-C is the trainer's to handle.
            ignore = (signal.SIGINT, signal.SIG_IGN)
            pool = multiprocessing.get_context("spawn").Pool(workers, signal.signal, ignore)
            opened.callback(pool.terminate)
            return pool.imap(_render, jobs)

        yield Drawings(root / f"drawings-{digest([seed, scenes])}", scenes * DRAWINGS, made)


@contextmanager
def pair_drawings(root: Path, pairs: PairSet) -> Iterator[Drawings]:
    """Windows around the subjects of `pairs`, each through WINDOWS; their suns are not known.

    The subject is lit by its scene, as in every photograph; training varies its shading.
    """

    def made(done: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in range(done // len(WINDOWS), len(pairs.ids)):
            pair = pairs.load(index)
            box, size = bounding_box(pair.mask), (pair.mask.shape[-2], pair.mask.shape[-1])
            layers = torch.cat([pair.without, pair.with_subject, pair.mask, pair.with_subject])
            windows = [region_around(box, *size, context=context).crop(layers) for context in WINDOWS]
            small = torch.stack([area_resize(window, STORED, STORED) for window in windows])
            levels = (small.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()
            yield levels, np.full((len(WINDOWS), 5), np.nan, np.float32)

    yield Drawings(root / f"windows-{digest(list(pairs.digests))}", len(pairs.ids) * len(WINDOWS), made)


def _render(job: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
    seed, first, count = job
    drawn = training_chunk(seed, first, count, drawings=DRAWINGS, side=STORED, traced=TRACED)
    return np.concatenate([drawn.without, drawn.own, drawn.mask, drawn.with_subject], 1), drawn.sun


def effect_batches(drawings: Drawings, settings: EffectFit) -> Callable[[int], dict[str, Any]]:
    """Batch k as a function of k; the drawings it may come from grow until half of the steps are done."""
    first = min(FIRST, drawings.count)

    def batch_at(step: int) -> dict[str, Any]:
        known = first + round((drawings.count - first) * min(1.0, 2 * step / settings.steps))
        drawings.take(known)
        draw = generator(settings.seed, "effect", step)
        numbers = torch.randint(0, known, (settings.batch_size,), generator=draw).tolist()
        pictures, suns = drawings.rows(numbers)
        return {"pictures": pictures, "suns": suns, "step": step}

    return batch_at


class LightModule(TrainingModule):
    """What trains a network `net` for inserter=effect."""

    def __init__(self, net: nn.Module, settings: EffectFit, weight_decay: float) -> None:
        super().__init__(lr=settings.lr, steps=settings.steps, weight_decay=weight_decay)
        self.net, self.seed = net, settings.seed


class EffectModule(LightModule):
    """The effect network and its loss."""

    def __init__(self, net: EffectNet, settings: EffectFit) -> None:
        super().__init__(net, settings, weight_decay=0.02)

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        seed = fold_in(self.seed, "looks", batch["step"])
        dice = Dice(torch.Generator(self.device).manual_seed(seed))
        with torch.autocast(self.device.type, enabled=False):
            shown = randomised(as_batch(batch["pictures"], batch["suns"]), dice, SIDE)
        given = dice.chance(len(shown.scene), TOLD).view(-1) * shown.known
        effect = self.net(shown.scene, shown.pasted, shown.mask, shown.sun, given)
        parts = effect_loss(effect, shown)
        loss = torch.stack(list(parts.values())).sum()
        self.log_dict({"loss": loss, **parts}, batch_size=len(shown.scene))
        return loss


def effect_loss(effect: Effect, batch: Batch) -> dict[str, Tensor]:
    """The parts of the loss; only what lies outside the subject counts."""
    free = 1.0 - batch.mask
    found = batch.scene * torch.exp(effect.log_shade) + effect.light
    change = (batch.truth - batch.scene).abs().amax(1, keepdim=True)
    sure = (change / VISIBLE).clamp(0, 1) * free
    weight = free * (1.0 + 2.0 * sure)
    error = found - batch.truth
    dark = torch.log(batch.truth.clamp_min(0.02) / batch.scene.clamp_min(0.02)).clamp(-2.5, 0.0)
    seen = weight * (batch.scene > 0.08).float()
    gate = torch.nn.functional.binary_cross_entropy_with_logits(effect.gate_logit, sure, reduction="none")
    sun_error = (effect.sun - batch.sun).square()
    share = batch.sun[:, 4:]
    sun = (sun_error[:, :3] * share).sum(1) + sun_error[:, 3:].sum(1)
    return {
        "picture": 20.0 * (weight * error.square()).mean() + 0.5 * (weight * error.abs()).mean(),
        "layer": 0.5 * (seen * (effect.log_shade - dark).square()).mean(),
        "gate": 0.15 * (gate * free).mean(),
        "sun": 0.2 * (sun * batch.known).mean(),
    }


def as_batch(pictures: Tensor, suns: Tensor) -> Batch:
    """Kept drawings as floats."""
    scene, own, mask, truth = (pictures.float() / 255.0).split([3, 3, 1, 3], 1)
    known = suns.isfinite().all(1).to(scene.dtype)
    return Batch(scene, own, mask, truth, suns.nan_to_num(0.0), known, torch.ones_like(known))


@torch.no_grad()
def drawn_in_use(drawings: Drawings, draw: Callable[[Batch], Tensor]) -> tuple[Batch, Tensor]:
    """All drawings at the network's side, not randomised, and what `draw` makes of TOGETHER at once: B 3 H W."""
    drawings.take(drawings.count)
    made: list[tuple[Batch, Tensor]] = []
    for start in range(0, drawings.count, TOGETHER):
        batch = as_batch(*drawings.rows(list(range(start, min(start + TOGETHER, drawings.count)))))
        small = batch._replace(
            **{
                name: functional.interpolate(getattr(batch, name), (SIDE, SIDE), mode="area")
                for name in ("scene", "own", "mask", "truth")
            }
        )
        made.append((small, draw(small)))
    columns = zip(*(batch for batch, _ in made), strict=True)
    return Batch(*(torch.cat(column) for column in columns)), torch.cat([drawn for _, drawn in made])


def draw_effects(net: EffectNet, drawings: Drawings) -> tuple[Batch, Tensor]:
    """All drawings, and the pictures with the layer that the network predicts for them: B 3 H W."""

    def draw(batch: Batch) -> Tensor:
        effect = crisp(predict(net, batch.scene, batch.pasted, batch.mask), batch.mask)
        layer = (batch.scene * torch.exp(effect.log_shade) + effect.light).clamp(0, 1)
        return batch.mask * batch.own + (1 - batch.mask) * layer

    return drawn_in_use(drawings, draw)


def framed(batch: Batch, dice: Dice, side: int) -> Batch:
    """A window of `side` pixels on each picture, flipped in half of the rows."""
    rows = len(batch.scene)
    flip = 1.0 - 2.0 * dice.chance(rows, 0.5).view(-1)
    zoom = dice.uniform(rows, 0.78, 1.0).view(-1)
    shift = dice.uniform(rows, -1.0, 1.0, 2).view(rows, 2) * (1.0 - zoom)[:, None]
    theta = torch.zeros(rows, 2, 3, device=zoom.device)
    theta[:, 0, 0], theta[:, 1, 1] = zoom * flip, zoom
    theta[:, :, 2] = shift
    grid = functional.affine_grid(theta, [rows, 1, side, side], align_corners=False)
    stack = torch.cat([batch.scene, batch.own, batch.mask, batch.truth], 1)
    moved = functional.grid_sample(stack, grid, padding_mode="border", align_corners=False)
    sun = torch.cat([batch.sun[:, :1] * flip[:, None], batch.sun[:, 1:]], 1)
    scene, own, mask, truth = moved.split([3, 3, 1, 3], 1)
    return batch._replace(scene=scene, own=own, mask=mask, truth=truth, sun=sun)


def shaded(batch: Batch, dice: Dice) -> Batch:
    """The subject's own picture under a random smooth light, and its mask a little off, as matting leaves it."""
    rows = len(batch.own)
    frame = frame_coordinates(foot_frame(batch.mask), *batch.mask.shape[-2:])
    slope = dice.uniform(rows, -0.7, 0.7, 2) * dice.chance(rows, 0.6)
    ramp = torch.exp(
        (slope * (frame + torch.tensor([0.0, 0.5], device=frame.device).view(1, 2, 1, 1))).sum(1, True)
    )
    gain = torch.exp(dice.uniform(rows, -0.35, 0.25) * dice.chance(rows, 0.5))
    tint = torch.exp(dice.uniform(rows, -0.12, 0.12, 3) * dice.chance(rows, 0.5))
    gamma = torch.exp(dice.uniform(rows, -0.35, 0.35) * dice.chance(rows, 0.4))
    own = (batch.own.clamp_min(1e-3) ** gamma * (ramp * gain * tint)).clamp(0, 1)
    soft = functional.avg_pool2d(batch.mask, 3, 1, 1)
    sharp = ((soft - 0.5) * dice.uniform(rows, 1.0, 3.0) + 0.5 + dice.uniform(rows, -0.2, 0.25)).clamp(0, 1)
    return batch._replace(own=own, mask=torch.where(dice.chance(rows, 0.35) > 0, sharp, batch.mask))


def textured(batch: Batch, dice: Dice) -> Batch:
    """Surfaces with a texture: the scene's paint multiplied by noise, with and without the subject."""
    rows, size = len(batch.scene), (batch.scene.shape[-2], batch.scene.shape[-1])
    noise = dice.noise(rows, size, dice.number(0.5, 1.0))
    speckle = dice.noise(rows, size, dice.number(0.7, 1.1), 3)
    amount = dice.uniform(rows, 0.0, 0.35) * dice.chance(rows, 0.4)
    factor = torch.exp(amount * noise + 0.4 * amount * speckle)
    return batch._replace(scene=(batch.scene * factor).clamp(0, 1), truth=(batch.truth * factor).clamp(0, 1))


def invented(batch: Batch, dice: Dice, share: float) -> Batch:
    """The first `share` of the rows in a picture that tells no light, with a made-up soft shadow as their truth.

    Their scene is made-up ground, or the scene of another row bent until its shadows point nowhere. The shadow lies
    under the subject and often before it, as most pictures have it.
    """
    count = round(share * len(batch.scene))
    if count == 0:
        return batch
    size = (batch.scene.shape[-2], batch.scene.shape[-1])
    mask = batch.mask[:count]
    frame = foot_frame(mask)
    points = frame_coordinates(frame, *size)
    kind = dice.uniform(count, 0.0, 1.0)
    scene = torch.where(kind < 0.8, _bent(batch.scene.flip(0)[:count], dice), batch.scene[:count])
    scene = torch.where(kind < 0.4, _made_ground(points, dice), scene)
    truth = scene * soft_shadow(mask, frame, points, dice)
    return batch._replace(
        scene=torch.cat([scene, batch.scene[count:]]),
        truth=torch.cat([truth, batch.truth[count:]]),
        known=torch.cat([torch.zeros_like(batch.known[:count]), batch.known[count:]]),
        told=torch.cat([(kind >= 0.8).to(scene.dtype).view(-1), batch.told[count:]]),
    )


def _made_ground(points: Tensor, dice: Dice) -> Tensor:
    """Two rough colours that meet at a horizon, brighter to one side: B 3 H W."""
    count, size = len(points), (points.shape[-2], points.shape[-1])
    horizon = dice.uniform(count, -1.0, -0.15)
    edge = points[:, 1:2] - horizon + 0.1 * dice.noise(count, size, 0.6)
    ground = torch.sigmoid(edge * dice.uniform(count, 4, 40))
    colours = [
        dice.uniform(count, 0.15, 0.95) * torch.exp(dice.uniform(count, -0.35, 0.35, 3)) for _ in range(2)
    ]
    paint = ground * colours[0] + (1 - ground) * colours[1]
    fade = torch.exp(dice.uniform(count, -0.5, 0.5, 2).mul(points).sum(1, keepdim=True))
    rough = dice.noise(count, size, dice.number(0.5, 1.0), 3)
    return (paint * fade * torch.exp(dice.uniform(count, 0.0, 0.6) * rough)).clamp(0, 1)


def _bent(scene: Tensor, dice: Dice) -> Tensor:
    """A scene whose every part is moved by smooth noise."""
    count, size = len(scene), (scene.shape[-2], scene.shape[-1])
    still = torch.eye(2, 3, device=scene.device).expand(count, -1, -1)
    grid = functional.affine_grid(still, [count, 1, *size], align_corners=False)
    moves = dice.noise(count, size, dice.number(0.4, 0.7), 2) * dice.uniform(count, 0.1, 0.4)
    return functional.grid_sample(
        scene, grid + moves.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False
    )


def looked(batch: Batch, dice: Dice) -> Batch:
    """One look over scene, subject and truth: exposure, colours, a named look, poster steps, edges, paper, grain."""
    rows, size = len(batch.scene), (batch.scene.shape[-2], batch.scene.shape[-1])
    gamma = torch.exp(dice.uniform(rows, -0.5, 0.45) * dice.chance(rows, 0.6))
    contrast = torch.exp(dice.uniform(rows, -0.4, 0.3) * dice.chance(rows, 0.6))
    middle = dice.uniform(rows, 0.3, 0.7)
    tint = torch.exp(dice.uniform(rows, -0.25, 0.25, 3) * dice.chance(rows, 0.6))
    chroma = torch.exp(dice.uniform(rows, -1.2, 0.5) * dice.chance(rows, 0.5))
    levels = dice.uniform(rows, 4.0, 12.0)
    steps = dice.chance(rows, 0.07)
    lines = dice.uniform(rows, 0.3, 1.0) * dice.chance(rows, 0.08)
    paper = dice.noise(rows, size, 1.0) * (dice.uniform(rows, 0.0, 0.12) * dice.chance(rows, 0.25))
    grain = torch.randn(rows, 3, *size, generator=dice.generator, device=dice.device)
    grain = grain * (dice.uniform(rows, 0.0, 0.04) * dice.chance(rows, 0.3))
    soft = dice.chance(rows, 0.15)
    names = [list(LOOKS)[int(dice.number(0, len(LOOKS) - 0.001))] for _ in range(4)]
    which = (dice.uniform(rows, 0.0, 16.0)).floor()  # the first four of sixteen parts wear a named look

    def over(image: Tensor) -> Tensor:
        image = image.clamp(1e-3, 1) ** gamma * tint
        image = luminance(image) + (image - luminance(image)) * chroma
        image = (middle + (image - middle) * contrast).clamp(0, 1)
        for part, name in enumerate(names):
            image = torch.where(which == part, LOOKS[name](image).clamp(0, 1), image)
        image = torch.where(steps > 0, (image * levels).round() / levels, image)
        grey = luminance(image)
        edge = (functional.avg_pool2d(grey, 3, 1, 1) - grey).abs() * 8
        image = image * (1 - lines * edge.clamp(0, 1)) * (1 + paper) + grain
        blurred = functional.avg_pool2d(functional.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return torch.where(soft > 0, blurred, image).clamp(0, 1)

    return batch._replace(scene=over(batch.scene), own=over(batch.own), truth=over(batch.truth))


def randomised(batch: Batch, dice: Dice, side: int) -> Batch:
    """All of it, in the order in which the world makes a picture: place, surface, light, look.

    SCENE_LIT of the rows keep the scene's light on their subject, as where a photograph has no other truth.
    """
    rows = len(batch.scene)
    batch = framed(batch, dice, side)
    batch = batch._replace(own=torch.where(dice.chance(rows, SCENE_LIT) > 0, batch.truth, batch.own))
    batch = invented(textured(shaded(batch, dice), dice), dice, INVENTED)
    return looked(batch, dice)
