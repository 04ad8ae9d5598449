"""The card of the micro model: what its parts do on subjects, scenes and styles they were not trained on.

Everything is measured against the Toybox's own truth, style by style; `photo` is the domain the remover and inserter
were trained on, and the gap between it and the drawn styles is what the bootstrap is there to close.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from magic_insert.config.schema.jobs import CardConfig
from magic_insert.config.schema.shared import ModelConfig
from magic_insert.core.digest import sha256_file
from magic_insert.core.events import tracked
from magic_insert.core.fidelity import effect_of, psnr_pooled, region_sums
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.rand import fold_in
from magic_insert.models.edit_unet import EditSampling, edit, load_edit_unet
from magic_insert.models.encoders.micro import Encoders, load_encoders
from magic_insert.models.ip_adapter import StyleEmbeds, adapter_at, style_embeds
from magic_insert.models.pipeline import decode, encode, load_pipeline
from magic_insert.models.sampling import sample
from magic_insert.paths import micro_dir
from magic_insert.toybox.captions import caption
from magic_insert.toybox.scenes import sample_scene
from magic_insert.toybox.styles import ALL_STYLES, HELD_OUT_STYLES, TRAIN_STYLES, draw, style_phrase
from magic_insert.toybox.subjects import TEMPLATES, SubjectSpec, sample_subject
from magic_insert.toybox.world import SUPERSAMPLE, ScenePair, shrink, trace_scenes, trace_subjects

EDIT_STEPS, DRAW_STEPS, GUIDANCE = 2, 20, 3.0  # edit steps as in conf/model/micro.yaml
COMPLEXITY = 0.5
LOG_WIDTH = 260  # characters of the table where nobody says how wide the terminal is
CHUNK = 16


@dataclass(frozen=True)
class HeldOut:
    """Held-out subjects, alone and in scenes, in one style. Pictures B 3 H W in [0, 1], masks B 1 H W."""

    style: str
    specs: Sequence[SubjectSpec]
    alone: Tensor
    pair: ScenePair


def held_out(count: int, seed: int, size: int) -> Iterator[HeldOut]:
    """`count` held-out subjects and scenes, traced once and drawn in every style."""
    specs = [sample_subject(fold_in(seed, "card subject", i), "heldout") for i in range(count)]
    scenes = [sample_scene(fold_in(seed, "card scene", i), "heldout") for i in range(count)]
    alone = trace_subjects(specs, SUPERSAMPLE * size)
    with_buffer, without_buffer = trace_scenes(scenes, specs, SUPERSAMPLE * size)
    for style in ALL_STYLES:
        textures = [fold_in(seed, "card texture", i) for i in range(count)]
        drawn = [
            shrink(draw(buffer, [style] * count, [COMPLEXITY] * count, textures))
            for buffer in (alone, with_buffer, without_buffer)
        ]
        mask = shrink(with_buffer.coverage)
        pair = ScenePair(
            with_subject=drawn[1], without=drawn[2], mask=mask, effect=effect_of(drawn[1], drawn[2], mask)
        )
        yield HeldOut(style, specs, drawn[0], pair)


def _in_chunks(function: Callable[..., Tensor], *columns: Any) -> Tensor:
    count = len(columns[0])
    return torch.cat([function(*(c[i : i + CHUNK] for c in columns)) for i in range(0, count, CHUNK)])


def _psnr(images: Tensor, truth: Tensor, region: Tensor) -> float:
    found = psnr_pooled(region_sums(images, truth, region))
    assert found is not None, "every sample of the card has an effect"
    return round(found, 2)


def retrieval_top1(images: Tensor, texts: Tensor, targets: Tensor) -> float:
    """Share of pictures B D whose own text, row `targets[i]` of `texts` T D, is the nearest; rows of unit length."""
    return round(float(((images @ texts.T).argmax(dim=1) == targets).double().mean()), 4)


@torch.no_grad()
def measure_style(
    data: HeldOut, pipe: Any, encoders: Encoders, remover: Any, inserter: Any, seed: int
) -> dict[str, float]:
    """One row of the card; decibels inside the effect region, shares in [0, 1]."""
    pair, count = data.pair, len(data.specs)
    everywhere = torch.ones_like(pair.mask)
    both = torch.cat([data.alone, pair.with_subject])
    restored = _in_chunks(lambda x: decode(pipe.vae, encode(pipe.vae, x)), both)
    ids = [f"card-{i}" for i in range(count)]

    def redraw(unet: Any) -> Callable[..., Tensor]:
        return lambda image, mask, names: edit(
            pipe, unet, image, mask, EditSampling(seed, list(names), EDIT_STEPS)
        )

    removed = _in_chunks(redraw(remover), pair.with_subject, pair.mask, ids)
    pasted = pair.mask * pair.with_subject + (1 - pair.mask) * pair.without
    inserted = _in_chunks(redraw(inserter), pasted, pair.mask, ids)
    clip = encoders["clip"]
    names = clip.embed_texts(clip.prompts(list(TEMPLATES)))
    right = torch.tensor([TEMPLATES.index(spec.template) for spec in data.specs])
    real = clip.embed_images(data.alone)
    captions = clip.embed_texts([caption(spec) for spec in data.specs])
    row = {
        "vae_psnr": _psnr(restored, both, torch.cat([everywhere, everywhere])),
        "caption_retrieval": retrieval_top1(real, captions, torch.arange(count)),
        "recognition_real": retrieval_top1(real, names, right),
        "remove_psnr": _psnr(removed, pair.without, pair.effect),
        "remove_nothing_psnr": _psnr(pair.with_subject, pair.without, pair.effect),
        "remove_whole_psnr": _psnr(
            removed, pair.without, torch.maximum(pair.effect, (pair.mask > 0.5).float())
        ),
        "insert_psnr": _psnr(inserted, pair.with_subject, pair.effect),
        "insert_nothing_psnr": _psnr(pasted, pair.with_subject, pair.effect),
    }
    told = drawn_ways(data, pipe, seed)
    if data.style in TRAIN_STYLES:
        row["recognition_generated"] = retrieval_top1(clip.embed_images(told["words"]), names, right)
    style = encoders["style"]
    truth = style.embed_images(data.alone)
    for way, pictures in told.items():
        row[f"style_{way}"] = round(float((style.embed_images(pictures) * truth).sum(1).mean()), 4)
    return row


def drawn_ways(data: HeldOut, pipe: Any, seed: int) -> dict[str, Tensor]:
    """Every subject from the same noise, told the style in words, by a picture of another's empty scene, not at all."""
    captions = [caption(spec) for spec in data.specs]
    seeds = [fold_in(seed, "card draw", data.style, i) for i in range(len(captions))]
    heard = style_embeds(pipe, list(data.pair.without.roll(1, 0)))

    def draw_all(prompts: list[str], embeds: StyleEmbeds | None) -> Tensor:
        def some(p: list[str], s: list[int], rows: Tensor) -> Tensor:
            told = None if embeds is None else StyleEmbeds(embeds.positive[rows], embeds.negative[rows])
            with adapter_at(pipe, "all", 0.0 if told is None else 1.0):
                return sample(pipe, p, s, steps=DRAW_STEPS, guidance=GUIDANCE, style=told)

        return _in_chunks(some, prompts, seeds, torch.arange(len(prompts)))

    return {
        "words": draw_all([f"{text}, {style_phrase(data.style)}" for text in captions], None),
        "picture": draw_all(captions, heard),
        "unsaid": draw_all(captions, None),
    }


def summarise(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """The targets' numbers: means over photo, drawn training styles and held-out styles."""

    def mean(key: str, styles: Sequence[str]) -> float:
        values = [rows[s][key] for s in styles if key in rows[s]]
        return round(sum(values) / len(values), 4)

    drawn = TRAIN_STYLES[1:]
    generated, real = mean("recognition_generated", TRAIN_STYLES), mean("recognition_real", TRAIN_STYLES)
    summary = {
        "vae_psnr": mean("vae_psnr", ALL_STYLES),
        "caption_retrieval": mean("caption_retrieval", TRAIN_STYLES),
        "recognition_real": real,
        "recognition_generated": generated,
        "recognition_share": round(generated / real, 4) if real else 0.0,
    }
    for way in ("words", "picture", "unsaid"):
        summary[f"style_{way}_drawn"] = mean(f"style_{way}", drawn)
        summary[f"style_{way}_held_out"] = mean(f"style_{way}", HELD_OUT_STYLES)
    for task in ("remove", "insert"):
        for name, styles in (("photo", ["photo"]), ("drawn", drawn), ("held_out", HELD_OUT_STYLES)):
            gain = mean(f"{task}_psnr", styles) - mean(f"{task}_nothing_psnr", styles)
            summary[f"{task}_psnr_{name}"] = mean(f"{task}_psnr", styles)
            summary[f"{task}_gain_db_{name}"] = round(gain, 2)
    return summary


def _commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _print_table(rows: dict[str, dict[str, float]], summary: dict[str, float]) -> None:
    columns = list(rows["photo"])
    table = Table("style", *(c.replace("_", " ") for c in columns))
    for style, row in rows.items():
        table.add_row(style, *(f"{row[c]:.2f}" if c in row else "" for c in columns))
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)
    console.print(table)
    console.print_json(json.dumps(summary))


def run_card(cfg: CardConfig) -> Path:
    """Measure the weights in `cfg.source` and write `cfg.out`/card.json; the table is printed."""
    source = Path(cfg.source) if cfg.source else micro_dir()
    size = int(read_json(source / "unet" / "config.json")["sample_size"]) * 8
    model = ModelConfig(name="micro", source=str(source), image_size=size, device="cpu")
    pipe = load_pipeline(model, "cpu", torch.float32)
    encoders = load_encoders(source / "encoders")
    remover, inserter = load_edit_unet(source / "remover"), load_edit_unet(source / "inserter")
    rows = {}
    batches = held_out(cfg.num_samples, cfg.seed, size)
    for style in tracked(ALL_STYLES, "measuring"):
        rows[style] = measure_style(next(batches), pipe, encoders, remover, inserter, cfg.seed)
    summary = summarise(rows)
    training = source / "training.json"
    weights = {str(p.relative_to(source)): sha256_file(p) for p in sorted(source.rglob("*.safetensors"))}
    card = {
        "model": "magic-insert micro",
        "training": read_json(training) if training.is_file() else None,
        "measured": {
            "command": f"magic-insert card num_samples={cfg.num_samples} seed={cfg.seed}",
            "code": _commit(Path(__file__).parent),
            "held_out_styles": list(HELD_OUT_STYLES),
            "edit_steps": EDIT_STEPS,
            "draw_steps": DRAW_STEPS,
            "guidance": GUIDANCE,
            "summary": summary,
            "styles": rows,
        },
        "weights_sha256": weights,
    }
    out = Path(cfg.out) / "card.json"
    write_json(out, card)
    _print_table(rows, summary)
    print(out)
    return out
