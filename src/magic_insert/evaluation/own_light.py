"""Inserters measured as they are used: the subject lit as in its own picture, fresh scenes, the finished picture.

Run as `python -m magic_insert.evaluation.own_light --scenes 40 --pairs FOLDER`. The Toybox knows the truth for every
drawing: the picture with the subject, its effect, and on which side of the subject it lies. `--pairs` adds real pairs
(a folder of with/, without/, mask/ and effect/). Every number is a mean over pictures with a 95 % bootstrap interval.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import region_around
from magic_insert.core.effect_layer import apply_effect, upsample_effect
from magic_insert.core.fidelity import EFFECT_STEP, decibel, effect_of, iou
from magic_insert.core.images import load_rgb
from magic_insert.core.masks import bounding_box
from magic_insert.core.rand import fold_in
from magic_insert.core.silhouettes import foot_frame, frame_coordinates
from magic_insert.data.relit_pairs import Sitting, render_relit, studio_light
from magic_insert.inserters.base import Inserter
from magic_insert.magic import MagicInsert
from magic_insert.toybox.scenes import sample_scene
from magic_insert.toybox.styles import HELD_OUT_STYLES, TRAIN_STYLES
from magic_insert.toybox.subjects import sample_subject

# What an inserter makes of a window: the scene, the paste and its mask -> the finished window.
Finish = Callable[[Tensor, Tensor, Tensor], Tensor]
SEED = 20_261_127
DECIDED = 0.08  # a true effect this far (in longer sides) to one side of the foot has a side
UNDER = 0.12  # how far from the foot, in longer sides, contact is measured


@dataclass(frozen=True)
class Case:
    """One picture with its truth; `pasted` uses the subject under the light that `group` names."""

    group: str
    scene: Float[Tensor, "3 H W"]
    pasted: Float[Tensor, "3 H W"]
    mask: Float[Tensor, "1 H W"]
    truth: Float[Tensor, "3 H W"]
    effect: Float[Tensor, "1 H W"]


def toybox_cases(scenes: int, *, side: int = 128, seed: int = SEED) -> Iterator[Case]:
    """Every held-out scene as a photograph, in two seen and in one unseen style; own-lit and scene-lit."""
    for index in range(scenes):
        name = fold_in(seed, "own light", index)
        styles = ["photo"]
        styles += [TRAIN_STYLES[1 + (2 * index + k) % (len(TRAIN_STYLES) - 1)] for k in range(2)]
        styles += [HELD_OUT_STYLES[index % len(HELD_OUT_STYLES)]]
        specs = sample_scene(name, "heldout"), sample_subject(name, "heldout")
        sitting = Sitting(*specs, studio_light(), styles, 0.5, name)
        pairs = render_relit([sitting], side=side, traced=2 * side, sun_samples=4)
        tensors = [
            torch.from_numpy(a).float() / 255.0
            for a in (pairs.without, pairs.own, pairs.mask, pairs.with_subject)
        ]
        for row, style in enumerate(styles):
            scene, own, mask, truth = (t[row] for t in tensors)
            kind = "photo" if style == "photo" else "seen" if style in TRAIN_STYLES else "unseen"
            effect = effect_of(truth[None], scene[None], mask[None])[0]
            for light, subject in (("own-lit", own), ("scene-lit", truth)):
                yield Case(
                    f"{kind}, {light}", scene, mask * subject + (1 - mask) * scene, mask, truth, effect
                )


def real_cases(folder: Path) -> Iterator[Case]:
    """Pairs of files; `effect` is given, the subject carries the scene's light."""
    for path in sorted((folder / "with").glob("*.png")):
        truth, scene, mask, effect = (
            load_rgb(folder / part / path.name) for part in ("with", "without", "mask", "effect")
        )
        mask, effect = mask[:1], ((effect[:1] > 0.5) & (mask[:1] <= 0.02)).float()
        window = region_around(bounding_box(mask), *scene.shape[-2:])
        scene, truth, mask, effect = (window.crop(part) for part in (scene, truth, mask, effect))
        yield Case("real", scene, mask * truth + (1 - mask) * scene, mask, truth, effect)


def finished_by(inserter: Inserter) -> Finish:
    """The finished window of an inserter."""

    def finish(scene: Tensor, pasted: Tensor, mask: Tensor) -> Tensor:
        layer = inserter(scene, pasted, mask, seed=0, id="own light").layer
        return apply_effect(scene, pasted, mask, upsample_effect(layer, pasted, mask))

    return finish


def numbers(case: Case, finished: Float[Tensor, "3 H W"]) -> dict[str, float]:
    """What one finished picture scores; a number that is not defined for it is missing."""
    free = (case.mask <= 0.02).float()
    rest = free * (1 - case.effect)
    found = effect_of(finished[None], case.scene[None], case.mask[None])[0] * free
    frame = foot_frame(case.mask[None])
    across, down = frame_coordinates(frame, *case.mask.shape[-2:])[0]
    under = free[0] * ((down > -UNDER) & (down < 0.5 * UNDER)).float() * (across.abs() < 0.4).float()
    true_dark, dark = (_dark(case.scene, picture) for picture in (case.truth, finished))
    result = {"rest": _psnr(finished, case.truth, rest)}
    if float(case.effect.sum()) > 0:
        result["effect"] = _psnr(finished, case.truth, case.effect)
        result["iou"] = iou(found > 0, case.effect > 0)
    truly = _side(case.truth, case, across)
    if truly is not None and abs(truly) > DECIDED:
        mine = _side(finished, case, across)
        result["side"] = 0.0 if mine is None else float(mine * truly > 0)
    if float((true_dark * under).sum()) > 0.02 * float(under.sum()):
        result["contact"] = float((dark * under).sum() / (true_dark * under).sum())
    return result


def _psnr(picture: Tensor, truth: Tensor, where: Tensor) -> float:
    squared = (picture.double() - truth.double()).square().mean(0, keepdim=True)
    return decibel(float((squared * where).sum() / where.sum().clamp_min(1.0)))


def _dark(scene: Tensor, picture: Tensor) -> Tensor:
    return (scene - picture).mean(0).clamp_min(0.0)


def _side(picture: Tensor, case: Case, across: Tensor) -> float | None:
    """How far right of the foot the change lies, in longer sides; None where nothing changed."""
    change = (picture - case.scene).abs().amax(0) * (case.mask[0] <= 0.02)
    change = change * (change > EFFECT_STEP)
    return float((change * across).sum() / change.sum()) if float(change.sum()) > 0 else None


def table(scores: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> str:
    """Markdown: one row a group and inserter."""
    names = {"effect": "effect region, dB", "rest": "rest, dB", "side": "sun side right", "contact": "contact",
             "iou": "effect IoU"}  # fmt: skip
    lines = [
        "| pictures | inserter | " + " | ".join(names.values()) + " | better than nothing |",
        "|---|---|" + "--:|" * (len(names) + 1),
    ]
    for group, inserters in scores.items():
        nothing = inserters["copy_paste"]
        for inserter, rows in inserters.items():
            cells = [_interval([row[key] for row in rows if key in row]) for key in names]
            both = [(row, none) for row, none in zip(rows, nothing, strict=True) if "effect" in row]
            better = np.mean([row["effect"] > none["effect"] for row, none in both])
            cells.append(f"{100 * better:.0f} %" if inserter != "copy_paste" else "")
            lines.append(f"| {group} ({len(rows)}) | {inserter} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(values: Sequence[float]) -> str:
    if not values:
        return ""
    data = np.array(values)
    draws = np.random.default_rng(0).integers(0, len(data), (1000, len(data)))
    low, high = np.quantile(data[draws].mean(1), (0.025, 0.975))
    return f"{data.mean():.2f} [{low:.2f}, {high:.2f}]"


def measure(
    cases: Iterator[Case], inserters: Mapping[str, Finish]
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """group -> inserter -> one row a picture."""
    scores: dict[str, dict[str, list[dict[str, float]]]] = {}
    for case in cases:
        for name, finish in inserters.items():
            row = numbers(case, finish(case.scene, case.pasted, case.mask))
            scores.setdefault(case.group, {}).setdefault(name, []).append(row)
    return scores


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure inserters with the subject in its own light.")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--inserters", default="copy_paste,contact_shadow,real_only,effect")
    parser.add_argument("--run", help="folder of other weights for inserter=effect")
    options = parser.parse_args(arguments)
    inserters: dict[str, Finish] = {}
    for name in options.inserters.split(","):
        run = [f"inserter.run={options.run}"] if options.run and name == "effect" else []
        magic = MagicInsert.from_pretrained("micro", overrides=[f"inserter={name}", *run])
        inserters[name] = finished_by(magic.models.inserter(magic.settings.inserter, magic.folders.inserter))
    scores = measure(toybox_cases(options.scenes), inserters) if options.scenes else {}
    if options.pairs:
        scores |= measure(real_cases(options.pairs), inserters)
    print(table(scores))


if __name__ == "__main__":
    main()
