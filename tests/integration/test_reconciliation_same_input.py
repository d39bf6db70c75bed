"""The same files in the same order give the same books to the byte; where a line stands in its file decides nothing."""

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.arriving import ArrivalDesk
from tests.integration.conftest import new_database
from tests.integration.outside import checkout
from tests.integration.test_bank_statements import statement
from tests.integration.test_reconciliation import lines, summed

from coatcheck.reconciliation.report import Report
from coatcheck.states import Capture
from coatcheck.store import Store
from coatcheck.store.database import _open
from coatcheck.store.embedded import EmbeddedServer

RULES: dict[str, Any] = {
    "psp_fees": {"simulator": "1.4%+0.10 EUR"},
    "settlement_delay": {"simulator": "2 days"},
}
# What files leave behind, in an order of its own. The ids of their transfers are derived, as is all that their events
# say; an event's own id has a random part, as have the ids of the transfers of payments, which no file posts.
TABLES = {
    "settlement_file": "file_id",
    "settlement_line": "file_id, line_no",
    "settled_record": "operation_id, kind",
    "settlement_batch": "provider, batch, currency",
    "settlement_reach": "file_id",
    "file_day": "file_id",
    "batch_rest": "provider, batch, currency",
    "reconciliation_break": "break_id",
    "escalated_break": "break_id",
    "bank_line": "file_id, line_no",
    "confirmed_payout": "provider, batch, currency",
    "account": "account_id",
}
EVENTS = """
SELECT kind, subject_id::text, at::text, body::text FROM event
 WHERE kind ~ '^(settlement|break|file)[.]' ORDER BY kind, subject_id, at, body::text
"""
TRANSFERS = """
SELECT t::text FROM transfer AS t
 WHERE kind IN ('psp_payout', 'psp_fee', 'conversion', 'bank_credit', 'unexplained', 'explained') ORDER BY transfer_id
"""


@pytest.fixture
async def another(server: EmbeddedServer, template_made: list[str]) -> AsyncIterator[Store]:
    async with new_database(server, template_made) as url, _open(url, pool_size=8) as store:
        yield store


async def sell(desk: ArrivalDesk) -> list[str]:
    """A week of trade; the texts of the PSP's files, with breaks of most kinds in them."""
    world = desk.world
    await world.pay(checkout("c1", "o1", "o2", "o3"))
    await world.refund("o1", 300)
    held = await world.pay(checkout("c2", "o4", capture=Capture.MANUAL), "k2")
    await world.capture(held, o4=700)
    await world.pay(checkout("c3", "o5", token="tok_decline_do_not_honor"), "k3")
    world.clock.advance(timedelta(days=6))
    (first,) = desk.close()
    await world.pay(checkout("c4", "o6", amount_minor=2000), "k4")
    (second,) = desk.close()
    header, charge, *rest = lines(first)
    broken = [
        charge.replace(",1,charge,", ",7,charge,"),  # the same line again
        charge.replace(",1,charge,ch_0", ",8,charge,ch_7"),  # a second charge
        charge.replace(",1,charge,ch_0", ",9,charge,ch_9").replace(",op_", ",their_"),
        charge.replace(",1,charge,ch_0", ",10,fee,fee_1").replace("10.00,0.25,9.75", "-0.50,0.00,-0.50"),
    ]
    other = rest[0].replace("10.00,0.25,9.75", "11.00,0.30,10.70")
    return [summed(header, charge, other, *rest[1:-2], *broken, rest[-2]), second]


async def take_all(desk: ArrivalDesk, texts: list[str]) -> list[Report]:
    reports = []
    for place, text in enumerate(texts):
        reports.append(await desk.arrive(text, f"{place}.csv"))
        desk.world.clock.advance(timedelta(hours=1))
    await desk.arrive(statement(("19.60", "settlement st_000002"), ("3.00", "from nobody")), "bank.xml")
    await desk.arrive(summed(*lines(texts[1])[:2]), "again.csv")  # its batch, issued again without the payout
    return reports


async def written(store: Store) -> dict[str, list[str]]:
    """Everything that the files have left behind, as text."""
    found = {
        table: [row[0] for row in await store.pool.fetch(f"SELECT t::text FROM {table} AS t ORDER BY {order}")]
        for table, order in TABLES.items()
    }
    found["transfer"] = [row[0] for row in await store.pool.fetch(TRANSFERS)]
    return found | {"event": ["|".join(row) for row in await store.pool.fetch(EVENTS)]}


async def test_the_same_files_in_the_same_order_leave_the_same_books_to_the_byte(
    store: Store, another: Store, tmp_path: Path
) -> None:
    reports, books = [], []
    for each in (store, another):
        desk = ArrivalDesk(each, tmp_path, **RULES)
        texts = await sell(desk)
        reports.append(msgspec.json.encode([texts, await take_all(desk, texts)]))
        books.append(await written(each))
    assert reports[0] == reports[1]
    for table, rows in books[0].items():
        assert rows == books[1][table], table
        assert rows or table == "escalated_break", f"nothing was written into {table}: the comparison is empty"
    kinds = {row["kind"] for row in await store.pool.fetch("SELECT kind FROM reconciliation_break")}
    assert kinds >= {"amount", "duplicate_line", "duplicate_charge", "missing_here", "fee", "late", "unexplained"}


SAID = """
SELECT l.kind, l.batch, l.reference, l.provider_reference, l.occurred_at::text, l.gross_minor, l.fee_minor, l.verdict,
       k.kind, k.expected_minor, k.stated_minor, k.suspense_minor, k.detail
  FROM settlement_line AS l LEFT JOIN reconciliation_break AS k ON k.file_id = l.file_id AND k.line_no = l.line_no
 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9
"""
POSTED = """
SELECT t.kind, d.name, c.name, t.amount_minor FROM transfer AS t
  JOIN account AS d ON d.account_id = t.debit_account_id JOIN account AS c ON c.account_id = t.credit_account_id
 ORDER BY 1, 2, 3, 4
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_H5_where_a_line_stands_in_its_file_decides_nothing(
    store: Store, another: Store, tmp_path: Path, seed: int
) -> None:
    """Which line claims a record, what is a duplicate of what, every break and transfer: all by what lines say."""
    told = []
    for each, dice in ((store, None), (another, random.Random(seed))):
        desk = ArrivalDesk(each, tmp_path, **RULES)
        header, *rows, payout, _ = lines((await sell(desk))[0])
        if dice is not None:
            dice.shuffle(rows)
        report = await desk.arrive(summed(header, *rows, payout))
        found = [[tuple(row) for row in await each.pool.fetch(query)] for query in (SAID, POSTED)]
        told.append((report.totals, report.matched, report.breaks, *found))
    assert told[0] == told[1]
