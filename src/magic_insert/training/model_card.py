"""The model card beside a personalisation: what it is, under which licence its base is, how to load it elsewhere.

In the form of diffusers' and peft's own cards, so that a hub or a program that shows models can read its header.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from magic_insert.config.schema.shared import ModelConfig
from magic_insert.models.folders import variant_of

MICRO = "micro"  # our own model, which is on no hub
FILE = "README.md"
LICENCES = {MICRO: "apache-2.0", "stabilityai/stable-diffusion-xl-base-1.0": "openrail++"}
TAGS = ("text-to-image", "lora", "textual_inversion", "stable-diffusion-xl", "magic-insert")


def base_of(model: ModelConfig) -> dict[str, str | None]:
    """The base model's name, where it is from (a hub id, the last name of a folder, or our own) and which variant."""
    source = model.source or model.name
    folder = Path(source).expanduser()
    inside = folder if folder.is_dir() else None
    variant = None if source == MICRO else variant_of(model, inside)
    return {"name": model.name, "source": source if inside is None else inside.name, "variant": variant}


def model_card(
    card: Mapping[str, Any], title: str, *, lora: str, tokens: str, pictures: Sequence[str] = ()
) -> str:
    """The text of README.md.

    Args:
        card: of the finished run (`card.json`).
        title: what the subject is called.
        lora: name of the LoRA's file beside the card; `tokens`: of the embedding's.
        pictures: names of pictures beside it.
    """
    base, words = card["base_model"]["source"], card["tokens"]
    variant = card["base_model"].get("variant")
    prompt = card["prompt"].replace("{tokens}", " ".join(words))
    header = {
        "library_name": "diffusers",
        "base_model": base,
        "base_model_relation": "adapter",
        "license": LICENCES.get(base, "other"),
        "tags": list(TAGS),
        "instance_prompt": prompt,
        "widget": [{"text": prompt, "output": {"url": name}} for name in pictures],
    }
    # JSON values are YAML.
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items() if value)
    shown = "".join(f"![{title}]({name})\n" for name in pictures)
    return TEXT.format(
        header=lines, title=title, shown=shown, base=base,
        where=SHIPPED if base == MICRO else ELSEWHERE % base, prompt=prompt,
        lora=lora, tokens=tokens, words=json.dumps(words), variant=f', variant="{variant}"' if variant else "",
        size=card["image_size"], steps=card["steps"],
    )  # fmt: skip


ELSEWHERE = """base = "%s"  # a hub id, or the model's folder"""
SHIPPED = """from magic_insert.paths import micro_dir  # where the small model lies that ships with Magic Insert

base = str(micro_dir())  # or the folder of one of your own"""
TEXT = """---
{header}
---

# {title}

{shown}
One subject, learned by [Magic Insert](https://arxiv.org/abs/2407.02489) in {steps} steps at {size} x {size} pixels:
a LoRA on the UNet of `{base}` and words for its text encoders, which belong together. The licence above is the base
model's; the rights in the subject's picture are another matter.

## In diffusers

```python
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

{where}
pipe = StableDiffusionXLPipeline.from_pretrained(base{variant}, torch_dtype=torch.float32)  # float16 on a GPU
pipe.load_lora_weights(".", weight_name="{lora}")
rows, words = load_file("{tokens}"), {words}
for key, encoder, tokenizer in (
    ("clip_l", pipe.text_encoder, pipe.tokenizer),
    ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
):
    pipe.load_textual_inversion(rows[key], token=words, text_encoder=encoder, tokenizer=tokenizer)
    for part in encoder.modules():  # SDXL's own files call the end token 2, which the learned words are not
        if getattr(part, "eos_token_id", None) == 2:
            part.eos_token_id = tokenizer.eos_token_id
image = pipe("{prompt}").images[0]
```

## In Magic Insert and ComfyUI

`magic-insert insert run=FOLDER subject=PICTURE background=SCENE out=OUT` redraws the subject in a scene's style.
`magic-insert export run=FOLDER out=OUT format=kohya` writes both files for ComfyUI and A1111 and prints the prompt.
FOLDER is the one that `magic-insert personalize` wrote.
"""
