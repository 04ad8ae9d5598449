"""Which method redraws the subject in the target's style, and how; and who suggests what the subject is doing."""

from dataclasses import dataclass

from magic_insert.config.checks import one_of, positive, within
from magic_insert.config.schema.parts import STYLE_MODES
from magic_insert.core.errors import UserError

STYLIZERS = ("personalized", "instantstyle", "style_aligned", "adain")
STRUCTURES = ("none", "canny")
ADAIN_FILES = ("adain_encoder_vgg19_relu4_1.safetensors", "adain_decoder.safetensors")
POSES = ("none", "rules", "http")
LOG_2 = 0.6931471805599453


@dataclass(frozen=True)
class StylizerConfig:
    """One of STYLIZERS and its own options; what all share is in the groups `style` and `sampling`.

    `structure`: `canny` makes the picture follow the outline of the subject's picture through the model's ControlNet,
    `structure_scale` in [0, 2] says how strongly. `style_mode`: overrides `style.mode` for this method, null keeps it.
    `lora_scale` in [0, 2]: strength of the personalisation (personalized). `share_norms`: normalise over the style
    picture and ours together, `score_shift`: added to the attention scores of the style picture (style_aligned).
    `weights`: folder with the encoder's and the decoder's safetensors (adain). `style_weight` in [0, 1]: from the
    subject's own statistics to the style's (adain). `size`: side in pixels of its result (adain).
    """

    name: str = "personalized"
    structure: str = "none"
    structure_scale: float = 0.6
    style_mode: str | None = None
    lora_scale: float = 1.0
    share_norms: bool = True
    score_shift: float = LOG_2
    weights: str | None = None
    style_weight: float = 1.0
    size: int = 384

    def __post_init__(self) -> None:
        one_of("stylizer.name", self.name, STYLIZERS)
        one_of("stylizer.structure", self.structure, STRUCTURES)
        within("stylizer.structure_scale", self.structure_scale, 0, 2)
        within("stylizer.lora_scale", self.lora_scale, 0, 2)
        within("stylizer.score_shift", self.score_shift, -10, 10)
        within("stylizer.style_weight", self.style_weight, 0, 1)
        within("stylizer.size", self.size, 64, 2048)
        if self.style_mode is not None:
            one_of("stylizer.style_mode", self.style_mode, STYLE_MODES)
        if self.structure != "none" and self.name == "adain":
            raise UserError(
                "expected stylizer.structure=none for stylizer.name=adain, which keeps every outline, "
                f"got {self.structure}; set stylizer.structure=none"
            )


@dataclass(frozen=True)
class PoseConfig:
    """Words for a pose that fits the place, appended to the prompt.

    `none`: no words. `rules`: a small table by the words of the background's file name and of `style.prompt`. `http`:
    a server that speaks OpenAI's chat protocol and sees pictures; its address and key are read from the environment
    (OPENAI_BASE_URL, OPENAI_API_KEY), `model` is its name there, `timeout` in seconds.
    """

    name: str = "none"
    model: str | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        one_of("pose.name", self.name, POSES)
        positive("pose.timeout", self.timeout)
