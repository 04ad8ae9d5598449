"""Which chat server suggests poses: address and key come from the environment, never from a file. Costs no torch."""

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from magic_insert.config.schema import PoseConfig
from magic_insert.core.errors import UserError

URL, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"


@dataclass(frozen=True)
class Server:
    """Where to ask; the key does not show when this is printed."""

    url: str
    model: str
    key: str = field(repr=False)


def check_server(cfg: PoseConfig) -> Server | None:
    """The server that environment and configuration name; None where none is asked.

    Raises:
        UserError: no address, not a web address, or no model.
    """
    if cfg.name != "http":
        return None
    url = os.environ.get(URL, "").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"expected the address of a chat server in {URL} for pose=http, got {url!r}; set {URL} or pose=none"
        )
    if not cfg.model:
        raise UserError(
            "expected the name of the server's model for pose=http, got none; set pose.model=NAME"
        )
    return Server(url, cfg.model, os.environ.get(KEY, ""))
