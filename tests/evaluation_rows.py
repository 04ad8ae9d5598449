"""Rows as an evaluation would write them, with real small pictures, made from known means: for tests of reports.

Every method has a level per column; a pair's value is level + its subject's share + its background's share + noise, all
from named random numbers. So the order of the methods, and what a metric knows of the truth, are known beforehand.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from magic_insert.core.images import save_png
from magic_insert.core.rand import generator

STYLES = ("photo", "watercolour", "cartoon", "charcoal")
STYLIZE = {
    "floor:copy_paste": (0.93, 0.20),
    "floor:random_subject": (0.20, 0.55),
    "personalized": (0.70, 0.62),
    "instantstyle_canny": (0.58, 0.70),
    "adain": (0.66, 0.45),
    "ceiling:self": (1.00, 1.00),
    "ceiling:truth": (0.85, 0.80),
}
INSERT = {
    "floor:copy_paste": (0.90, 0.30),
    "personalized+diffusion": (0.62, 0.52),
    "personalized+copy_paste": (0.60, 0.50),
    "ceiling:truth": (0.88, 0.78),
}
FACTS: dict[str, Any] = {
    "benchmark": {"name": "toyplop", "split": "mini", "digest": "0123456789abcdef"},
    "cards": [
        {"name": f"micro-{role}", "role": role, "weights_sha256": sha * 32, "resize": 128, "crop": 128}
        for role, sha in (("identity", "ab"), ("style", "cd"))
    ],
    "metrics": "micro",
    "command": "magic-insert evaluate benchmark=toyplop split=mini",
    "config_digest": "fedcba9876543210",
    "has_truth": True,
}


def draw(*names: object) -> float:
    """A standard normal number that depends on `names` alone."""
    return float(torch.randn((), generator=generator(7, *names)))


def synthetic_rows(
    *,
    tracks: Sequence[str] = ("stylize", "insert"),
    num_subjects: int = 5,
    num_backgrounds: int = 4,
    pictures: Path | None = None,
    noise: float = 0.05,
) -> list[dict[str, Any]]:
    """Rows of both tracks; with a folder `pictures`, their images are written there as 32-pixel PNGs."""
    return [
        _row(track, method, f"bunny-{s:02d}", b, noise, pictures)
        for track in tracks
        for method in (STYLIZE if track == "stylize" else INSERT)
        for s in range(num_subjects)
        for b in range(num_backgrounds)
    ]


def _row(
    track: str, method: str, subject: str, b: int, noise: float, pictures: Path | None
) -> dict[str, Any]:
    identity, style = (STYLIZE if track == "stylize" else INSERT)[method]
    background = f"forest-{b:02d}"
    pair = f"{subject}__{background}"
    spread = 0.0 if method.startswith("ceiling:self") else noise
    who = identity + spread * (draw("s", subject) + draw("p", method, pair))
    how = style + spread * (draw("b", background) + draw("q", method, pair))
    good = 15 + 8 * who + 6 * how + 10 * spread * draw("t", method, pair)
    if track == "stylize":
        values = {
            "subject_dino": who,
            "subject_clip_i": 0.5 + who / 2,
            "subject_clip_t_simple": 0.25 + who / 20,
            "subject_clip_t_detailed": 0.26 + who / 20,
            "style_clip_i": 0.5 + how / 4,
            "style_csd": how,
            "style_clip_t": 0.22 + how / 20,
        }
        values["subject_mean"] = sum(v for k, v in values.items() if k.startswith("subject")) / 4
        values["style_mean"] = sum(v for k, v in values.items() if k.startswith("style")) / 3
        values |= {"truth_psnr": good, "truth_ssim": good / 40}
    else:
        bare = "copy_paste" in method
        values = {
            "outside_psnr": 60.0,
            "outside_equal": 1.0,
            "outside_shift": 0.0,
            "inside_identity": who,
            "inside_style": how,
            "effect_area": 0.0 if bare else max(0.0, 0.06 + 0.02 * draw("e", pair)),
            "truth_psnr": good,
            "truth_ssim": good / 40,
            "truth_effect_psnr": 16.0 + (0 if bare else 5) + draw("f", method, pair),
            "truth_shadow_iou": 0.0 if bare else min(1.0, max(0.0, 0.45 + 0.1 * draw("i", method, pair))),
            "truth_mask_iou": 0.9,
        }
    made = "stylised" if track == "stylize" else "composite"
    images = {
        "subject": f"pictures/{subject}.png",
        "background": f"pictures/{background}.png",
        made: f"pictures/{track}-{method.replace(':', '-')}-{pair}.png",
    }
    if pictures is not None:
        for name, path in images.items():
            _picture(pictures / path, name, subject, background, method)
    return {
        "track": track,
        "method": method,
        "benchmark": FACTS["benchmark"]["digest"],
        "subject": subject,
        "background": background,
        "pair_id": pair,
        "style": STYLES[b % len(STYLES)],
        "seed": 0,
        "values": values,
        "cards": {"dino": "1111111111111111", "csd": "2222222222222222"},
        "images": images,
    }


def _picture(path: Path, name: str, subject: str, background: str, method: str) -> None:
    """A disc in the subject's colour on the background's colour; the method decides the disc's size."""
    if path.exists():
        return
    ground = torch.rand(3, 1, 1, generator=generator(7, "ground", background)).expand(3, 32, 32)
    colour = torch.rand(3, 1, 1, generator=generator(7, "colour", subject)).expand(3, 32, 32)
    if name == "background":
        save_png(path, ground)
        return
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
    size = 12 if name == "subject" else 8 + 3 * float(torch.rand((), generator=generator(7, "size", method)))
    around = torch.ones_like(ground) if name == "subject" else ground
    save_png(path, torch.where(x.hypot(y) <= size, colour, around))
