"""What the subject could be doing there: words for the prompt, from the background and a crop around the box.

The paper asks a language model that sees pictures. Here a small table answers by the scene's words, and whoever has a
server that speaks OpenAI's chat protocol can ask that instead: its address and key come from the environment, never
from a file, the key reaches nobody else (redirects are refused), and of the answer one short line of plain words is
kept. Costs no torch.
"""

import base64
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from magic_insert.config.schema.shared import PoseConfig
from magic_insert.core.box import Box
from magic_insert.core.errors import UserError

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
URL, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"
LONGEST = 512  # pixels of a picture's longer side as it is sent
MAX_WORDS = 12
BLOCK, MOST_BLOCKS = 1 << 16, 16  # bytes of an answer that are read at once, and how often
QUESTION = (
    "The first picture is a background, the second a crop of the place where a character will be added. Which pose or "
    "action fits that place? Answer with at most eight words that can follow the character's name in an image prompt, "
    "such as: sitting down on the floor. No explanation."
)


# Suggests words to append to a prompt: of the whole picture, the part of it where the subject is to stand, and
# what is known of the scene in words, such as its file's name. Empty when nothing suggests itself.
Suggester = Callable[[Image.Image, Image.Image, str], str]


def pose_by_words(background: Image.Image, crop: Image.Image, words: str) -> str:
    """The pose of the first entry of POSES_BY_WORD that has a word in common with `words`."""
    known = set(re.findall(r"[a-z]+", words.lower()))
    return next((pose for keys, pose in POSES_BY_WORD if known & set(keys)), "")


def build_pose(cfg: PoseConfig) -> Suggester:
    """The suggester that `cfg` names.

    Raises:
        UserError: `http` without the address of a server in the environment.
    """
    if cfg.name != "http":
        return pose_by_words if cfg.name == "rules" else lambda background, crop, words: ""
    url = os.environ.get(URL, "").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"expected the address of a chat server in {URL} for pose=http, got {url!r}; set {URL} or pose=none"
        )
    return HttpPose(url, str(cfg.model), os.environ.get(KEY, ""), cfg.timeout)


def suggest(suggester: Suggester, background: Image.Image, box: Box, *, name: str, words: str = "") -> str:
    """The pose for `background`, called `name`, at `box`; the name counts among its words."""
    return suggester(background, around(background, box), f"{name} {words}")


def around(background: Image.Image, box: Box) -> Image.Image:
    """The part of the picture around `box`, as far as the picture goes."""
    side = round(CONTEXT * max(box.w, box.h))
    left, top = box.x + box.w // 2 - side // 2, box.y + box.h // 2 - side // 2
    right, bottom = min(left + side, background.width), min(top + side, background.height)
    return background.crop((max(0, left), max(0, top), right, bottom))


@dataclass(frozen=True)
class HttpPose:
    """Asks a chat server once per scene; the key does not show when this is printed."""

    url: str
    model: str
    key: str = field(repr=False)
    timeout: float = 30.0

    def __call__(self, background: Image.Image, crop: Image.Image, words: str) -> str:
        """The server's suggestion, cleaned.

        Raises:
            UserError: the server cannot be reached, refuses, or does not answer in OpenAI's format.
        """
        text = f"{QUESTION} The picture is called: {words.strip()}." if words.strip() else QUESTION
        content = [{"type": "text", "text": text}, _picture(background), _picture(crop)]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 40,
            "temperature": 0,
        }
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        where = f"{self.url}/chat/completions"
        try:
            # Redirects are not followed: one would carry the key to another host.
            with httpx.stream("POST", where, json=body, headers=headers, timeout=self.timeout) as answer:
                answer.raise_for_status()
                said = b"".join(islice(answer.iter_bytes(BLOCK), MOST_BLOCKS))
            return clean(json.loads(said)["choices"][0]["message"]["content"])
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            answered = isinstance(error, httpx.HTTPStatusError)
            reason = f"status {error.response.status_code}" if answered else str(error)  # type: ignore[union-attr]
            raise UserError(
                f"expected a pose from the chat server in {URL}, got: {reason}; set pose=rules or pose=none"
            ) from error
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"expected a chat completion from the server in {URL}, got something else; set pose=rules or pose=none"
            ) from error


def clean(answer: str) -> str:
    """The first line's plain words, MAX_WORDS at most, without quotes and a full stop."""
    line = next((line for line in answer.splitlines() if line.strip()), "")
    words = re.sub(r"[^\w\s,'-]", " ", line).split()
    return " ".join(words[:MAX_WORDS]).strip(" ,'-_")


def _picture(image: Image.Image) -> dict[str, Any]:
    small = image.convert("RGB")
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
