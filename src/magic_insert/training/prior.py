"""Prior preservation: pictures of the subject's class as the base model draws it, so that the class is not forgotten.

They are drawn once, one file each, and used by every run that asks for the same (DreamBooth, Ruiz et al. 2023).
"""

from pathlib import Path
from typing import Any

from magic_insert.config.schema import PersonalizationConfig
from magic_insert.core.digest import digest
from magic_insert.core.images import save_png
from magic_insert.core.rand import fold_in
from magic_insert.models.sampling import image_size, sample
from magic_insert.models.zoo import fingerprint

BATCH = 4


def class_pictures(pipe: Any, cfg: PersonalizationConfig, *, seed: int, root: Path) -> list[Path]:
    """`cfg.prior_images` pictures of `cfg.class_noun` by the base model; those that are there are not drawn again.

    The folder's name under `root` is a digest of everything they depend on. `pipe` carries no LoRA that is on.
    """
    sampler = cfg.validation
    request = {
        "model": fingerprint(pipe),
        "prompt": cfg.class_prompt,
        "steps": sampler.steps,
        "guidance": sampler.guidance,
        "size": image_size(pipe),
        "seed": seed,
    }
    folder = root / f"class-{digest(request)}"
    files = [folder / f"{i:04d}.png" for i in range(cfg.prior_images)]
    for start in range(0, len(files), BATCH):
        # Always whole batches: the last bit of a picture may depend on how many are drawn together.
        numbers = range(start, start + BATCH)
        if all(file.is_file() for file in files[start : start + BATCH]):
            continue
        drawn = sample(
            pipe,
            [cfg.class_prompt] * len(numbers),
            [fold_in(seed, "class", i) for i in numbers],
            steps=sampler.steps,
            guidance=sampler.guidance,
        )
        for i, picture in zip(numbers, drawn, strict=True):
            save_png(folder / f"{i:04d}.png", picture.cpu())
    return files
