"""Pseudonyms for users: keyed hashes, so that nothing that is written reveals who they are."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path

from distill.config import Privacy
from distill.errors import UserError

SHORTEST_KEY = 16  # bytes: below it, trying out keys against known ids becomes thinkable
CHECK = b"taildistill: which key"


def read_key(privacy: Privacy) -> bytes:
    """The secret key, from a file or an environment variable; it is never written or shown.

    Raises:
        UserError: There is none, or it is too short.
    """
    if privacy.key_file:
        path = Path(privacy.key_file).expanduser()
        if not path.is_file():
            raise UserError(f"There is no key file '{path}' (data.privacy.key_file). {_advice(privacy)}")
        key, place = path.read_bytes().strip(), str(path)
    else:
        key, place = os.environ.get(privacy.key_variable, "").encode(), f"the variable {privacy.key_variable}"
        if not key:
            raise UserError(
                f"data.privacy.hash_ids needs a key, but {place} is not set and data.privacy.key_file is empty. "
                f"{_advice(privacy)}"
            )
    if len(key) < SHORTEST_KEY:
        raise UserError(
            f"The key in {place} has {len(key)} bytes, expected at least {SHORTEST_KEY}. {_advice(privacy)}"
        )
    return key


def key_mark(key: bytes) -> str:
    """Tells two keys apart without revealing either: part of the stage's settings, so that a new key means new ids."""
    return hmac.new(key, CHECK, hashlib.sha256).hexdigest()[:16]


def pseudonyms(ids: Iterable[str], key: bytes) -> list[str]:
    """HMAC-SHA-256 of each id under the key, its first 128 bits in hexadecimal.

    Without the key the ids can't be found by hashing guesses, as they could be with a plain hash.
    """
    return [hmac.new(key, str(name).encode(), hashlib.sha256).hexdigest()[:32] for name in ids]


def _advice(privacy: Privacy) -> str:
    return (
        f'Make one with: export {privacy.key_variable}="$(openssl rand -hex 32)" and keep it outside the run: '
        "the same key gives the same pseudonyms."
    )
