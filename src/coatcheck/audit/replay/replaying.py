"""The run: reads every event of one snapshot, puts the rows they make into temporary tables, and compares.

It writes nothing but those tables, which end with its transaction: once they are made PostgreSQL itself is told that
the transaction only reads. So it may run beside the gateway, and nothing is left behind however it ends.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import msgspec

from coatcheck.audit.replay.bodies import Event
from coatcheck.audit.replay.books import PLACE_OF, PLACES, SUMS, TABLES, values_of
from coatcheck.audit.replay.fold import fold
from coatcheck.audit.replay.tables import Table, columns_of, place_of
from coatcheck.store import Store

# Whatever belongs to one subject comes together, and no more than one subject's events are kept.
_EVENTS = "SELECT subject_id, event_id, kind, shop_id, mode, at, body::text AS body FROM event ORDER BY subject_id"
_EVENTS_AT_ONCE = 2_000
_ROWS_AT_ONCE = 5_000
_DIFFERENCES_AT_ONCE = 500
_SHOWN = 20
_COLUMNS: Mapping[type[msgspec.Struct], tuple[str, ...]] = MappingProxyType({row: columns_of(row) for row in PLACE_OF})
_VALUES = MappingProxyType({row: values_of(row) for row in PLACE_OF})


class Difference(msgspec.Struct, frozen=True):
    """One value that is not what the events make of it, both as PostgreSQL prints them; None is NULL.

    `column` is `row` where one side does not have the row at all. Of the table `event` it is an event of which no row
    could be made: `replayed` says why, `stored` is its kind.
    """

    table: str
    key: str
    column: str
    replayed: str | None
    stored: str | None


class Replayed(msgspec.Struct, frozen=True):
    """What came out: how many events were read, how many rows compared by table, how many values differ.

    `shown`: the first of what differs.
    """

    events: int
    rows: Mapping[str, int]
    differences: int
    shown: Sequence[Difference] = ()

    @property
    def rows_compared(self) -> int:
        """All rows of all tables."""
        return sum(self.rows.values())


def _tell_nobody(_: Difference) -> None:
    """Leave it at what the outcome shows."""


async def replay(store: Store, tell: Callable[[Difference], None] = _tell_nobody) -> Replayed:
    """Rebuild the rows from the events alone, and tell of everything that differs from what is stored.

    On one snapshot, so payments under way cannot look like differences. Writes only temporary tables. Memory: the
    events of one payment at a time, and some thousand rows.
    """
    async with store.pool.acquire() as connection, _scratch(connection):
        run = _Run(connection, tell)
        await run.rebuild()
        for table in TABLES:
            await run.compare(table)
        return Replayed(run.events, run.rows, run.differences, run.shown)


@asynccontextmanager
async def _scratch(connection: Any) -> AsyncIterator[None]:
    """Make the temporary tables in a transaction that only reads everything else, and is undone at its end."""
    transaction = connection.transaction(isolation="repeatable_read")
    await transaction.start()
    try:
        await connection.execute(
            "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;"
            "SET LOCAL timezone = 'UTC'"
        )
        for place in PLACES:
            await connection.execute(place.make())
        await connection.execute("SET TRANSACTION READ ONLY")
        yield
    finally:
        if not connection.is_closed():
            await transaction.rollback()


class _Run:
    """One replay on one connection."""

    def __init__(self, connection: Any, tell: Callable[[Difference], None]) -> None:
        self.events = 0
        self.rows: dict[str, int] = {}
        self.differences = 0
        self.shown: list[Difference] = []
        self._connection = connection
        self._tell = tell
        self._waiting: dict[type[msgspec.Struct], list[tuple[Any, ...]]] = defaultdict(list)

    async def rebuild(self) -> None:
        """Read all events, subject by subject, and write the rows that they make."""
        subject: list[Event] = []
        cursor = await self._connection.cursor(_EVENTS)
        while found := await cursor.fetch(_EVENTS_AT_ONCE):
            self.events += len(found)
            for row in found:
                event = Event(*row)
                if subject and subject[0].subject_id != event.subject_id:
                    self._fold(subject)
                    subject = []
                subject.append(event)
            await self._write(least=_ROWS_AT_ONCE)
        self._fold(subject)
        await self._write(least=1)
        for place in PLACE_OF.values():
            await self._connection.execute(f"ANALYZE pg_temp.{place_of(place.name)}")
        for statement in SUMS:
            await self._connection.execute(statement)

    def _fold(self, subject: Sequence[Event]) -> None:
        rows, findings = fold(subject)
        for row in rows:
            kind = type(row)
            self._waiting[kind].append(_VALUES[kind](row))
        for finding in findings:
            self._find(Difference("event", str(finding.event_id), "body", finding.why, finding.kind))

    async def _write(self, *, least: int) -> None:
        for kind, rows in self._waiting.items():
            if len(rows) >= least:
                await self._connection.copy_records_to_table(
                    place_of(PLACE_OF[kind].name), columns=_COLUMNS[kind], records=rows, schema_name="pg_temp"
                )
                rows.clear()

    async def compare(self, table: Table) -> None:
        """Tell of every value of a table that differs, and count its rows: those of either side."""
        self.rows[table.name] = await self._connection.fetchval(table.count())
        cursor = await self._connection.cursor(table.differences())
        while found := await cursor.fetch(_DIFFERENCES_AT_ONCE):
            for key, column, replayed, stored, is_stored in found:
                self.rows[table.name] += not is_stored
                self._find(Difference(table.name, key, column, replayed, stored))

    def _find(self, difference: Difference) -> None:
        self.differences += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(difference)
        self._tell(difference)
