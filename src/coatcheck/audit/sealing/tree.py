"""The tree of hashes over a roster: 64 entries make a branch, 64 branches a node, and so on up to the root."""

import hashlib
from typing import Final

WIDTH: Final = 64
# What a hash was made of is part of it: a row's digest begins with 00, the number of its columns being below 256.
_BRANCH: Final = b"\x01"
_NODE: Final = b"\x02"


def branches_of(roster: bytes, entry_bytes: int) -> list[bytes]:
    """Hash every 64 entries of a roster; the last branch may have fewer."""
    step = WIDTH * entry_bytes
    return [hashlib.sha256(_BRANCH + roster[start : start + step]).digest() for start in range(0, len(roster), step)]


def root_of(branches: list[bytes]) -> bytes:
    """Hash the branches together until one is left. Of nothing it is the hash of an empty branch."""
    level = branches or [hashlib.sha256(_BRANCH).digest()]
    while len(level) > 1:
        level = [
            hashlib.sha256(_NODE + b"".join(level[start : start + WIDTH])).digest()
            for start in range(0, len(level), WIDTH)
        ]
    return level[0]
