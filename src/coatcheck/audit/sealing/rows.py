"""Rows as they are sealed: the columns that count, and the digest of a row as COPY sends it in its binary form.

The digest is SHA-256 over the row as it arrives: the number of columns in two bytes, then each column's length in four
bytes (ff ff ff ff for NULL) and its content. docs/audit.md has it byte by byte.
"""

import hashlib
import struct
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

_DIGEST_BYTES: Final = 32
_ID_BYTES: Final = 16
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL counts microseconds from here
_HEADER_BYTES: Final = 19  # before the first row: a signature, flags, and the length of nothing
_TRAILER: Final = b"\xff\xff"
_LENGTH: Final = struct.Struct(">i")
_COUNT: Final = struct.Struct(">h")
_NEVER: Final = -(2**63)


class SealedTable(msgspec.Struct, frozen=True):
    """A table whose rows are sealed, and its columns in the order in which they are digested.

    The first `keys` of them are the primary key. `head` reads the columns whose length is always the same, and the
    first of those `lengths`; column number `at` is the row's own time.
    """

    name: str
    columns: tuple[str, ...]
    keys: int
    at: int
    head: struct.Struct
    lengths: tuple[int, ...]

    @property
    def key_bytes(self) -> int:
        """The size of a row's key."""
        return self.keys * _ID_BYTES

    @property
    def entry_bytes(self) -> int:
        """The size of a row's entry in a roster: its key and its digest."""
        return self.key_bytes + _DIGEST_BYTES


EVENT: Final = SealedTable(
    name="event",
    columns=("subject_id", "event_id", "shop_id", "at", "kind", "mode", "body"),
    keys=2,
    at=3,
    head=struct.Struct(">hi16si16si16siq"),
    lengths=(16, 16, 16, 8),
)
TRANSFER: Final = SealedTable(
    name="transfer",
    columns=(
        *("transfer_id", "subject_id", "debit_account_id", "credit_account_id", "at", "amount_minor"),
        *("kind", "phase", "currency", "hold_id"),
    ),
    keys=1,
    at=4,
    head=struct.Struct(">hi16si16si16si16siqiq"),
    lengths=(16, 16, 16, 16, 8, 8),
)
TABLES: Final = (EVENT, TRANSFER)


class RowError(Exception):
    """What the database sent cannot be cut into rows."""


class Entries:
    """Takes what COPY sends, and keeps each row's entry: its key, then its digest.

    `late` are the positions of rows whose own time is before `late_before`, and `ancient` of those before that.
    """

    def __init__(
        self, table: SealedTable, late_before: datetime | None = None, ancient_before: datetime | None = None
    ) -> None:
        self.entries: list[bytes] = []
        self.late: list[int] = []
        self.ancient: list[int] = []
        self._table = table
        self._late_before_us = _microseconds(late_before)
        self._ancient_before_us = _microseconds(ancient_before)
        self._left = b""
        self._header_bytes = _HEADER_BYTES

    async def take(self, data: bytes) -> None:
        """Take the next piece, as asyncpg's COPY gives it. A row may be torn anywhere between two pieces."""
        data = self._left + data if self._left else data
        skipped = min(self._header_bytes, len(data))
        self._header_bytes -= skipped
        self._left = data[self._cut(data, skipped) :]

    def finish(self) -> None:
        """Take the last rows. Raises RowError when one is not whole."""
        place = 0
        while self._left[place:] != _TRAILER:
            try:
                place = self._cut_any(self._left, place)
            except struct.error as error:
                raise RowError(f"the rows of {self._table.name} end in the middle of one") from error

    def _cut(self, data: bytes, place: int) -> int:
        """Take every row that is whole; returns where the next one begins."""
        table, known = self._table, len(data)
        unpack, size, lengths, at = table.head.unpack_from, table.head.size, table.lengths, 2 * table.at + 2
        rest, length_of = range(len(table.columns) - len(lengths)), _LENGTH.unpack_from
        is_pair, late_before_us, sha256 = table.keys > 1, self._late_before_us, hashlib.sha256
        entries = self.entries
        try:
            while known - place >= size:
                fields = unpack(data, place)
                if fields[1::2] != lengths:
                    place = self._cut_any(data, place)
                    continue
                end = place + size
                for _ in rest:
                    (length,) = length_of(data, end)
                    end += 4 + length if length > 0 else 4
                if end > known:
                    break
                if fields[at] < late_before_us:
                    self._take_late(fields[at])
                digest = sha256(data[place:end]).digest()
                entries.append(fields[2] + fields[4] + digest if is_pair else fields[2] + digest)
                place = end
        except struct.error:  # torn in a length
            pass
        return place

    def _take_late(self, at_us: int) -> None:
        self.late.append(len(self.entries))
        if at_us < self._ancient_before_us:
            self.ancient.append(len(self.entries))

    def _cut_any(self, data: bytes, place: int) -> int:
        """Take one row whose columns have other lengths than the schema says. Raises struct.error when it is not whole.

        It is digested like any other: what is sealed is what is there.
        """
        (count,) = _COUNT.unpack_from(data, place)
        end, columns = place + _COUNT.size, list[bytes]()
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(data, end)
            start, end = end + 4, end + 4 + max(length, 0)
            columns.append(data[start:end])
        if end > len(data) or count < 0:
            raise struct.error
        at = columns[self._table.at]
        if len(at) == 8 and int.from_bytes(at, signed=True) < self._late_before_us:  # noqa: PLR2004 - bytes of a time
            self._take_late(int.from_bytes(at, signed=True))
        self.entries.append(b"".join(columns[: self._table.keys]) + hashlib.sha256(data[place:end]).digest())
        return end


def _microseconds(time: datetime | None) -> int:
    return _NEVER if time is None else (time - _EPOCH) // timedelta(microseconds=1)
