"""The rows of a table against the rosters of its seals: both are read once, in about the order of their writing."""

import hashlib
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

BRANCH_ROWS = 64
_DIGEST_BYTES = 32
_HEADER_BYTES = 19
_TRAILER = b"\xff\xff"
_LENGTH = struct.Struct(">i")


@dataclass(frozen=True, slots=True)
class Layout:
    """A table as docs/audit.md lists it: the columns in order, the first of them the key, and which is the row's time.

    Columns of ids, times and amounts come first: in a sound row each of these begins where `fixed` says.
    """

    name: str
    columns: tuple[str, ...]
    keys: int
    at: int
    fixed: struct.Struct
    lengths: tuple[int, ...]

    @property
    def key_bytes(self) -> int:
        """The size of a key: its ids, 16 bytes each."""
        return 16 * self.keys

    @property
    def entry_bytes(self) -> int:
        """The size of an entry of a roster: key and digest."""
        return self.key_bytes + _DIGEST_BYTES


LAYOUTS = (
    Layout(
        "event",
        ("subject_id", "event_id", "shop_id", "at", "kind", "mode", "body"),
        keys=2,
        at=3,
        fixed=struct.Struct(">h i16s i16s i16s iq"),
        lengths=(16, 16, 16, 8),
    ),
    Layout(
        "transfer",
        (
            *("transfer_id", "subject_id", "debit_account_id", "credit_account_id", "at", "amount_minor"),
            *("kind", "phase", "currency", "hold_id"),
        ),
        keys=1,
        at=4,
        fixed=struct.Struct(">h i16s i16s i16s i16s iq iq"),
        lengths=(16, 16, 16, 16, 8, 8),
    ),
)


class TornError(Exception):
    """What the database sent ends in the middle of a row."""


@dataclass(slots=True)
class Doubt:
    """A roster that is not the one that was sealed: which of its branches are others, and what they should be."""

    seal: int
    roster: bytes
    rows: int
    branches: list[bytes]
    bad: list[int]


def branch_of(entries: bytes) -> bytes:
    """Hash up to 64 entries, as a seal does."""
    return hashlib.sha256(b"\x01" + entries).digest()


def root_of(branches: list[bytes]) -> bytes:
    """Hash branches together, 64 at a time, until one is left."""
    level = branches or [branch_of(b"")]
    while len(level) > 1:
        level = [
            hashlib.sha256(b"\x02" + b"".join(level[start : start + BRANCH_ROWS])).digest()
            for start in range(0, len(level), BRANCH_ROWS)
        ]
    return level[0]


@dataclass(slots=True)
class Matching:
    """Entries of rosters that no row was met for (by seal), and rows that no roster has named yet (their own time).

    A pair that meets is taken out of both, so that only what is under way is kept. `copies`: rows that stand there more
    than once. `repeated`: entries that two seals have.
    """

    layout: Layout
    awaited: dict[bytes, int] = field(default_factory=dict)
    strangers: dict[bytes, int | None] = field(default_factory=dict)
    copies: list[bytes] = field(default_factory=list)
    repeated: list[tuple[bytes, int]] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    rows: int = 0
    expected: int = 0

    def expect(self, seal: int, roster: bytes, part: dict[str, Any] | None) -> None:
        """Take in a roster; `part` is what the seal says of it, None when the seal is not believed."""
        size = self.layout.entry_bytes
        if part is not None:
            self._compare(seal, roster, part)
        entries = [roster[start : start + size] for start in range(0, len(roster) - size + 1, size)]
        self.expected += len(entries)
        fresh = dict.fromkeys(entries, seal)
        if len(fresh) < len(entries):
            self.repeated += [(entry, seal) for entry, times in Counter(entries).items() if times > 1]
        met = self.strangers.keys() & fresh.keys() if self.strangers else ()
        for entry in met:
            del self.strangers[entry], fresh[entry]
        again = self.awaited.keys() & fresh.keys()
        self.repeated += [(entry, seal) for entry in again]
        self.awaited.update(fresh)

    def _compare(self, seal: int, roster: bytes, part: dict[str, Any]) -> None:
        said = bytes.fromhex(part["branches"])
        branches = [said[start : start + _DIGEST_BYTES] for start in range(0, len(said), _DIGEST_BYTES)]
        step = BRANCH_ROWS * self.layout.entry_bytes
        bad = [
            place
            for place, branch in enumerate(branches)
            if branch_of(roster[place * step : (place + 1) * step]) != branch
        ]
        if bad or len(roster) != part["rows"] * self.layout.entry_bytes:
            self.doubts.append(Doubt(seal, roster, part["rows"], branches, bad))

    def meet(self, data: bytes, place: int) -> int:
        """Meet every whole row of what COPY sent; returns where the rest begins."""
        layout, known = self.layout, len(data)
        unpack, size, lengths, at = layout.fixed.unpack_from, layout.fixed.size, layout.lengths, 2 * layout.at + 2
        loose, length_of, sha256 = range(len(layout.columns) - len(lengths)), _LENGTH.unpack_from, hashlib.sha256
        is_pair, await_no_more, strangers = layout.keys > 1, self.awaited.pop, self.strangers
        rows = 0
        try:
            while known - place >= size:
                found = unpack(data, place)
                if found[1::2] != lengths:
                    place = self.meet_any(data, place)
                    continue
                end = place + size
                for _ in loose:
                    (length,) = length_of(data, end)
                    end += 4 + length if length > 0 else 4
                if end > known:
                    break
                digest = sha256(data[place:end]).digest()
                entry = found[2] + found[4] + digest if is_pair else found[2] + digest
                rows += 1
                place = end
                if not await_no_more(entry, 0):
                    if entry in strangers:
                        self.copies.append(entry)
                    strangers[entry] = found[at]
        except struct.error:  # torn
            pass
        self.rows += rows
        return place

    def meet_any(self, data: bytes, place: int) -> int:
        """Meet a row with columns that no sound row has, as NULL for an id. Raises struct.error when it is torn."""
        columns, end = columns_of(data, place)
        at = columns[self.layout.at]
        entry = b"".join(columns[: self.layout.keys]) + hashlib.sha256(data[place:end]).digest()
        self.rows += 1
        if not self.awaited.pop(entry, 0):
            self.strangers[entry] = int.from_bytes(at, signed=True) if len(at) == 8 else None  # noqa: PLR2004 - a time
        return end


def columns_of(data: bytes, place: int) -> tuple[list[bytes], int]:
    """Cut one row into columns (NULL is empty here), and say where it ends. Raises struct.error when it is torn."""
    (count,) = struct.unpack_from(">h", data, place)
    end, columns = place + 2, []
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(data, end)
        start, end = end + 4, end + 4 + max(length, 0)
        columns.append(data[start:end])
    if count < 0 or end > len(data):
        raise struct.error
    return columns, end


class CopyStream:
    """What COPY sends, put together again where it was torn, for a matching to meet."""

    def __init__(self, matching: Matching) -> None:
        self._matching = matching
        self._header_bytes = _HEADER_BYTES
        self._left = b""

    async def take(self, data: bytes) -> None:
        """Take the next piece."""
        data = self._left + data if self._left else data
        skipped = min(self._header_bytes, len(data))
        self._header_bytes -= skipped
        self._left = data[self._matching.meet(data, skipped) :]

    def finish(self) -> None:
        """Take the last rows. Raises TornError when one is not whole."""
        place = 0
        while self._left[place:] != _TRAILER:
            try:
                place = self._matching.meet_any(self._left, place)
            except struct.error as error:
                raise TornError(self._matching.layout.name) from error
