"""A pose from a language model that sees pictures, over OpenAI's chat protocol; the server is the user's choice.

The key reaches nobody but the server: redirects are refused. The answer is a stranger's text: one short line of plain
words is taken from it, or nothing.
"""

import base64
import http.client
import json
import re
import urllib.error
import urllib.request
from typing import Any

from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import area_resize
from magic_insert.core.errors import UserError
from magic_insert.core.images import png_bytes
from magic_insert.methods.pose_server import URL, Server

LONGEST = 512  # pixels of a picture's longer side as it is sent
MAX_WORDS = 12
MAX_ANSWER_BYTES = 1 << 20
QUESTION = (
    "The first picture is a background, the second a crop of the place where a character will be added. Which pose or "
    "action fits that place? Answer with at most eight words that can follow the character's name in an image prompt, "
    "such as: sitting down on the floor. No explanation."
)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class HttpPose:
    """Asks a server once per scene."""

    def __init__(self, server: Server, *, timeout: float = 30.0) -> None:
        self.server, self.timeout = server, timeout

    def __call__(
        self, background: Float[Tensor, "3 H W"], place: Float[Tensor, "3 h w"], *, words: str
    ) -> str:
        """The server's suggestion, cleaned.

        Raises:
            UserError: the server cannot be reached, refuses, or does not answer in OpenAI's format.
        """
        text = f"{QUESTION} The picture is called: {words.strip()}." if words.strip() else QUESTION
        content = [{"type": "text", "text": text}, *(_picture(image) for image in (background, place))]
        body = {
            "model": self.server.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 40,
            "temperature": 0,
        }
        headers = {"Content-Type": "application/json"}
        if self.server.key:
            headers["Authorization"] = f"Bearer {self.server.key}"
        request = urllib.request.Request(
            f"{self.server.url}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as answer:
                reply = json.loads(answer.read(MAX_ANSWER_BYTES))
            return clean(reply["choices"][0]["message"]["content"])
        except (OSError, http.client.HTTPException) as error:
            reason = f"status {error.code}" if isinstance(error, urllib.error.HTTPError) else str(error)
            raise UserError(
                f"expected a pose from the chat server in {URL}, got: {reason}; set pose=rules or pose=none"
            ) from error
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(
                f"expected a chat completion from the server in {URL}, got something else; set pose=rules or pose=none"
            ) from error


def clean(answer: str) -> str:
    """The first line's plain words, MAX_WORDS at most, without quotes and a full stop."""
    line = next((line for line in answer.splitlines() if line.strip()), "")
    words = re.sub(r"[^\w\s,'-]", " ", line).split()
    return " ".join(words[:MAX_WORDS]).strip(" ,'-_")


def _picture(image: Float[Tensor, "3 H W"]) -> dict[str, Any]:
    height, width = image.shape[-2:]
    scale = min(1.0, LONGEST / max(height, width))
    small = area_resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    data = base64.b64encode(png_bytes(small)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
