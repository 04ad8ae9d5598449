"""The grid of an evaluation, which picture of which method for which pair gets a row, and the making of those pictures.

    inputs/                               the benchmark, see data/benchmarks.py
    personalized/subject/<key>/           one training per subject and recipe, whoever uses it
    images/stylize/<method>/<pair_id>.<seed>.png
    images/insert/<stylizer>+<inserter>/<pair_id>.<seed>.png and .mask.png (coverage of the subject in it)
    features/ rows/ rows.jsonl            see scores.py
Floors and ceilings are methods too; those that are files of the benchmark are not copied. So are pictures made
elsewhere: found by the pattern of their names, all of them and no other, because a missing or surplus file would
compare methods on different pairs without a word; they are copied to where rows look for them.
Each subject is personalised once, redrawn by every stylizer, inserted by every inserter. Its pictures are drawn in
batches that depend on the selection alone: a batch of which a picture is missing is drawn again as a whole, so a killed
run ends with the pictures of one that was not.
Shape letters: h, w of a redrawn subject, H, W of a background. Pictures are float32 in [0, 1].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.freeze import overridden
from magic_insert.config.schema.evaluation import IMAGES, EvaluatedInserter, EvaluatedStylizer, MadeElsewhere
from magic_insert.config.schema.jobs import EvaluateConfig
from magic_insert.config.schema.shared import InserterConfig, StylizerConfig
from magic_insert.core.compositing import FAINT, paste
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.events import OnEvent
from magic_insert.core.images import load_rgb, load_rgba, save_png
from magic_insert.core.jsonl import append_jsonl, read_record, write_bytes
from magic_insert.core.masks import blur, bounding_box, dilate, erode, fill_holes, largest_component
from magic_insert.core.picture_files import pictures_in
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.core.store import MANIFEST, Manifest, Request, claim, refuse_other
from magic_insert.data.benchmarks import Benchmark, BenchPair
from magic_insert.inserters.base import insert_cutout
from magic_insert.inserters.contact_shadow import ContactShadow
from magic_insert.magic import MagicInsert, Redrawn, Settings
from magic_insert.stylizers import needs_personalization

INPUTS = "inputs"
COPY_PASTE, BACKGROUND, RANDOM_SUBJECT = "floor:copy_paste", "floor:background", "floor:random_subject"
CONTACT_SHADOW = "floor:contact_shadow"
SELF, TRUTH = "ceiling:self", "ceiling:truth"
SHOWN = 8  # file names in a message
BATCH = 8
NOTES = "notes.jsonl"
JUDGES = "encoders"
CHANGED = 0.12  # blurred change of colour that says: here stands the subject
THIN = 128  # half the width of a line that is no subject: one part of so many of the longer side

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Entry:
    """One row to be. `picture` is what is judged, `mask` the subject's coverage in a composite.

    The ceiling of a reference against itself has no picture of its own.
    """

    track: str
    method: str
    pair: BenchPair
    seed: int
    picture: Path | None
    mask: Path | None = None


def seeds_of(cfg: EvaluateConfig) -> list[int]:
    """The seeds of the draws of each pair."""
    return list(range(cfg.seed, cfg.seed + cfg.num_draws))


def method_folder(out: Path, track: str, method: str) -> Path:
    """Where a method's pictures lie; a colon is no character for a folder everywhere."""
    return out / "images" / track / method.replace(":", "-")


def picture_file(out: Path, track: str, method: str, pair: BenchPair, seed: int) -> Path:
    """The picture of one draw."""
    return method_folder(out, track, method) / f"{pair.pair_id}.{seed}.png"


def mask_file(picture: Path) -> Path:
    """The coverage beside a composite."""
    return picture.with_name(f"{picture.stem}.mask.png")


def insert_methods(cfg: EvaluateConfig) -> list[tuple[str, str | None, str]]:
    """Methods of the track `insert` as (name, stylizer, inserter); composites made elsewhere have no stylizer."""
    methods: list[tuple[str, str | None, str]] = []
    for name, inserter in cfg.chosen_inserters.items():
        if inserter.name == IMAGES:
            methods.append((name, None, name))
        else:
            methods += [(f"{stylizer}+{name}", stylizer, name) for stylizer in cfg.chosen_stylizers]
    return methods


def list_entries(cfg: EvaluateConfig, bench: Benchmark, out: Path) -> list[Entry]:
    """All rows to be, in a fixed order: track, method, pair, seed."""
    entries: list[Entry] = []
    seeds, one, stylizers = seeds_of(cfg), [cfg.seed], cfg.chosen_stylizers
    # Of what is made elsewhere there is one draw.
    seeds_by = {name: one if stylizer.name == IMAGES else seeds for name, stylizer in stylizers.items()}
    inserted = {method: one if name is None else seeds_by[name] for method, name, _ in insert_methods(cfg)}
    for track in cfg.tracks:
        methods = seeds_by if track == "stylize" else inserted
        for (method, draws), pair in product(methods.items(), bench.pairs):
            for seed in draws:
                picture = picture_file(out, track, method, pair, seed)
                mask = mask_file(picture) if track == "insert" else None
                entries.append(Entry(track, method, pair, seed, picture, mask))
        if cfg.floors:
            entries += _floors(cfg, bench, out, track)
    return entries


def pasted_floors(cfg: EvaluateConfig, bench: Benchmark, pair: BenchPair) -> dict[str, str]:
    """The floors of an insertion that are made here, and whose picture each pastes; a random other subject's if any."""
    named = {COPY_PASTE: pair.subject, CONTACT_SHADOW: pair.subject}
    if others := [subject.id for subject in bench.subjects if subject.id != pair.subject]:
        named[RANDOM_SUBJECT] = others[fold_in(cfg.seed, "random subject", pair.pair_id) % len(others)]
    return named


def _floors(cfg: EvaluateConfig, bench: Benchmark, out: Path, track: str) -> list[Entry]:
    """Trivial methods and references for every pair."""
    entries: list[Entry] = []
    for pair in bench.pairs:
        made = pasted_floors(cfg, bench, pair)
        if track == "stylize":
            found = {m: bench.subject_file(s) for m, s in made.items() if m != CONTACT_SHADOW}
        else:
            found = {method: picture_file(out, "insert", method, pair, cfg.seed) for method in made}
        given: dict[str, tuple[Path | None, Path | None]] = {
            method: (picture, mask_file(picture) if track == "insert" else None)
            for method, picture in found.items()
        }
        mask = mask_file(found[COPY_PASTE]) if track == "insert" else None
        given |= {BACKGROUND: (bench.background_file(pair.background), mask), SELF: (None, mask)}
        if bench.has_truth:
            name = "styled" if track == "stylize" else "composite"
            true_mask = bench.truth_file(pair, "mask") if track == "insert" else None
            given[TRUTH] = (bench.truth_file(pair, name), true_mask)
        entries += [Entry(track, method, pair, cfg.seed, *paths) for method, paths in given.items()]
    return entries


def by_unit(entries: Sequence[Entry]) -> list[tuple[tuple[str, str, str], list[Entry]]]:
    """Entries of one track, method and subject together, in the order they come: what one process does at a time."""
    units: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        units.setdefault((entry.track, entry.method, entry.pair.subject), []).append(entry)
    return list(units.items())


# Drawing


def in_own_frame(
    redrawn: Redrawn, subject: Subject
) -> tuple[Float[Tensor, "3 _ _"], Float[Tensor, "1 _ _"] | None]:
    """A redrawn cut-out where the subject stands in its own picture, as truth and other methods have it.

    One that is larger, as `style.detail` may make it, keeps its pixels: the frame grows with it. A picture without a
    matte, or with one of other proportions than the subject's outline, stays as it is.
    """
    if redrawn.alpha is None:
        return redrawn.rgb, None
    height, width = redrawn.alpha.shape[-2:]
    box = bounding_box(subject.alpha, FAINT)  # as tone cuts; the personalised model by the half of the matte
    if (box.h, box.w) != (height, width):
        box = bounding_box(subject.alpha)
    if abs(height * box.w - width * box.h) > box.h + box.w:  # more than a pixel of each
        return redrawn.rgb, redrawn.alpha
    larger = height / box.h if box.h > box.w else width / box.w
    room = [
        max(round(side * larger), least)
        for side, least in zip(subject.alpha.shape[-2:], (height, width), strict=True)
    ]
    y, x = min(round(box.y * larger), room[0] - height), min(round(box.x * larger), room[1] - width)
    rgb, alpha = redrawn.rgb.new_ones(3, *room), redrawn.alpha.new_zeros(1, *room)
    rgb[:, y : y + height, x : x + width] = redrawn.rgb
    alpha[:, y : y + height, x : x + width] = redrawn.alpha
    return rgb, alpha


class Workshop:
    """Every method as a `MagicInsert`; what is loaded is shared, and loaded when the first picture is missing."""

    def __init__(self, cfg: EvaluateConfig, bench: Benchmark, out: Path, on_event: OnEvent) -> None:
        """Looks at every file that will be needed; nothing heavy is loaded.

        Args:
            on_event: called with the stages of each picture and personalisation.

        Raises:
            UserError: a method's weights are not there, or its pictures made elsewhere are not complete.
        """
        self.cfg, self.bench, self.out, self.on_event = cfg, bench, out, on_event
        inserted = cfg.chosen_inserters if "insert" in cfg.tracks else {}
        # As results, or as what is inserted.
        wanted = "stylize" in cfg.tracks or any(i.name != IMAGES for i in cfg.chosen_inserters.values())
        redrawn = cfg.chosen_stylizers if wanted else {}
        self.stylizers = {name: s for name, s in redrawn.items() if s.name != IMAGES}
        self.inserters = {name: i for name, i in inserted.items() if i.name != IMAGES}
        groups = ("personalization", "style", "sampling")  # the job's, with the method's own keys in them
        self.redrawing = {
            name: self.model.using(
                stylizer=s, **{g: overridden(getattr(cfg, g), getattr(s, g), g) for g in groups}
            )
            for name, s in self.stylizers.items()
        }
        self.inserting = {
            name: self.model.using(inserter=i, composite=i.composite) for name, i in self.inserters.items()
        }
        given: dict[tuple[str, str], EvaluatedStylizer | EvaluatedInserter] = {
            **{("stylize", name): s for name, s in redrawn.items() if s.name == IMAGES},
            **{("insert", name): i for name, i in inserted.items() if i.name == IMAGES},
        }
        self.made_elsewhere = {key: match_files(method, bench.pairs, key[1]) for key, method in given.items()}
        self.masks_elsewhere = {
            name: match_files(MadeElsewhere(i.mask_dir, i.pattern), bench.pairs, f"{name}'s masks")
            for name, i in inserted.items()
            if i.name == IMAGES and i.mask_dir
        }

    @cached_property
    def model(self) -> MagicInsert:
        """The model with the job's own settings and methods that need no weights."""
        cfg = self.cfg
        home = Path(cfg.personalized) if cfg.personalized else self.out / "personalized"
        settings = Settings(
            cfg.model, cfg.personalization, StylizerConfig(), cfg.style, cfg.sampling, cfg.segmenter,
            InserterConfig(name="copy_paste"), seed=cfg.seed, subjects=home,
        )  # fmt: skip
        return MagicInsert(settings)

    def claim_methods(self) -> None:
        """Marks each method's folder with what its pictures depend on.

        Raises:
            UserError: a folder holds pictures of the same method with other settings.
        """
        cfg = self.cfg
        keys = {
            name: digest(sorted(sha256_file(path) for path in files.values()))
            for (track, name), files in self.made_elsewhere.items()
            if track == "stylize"
        }
        for name, magic in self.redrawing.items():
            stylizer, found = self.stylizers[name], magic.settings
            settings: dict[str, Any] = {
                "stylizer": asdict(stylizer),
                "style": asdict(found.style),
                "sampling": asdict(found.sampling),
            }
            if needs_personalization(stylizer):
                settings["personalization"] = asdict(found.personalization)
            keys[name] = self._claim("stylize", name, settings, {"model": marks(magic.folders.model)})
        for method, stylizer_name, inserter_name in insert_methods(cfg) if self.inserters else []:
            if stylizer_name is not None:
                settings = {
                    "inserter": asdict(self.inserters[inserter_name]),
                    "segmenter": cfg.segmenter.name,
                }
                folders = self.inserting[inserter_name].folders
                weights = {"model": marks(folders.model), "inserter": marks(folders.inserter)}
                self._claim("insert", method, settings, {**weights, "stylizer": keys[stylizer_name]})

    def _claim(self, track: str, method: str, settings: dict[str, Any], weights: dict[str, str]) -> str:
        shared = {"model": asdict(self.cfg.model), "seed": self.cfg.seed}
        request = Request(
            f"{track} pictures", 1, {**settings, **shared}, {**weights, "benchmark": self.bench.digest}
        )
        claim(method_folder(self.out, track, method), request)
        return request.key

    def count(self, subjects: Sequence[str]) -> int:
        """How many pictures `make` will make, or find, for these subjects."""
        pairs = sum(pair.subject in subjects for pair in self.bench.pairs)
        methods = [m for m in insert_methods(self.cfg) if m[1] is not None] if self.inserters else []
        return pairs * self.cfg.num_draws * (len(self.stylizers) + len(methods))

    def make(self, subject_id: str, tick: Tick) -> None:
        """All pictures of one subject that are not there yet; `tick` is called with how many more are done.

        Raises:
            UserError: see `MagicInsert`.
        """
        pairs = [pair for pair in self.bench.pairs if pair.subject == subject_id]
        for name in self.stylizers:
            self._redraw(subject_id, name, pairs, tick)
        for name, stylizer in self.cfg.chosen_stylizers.items() if self.inserters else []:
            for seed in seeds_of(self.cfg) if stylizer.name != IMAGES else [self.cfg.seed]:
                for pair in pairs:
                    self._insert(name, pair, seed, tick)

    def _redraw(self, subject_id: str, name: str, pairs: Sequence[BenchPair], tick: Tick) -> None:
        """The subject in every style by one method, in batches."""
        bench, magic = self.bench, self.redrawing[name]
        words = bench.subject_words[subject_id]
        subject = replace(bench.subject(subject_id), text=words.detailed or words.simple)
        for seed in seeds_of(self.cfg):
            for start in range(0, len(pairs), BATCH):
                batch = pairs[start : start + BATCH]
                files = [picture_file(self.out, "stylize", name, pair, seed) for pair in batch]
                if not all(path.is_file() for path in files):
                    if subject.run is None and needs_personalization(self.stylizers[name]):
                        subject = magic.personalize(subject, text=subject.text, on_event=self.on_event)
                    pictures = magic.redraw(
                        subject,
                        [bench.scene(pair.background) for pair in batch],
                        seed=seed,
                        ids=[pair.pair_id for pair in batch],
                        style_texts=[bench.background_words[pair.background].style_text for pair in batch],
                        on_event=self.on_event,
                    )
                    for path, picture in zip(files, pictures, strict=True):
                        save_png(path, *in_own_frame(picture, subject))
                tick(len(batch))

    def _insert(self, stylizer: str, pair: BenchPair, seed: int, tick: Tick) -> None:
        """The composites of one redrawn subject by every inserter."""
        cut: Subject | None = None
        for name, magic in self.inserting.items():
            path = picture_file(self.out, "insert", f"{stylizer}+{name}", pair, seed)
            if not (path.is_file() and mask_file(path).is_file()):
                scene = self.bench.scene(pair.background)
                cut = self._cut(magic, stylizer, pair, seed) if cut is None else cut
                box = self.bench.box(pair, scene)
                drop = magic.place(cut, scene, box, seed=seed, id=pair.pair_id, on_event=self.on_event)
                save_png(mask_file(path), drop.plane(drop.layers["subject"]))
                save_png(path, drop.scene.rgb)
            tick(1)

    def _cut(self, magic: MagicInsert, stylizer: str, pair: BenchPair, seed: int) -> Subject:
        """The redrawn subject without its ground; where nothing stands out, the whole picture, ground and all.

        A method may draw anything; one bad picture is a bad score, not the end of an evaluation. NOTES names it.
        """
        picture, alpha = load_rgba(picture_file(self.out, "stylize", stylizer, pair, seed))
        try:
            return magic.cut(Redrawn(picture, pair.subject, pair.pair_id, {}, {}, alpha))
        except UserError as error:
            note = f"pasted with its ground, because: {error}"
            append_jsonl(self.out / NOTES, {"method": stylizer, "pair_id": pair.pair_id, "note": note})
            return Subject(picture, torch.ones_like(picture[:1]), pair.subject)


def marks(folder: Path | None) -> str:
    """What tells one folder of weights from another without reading it all: sizes and the last 64 KiB of each file."""
    found: list[Any] = []
    for path in sorted(folder.rglob("*.safetensors")) if folder is not None else []:
        if JUDGES in path.relative_to(folder).parts:  # type: ignore[arg-type]
            continue  # they look at pictures and make none
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(0, size - (1 << 16)))
            found.append([path.name, size, digest(file.read().hex())])
    return digest(found)


# Pictures that no model draws


@lru_cache(maxsize=32)
def expected_mask(bench: Benchmark, pair: BenchPair) -> Float[Tensor, "1 H W"]:
    """Where the subject's own picture would cover the background at the pair's place."""
    scene = bench.scene(pair.background)
    return paste(scene, bench.subject(pair.subject), bench.box(pair, scene)).mask


def floor_pictures(cfg: EvaluateConfig, bench: Benchmark, out: Path, subject_id: str) -> None:
    """The composites of the floors: pictures pasted as they are, and the subject's own with a contact shadow."""
    shadow = ContactShadow(InserterConfig(name="contact_shadow"))
    wanted = cfg.floors and "insert" in cfg.tracks
    for pair in [pair for pair in bench.pairs if wanted and pair.subject == subject_id]:
        scene = bench.scene(pair.background)
        for method, name in pasted_floors(cfg, bench, pair).items():
            path = picture_file(out, "insert", method, pair, cfg.seed)
            if path.is_file():
                continue
            subject, box = bench.subject(name), bench.box(pair, scene)
            made = paste(scene, subject, box)
            if method == CONTACT_SHADOW:
                draw = (cfg.seed, pair.pair_id)
                made = insert_cutout(scene, subject, box, inserter=shadow, draw=draw).final
            save_png(mask_file(path), made.mask)
            save_png(path, made.rgb)


# Pictures made elsewhere


def match_files(images: MadeElsewhere, pairs: Sequence[BenchPair], method: str) -> dict[str, Path]:
    """The file of every pair, by pair_id.

    Raises:
        UserError: two pairs share a name, files are missing, or there are pictures that belong to no pair.
    """
    place, found = Path(str(images.dir)), dict[str, Path]()
    for pair in pairs:
        named = images.pattern.replace("{subject}", pair.subject).replace("{background}", pair.background)
        found[pair.pair_id] = place / named.replace("{side}", pair.side or "")
    if len(set(found.values())) < len(found):
        raise UserError(
            f"expected a name of its own for every pair of {method}, got pairs that share one; "
            "put {side} into its pattern, as in 'res_{subject}_{background}_{side}.jpg'"
        )
    wanted = set(found.values())
    folders = sorted({path.parent for path in wanted if path.parent.is_dir()})
    missing = [path for path in found.values() if not path.is_file()]
    surplus = [path for folder in folders for path in pictures_in(folder) if path not in wanted]
    wrong = []
    for word, paths in (("missing", missing), ("surplus", surplus)):
        names = ", ".join([*(path.name for path in paths[:SHOWN]), *(["..."] if paths[SHOWN:] else [])])
        wrong += [f"{len(paths)} {word} ({names})"] if paths else []
    if wrong:
        raise UserError(
            f"expected one picture for each of {len(found)} pairs of {method} in {place}, got {' and '.join(wrong)}; "
            "choose the pairs with benchmark.subjects, benchmark.backgrounds, benchmark.pairs, or correct the pattern"
        )
    return found


def adopt(
    bench: Benchmark,
    out: Path,
    made_elsewhere: Mapping[tuple[str, str], Mapping[str, Path]],
    masks: Mapping[str, Mapping[str, Path]],
    seed: int,
) -> None:
    """Copies pictures made elsewhere to where the rows look for them, with a mask for each composite.

    Masks that were handed in and masks that were estimated never mix: the folder's marker says which its masks are, and
    while they are made there is none.

    Args:
        made_elsewhere: (track, method) to pair_id to file.
        masks: method to pair_id to the file of a composite's mask, where they came along.
        seed: the draw that they stand for.

    Raises:
        UserError: a picture is damaged, or a composite or mask has another size than the background.
    """
    pairs = {pair.pair_id: pair for pair in bench.pairs}
    for (track, method), files in made_elsewhere.items():
        home = method_folder(out, track, method)
        origin = Request(
            f"{track} pictures made elsewhere", 1, {"masks": "given" if method in masks else "estimated"}
        )
        marker = home / MANIFEST
        found = read_record(marker, Manifest) if marker.is_file() else None
        same_origin = found is not None and found.key == origin.key
        if found is not None and found.kind == origin.kind and not same_origin:
            marker.unlink()
        refuse_other(home, origin)
        for pair_id, source in files.items():
            pair = pairs[pair_id]
            place = picture_file(out, track, method, pair, seed)
            content = source.read_bytes()
            given = masks.get(method, {}).get(pair_id) if track == "insert" else None
            if same_origin and given is None and place.is_file() and place.read_bytes() == content:
                continue
            picture = load_rgb(source)
            if track == "insert":
                scene = bench.scene(pair.background)
                require_size(picture, scene.size, source)
                if given is None:
                    mask = estimate_mask(picture, scene.rgb, expected_mask(bench, pair))
                else:
                    mask = load_rgb(given)[:1]
                    require_size(mask, scene.size, given)
                save_png(mask_file(place), mask)
            write_bytes(place, content)
        if not same_origin:
            claim(home, origin)


def require_size(picture: Float[Tensor, "C _ _"], size: tuple[int, int], path: Path) -> None:
    """That a composite has the background's size.

    Raises:
        UserError: it has not; names the file.
    """
    height, width = picture.shape[-2:]
    if (height, width) != size:
        raise UserError(
            f"expected {size[1]} x {size[0]} pixels as its background in {path}, got {width} x {height}"
        )


def estimate_mask(
    composite: Float[Tensor, "3 H W"], background: Float[Tensor, "3 H W"], expected: Float[Tensor, "1 H W"]
) -> Float[Tensor, "1 H W"]:
    """Where the subject stands in a composite that came without its mask: the largest place where colours changed.

    A whole picture may be redrawn by its method (about 29 dB in the official results), hence blur and threshold; lines
    that moved a little are thin, hence the core, which survives being worn down. Where nothing changed that much, the
    mask is `expected`, the subject's own picture at its place.
    """
    change = (composite - background).abs().amax(dim=0, keepdim=True)
    side = max(composite.shape[-2:])
    changed = (blur(change, side / 200) > CHANGED).float()
    thin = round(side / THIN)
    core = largest_component(dilate(erode(changed, thin), thin))
    if not bool(core.any()):
        return expected.clone()
    return fill_holes(largest_component(changed * dilate(core, 3 * thin)))
