"""Poses by words, subjects that are hidden in their own picture, and things in the scene that stand before them.

    python experiments/008-poses-and-occlusion/measure.py --out runs/008
    python experiments/008-poses-and-occlusion/measure.py --out runs/008 --figure-only

Main effects, no full factorial: `words` asks personalised subjects for poses and complexities, judged against the
Toybox's drawing in that pose; `hidden` learns subjects of which a part is cut away; `scene` places true drawings, lit
as in their own picture, in other poses, from other sides and behind occluders. The pose reader names the pose whose
drawing is nearest; it is judged on drawings of other bodies of the same kind first. Judged are the model's own drawings
(`style.detail=0`), as they are where words ask for a pose. LoRAs lie beside `--out`, in `subjects`; what rows.jsonl
holds is not measured again.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from magic_insert import MagicInsert
from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import decibel, effect_of, effect_scores
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.masks import blur, bounding_box
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Scene, Subject
from magic_insert.data.relit_pairs import alone
from magic_insert.data.subject_images import place
from magic_insert.pose import pose_by_words
from magic_insert.toybox.captions import pose_phrase
from magic_insert.toybox.props import Builder
from magic_insert.toybox.records import World
from magic_insert.toybox.scenes import KINDS, PLACES, STUDIO_LIGHT, SceneSpec, sample_scene, scene_world
from magic_insert.toybox.solids import with_id
from magic_insert.toybox.styles import draw, style_phrase
from magic_insert.toybox.subjects import POSES, SubjectSpec, sample_subject, with_pose
from magic_insert.toybox.tracer import trace
from magic_insert.toybox.world import SUPERSAMPLE, shrink, trace_subjects

HERE = Path(__file__).resolve().parent
STYLES = ("photo", "cartoon", "watercolour")
PLACED_STYLES = (*STYLES, "woodcut")
FAINT, TRACED = 0.02, SUPERSAMPLE * common.SIZE
SUGGESTED = "sitting down on the floor"
STEPS = "sampling.steps=12"  # of 25: half of the time
HIDDEN = {"none": 0.0, "a third": 1 / 3, "half": 0.5}
COLUMNS = [  # of rows.csv, whichever parts were run
    "part", "subject", "drawn_in", "factor", "level", "method", "hidden_share", "effect", "whole", "front", "pose",
    "read", "complexity", "identity", "style", "hidden",
]  # fmt: skip
IN_FRONT_ID = 90  # of the occluder among the scene's objects
Picture = tuple[Tensor, Tensor]  # rgb 3 S S and alpha 1 S S


def drawn_alone(spec: SubjectSpec, styles: Sequence[str], level: float, seed: int) -> list[Picture]:
    """The subject on paper in each style."""
    studio = trace_subjects([spec], TRACED)
    alpha = shrink(studio.coverage)[0]
    return [(shrink(draw(studio, [style], [level], [seed]))[0], alpha) for style in styles]


class PoseReader:
    """Names the pose of a cut-out drawing: that of the nearest of its subject's drawings in all poses."""

    def __init__(self, spec: SubjectSpec, seed: int) -> None:
        self.bank: dict[str, list[tuple[str, Tensor]]] = {style: [] for style in STYLES}
        for pose in POSES:
            for turn in (-15.0, 0.0, 15.0):
                seen = with_pose(spec, pose, spec.yaw_deg + turn)
                for style, (rgb, alpha) in zip(
                    STYLES, drawn_alone(seen, STYLES, common.COMPLEXITY, seed), strict=True
                ):
                    self.bank[style].append((pose, self.features(Subject(rgb, alpha, pose))))

    @staticmethod
    def features(cut: Subject) -> Tensor:
        """The cut-out framed on white beside its matte, blurred."""
        return blur(torch.cat(place(cut, common.SIZE)), 3.0)

    def __call__(self, cut: Subject, style: str) -> str:
        """The pose of the nearest drawing in this style."""
        own = self.features(cut)
        return min(self.bank[style], key=lambda known: float((known[1] - own).square().mean()))[0]


def judge_reader(rows: common.Rows, reader: PoseReader, spec: SubjectSpec, seed: int, number: int) -> None:
    """The reader on drawings of another body of the same kind, from another side and on another sheet."""
    other = replace(sample_subject(fold_in(seed, "other body", number), "heldout"), yaw_deg=0.0)
    body = replace(spec, proportions=other.proportions, identity=other.identity)
    measured: list[common.Row] = []
    for pose in POSES:
        seen = with_pose(body, pose, spec.yaw_deg + 8.0)
        for style, (rgb, alpha) in zip(STYLES, drawn_alone(seen, STYLES, 0.8, seed + 1), strict=True):
            read = reader(Subject(rgb, alpha, pose), style)
            measured.append(
                {"part": "reader", "subject": number, "drawn_in": style, "pose": pose, "read": read}
            )
    rows.add(measured)


def words_part(
    rows: common.Rows, models: dict[str, MagicInsert], judges: common.Judges, seed: int, number: int
) -> None:
    """Poses asked for by words; complexity; what words cost where they ask for nothing."""
    case = common.case_of(seed, number, STYLES)
    reader = PoseReader(case.spec, fold_in(seed, "texture", number))
    judge_reader(rows, reader, case.spec, seed, number)
    subject = models["ours"].personalize(case.subject)
    asked = [("ours", "stand", "", common.COMPLEXITY), ("ours", "stand", "", 0.0), ("ours", "stand", "", 1.0)]
    asked += [("no outline", "stand", "", common.COMPLEXITY)]
    for pose in POSES[1:]:
        asked += [
            (m, pose, pose_phrase(case.spec.template, pose), common.COMPLEXITY)
            for m in ("ours", "base model")
        ]
    asked += [("suggested", "sit", SUGGESTED, common.COMPLEXITY)]
    for method, pose, words, level in asked:
        shown = case if level == common.COMPLEXITY else common.case_of(seed, number, STYLES, complexity=level)
        one_drawing(
            rows, models, judges, (shown, subject, reader), (method, pose, words, level), (seed, number)
        )


def one_drawing(
    rows: common.Rows,
    models: dict[str, MagicInsert],
    judges: common.Judges,
    who: tuple[common.Case, Subject, PoseReader],
    asked: tuple[str, str, str, float],
    draw_of: tuple[int, int],
) -> None:
    """The subject in every style, asked for a pose by words, against the truth in that pose."""
    (case, subject, reader), (method, pose, words, level), (seed, number) = who, asked, draw_of
    seen = drawn_alone(with_pose(case.spec, pose), STYLES, level, fold_in(seed, "texture", number))
    truth = common.framed_like(torch.stack([rgb for rgb, _ in seen]), bounding_box(seen[0][1]))
    magic = models["ours" if method == "suggested" else method]
    magic = magic.using(sampling=replace(magic.settings.sampling, prompt_suffix=words))
    phrases = [style_phrase(style) for style in STYLES]
    redrawn = magic.redraw(subject, case.scenes, seed=seed, style_texts=phrases)
    drawn = torch.stack([r.rgb.float().cpu() for r in redrawn])
    found = judges.likeness(drawn, truth)
    measured: list[common.Row] = []
    for n, style in enumerate(STYLES):
        try:
            read = reader(magic.cut(redrawn[n]), style)
        except UserError:
            read = "nothing"
        row = {
            "part": "words",
            "subject": number,
            "drawn_in": style,
            "method": method,
            "pose": pose,
            "read": read,
        }
        measured.append(row | {"complexity": level} | {role: values[n] for role, values in found.items()})
    if level == common.COMPLEXITY:
        for name, pictures in ((f"{method}-{pose}", drawn), (f"truth-{pose}", truth)):
            save_png(rows.file.parent / f"{name}-{number}.png", torch.cat(list(pictures), -1).clamp(0, 1))
    rows.add(measured)


def hidden_part(rows: common.Rows, magic: MagicInsert, judges: common.Judges, seed: int, number: int) -> None:
    """Subjects whose lower right part is cut away, as behind something in their own picture."""
    case = common.case_of(seed, number, STYLES)
    box = bounding_box(case.subject.alpha)
    for name, share in HIDDEN.items():
        free = torch.ones_like(case.subject.alpha)
        total, width = float(case.subject.alpha.sum()), 0
        while float((case.subject.alpha * free).sum()) > (1 - share) * total:
            width += 1
            reach = round(0.8 * box.h * min(1.0, 1.3 * width / box.w))
            free[:, box.bottom - reach : box.bottom, box.right - width : box.right] = 0
        rgb = case.subject.rgb * free + (1 - free)
        subject = Subject(rgb, case.subject.alpha * free, f"subject-{number}-{name}", text=case.subject.text)
        learned = magic.personalize(subject)
        redrawn = magic.redraw(learned, case.scenes, seed=seed)
        drawn = torch.stack([r.rgb.float().cpu() for r in redrawn])
        found = judges.likeness(drawn, case.truth)
        pictures = [place(subject, common.SIZE)[0], *drawn]
        save_png(rows.file.parent / f"hidden-{name}-{number}.png", torch.cat(pictures, -1).clamp(0, 1))
        rows.add(
            {"part": "hidden", "subject": number, "drawn_in": style, "hidden": name}
            | {role: values[n] for role, values in found.items()}
            for n, style in enumerate(STYLES)
        )


def behind(scene: SceneSpec, subject: SubjectSpec, share: float) -> World:
    """The empty scene with a prop of its kind that hides about this share of the subject."""
    empty = scene_world(scene)
    if share == 0:
        return empty
    body = alone(scene, subject, scene.light).shapes
    prop, tall = PLACES[scene.kind].occluders[0], scene.subject_height
    worlds = []
    for size in (0.35, 0.5, 0.65, 0.8, 1.0):
        for across in (-0.4, -0.2, 0.0, 0.2, 0.4):
            at = (scene.drop_x + across * tall, 0.0, scene.drop_z + 0.3 * tall + 0.4 * size * tall)
            parts = with_id(prop(Builder(at, size * tall, Random(scene.seed))), IN_FRONT_ID)
            worlds.append(replace(empty, shapes=(*empty.shapes, *parts)))
    whole = trace([replace(empty, shapes=(*empty.shapes, *body))], 32).coverage.sum()
    seen = trace([replace(world, shapes=(*world.shapes, *body)) for world in worlds], 32).coverage.sum(
        (1, 2, 3)
    )
    return worlds[int(((1 - seen / whole) - share).abs().argmin())]


def scene_part(rows: common.Rows, magic: MagicInsert, seed: int, number: int) -> None:
    """One scene: its subject in other poses, from other sides, behind occluders, in other complexities."""
    scene = sample_scene(fold_in(seed, "place", number), "heldout")
    spec = replace(sample_subject(fold_in(seed, "placed", number), "heldout"), pose="stand")
    turned = {f"{turn:.0f} degrees": with_pose(spec, None, spec.yaw_deg + turn) for turn in (45.0, 90.0)}
    cases = [("baseline", "stand, none, 0.5", spec, 0.0, common.COMPLEXITY)]
    cases += [("pose", pose, with_pose(spec, pose), 0.0, common.COMPLEXITY) for pose in POSES[1:]]
    cases += [("yaw", name, other, 0.0, common.COMPLEXITY) for name, other in turned.items()]
    cases += [("in front", name, spec, share, common.COMPLEXITY) for name, share in list(HIDDEN.items())[1:]]
    cases += [("complexity", f"{level:.0f}", spec, 0.0, level) for level in (0.0, 1.0)]
    traced: dict[tuple[SubjectSpec, float], tuple[Tensor, ...]] = {}
    for factor, name, body, share, level in cases:
        if (body, share) not in traced:
            empty, own = behind(scene, body, share), alone(scene, body, STUDIO_LIGHT)
            full = replace(empty, shapes=(*empty.shapes, *own.shapes))
            traced[body, share] = tuple(trace([world], TRACED) for world in (full, empty, own))  # type: ignore[assignment]
        for style in PLACED_STYLES:
            measured = placed(magic, traced[body, share], style, level, fold_in(seed, number, style))
            row = {"part": "scene", "subject": number, "drawn_in": style, "factor": factor, "level": name}
            rows.add(row | {"method": method} | found for method, (found, _) in measured.items())
            if factor == "in front":
                pictures = torch.cat([picture for _, picture in measured.values()], -1)
                save_png(rows.file.parent / f"front-{name}-{style}-{number}.png", pictures)


def placed(
    magic: MagicInsert, traced: Sequence[Tensor], style: str, level: float, salt: int
) -> dict[str, tuple[common.Row, Tensor]]:
    """Scores and pictures of the finished scene, pasted over and with a mask of what is in front; and the truth."""
    truth, bare, own = (shrink(draw(g, [style], [level], [salt]))[0] for g in traced)  # type: ignore[list-item]
    full, empty, body = traced
    visible, alpha = shrink(full.coverage)[0], shrink(body.coverage)[0]  # type: ignore[attr-defined]
    front = shrink((empty.object_id == IN_FRONT_ID).float())[0]  # type: ignore[attr-defined]
    box, result = bounding_box(alpha, FAINT), {}
    effect = effect_of(truth[None], bare[None], torch.maximum(visible, alpha)[None])[0]
    about = {"effect": effect, "mask": alpha, "covered": (alpha > FAINT).float()}
    hidden = ((front > 0.5) & (alpha > 0.5))[0]
    nothing = effect_scores(bare, truth, bare, **about).get("effect_psnr", float("nan"))
    for method, mask in (("over", None), ("mask", front.expand(3, -1, -1))):
        drop = magic.place(Subject(own, alpha, "true"), Scene(bare, "scene"), box, occluders=mask)
        row: common.Row = {"hidden_share": 1 - float(visible.sum() / alpha.sum())}
        effect_db = effect_scores(drop.scene.rgb, truth, bare, **about).get("effect_psnr", float("nan"))
        row |= {
            "effect": effect_db - nothing,
            "whole": decibel(float((drop.scene.rgb - truth).square().mean())),
        }
        if bool(hidden.any()):
            row["front"] = decibel(float((drop.scene.rgb - truth).square().mean(0)[hidden].mean()))
        result[method] = (row, drop.scene.rgb)
        if not bool(hidden.any()):
            break
    result["truth"] = ({"hidden_share": row["hidden_share"]}, truth)
    return result


def tables(frame: pd.DataFrame) -> str:
    """The reader, the words, the hidden subjects, the scenes, and what the suggester says."""
    frame = frame.assign(right=(frame.read == frame.pose).where(frame.read.notna()).astype(float))
    numbers = ("right", "identity", "style")
    reader = frame[frame.part == "reader"]
    lines: list[common.Row] = [
        {
            "read": "truth, another body",
            "drawings": len(reader),
            "right": common.mean_with_interval(common.by_subject(reader, "right"), 2),
        }
    ]
    words = frame[frame.part == "words"]
    for keys, found in words.groupby(["method", "pose", "complexity"], sort=False):
        cells = {n: common.mean_with_interval(common.by_subject(found, n), 2) for n in numbers}
        lines.append({"read": "{}, asked to {}, complexity {}".format(*keys), "drawings": len(found)} | cells)
    for method in ("ours", "base model"):
        moved = words[(words.method == method) & (words.pose != "stand")]
        cells = {n: common.mean_with_interval(common.by_subject(moved, n), 2) for n in numbers}
        lines.append({"read": f"{method}, sit, wave and lean", "drawings": len(moved)} | cells)
    hidden = frame[frame.part == "hidden"]
    cut = [
        {"hidden in its picture": name}
        | {n: common.mean_with_interval(common.by_subject(found, n)) for n in numbers[1:]}
        | {
            f"{n}, against none": common.mean_with_interval(common.difference(hidden, "hidden", name, "none", n))
            for n in numbers[1:]
        }
        for name, found in hidden.groupby("hidden", sort=False)
    ]  # fmt: skip
    scenes, placed_rows = frame[(frame.part == "scene") & (frame.method != "truth")], []
    for keys, found in scenes.groupby(["factor", "level", "method"], sort=False):
        both = pd.concat([found.assign(side="one"), scenes[scenes.factor == "baseline"].assign(side="base")])
        line = {"factor": keys[0], "level": keys[1], "method": keys[2], "scenes": found.subject.nunique()}
        line["hidden"] = f"{found.hidden_share.mean():.0%}"
        line |= {
            f"{n}, dB": common.mean_with_interval(common.by_subject(found, n), 2)
            for n in ("effect", "front", "whole")
        }
        line["effect against baseline"] = common.mean_with_interval(
            common.difference(both, "side", "one", "base", "effect"), 2
        )
        placed_rows.append(line)
    front = scenes[scenes.factor == "in front"]
    gains = [
        {"mask against over": n}
        | {"dB": common.mean_with_interval(common.difference(front, "method", "mask", "over", n), 2)}
        for n in ("effect", "front", "whole") if len(front)
    ]  # fmt: skip
    said = [{"place": kind, "suggested": pose_by_words(None, None, kind)} for kind in KINDS]  # type: ignore[arg-type]
    return (
        "\n\n".join(
            pd.DataFrame(t).to_markdown(index=False) for t in (lines, cut, placed_rows, gains, said) if t
        )
        + "\n"
    )


def bars(ax: object, named: dict[str, np.ndarray], label: str, colour: str) -> None:
    """Means with intervals over subjects."""
    if not named:
        return  # the part was not run
    found = [common.interval(values) for values in named.values()]
    mean, low, high = (np.array(v) for v in zip(*found, strict=True))
    error = np.nan_to_num(np.stack([mean - low, high - mean]))
    ax.barh(range(len(named)), mean, xerr=error, color=colour, height=0.6, error_kw={"lw": 1, "capsize": 2})  # type: ignore[attr-defined]
    ax.set_yticks(range(len(named)), list(named), fontsize=8.5)  # type: ignore[attr-defined]
    ax.invert_yaxis()  # type: ignore[attr-defined]
    ax.grid(axis="y", visible=False)  # type: ignore[attr-defined]
    ax.set_xlabel(label)  # type: ignore[attr-defined]


def draw_figure(path: Path, frame: pd.DataFrame) -> None:
    """How often the pose is drawn; identity there; the effect by factor; what is in front."""
    frame = frame.assign(right=(frame.read == frame.pose).where(frame.read.notna()).astype(float) * 100)
    words, moved = frame[frame.part == "words"], frame[frame.pose != "stand"]
    scenes = frame[(frame.part == "scene") & (frame.method == "over")]
    front = frame[(frame.part == "scene") & (frame.factor == "in front")]
    asked = {
        "truth, another body": common.by_subject(frame[frame.part == "reader"], "right"),
        "base model": common.by_subject(moved[moved.method == "base model"], "right"),
        "personalised": common.by_subject(moved[moved.method == "ours"], "right"),
        f"“{SUGGESTED}”": common.by_subject(words[words.method == "suggested"], "right"),
    }
    with common.figure(path, 8.0, 5.6) as made:
        axes = made.subplots(2, 2)
        bars(axes[0, 0], asked, "pose drawn as asked, % (chance 25)", "#0072b2")
        axes[0, 0].axvline(25, color="#5f6b7c", linestyle="--", linewidth=1)
        middle, names = (
            words[words.complexity == common.COMPLEXITY],
            {"ours": "personalised", "base model": "base model"},
        )
        shown = {
            f"{names[method]}, {pose}": common.by_subject(found, "identity")
            for (method, pose), found in middle[middle.method.isin(names)].groupby(
                ["method", "pose"], sort=False
            )
        }
        hidden = frame[frame.part == "hidden"]
        shown |= {
            f"{level} hidden in its picture": common.by_subject(hidden[hidden.hidden == level], "identity")
            for level in ("a third", "half")
        }
        bars(axes[0, 1], shown, "identity to the truth (cosine)", "#d55e00")
        by = {
            f"{f}: {v}": common.by_subject(p, "effect")
            for (f, v), p in scenes.groupby(["factor", "level"], sort=False)
        }
        bars(axes[1, 0], by, "effect region over nothing, dB", "#009e73")
        names = {"over": "pasted over", "mask": "with a mask"}
        stays = {
            f"{level}, {names[m]}": common.by_subject(front[(front.level == level) & (front.method == m)], "front")
            for level in ("a third", "half") for m in names
        }  # fmt: skip
        bars(axes[1, 1], stays, "what is in front, dB to the truth", "#cc79a7")


def sheets(out: Path) -> None:
    """Poses of two subjects asked in watercolour, two scenes with something in front, and subjects that are hidden."""
    rows, labels = [], []
    at = STYLES.index("watercolour") * common.SIZE
    for number in range(2):
        for name in ("truth", "ours", "base model"):
            shown = POSES if name != "base model" else POSES[1:]
            files = [out / f"{name}-{pose}-{number}.png" for pose in shown]
            if all(file.is_file() for file in files):
                cells = [load_rgb(file)[..., at : at + common.SIZE] for file in files]
                rows.append([torch.ones(3, common.SIZE, common.SIZE)] * (4 - len(cells)) + cells)
                labels.append(name)
    if rows:
        common.save_sheet(HERE / "pictures.jpg", rows, labels, list(POSES), cell=112)
    files = [out / f"front-half-watercolour-{number}.png" for number in range(2)]
    rows = [list(load_rgb(file).split(common.SIZE, -1)) for file in files if file.is_file()]
    if rows:
        across = ["pasted over", "with a mask", "truth"]
        common.save_sheet(HERE / "front.jpg", rows, [""] * len(rows), across, cell=112)
    named = {
        f"{name} ({number})": out / f"hidden-{name}-{number}.png" for number in range(3) for name in HIDDEN
    }
    rows = [list(load_rgb(file).split(common.SIZE, -1)) for file in named.values() if file.is_file()]
    if rows:
        labels = [label for label, file in named.items() if file.is_file()]
        common.save_sheet(HERE / "hidden.jpg", rows, labels, ["own picture", *STYLES], cell=112)


def main() -> None:
    parser = common.arguments(__doc__, subjects=3)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--parts", default="scene,words,hidden")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.figure_only:
        rows, judges, whole = (
            common.Rows(args.out),
            common.Judges(),
            MagicInsert.from_pretrained("micro", overrides=common.AS_DRAWN),
        )
        settings = {"ours": STEPS, "no outline": f"style.outline=0,{STEPS}"}
        settings["base model"] = f"stylizer=instantstyle,{STEPS}"
        models = common.models_of(
            whole, [f"{name}:{words}" for name, words in settings.items()], args.out.parent / "subjects"
        )
        if "scene" in args.parts:
            for number in range(args.scenes):
                if {"part": "scene", "subject": number, "factor": "complexity", "level": "1"} not in rows:
                    scene_part(rows, models["ours"], args.seed, number)
        for number in range(args.subjects):
            if (
                "words" in args.parts
                and {"part": "words", "subject": number, "method": "suggested"} not in rows
            ):
                words_part(rows, models, judges, args.seed, number)
        for number in range(args.subjects):
            if "hidden" in args.parts and {"part": "hidden", "subject": number, "hidden": "half"} not in rows:
                hidden_part(rows, models["ours"], judges, args.seed, number)
        keys = ["part", "subject", "drawn_in", "method", "pose", "complexity", "hidden", "factor", "level"]
        frame = rows.frame.reindex(columns=COLUMNS)
        frame = frame.drop_duplicates(keys, keep="last")  # what was begun twice
        frame[frame.method != "truth"].to_csv(HERE / "rows.csv", index=False)
        sheets(args.out)
    common.publish(HERE, pd.read_csv(HERE / "rows.csv"), tables, draw_figure)


if __name__ == "__main__":
    main()
