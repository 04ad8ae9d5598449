"""The demo: one held-out Toybox subject, personalised once, inserted into held-out scenes of several styles.

Every result stands beside the truth and the floor (the subject's own picture pasted). Writes a contact sheet, a page
that needs no other file, and the scores.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from magic_insert.config.schema.jobs import DemoConfig
from magic_insert.core.compositing import paste
from magic_insert.core.events import Clock, stage, terminal_bars
from magic_insert.core.images import contact_sheet, png_bytes, save_png
from magic_insert.core.jsonl import require_writable, write_json, write_text
from magic_insert.core.records import Composite, Scene, Subject
from magic_insert.drops import Drop
from magic_insert.evaluation.demo_scores import Scores, box_of, find_encoders, score
from magic_insert.magic import MagicInsert, Settings
from magic_insert.models.encoders import load_encoders
from magic_insert.pages.render import render
from magic_insert.stylizers import needs_personalization
from magic_insert.toybox.styles import style_phrase
from magic_insert.toybox.world import PlopTruth, toyplop_pair, toyplop_scenes, toyplop_subjects

COLUMNS = ("subject", "background", "ours", "floor: pasted as it is", "truth")
SCORES = {"effect_db": "effect, dB", "box_db": "subject box, dB", "identity": "identity", "style": "style"}
NOTE = (
    "effect: PSNR inside the true shadow and reflection. Subject box: PSNR inside the subject's true box; the pose is "
    "free, so this is a rough guide. identity and style: cosines of the micro encoders, against the truth and against "
    "the background."
)


@dataclass(frozen=True)
class PairView:
    """What the page shows of one pair: pictures 3HW by name in reading order, and scores of the methods."""

    title: str
    style: str
    pictures: dict[str, Float[Tensor, "3 _ _"]]
    scores: dict[str, Scores]


def demo_truths(num_scenes: int, seed: int, size: int) -> list[PlopTruth]:
    """`num_scenes` pairs of one held-out subject with held-out scenes; another seed shows another subject.

    The small split has a scene for each of four styles; more scenes come from the full benchmark.
    """
    scenes = toyplop_scenes("mini")
    if num_scenes > len(scenes):
        scenes = toyplop_scenes("full")
    subjects = toyplop_subjects("mini")
    return [toyplop_pair(subjects[seed % len(subjects)], scene, size) for scene in scenes[:num_scenes]]


def run_demo(cfg: DemoConfig) -> Path:
    """Runs the demo and returns the page's path; writes `demo.png`, `demo.html` and `demo.json` in `cfg.out`.

    Raises:
        UserError: weights are missing.
    """
    out = require_writable(cfg.out)
    magic = MagicInsert(replace(Settings.of(cfg), subjects=out / "subjects"))
    encoder_folder = find_encoders(magic.folders.model)
    with terminal_bars() as bars:
        clock = Clock(bars)
        with stage(clock, "render the truth"):
            truths = demo_truths(cfg.num_scenes, cfg.seed, cfg.model.image_size)
        first = truths[0]
        name, _, _ = first.pair_id.partition("__")
        subject = Subject(first.subject_photo, first.subject_alpha, name, text=first.caption)
        magic.load(clock)
        encoders = None if encoder_folder is None else load_encoders(encoder_folder)
        if needs_personalization(cfg.stylizer):
            subject = magic.personalize(subject, on_event=clock)
        scenes = [Scene(quantised(truth.background), truth.pair_id.split("__")[1]) for truth in truths]
        texts = [style_phrase(truth.style) for truth in truths]
        redrawn = magic.redraw(subject, scenes, style_texts=texts, on_event=clock)
        views = []
        for truth, scene, picture in zip(truths, scenes, redrawn, strict=True):
            made = magic.place(picture, scene, box_of(truth.mask), on_event=clock)
            views.append(view_of(truth, scene, made, paste(scene, subject, box_of(truth.mask)), encoders))
    return write_demo(out, subject, first.caption, views, clock.seconds, Console(stderr=True))


def quantised(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
    """The picture as an 8-bit file would hold it."""
    return (image * 255).round() / 255


def view_of(
    truth: PlopTruth, scene: Scene, made: Drop, floor: Composite, encoders: object | None
) -> PairView:
    """One row of the demo: pictures and the scores of ours and of the floor."""
    changed = {
        "ours": made.plane(made.changed),
        "floor": (floor.mask > 0).float(),
    }
    results = {"ours": made.scene.rgb, "floor": floor.rgb}
    scores = {
        name: score(
            image,
            truth=truth.with_subject,
            background=scene.rgb,
            mask=truth.mask,
            effect=truth.effect,
            changed=changed[name],
            encoders=encoders,
        )
        for name, image in results.items()
    }
    shown = (made.parts["stylised"], scene.rgb, made.scene.rgb, floor.rgb, truth.with_subject)
    names = ("redrawn subject", "background", "ours", "floor: pasted as it is", "truth")
    return PairView(scene.id, truth.style, dict(zip(names, shown, strict=True)), scores)


def write_demo(
    out: Path,
    subject: Subject,
    caption: str,
    views: list[PairView],
    seconds: dict[str, float],
    console: Console,
) -> Path:
    """Contact sheet, page and scores in `out`; prints the scores and where the files lie."""
    photo = subject.rgb
    rows = [[photo, *list(view.pictures.values())[1:]] for view in views]
    sheet, html = out / "demo.png", out / "demo.html"
    save_png(sheet, contact_sheet(rows, [view.style for view in views], list(COLUMNS), cell=256))
    page = render(
        "demo",
        title="Magic Insert: demo",
        subject=png_bytes(photo),
        caption=caption,
        pairs=views,
        pictures=[{name: png_bytes(p) for name, p in view.pictures.items()} for view in views],
        columns=SCORES,
        notes=[NOTE, "Seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()) + "."],
    )
    write_text(html, page)
    write_json(
        out / "demo.json",
        {
            "subject": subject.id,
            "caption": caption,
            "pairs": {
                f"{view.title} ({view.style})": {name: asdict(s) for name, s in view.scores.items()}
                for view in views
            },
            "seconds": seconds,
        },
    )
    console.print(score_table(views))
    print(f"sheet  {sheet.resolve()}\npage   {html.resolve()}")
    print("next   magic-insert insert subject=PICTURE background=PICTURE out=PICTURE.png")
    return html


def score_table(views: list[PairView]) -> Table:
    """The scores for the terminal."""
    table = Table("style", "method", *SCORES.values(), "untouched")
    for view in views:
        for name, found in view.scores.items():
            values = [getattr(found, key) for key in SCORES]
            cells = ["n/a" if value is None else f"{value:.2f}" for value in values]
            table.add_row(view.style, name, *cells, "yes" if found.untouched else "no")
    return table
