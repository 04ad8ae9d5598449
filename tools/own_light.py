"""Inserters measured as they are used: the subject lit as in its own picture, fresh scenes, the finished picture.

Run as `python tools/own_light.py --scenes 40 --pairs FOLDER`. The Toybox knows the truth for every
drawing: the picture with the subject, its effect, and on which side of the subject it lies. `--pairs` adds real pairs
(a folder of with/, without/, mask/ and effect/). Numbers are `core.fidelity.effect_scores`, and decibels inside the
subject, means over pictures with 95 % intervals.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import region_around, resize
from magic_insert.core.effect_layer import apply_effect, in_shade, upsample_effect
from magic_insert.core.fidelity import decibel, effect_of, effect_scores
from magic_insert.core.images import load_rgb
from magic_insert.core.masks import bounding_box
from magic_insert.core.rand import fold_in
from magic_insert.core.tables import markdown_table
from magic_insert.data.relit_pairs import Sitting, render_relit
from magic_insert.evaluation.statistics import mean_interval
from magic_insert.inserters.base import Inserter, Window
from magic_insert.magic import MagicInsert
from magic_insert.toybox.scenes import STUDIO_LIGHT, sample_scene
from magic_insert.toybox.styles import HELD_OUT_STYLES, TRAIN_STYLES
from magic_insert.toybox.subjects import sample_subject

# What an inserter makes of a window: the scene, the paste and its mask -> the finished window.
Finish = Callable[[Tensor, Tensor, Tensor], Tensor]
SEED = 20_261_127
NOTHING = "copy_paste"
FAINT, SOLID = 0.02, 0.98
NAMES = {
    "effect_psnr": "effect region, dB", "rest_psnr": "rest, dB", "side": "sun side right", "contact": "contact",
    "shadow_iou": "effect IoU", "better": "better than nothing", "subject_psnr": "subject, dB",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One picture with its truth; `pasted` uses the subject under the light that `group` names."""

    group: str
    scene: Float[Tensor, "3 H W"]
    pasted: Float[Tensor, "3 H W"]
    mask: Float[Tensor, "1 H W"]
    truth: Float[Tensor, "3 H W"]
    effect: Float[Tensor, "1 H W"]

    def scores(self, finished: Float[Tensor, "3 H W"]) -> dict[str, float]:
        """Those of a finished window; the faint rim of the subject is judged like the ground."""
        covered = (self.mask > FAINT).float()
        about = {"effect": self.effect, "mask": self.mask, "covered": covered}
        error = (finished.double() - self.truth.double()).square().mean(0)[self.mask[0] > SOLID]
        subject = {"subject_psnr": decibel(float(error.mean()))} if len(error) else {}
        return {**effect_scores(finished, self.truth, self.scene, **about), **subject}


def toybox_cases(scenes: int, *, side: int = 128, seed: int = SEED) -> Iterator[Case]:
    """Every held-out scene as a photograph, in two seen and in one unseen style; own-lit and scene-lit."""
    for index in range(scenes):
        name = fold_in(seed, "own light", index)
        drawn = [TRAIN_STYLES[1 + (2 * index + k) % (len(TRAIN_STYLES) - 1)] for k in range(2)]
        styles = ["photo", *drawn, HELD_OUT_STYLES[index % len(HELD_OUT_STYLES)]]
        specs = sample_scene(name, "heldout"), sample_subject(name, "heldout")
        sitting = Sitting(*specs, STUDIO_LIGHT, styles, 0.5, name)
        pairs = render_relit([sitting], side=side, traced=2 * side, sun_samples=4)
        pictures = (pairs.without, pairs.own, pairs.mask, pairs.with_subject)
        tensors = [torch.from_numpy(levels).float() / 255.0 for levels in pictures]
        for row, style in enumerate(styles):
            scene, own, mask, truth = (t[row] for t in tensors)
            effect = effect_of(truth[None], scene[None], mask[None])[0]
            kind = "photo" if style == "photo" else "seen" if style in TRAIN_STYLES else "unseen"
            for light, subject in (("own-lit", own), ("scene-lit", truth)):
                pasted = mask * subject + (1 - mask) * scene
                yield Case(f"{kind}, {light}", scene, pasted, mask, truth, effect)


def real_cases(folder: Path) -> Iterator[Case]:
    """Pairs of files; `effect` is given, the subject carries the scene's light."""
    for path in sorted((folder / "with").glob("*.png")):
        truth, scene, mask, effect = (
            load_rgb(folder / part / path.name) for part in ("with", "without", "mask", "effect")
        )
        window = region_around(bounding_box(mask[:1]), *scene.shape[-2:])
        scene, truth, mask, effect = (window.crop(part) for part in (scene, truth, mask[:1], effect[:1]))
        effect = ((effect > 0.5) & (mask <= FAINT)).float()
        yield Case("real", scene, mask * truth + (1 - mask) * scene, mask, truth, effect)


def finished_by(inserter: Inserter) -> Finish:
    """The finished window of an inserter."""

    def finish(scene: Tensor, pasted: Tensor, mask: Tensor) -> Tensor:
        made = inserter(Window(scene, pasted, mask, 0, "own light"))
        layer = upsample_effect(made.layer, pasted, mask)
        if made.shade is not None:
            ground = (1 - mask) * scene
            pasted = ground + in_shade(pasted - ground, resize(made.shade, *mask.shape[-2:]))
        return apply_effect(scene, pasted, mask, layer)

    return finish


def measure(cases: Iterator[Case], inserters: Mapping[str, Finish]) -> pd.DataFrame:
    """One row a picture and inserter: group, picture, inserter and the scores, NaN where one is not defined."""
    rows = [
        {
            "group": case.group, "picture": str(number), "inserter": name,
            **case.scores(finish(case.scene, case.pasted, case.mask)),
        }
        for number, case in enumerate(cases)
        for name, finish in inserters.items()
    ]  # fmt: skip
    frame = pd.DataFrame(rows).reindex(columns=["group", "picture", "inserter", *NAMES])
    nothing = (
        frame[frame["inserter"] == NOTHING].set_index("picture")["effect_psnr"].reindex(frame["picture"])
    )
    better = frame["effect_psnr"].gt(nothing.to_numpy()).where(frame["effect_psnr"].notna()).astype(float)
    return frame.assign(better=better.where(frame["inserter"] != NOTHING))


def table(frame: pd.DataFrame) -> str:
    """Markdown: one row a group and inserter."""
    lines = []
    for (group, inserter), part in frame.groupby(["group", "inserter"], sort=False):
        line = {
            "pictures": f"{group} ({len(part)})",
            "inserter": inserter,
            **dict.fromkeys(NAMES.values(), ""),
        }
        for key, name in NAMES.items():
            found = part.dropna(subset=[key])
            alone = ["all"] * len(found)
            if len(found):
                estimate = mean_interval(found[key], found["picture"], alone)
                known = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
                line[name] = f"{estimate.mean:.2f}{known}"
        lines.append(line)
    return markdown_table(lines, num_text=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure inserters with the subject in its own light.")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--inserters", default="copy_paste,contact_shadow,diffusion,effect")
    parser.add_argument("--run", help="folder of other weights for inserter=effect")
    options = parser.parse_args(arguments)
    inserters: dict[str, Finish] = {}
    for name in options.inserters.split(","):
        run = [f"inserter.run={options.run}"] if options.run and name == "effect" else []
        magic = MagicInsert.from_pretrained("micro", overrides=[f"inserter={name}", *run])
        inserters[name] = finished_by(magic.models.inserter(magic.settings.inserter, magic.folders.inserter))
    cases = [toybox_cases(options.scenes), real_cases(options.pairs) if options.pairs else iter(())]
    print(table(pd.concat([measure(part, inserters) for part in cases])))


if __name__ == "__main__":
    main()
