"""Rows as the database digests them: the example of docs/audit.md, and rows that no schema allows."""

import hashlib
import io
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from tests.unit.test_sealing_format import HEADER, example

from coatcheck.audit.sealing.rows import EVENT, TABLES, SealedTable
from coatcheck.audit.sealing.verifier.tables import LAYOUTS

AT = datetime(2026, 11, 20, 18, 0, 0, 250_000, tzinfo=UTC)  # of the example's rows
NULL = b"\xff\xff\xff\xff"


async def load(owner: asyncpg.Connection, table: SealedTable, *rows: bytes) -> None:
    """Write rows as COPY takes them."""
    layout = next(each for each in LAYOUTS if each.name == table.name)
    source = io.BytesIO(HEADER + b"".join(rows) + b"\xff\xff")
    await owner.copy_to_table(table.name, source=source, format="binary", columns=layout.columns)


async def unsealed(
    owner: asyncpg.Connection, table: SealedTable, late: datetime | None = None, ancient: datetime | None = None
) -> asyncpg.Record:
    """Ask for everything in the table's first blocks."""
    query = f"SELECT * FROM {table.unsealed}(0, 1000, -1, 2147483647, true, $1, $2)"
    row = await owner.fetchrow(query, late, ancient)
    assert row is not None
    return row


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.name))
async def test_the_database_digests_the_example(owner: asyncpg.Connection, table: SealedTable) -> None:
    shown = example()
    row = bytes.fromhex(shown[table.name])
    key = b"".join(row[6 + 20 * n : 22 + 20 * n] for n in range(table.keys))
    await load(owner, table, row)
    found = await unsealed(owner, table)
    assert table.entries_of(found["roster"]) == [key + bytes.fromhex(shown[f"{table.name} digest"])]
    assert (found["late"], found["ancient"]) == (None, None)


async def test_an_empty_stretch_has_an_empty_roster(owner: asyncpg.Connection) -> None:
    found = await unsealed(owner, EVENT, AT, AT)
    assert tuple(found) == (b"", None, None)


async def test_a_row_with_a_shop_or_time_missing_is_digested_like_any_other(owner: asyncpg.Connection) -> None:
    """No schema allows it; whoever is not held up by the schema must not blind the sealer either."""
    row = bytes.fromhex(example()["event"])
    shopless, timeless = row[:42] + NULL + row[62:], row[:62] + NULL + row[74:]
    await owner.execute("ALTER TABLE event ALTER shop_id DROP NOT NULL, ALTER at DROP NOT NULL")
    for odd in (shopless, timeless):
        await owner.execute("TRUNCATE event")
        await load(owner, EVENT, odd)
        found = await unsealed(owner, EVENT, AT + timedelta(days=1))
        assert EVENT.entries_of(found["roster"]) == [row[6:22] + row[26:42] + hashlib.sha256(odd).digest()]
        assert bool(found["late"]) is (odd is shopless)


async def test_a_row_older_than_the_limits_is_late_or_ancient(owner: asyncpg.Connection) -> None:
    await load(owner, EVENT, bytes.fromhex(example()["event"]))
    later = AT + timedelta(microseconds=1)
    whole = (await unsealed(owner, EVENT))["roster"]
    for limits, late, ancient in (
        ((AT, AT), None, None),
        ((later, AT), [whole], None),
        ((later, later), [whole], [whole]),
    ):
        found = await unsealed(owner, EVENT, *limits)
        assert tuple(found) == (whole, late, ancient)


async def test_only_rows_of_transactions_between_the_limits_are_taken(owner: asyncpg.Connection) -> None:
    await load(owner, EVENT, bytes.fromhex(example()["event"]))
    age = await owner.fetchval("SELECT age(xmin) FROM event")
    for youngest, oldest, is_taken in ((age - 1, age, True), (age, age, False), (age - 2, age - 1, False)):
        query = "SELECT roster <> '' FROM unsealed_events(0, 1000, $1, $2, false, NULL, NULL)"
        assert await owner.fetchval(query, youngest, oldest) is is_taken
