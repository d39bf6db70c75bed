"""A seal: what it says, as the bytes that are signed and hashed, and as a line of the anchor."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from coatcheck.audit.sealing.keys import SealingKey
from coatcheck.audit.sealing.rows import TABLES
from coatcheck.audit.sealing.tree import branches_of, root_of

FORMAT: Final = 1
NO_SEAL: Final = "0" * 64  # what the first seal names as the one before it


class Sealing(msgspec.Struct):
    """The rows of one table that go into a seal. `entries` in the order of their roster; `late` are positions in it."""

    entries: list[bytes] = []
    late: list[int] = []


class Seal(msgspec.Struct, frozen=True):
    """A seal as it is kept. `rosters` by table: the entries, one after the other."""

    number: int
    content: bytes
    signature: bytes
    rosters: Mapping[str, bytes]

    @property
    def line(self) -> bytes:
        """The seal as a line of the anchor."""
        return line_of(self.content, self.signature)


class _Part(msgspec.Struct):
    rows: int
    root: str
    branches: str
    late: list[int]


class _Content(msgspec.Struct):
    """What is signed. The order of the fields is part of the format."""

    format: int
    seal: int
    previous: str
    sealed_at: str
    complete_to: str | None
    key: str
    event: _Part
    transfer: _Part


def line_of(content: bytes, signature: bytes) -> bytes:
    """Put a seal into a line: the signature in hexadecimal, a space, the content."""
    return signature.hex().encode() + b" " + content + b"\n"


def make_seal(
    found: Mapping[str, Sealing],
    key: SealingKey,
    *,
    number: int,
    previous: bytes | None,
    sealed_at: datetime,
    complete_to: datetime | None,
) -> Seal:
    """Seal what was found. `previous` is the content of the seal before; until `complete_to` every row is sealed."""
    rosters = {table.name: b"".join(found[table.name].entries) for table in TABLES}
    parts = {table.name: _part_of(rosters[table.name], table.entry_bytes, found[table.name].late) for table in TABLES}
    content = msgspec.json.encode(
        _Content(
            format=FORMAT,
            seal=number,
            previous=NO_SEAL if previous is None else hashlib.sha256(previous).hexdigest(),
            sealed_at=_print_time(sealed_at),
            complete_to=None if complete_to is None else _print_time(complete_to),
            key=key.public_hex,
            event=parts["event"],
            transfer=parts["transfer"],
        )
    )
    return Seal(number, content, key.sign(content), rosters)


def _part_of(roster: bytes, entry_bytes: int, late: Sequence[int]) -> _Part:
    branches = branches_of(roster, entry_bytes)
    return _Part(
        rows=len(roster) // entry_bytes,
        root=root_of(branches).hex(),
        branches=b"".join(branches).hex(),
        late=list(late),
    )


def _print_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
