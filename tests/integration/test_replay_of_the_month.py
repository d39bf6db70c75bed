"""A month that closes, rebuilt from its events: files and breaks, adoptions, wallets, payouts and disputes."""

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from tests.integration.conftest import new_database
from tests.integration.outside import CALLER, World, checkout
from tests.integration.payees import PERSON, house, pay_out, payout_of, schedule
from tests.integration.test_adoption import replace_books
from tests.integration.test_disputes import moved, word
from tests.integration.test_reconciliation import Desk, kinds, lines, summed
from tests.simulation.life import Life
from tests.simulation.psp import PspLine

from coatcheck.audit.replay import replay
from coatcheck.audit.replay.replaying import Difference
from coatcheck.ids import operation_id_of
from coatcheck.reconciliation.breaks import BreakQuery, Destination, Explanation
from coatcheck.seller_terms import Seller, Terms, set_terms
from coatcheck.states import DisputeStatus, OperationKind, PayoutRunStatus
from coatcheck.store import Store
from coatcheck.store.database import _open
from coatcheck.store.embedded import EmbeddedServer

HOLD = timedelta(days=7)
COMPARED = (
    *("adopted_payment", "payout", "payout_destination", "payout_schedule", "payout_run", "payout_run_item"),
    *("dispute", "dispute_movement", "settlement_file", "settlement_batch", "reconciliation_break"),
    *("wallet", "maturing", "settled_reading", "seller_terms"),
)


class Month:
    """A gateway whose PSP has charged for it before its books begin."""

    def __init__(self, store: Store, elsewhere: Store, directory: Path) -> None:
        self.before = Desk(elsewhere, directory)
        line = PspLine(self.before.psp, Life(random.Random(2), None))
        self.world = World(store, line, clock=self.before.world.clock)  # type: ignore[arg-type]
        self.desk = replace_books(self.before, self.world, directory)

    async def differences(self) -> list[Difference]:
        found: list[Difference] = []
        self.rows = (await replay(self.world.store, found.append)).rows
        return found

    async def agrees(self) -> None:
        """Nothing differs, and no invariant is broken."""
        assert await self.differences() == []
        assert await self.world.violations() == {}

    async def sell(self) -> None:
        await self.before.world.pay(checkout("lost", "lost-1"))
        await self.world.pay(checkout("c1", "o1", "o2"))
        await self.world.pay(checkout("c2", "o3", "o4"), "k2")
        await self.world.refund("o2", 300)
        for hold_days, basis_points in ((14, 0), (7, 1000)):
            seller = Seller(CALLER.shop_id, CALLER.mode, "seller-o3")
            await set_terms(self.world.store, self.world.clock, seller, Terms(hold_days, basis_points, 90), by=PERSON)

    async def settle(self) -> None:
        """A file tells of a charge that our books never had, and of two that are nobody's; then it is issued again."""
        (text,) = self.before.close()
        header, *rows, _payout, _end = lines(text)
        nobodys = [
            rows[0]
            .replace(",1,charge,", f",{len(rows) + n},charge,")
            .replace("ch_0", f"ch_{n}")
            .replace(",op_", ",its_")
            for n in (1, 2)
        ]
        report = await self.desk.take(summed(header, *rows, *nobodys), "first.csv")
        assert kinds(report) == ["missing_here"] * 3
        await self.agrees()
        corrections = self.world.gateway.corrections
        corrections._unrecorded = "adopt"
        assert await corrections.correct(report.file_id) == 1
        await self.agrees()
        await self.explain()
        await self.agrees()
        again = await self.desk.take(summed(header, *rows), "again.csv")
        assert kinds(again) == ["unexplained"]  # what two people have said of a line that went away
        await self.agrees()

    async def explain(self) -> None:
        """Two people say what one of nobody's lines is."""
        breaks, query = self.world.gateway.breaks, BreakQuery()
        listed = [each for each in await breaks.find(query) if each.found.closed_at is None]
        said = Explanation(destination=Destination.COMMISSION, note="sold by phone", evidence="the till's list")
        proposal = await breaks.propose(listed[0].found.break_id, query, said, "person ada")
        await self.agrees()
        await breaks.confirm(listed[0].found.break_id, proposal.proposal_id, query, "person grace")

    async def mature(self) -> None:
        self.world.clock.advance(HOLD)
        assert (await self.world.gateway.maturing.mature_once())["matured"] == 5
        assert (await self.world.balances())["seller_reserve"] == 90

    async def pay_out(self) -> None:
        """One payout comes back, one is refused, and a run waits for a second person."""
        for seller, token in (("seller-o1", "dest_ok"), ("seller-o3", "dest_ok.first"), ("seller-o4", "dest_closed")):
            assert await house(self.world, seller, token) == "changed"
        assert await house(self.world, "seller-o3", "dest_ok") == "changed"
        came_back = await pay_out(self.world, 400, seller="seller-o1")
        refused = await pay_out(self.world, 500, seller="seller-o4", key="p2")
        await self.agrees()
        for held in await self.world.gateway.operations.reopen(
            [operation_id_of(came_back.payout_id, OperationKind.PAYOUT)], "the PSP says it came back"
        ):
            await self.agrees()
            (at_psp,) = self.before.psp.bank.payouts.search(
                self.before.psp.bank.merchant("coatcheck", is_live=False), held.intent.reference
            )
            self.before.psp.bank.payouts.send_back(at_psp.id)
            await self.world.gateway.executor.run(held)
        statuses = [(await payout_of(self.world, made)).status for made in (came_back, refused)]
        assert statuses == ["RETURNED", "FAILED"]
        await self.agrees()
        for cron in ("0 6 * * *", None, "30 7 * * *"):
            await schedule(self.world, "seller-o3", cron)
        self.world.clock.advance(timedelta(days=4))
        await self.tend()
        runs = self.world.gateway.payout_runs
        (run,) = await runs.find(status=PayoutRunStatus.WAITING)
        await self.agrees()
        await runs.decide(run.run_id, "person grace", is_approved=True)
        await self.tend()
        (run,) = await runs.find(status=PayoutRunStatus.FINISHED)
        assert (run.items, run.total_minor) == (1, 810)

    async def tend(self) -> None:
        await self.world.gateway.upkeep.tend_once()
        for operation in await self.world.gateway.operations.claim(100):
            await self.world.gateway.executor.run(operation)

    async def dispute(self) -> None:
        """One is lost; another one is won, and opened again, in the end twice."""
        lost, other = {"provider_reference": "dp_1"}, {"provider_reference": "dp_2"}
        taken, given = moved("df_1", -1000, 1500), moved("df_2", 1000)
        for news in (
            word("o1", DisputeStatus.NEEDS_RESPONSE, 1, taken, **lost),
            word("o1", DisputeStatus.LOST, 2, **lost),
            word("o4", DisputeStatus.NEEDS_RESPONSE, 1, taken, **other),
            word("o4", DisputeStatus.WON, 2, given, **other),
            word("o4", DisputeStatus.NEEDS_RESPONSE, 3, **other),
        ):
            assert await self.world.gateway.disputes.apply([news]) == ["applied"]
            await self.agrees()
        statuses = "SELECT status FROM dispute ORDER BY provider_reference"
        assert [row[0] for row in await self.world.store.pool.fetch(statuses)] == ["LOST", "NEEDS_RESPONSE"]


@pytest.fixture
async def elsewhere(server: EmbeddedServer, template_made: list[str]) -> AsyncIterator[Store]:
    async with new_database(server, template_made) as url, _open(url, pool_size=4) as store:
        yield store


async def test_a_month_is_rebuilt_and_what_was_tampered_with_is_named(
    store: Store, elsewhere: Store, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    month = Month(store, elsewhere, tmp_path)
    for chapter in (month.sell, month.settle, month.mature, month.pay_out, month.dispute):
        await chapter()
        await month.agrees()
    assert {name: month.rows[name] for name in COMPARED if not month.rows[name]} == {}
    request = checkout("lost", "lost-1")
    assert (await month.world.pay(request, "k3")).buyer_reference == "buyer-1"  # the shop comes again
    await month.agrees()
    for table, column, value, where in (
        ("payout", "amount_minor", "amount_minor + 1", "status = 'FAILED'"),
        ("payout", "status", "'PAID'", "status = 'FAILED'"),
        ("operation", "target_reference", "'dest_mine'", "kind = 'payout' AND amount_minor = 500"),
        ("payout_destination", "token", "'dest_mine'", "seller_account = 'seller-o1'"),
        ("payout_schedule", "next_at", "next_at + interval '1 day'", "true"),
        ("payout_run", "total_minor", "total_minor + 1", "true"),
        ("payout_run_item", "outcome", "'too_much'", "true"),
        ("dispute", "status", "'WON'", "status = 'LOST'"),
        ("dispute_movement", "fee_minor", "fee_minor + 1", "NOT is_taken"),
        ("reconciliation_break", "closed_by", "'nobody'", "closed_by LIKE 'person ada and%'"),
        ("settlement_batch", "fee_minor", "fee_minor + 1", "true"),
        ("settlement_file", "lines", "lines + 1", "name = 'again.csv'"),
        ("maturing", "reserved_minor", "reserved_minor - 1", "reserved_minor > 0"),
        ("wallet", "matured_minor", "matured_minor + 1", "seller_account = 'seller-o1'"),
        ("seller_terms", "hold_days", "hold_days + 1", "true"),
        ("adopted_payment", "completed_at", "NULL", "true"),
    ):
        kept = await owner.fetch(f"SELECT {column} FROM {table} WHERE {where}")
        assert len(kept) == 1, (table, where)
        place = await owner.fetchval(f"UPDATE {table} SET {column} = {value} WHERE {where} RETURNING ctid")
        found = await month.differences()
        assert [(each.table, each.column) for each in found] == [(table, column)]
        await owner.execute(f"UPDATE {table} SET {column} = $1 WHERE ctid = $2", kept[0][0], place)
    await month.agrees()
