"""A subject that is ready to be put into scenes: everything `insert_subject` needs but the scene.

One call serves the insert job and the demo, so both do the same thing.
"""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from magic_insert.config.schema import InserterConfig, SegmenterConfig
from magic_insert.core.records import Box, Scene, Subject
from magic_insert.methods.base import Inserter, Stylizer
from magic_insert.methods.inserter_settings import effect_config, inserter_steps, redraw_segmenter
from magic_insert.methods.insertion import Inserted, insert_subject
from magic_insert.methods.stages import Stages, step_bar
from magic_insert.models.segment import cut_subject


@dataclass(frozen=True)
class Workbench:
    """The tools and settings that stay the same from scene to scene."""

    subject_id: str
    stylizer: Stylizer
    inserter: Inserter
    inserter_config: InserterConfig
    segmenter: SegmenterConfig
    segmenter_folder: Path | None
    composite: str
    seed: int
    stages: Stages
    console: Console

    def insert(self, scene: Scene, box: Box, *, pair_id: str, style_text: str = "") -> Inserted:
        """The subject in `scene`; see `insert_subject`."""
        with step_bar(self.console, "insert", inserter_steps(self.inserter_config)) as on_step:
            return insert_subject(
                scene,
                box,
                stylizer=self.stylizer,
                cut=self._cut,
                inserter=self.inserter,
                effect=effect_config(self.inserter_config),
                seed=self.seed,
                pair_id=pair_id,
                stages=self.stages,
                on_step=on_step,
                style_text=style_text,
                composite=self.composite,
            )

    def _cut(self, drawn: Float[Tensor, "3 h w"]) -> Subject:
        return cut_subject(
            drawn,
            None,
            self.subject_id,
            segmenter=redraw_segmenter(self.segmenter.name),
            model_folder=self.segmenter_folder,
        )
