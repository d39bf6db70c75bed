"""The tables whose rows are sealed. The database digests them (080_seal.sql); docs/audit.md has the format."""

from typing import Final

import msgspec

_DIGEST_BYTES: Final = 32
_ID_BYTES: Final = 16


class SealedTable(msgspec.Struct, frozen=True):
    """A table whose rows are sealed. `unsealed` is the function that gives the entries of those that are not yet.

    The first `keys` columns are the primary key, each an id.
    """

    name: str
    unsealed: str
    keys: int

    @property
    def key_bytes(self) -> int:
        """The size of a row's key."""
        return self.keys * _ID_BYTES

    @property
    def entry_bytes(self) -> int:
        """The size of a row's entry in a roster: its key and its digest."""
        return self.key_bytes + _DIGEST_BYTES

    def entries_of(self, roster: bytes) -> list[bytes]:
        """Cut a roster into its entries."""
        size = self.entry_bytes
        return [roster[start : start + size] for start in range(0, len(roster), size)]


EVENT: Final = SealedTable(name="event", unsealed="unsealed_events", keys=2)
TRANSFER: Final = SealedTable(name="transfer", unsealed="unsealed_transfers", keys=1)
TABLES: Final = (EVENT, TRANSFER)
