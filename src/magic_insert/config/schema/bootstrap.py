"""The groups of the bootstrap: from a model of photographs to one of drawings."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from omegaconf import MISSING

from magic_insert.config.fields import Input, NotEmpty, OneOf, Range
from magic_insert.config.schema.shared import EDIT_STEPS, Count, Guidance, OnError, Share, Steps
from magic_insert.config.schema.training import Decay, EditFit

MOST = 1_000_000  # pictures
# Of photographs: the set is filled up with drawings to match, a hundred times over at most.
LEAST_SHARE = 0.01
Decibel = Annotated[float, Range(0, 100)]


@dataclass(frozen=True)
class LoopConfig:
    """How often, from how many pictures, and what is trained."""

    rounds: Annotated[int, Range(1, 100)] = 1
    """Rounds of harvest, filter and training."""
    num_samples: Annotated[int, Range(1, MOST)] = 50
    """Stylised pictures that a round harvests from."""
    retrain: Annotated[str, OneOf("insertion", "both")] = "insertion"
    """`insertion` freezes the remover as in the paper's figure, `both` trains it too."""
    init_from: Annotated[str, OneOf("base", "previous")] = "base"
    """Where the training of a round starts: the base model, or the last round's."""
    early_stop: bool = True
    """End when a round does not raise the inserter's effect-region PSNR on seen styles over the best before it."""
    min_gain: Annotated[float, Range(0)] = 0.0
    """By how many decibels it must rise."""
    max_photo_loss: Annotated[float, Range(0)] = 0.3
    """Decibels that the same number may fall on photographs; a round that costs more is never kept."""
    remover: str | None = None
    """Folder of the remover to start from; null: the one beside the model's weights."""
    inserter: str | None = None
    """Folder of the inserter to start from; null: the one beside the model's weights."""

    def conflicts(self, at: str) -> Iterator[str]:
        if self.rounds > 1 and self.retrain == "insertion" and self.init_from == "base":
            yield (
                f"expected rounds that can differ, got {at}rounds={self.rounds} with a frozen remover and "
                f"training restarted from the base, where every round repeats the first; set {at}retrain=both or "
                f"{at}init_from=previous, or {at}rounds=1"
            )


@dataclass(frozen=True)
class StyledPoolConfig:
    """Where the stylised pictures come from."""

    name: Annotated[
        str,
        OneOf(
            toybox="Toybox scenes with their subject in drawn training styles; the truth is known",
            folder="your own: pool.dir=DIR with NAME.png or STYLE/NAME.png, and masks/ with masks of the same names",
            imagine="drawn by the model itself and segmented, as in the paper",
        ),
    ] = MISSING
    """The source."""
    styles: list[str] = field(default_factory=list)
    """Styles of the pictures; empty: every training style but photo (toybox)."""
    occlusion: Share = 0.0
    """Chance that a prop stands before the subject (toybox)."""
    dir: Annotated[str | None, Input("folder")] = None
    """Folder of pictures, DIR/STYLE/NAME.png or DIR/NAME.png (folder)."""
    masks: str | None = None
    """Folder of their masks; null: DIR/masks (folder)."""
    segment: bool = False
    """Find a missing mask with the segmenter (folder)."""
    prompts: list[str] = field(default_factory=list)
    """What is drawn, each with {style}; empty: the Toybox's captions, which only the micro model knows (imagine)."""
    steps: Steps = 20
    """Denoising steps (imagine)."""
    guidance: Guidance = 5.0
    """Classifier-free guidance (imagine)."""

    def conflicts(self, at: str) -> Iterator[str]:
        if self.name == "folder" and not self.dir:
            yield f"expected a folder of stylised pictures for pool=folder, got none; set {at}dir=DIR"
        if self.name == "imagine" and self.prompts and not self.styles:
            yield f"expected at least one entry in {at}styles, got none; set {at}styles=[...]"
        for prompt in self.prompts if self.name == "imagine" else ():
            if prompt.count("{style}") != 1:
                yield f"expected every entry of {at}prompts to hold {{style}} once, got {prompt!r}"


@dataclass(frozen=True)
class HarvestConfig:
    """How subjects are removed and put back."""

    steps: Steps = EDIT_STEPS
    """Denoising steps of every removal and re-insertion."""
    batch_size: Count = 10
    """Pictures edited together."""


@dataclass(frozen=True)
class FilterConfig:
    """Which removals are kept: those whose worst score over `rules` reaches `threshold`."""

    threshold: Share = 0.5
    """The smallest score that is kept."""
    keep_at_most_per_style: Count | None = None
    """The best of each style; null for all."""
    good_db: Decibel = 14.5
    """Where the truth is known, a removal is truly good from this PSNR inside mask and effect region on."""
    rules: Annotated[dict[str, Any], NotEmpty()] = MISSING
    """Filter name -> its bounds; docs/bootstrap.md lists the filters."""


@dataclass(frozen=True)
class AdaptConfig(EditFit):
    """One round's training."""

    ema_decay: Decay = 0.98
    """Of the averaged weights that are kept; 0: no average."""
    save_every: Count = 50
    """Steps between checkpoints."""
    photo_share: Share = 0.5
    """Share of each batch that is counterfactual photographs: 0, or at least 0.01 and below 1."""
    num_photos: Annotated[int, Range(1, MOST)] = 64
    """How many photographs there are."""
    photos: Annotated[str | None, Input("folder", ("toybox",))] = None
    """Folder of photographs with with/, without/ and mask/, or `toybox` for renders; null: renders for a model of the
    Toybox (model.toys), none for others."""
    background: Annotated[str, OneOf("paper", "composited")] = "paper"
    """`paper` trains on the removed picture as it is, `composited` on the original with only hole and effect of it."""
    blend: Annotated[float, Range(0.01, 1)] = 1.0
    """What is kept lies this far between the network a round started from and the one it trained; 1 is the paper's."""

    def conflicts(self, at: str) -> Iterator[str]:
        yield from super().conflicts(at)
        if self.save == "lora" and self.blend < 1:
            yield f"expected {at}save=merged for {at}blend={self.blend:g}, got lora; set {at}blend=1"
        if not (self.photo_share == 0 or LEAST_SHARE <= self.photo_share < 1):
            yield (
                f"expected {at}photo_share to be 0, or from {LEAST_SHARE:g} to below 1, got {self.photo_share:g}; "
                f"a round that sees photographs alone cannot learn a style: set {at}photo_share=0.5"
            )


@dataclass(frozen=True)
class HeldOutConfig:
    """What every round is measured on: held-out scenes, each as photo, in a seen and in an unseen style, or pairs."""

    pairs: Annotated[str | None, Input("folder", ("toybox",))] = None
    """Folder of held-out pairs with with/, without/ and mask/, those in a folder photo/ of each being photographs; or
    `toybox` for renders; null: renders for a model of the Toybox (model.toys), for others nothing is measured and the
    last round is kept."""
    num_scenes: Annotated[int, Range(1, MOST)] = 72
    """How many scenes, or pairs at most."""
    seed: int = 1
    """Which scenes; the shipped recipe was chosen on those of seed 0, so what is reported comes from others."""
    steps: Steps = EDIT_STEPS
    """Denoising steps."""
    resamples: Annotated[int, Range(10, 1_000_000)] = 1000
    """Draws of the bootstrap intervals."""
    coverage: Annotated[float, Range(0.5, 0.999)] = 0.95
    """Share of the draws that an interval covers."""
    lpips: str | None = None
    """Folder of LPIPS's AlexNet trunk; null leaves LPIPS out."""


@dataclass(frozen=True)
class FaultConfig:
    """What is done about unusable pictures."""

    on_error: OnError = "refuse"
    """Unusable pictures are refused, all of them by name, or skipped."""
