"""The audit: every invariant of the books, each a SELECT in sql/invariants that must return no rows."""

from collections.abc import Mapping
from typing import Any

import msgspec

from coatcheck.store import Store

_SHOWN = 20  # violations listed per invariant; one is already too many


class InvariantResult(msgspec.Struct, frozen=True):
    """What one invariant says: `meaning` in words, and the rows that break it (the first few)."""

    name: str
    meaning: str
    violations: list[dict[str, object]]

    @property
    def holds(self) -> bool:
        """Whether nothing breaks it."""
        return not self.violations


async def run_invariants(store: Store) -> list[InvariantResult]:
    """Run every invariant on one snapshot of the database, so that payments under way cannot look like errors."""
    async with store.pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        return await read_invariants(connection, store.invariants)


async def read_invariants(connection: Any, invariants: Mapping[str, str]) -> list[InvariantResult]:
    """Run invariants (their texts by name) in the caller's transaction; each is one statement, so one snapshot."""
    await connection.execute("SET LOCAL statement_timeout = 0")
    results = []
    for name, text in invariants.items():
        cursor = await connection.cursor(text)
        rows = await cursor.fetch(_SHOWN)
        results.append(InvariantResult(name, _meaning_of(text), [dict(row) for row in rows]))
    return results


def _meaning_of(text: str) -> str:
    """Read what an invariant proves from the comment it begins with."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    return " ".join(lines)
