"""Fingerprints: of a file's bytes and of anything JSON can hold. Equal content gives equal text, on any machine."""

import hashlib
import json
from pathlib import Path
from typing import Any

DIGEST_LENGTH = 16


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes as 64 hex digits, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(obj: Any) -> str:
    """The first 16 hex digits of the SHA-256 of `obj` written as canonical JSON.

    The order of keys in a mapping does not matter, the order of a list does; a tuple counts as a list.

    Raises:
        TypeError: `obj` holds something JSON cannot say.
        ValueError: `obj` holds NaN or an infinity, which have no canonical text.
    """
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
