"""What the subject could be doing there: words for the prompt, from the background and a crop of the drop place.

The paper asks a language model that sees pictures. Here a small table answers by the scene's words, and whoever has a
server that speaks OpenAI's protocol can ask that instead.

Shape letters: H, W the background's rows and columns, h, w the crop's. Pictures are float32 in [0, 1].
"""

import re
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema import PoseConfig
from magic_insert.core.records import Box, Scene
from magic_insert.methods.pose_http import HttpPose
from magic_insert.methods.pose_server import check_server

# Words of a scene and the pose that fits them; the first that is found decides, so furniture goes before rooms.
POSES_BY_WORD: tuple[tuple[tuple[str, ...], str], ...] = (
    (("bed", "bedroom", "hammock"), "lying down"),
    (("chair", "bench", "sofa", "couch", "throne", "stool", "swing", "playground"), "sitting down"),
    (("stage", "concert", "theatre", "theater", "party", "dance"), "dancing"),
    (("library", "school", "classroom", "office"), "sitting down, holding a book"),
    (("kitchen", "restaurant", "picnic"), "sitting down on the floor"),
    (("lake", "sea", "ocean", "pool", "river", "pond"), "swimming"),
    (("street", "road", "path", "trail", "alley", "bridge", "desert"), "walking"),
    (("race", "track", "meadow", "field", "park"), "running"),
    (("snow", "winter", "ice", "arctic"), "wearing a scarf"),
    (("beach", "garden", "zen", "temple"), "sitting down on the floor"),
    (("cave", "night", "moon", "space", "sky"), "looking up"),
)
CONTEXT = 1.5  # side of the crop in units of the box's longer side


@runtime_checkable
class PoseSuggester(Protocol):
    """Suggests words to append to a subject's prompt."""

    def __call__(
        self, background: Float[Tensor, "3 H W"], place: Float[Tensor, "3 h w"], *, words: str
    ) -> str:
        """Words such as "sitting down"; empty when nothing suggests itself.

        Args:
            background: the whole picture.
            place: the part of it where the subject is to stand.
            words: what is known of the scene in words, such as its file's name.
        """
        ...


class RulePose:
    """Looks the scene's words up in POSES_BY_WORD."""

    def __call__(
        self, background: Float[Tensor, "3 H W"], place: Float[Tensor, "3 h w"], *, words: str
    ) -> str:
        """The pose of the first entry that has a word in common with `words`; the pictures are not looked at."""
        known = set(re.findall(r"[a-z]+", words.lower()))
        return next((pose for keys, pose in POSES_BY_WORD if known & set(keys)), "")


class NoPose:
    """Suggests nothing."""

    def __call__(
        self, background: Float[Tensor, "3 H W"], place: Float[Tensor, "3 h w"], *, words: str
    ) -> str:
        """Always the empty text."""
        return ""


def build_pose(cfg: PoseConfig) -> PoseSuggester:
    """The suggester that `cfg` names.

    Raises:
        UserError: `http` without a server in the environment.
    """
    if server := check_server(cfg):
        return HttpPose(server, timeout=cfg.timeout)
    return RulePose() if cfg.name == "rules" else NoPose()


def drop_place(scene: Scene, box: Box) -> Float[Tensor, "3 h w"]:
    """The part of the scene around `box`, as far as the picture goes."""
    side = round(CONTEXT * max(box.w, box.h))
    top, left = box.y + box.h // 2 - side // 2, box.x + box.w // 2 - side // 2
    return scene.rgb[:, max(0, top) : top + side, max(0, left) : left + side]


def suggest(suggester: PoseSuggester, scene: Scene, box: Box, *, words: str = "") -> str:
    """The pose for `scene` at `box`; the scene's id counts among its words."""
    return suggester(scene.rgb, drop_place(scene, box), words=f"{scene.id} {words}")
