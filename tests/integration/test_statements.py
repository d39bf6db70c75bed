"""Statements and balances at any moment, against a model that keeps every transfer in a list."""

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coatcheck.clock import ManualClock
from coatcheck.ids import time_ordered_ids
from coatcheck.ledger import (
    Account,
    Ledger,
    Phase,
    PostOutcome,
    Transfer,
    platform_commission,
    psp_receivable,
    seller_pending,
)
from coatcheck.reporting import account_statements as module
from coatcheck.reporting.account_statements import AccountStatements, Line, Statement
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.store.sql_files import sql_files

START = datetime(2026, 11, 20, 18, tzinfo=UTC)
NOW = START + timedelta(minutes=1)
AT_ONCE = timedelta(0)
ENTRIES = """
SELECT account_id, at, transfers, ARRAY(SELECT unnest(transfer_ids) ORDER BY 1), debits_minor, credits_minor
  FROM account_entry ORDER BY 1, 2
"""
TABLES = ("entry_queue", "account_entry", "account_day", "entry_tail")


def accounts_of(shop_id: UUID) -> list[Account]:
    names = (psp_receivable("p"), seller_pending("a"), seller_pending("b"), platform_commission())
    return [Account(shop_id, Mode.LIVE, name, "EUR") for name in names]


def move(debit: Account, credit: Account, amount_minor: int, **more: object) -> Transfer:
    given: dict[str, object] = {
        "transfer_id": uuid4(),
        "kind": "charge",
        "debit_account_id": debit.account_id,
        "credit_account_id": credit.account_id,
        "amount_minor": amount_minor,
        "currency": "EUR",
        "subject_id": UUID(int=9),
    }
    return Transfer(**(given | more))  # type: ignore[arg-type]


class Desk:
    """A shop's ledger, its statements, and a clock."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = ManualClock(NOW)
        self.shop_id = uuid4()
        self.accounts = accounts_of(self.shop_id)
        self.ledger = Ledger(store)
        self.statements = AccountStatements(store, self.clock)

    async def open(self) -> "Desk":
        await self.ledger.open_accounts(self.accounts, START)
        return self

    async def post(self, at: datetime, *transfers: Transfer) -> None:
        assert set(await self.ledger.post(transfers, at)) <= {PostOutcome.POSTED}

    async def fill(self) -> int:
        """Make entries of all that was posted until now, however young."""
        return await self.statements.fill(settle=-timedelta(seconds=1))

    async def page(
        self,
        account: Account,
        since: datetime | None = None,
        until: datetime | None = None,
        after: tuple[datetime, UUID] | None = None,
        limit: int = 100,
    ) -> Statement:
        named = (self.shop_id, Mode.LIVE, account.name.name, account.currency)
        page = await self.statements.page(named, since=since, until=until, after=after, limit=limit)
        assert page is not None
        return page

    async def violations(self) -> Sequence[asyncpg.Record]:
        found: list[asyncpg.Record] = []
        for name in ("entries_equal_the_transfers", "entries_list_all_transfers"):
            found += await self.store.pool.fetch(self.store.invariants[name])
        return found


@pytest.fixture
async def desk(store: Store) -> Desk:
    return await Desk(store).open()


async def whole(desk: Desk, account: Account, since: datetime | None, until: datetime | None, limit: int) -> Statement:
    """Follow the pages to the end; each must agree with the first on the period's two balances."""
    first = page = await desk.page(account, since, until, limit=limit)
    lines = list(first.lines)
    while page.has_more:
        assert len(page.lines) == limit
        place = page.lines[-1].at, page.lines[-1].transfer_id
        page = await desk.page(account, since, until, place, limit)
        assert (page.opening_minor, page.closing_minor) == (first.opening_minor, first.closing_minor)
        lines += page.lines
    assert first.opening_minor + sum(moved(account, line.debit_minor, line.credit_minor) for line in lines) == (
        first.closing_minor
    )
    return Statement(
        name=first.name,
        kind=first.kind,
        currency=first.currency,
        opening_minor=first.opening_minor,
        closing_minor=first.closing_minor,
        lines=lines,
        has_more=False,
        as_of=first.as_of,
    )


def moved(account: Account, debit_minor: int, credit_minor: int) -> int:
    """What a line adds to the balance, on the side that makes the account grow."""
    return debit_minor - credit_minor if account.name.kind.value == "psp_receivable" else credit_minor - debit_minor


Posted = list[tuple[datetime, Transfer]]


def model_of(account: Account, posted: Posted) -> list[tuple[datetime, UUID, int]]:
    """Every line of an account by time: what it adds to the balance."""
    lines = [
        (
            at,
            transfer.transfer_id,
            moved(
                account,
                transfer.amount_minor if transfer.debit_account_id == account.account_id else 0,
                transfer.amount_minor if transfer.credit_account_id == account.account_id else 0,
            ),
        )
        for at, transfer in posted
        if account.account_id in (transfer.debit_account_id, transfer.credit_account_id)
        and transfer.phase in (Phase.POSTED, Phase.CAPTURED)
    ]
    return sorted(lines)


# By number: each example has accounts of its own, and what is drawn must not depend on them.
places = st.integers(0, 3)
pairs = st.permutations(range(4)).map(lambda chosen: chosen[:2])
moments = st.integers(0, 40).map(lambda seconds: START + timedelta(seconds=seconds))


@pytest.mark.timeout(400)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
async def test_any_statement_is_what_the_model_says_whenever_entries_are_made(
    store: Store, data: st.DataObject
) -> None:
    """Batches come in any order of their times, as late commits do; entries are made now and then, of any of them."""
    desk = await Desk(store).open()
    posted: Posted = []
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(moments)
        batch = []
        for amount in data.draw(st.lists(st.integers(1, 500), min_size=1, max_size=5)):
            debit, credit = data.draw(pairs)
            batch.append(move(desk.accounts[debit], desk.accounts[credit], amount))
        await desk.post(at, *batch)
        posted += [(at, transfer) for transfer in batch]
        if data.draw(st.booleans()):
            await desk.statements.fill(settle=NOW - data.draw(moments))
    account = desk.accounts[data.draw(places)]
    since, until = data.draw(st.none() | moments), data.draw(st.none() | moments)
    if since is not None and until is not None and since > until:
        since, until = until, since  # the API and the command refuse a period that ends before it begins
    page = await whole(desk, account, since, until, data.draw(st.integers(1, 4)))
    lines = model_of(account, posted)
    opening = sum(amount for at, _, amount in lines if since is not None and at < since)
    shown = [each for each in lines if (since is None or each[0] >= since) and (until is None or each[0] < until)]
    assert [(line.at, line.transfer_id) for line in page.lines] == [(at, key) for at, key, _ in shown]
    assert [line.balance_minor for line in page.lines] == [
        opening + sum(amount for _, _, amount in shown[: place + 1]) for place in range(len(shown))
    ]
    assert page.opening_minor == opening
    assert page.closing_minor == opening + sum(amount for _, _, amount in shown)
    at = data.draw(moments)
    standings, totals = await desk.statements.standings(desk.shop_id, Mode.LIVE, at=at)
    expected = {
        each.name.name: sum(amount for moment, _, amount in model_of(each, posted) if moment < at)
        for each in desk.accounts
    }
    assert {each.name: each.balance_minor for each in standings} == ({} if at == START else expected)
    assert all(total.debits_minor == total.credits_minor for total in totals)
    assert await desk.violations() == []


async def test_a_line_says_what_moved_from_where_and_the_balance_after_it(desk: Desk) -> None:
    receivable, seller, _, commission = desk.accounts
    charge, fee = time_ordered_ids(START, 2)
    await desk.post(
        START,
        move(receivable, seller, 900, transfer_id=charge),
        move(receivable, commission, 100, transfer_id=fee, kind="commission"),
    )
    await desk.post(START + timedelta(seconds=5), move(seller, receivable, 250, kind="refund"))
    page = await desk.page(receivable)
    assert [
        (line.kind, line.counter_account, line.debit_minor, line.credit_minor, line.balance_minor)
        for line in page.lines
    ] == [
        ("charge", "seller:a:pending", 900, 0, 900),
        ("commission", "platform:commission", 100, 0, 1000),
        ("refund", "seller:a:pending", 0, 250, 750),
    ]
    assert page.lines[0].subject_id == UUID(int=9)
    assert (page.opening_minor, page.closing_minor, page.as_of) == (0, 750, NOW)
    assert [line.balance_minor for line in (await desk.page(seller)).lines] == [900, 650]


async def test_F9_a_batch_that_commits_after_younger_ones_is_found_and_they_count_it(desk: Desk) -> None:
    receivable, seller, *_ = desk.accounts
    late, young = move(receivable, seller, 100), move(receivable, seller, 7)
    query = desk.store.queries["ledger_post"]
    other = desk.accounts[2]  # of accounts of its own: nobody waits for it
    slow = move(receivable, other, 30)
    async with desk.store.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetch(query, *_columns(late), START)
        # It holds its accounts, so the younger batch is of the others.
        free = Account(desk.shop_id, Mode.LIVE, seller_pending("c"), "EUR")
        hot = Account(desk.shop_id, Mode.LIVE, psp_receivable("q"), "EUR")
        await desk.ledger.open_accounts([free, hot], START)
        await desk.post(START + timedelta(seconds=5), move(hot, free, 7))
        assert await desk.fill() == 1
        await transaction.commit()
    await desk.post(START + timedelta(seconds=9), young)
    assert await desk.fill() == 2
    await desk.post(START + timedelta(seconds=3), slow)
    assert [line.balance_minor for line in (await desk.page(receivable)).lines] == [100, 130, 137]
    assert await desk.fill() == 1
    page = await desk.page(receivable)
    assert [(line.transfer_id, line.balance_minor) for line in page.lines] == [
        (late.transfer_id, 100),
        (slow.transfer_id, 130),
        (young.transfer_id, 137),
    ]
    assert await desk.store.pool.fetchval("SELECT count(*) FROM entry_queue") == 0
    assert await desk.violations() == []


def _columns(transfer: Transfer) -> tuple[object, ...]:
    return (
        *([transfer.transfer_id], [transfer.kind], None, None, [transfer.debit_account_id]),
        *([transfer.credit_account_id], [transfer.amount_minor], [transfer.currency], [transfer.subject_id]),
    )


async def test_the_youngest_are_left_for_a_moment_and_are_on_the_page_all_the_same(desk: Desk) -> None:
    receivable, seller, *_ = desk.accounts
    await desk.post(NOW, move(receivable, seller, 5))
    assert await desk.statements.fill() == 0
    assert [line.balance_minor for line in (await desk.page(seller)).lines] == [5]
    desk.clock.advance(timedelta(seconds=2))
    assert await desk.statements.fill() == 1
    assert [line.balance_minor for line in (await desk.page(seller)).lines] == [5]


async def test_entries_made_by_several_at_once_are_made_once(desk: Desk) -> None:
    receivable, seller, *_ = desk.accounts
    for second in range(20):
        await desk.post(START + timedelta(seconds=second), move(receivable, seller, 1), move(receivable, seller, 2))
    assert sum(await asyncio.gather(*[desk.fill() for _ in range(6)])) == 40
    assert await desk.store.pool.fetchval("SELECT sum(transfers) FROM account_entry") == 80
    assert (await desk.page(seller)).closing_minor == 60
    assert await desk.violations() == []


async def test_F9_batches_of_the_very_same_moment_are_one_entry_whichever_comes_first(
    desk: Desk, owner: asyncpg.Connection
) -> None:
    receivable, seller, other, _ = desk.accounts
    moved = [move(receivable, seller, 10**place) for place in range(6)]
    for second, transfers in ((2, moved[:2]), (1, moved[2:3]), (2, moved[3:5]), (3, moved[5:])):
        await desk.post(START + timedelta(seconds=second), *transfers, move(receivable, other, 7))
        await desk.fill()
    sums = await owner.fetch(
        "SELECT transfers, credits_minor FROM account_entry WHERE account_id = $1 ORDER BY at", seller.account_id
    )
    assert [tuple(row) for row in sums] == [(1, 100), (4, 11_111), (1, 111_111)]
    in_order = [moved[2], *sorted((*moved[:2], *moved[3:5]), key=lambda each: each.transfer_id), moved[5]]
    for limit in range(1, 8):
        lines: list[Line] = []
        after = None
        while len(lines) < len(in_order):
            page = await desk.page(seller, after=after, limit=limit)
            lines.extend(page.lines)
            after = (page.lines[-1].at, page.lines[-1].transfer_id)
            assert page.has_more is (len(lines) < len(in_order))
        assert [line.transfer_id for line in lines] == [each.transfer_id for each in in_order]
        assert [line.balance_minor for line in lines] == list(accumulate(each.amount_minor for each in in_order))
    assert await desk.violations() == []


async def test_a_hold_is_no_line_until_it_is_captured(desk: Desk) -> None:
    receivable, seller, *_ = desk.accounts
    hold = move(receivable, seller, 100, phase=Phase.HELD)
    await desk.post(START, hold)
    captured = move(receivable, seller, 60, phase=Phase.CAPTURED, hold_id=hold.transfer_id)
    released = move(receivable, seller, 40, phase=Phase.RELEASED, hold_id=hold.transfer_id)
    await desk.post(START + timedelta(seconds=1), captured)
    await desk.post(START + timedelta(seconds=2), released)
    for _ in range(2):
        assert [line.transfer_id for line in (await desk.page(seller)).lines] == [captured.transfer_id]
        await desk.fill()
    assert await desk.violations() == []


async def test_a_refused_or_repeated_transfer_is_not_queued(desk: Desk) -> None:
    receivable, seller, *_ = desk.accounts
    once = move(receivable, seller, 3)
    await desk.post(START, once)
    again = await desk.ledger.post([once, move(receivable, receivable, 1), move(receivable, seller, 0)], START)
    assert PostOutcome.POSTED not in again
    assert await desk.fill() == 1
    assert (await desk.page(seller)).closing_minor == 3
    assert await desk.violations() == []


async def test_where_much_is_missing_a_page_makes_entries_first(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    receivable, seller, *_ = desk.accounts
    for second in range(5):
        await desk.post(START + timedelta(seconds=second), move(receivable, seller, 1), move(receivable, seller, 1))
    assert (await desk.page(seller)).closing_minor == 10
    assert await desk.store.pool.fetchval("SELECT count(*) FROM entry_queue") == 0


async def test_entries_made_anew_are_the_same(desk: Desk, owner: asyncpg.Connection) -> None:
    receivable, seller, other, commission = desk.accounts
    for second in (3, 1, 2):
        await desk.post(START + timedelta(seconds=second), move(receivable, seller, 9), move(receivable, commission, 1))
        await desk.fill()
    await desk.post(START + timedelta(seconds=4), move(receivable, other, 4))
    await desk.fill()

    async def rows() -> list[list[asyncpg.Record]]:
        return [await owner.fetch(query) for query in (ENTRIES, "SELECT * FROM account_day ORDER BY 1, 2, 3")]

    before = await rows()
    assert [len(each) for each in before] == [11, 3]
    await owner.execute("SELECT entries_rebuild()")
    assert await rows() == before


async def test_days_count_each_kind_of_transfer_by_itself(desk: Desk) -> None:
    receivable, seller, _, commission = desk.accounts
    midnight = datetime(2026, 11, 21, tzinfo=UTC)
    for at in (midnight - timedelta(microseconds=1), midnight, midnight + timedelta(hours=1)):
        await desk.post(at, move(receivable, seller, 90), move(receivable, commission, 10, kind="commission"))
        await desk.statements.fill(settle=-timedelta(days=2))
    rows = await desk.store.pool.fetch(
        "SELECT day::text, kind, counter_kind, debits_minor, credits_minor, transfers FROM account_day "
        "WHERE account_id = $1 ORDER BY 1, 2",
        receivable.account_id,
    )
    assert [tuple(row) for row in rows] == [
        ("2026-11-20", "charge", "seller_pending", 90, 0, 1),
        ("2026-11-20", "commission", "platform_commission", 10, 0, 1),
        ("2026-11-21", "charge", "seller_pending", 180, 0, 2),
        ("2026-11-21", "commission", "platform_commission", 20, 0, 2),
    ]


async def test_an_account_of_nobody_of_another_shop_or_another_currency_has_no_statement(desk: Desk) -> None:
    for named in (
        (uuid4(), Mode.LIVE, "seller:a:pending", "EUR"),
        (desk.shop_id, Mode.TEST, "seller:a:pending", "EUR"),
        (desk.shop_id, Mode.LIVE, "seller:z:pending", "EUR"),
        (desk.shop_id, Mode.LIVE, "seller:a:pending", "USD"),
    ):
        assert await desk.statements.page(named, limit=5) is None
    assert (await desk.page(desk.accounts[1])).lines == []


async def test_standings_now_are_the_counters_and_come_in_pages(desk: Desk) -> None:
    receivable, seller, _, commission = desk.accounts
    await desk.post(START, move(receivable, seller, 90), move(receivable, commission, 10))
    await desk.post(START, move(receivable, seller, 40, phase=Phase.HELD))
    every, totals = await desk.statements.standings(desk.shop_id, Mode.LIVE)
    assert [(each.name, each.balance_minor, each.debits_pending_minor) for each in every] == [
        ("platform:commission", 10, 0),
        ("psp:p:receivable", 100, 40),
        ("seller:a:pending", 90, 0),
        ("seller:b:pending", 0, 0),
    ]
    assert [(total.currency, total.debits_minor, total.credits_minor) for total in totals] == [("EUR", 100, 100)]
    found: list[str] = []
    after = None
    while len(page := (await desk.statements.standings(desk.shop_id, Mode.LIVE, after=after, limit=3))[0]) > 0:
        found += [each.name for each in page]
        after = (page[-1].currency, page[-1].name)
    assert found == [each.name for each in every]
    past, _ = await desk.statements.standings(desk.shop_id, Mode.LIVE, at=NOW)
    assert [each.balance_minor for each in past] == [each.balance_minor for each in every]
    assert {each.debits_pending_minor for each in past} == {None}


BREAKAGE = {
    "a lost entry": "DELETE FROM account_entry",
    "an entry of a transfer too many": (
        "UPDATE account_entry SET transfers = 2, transfer_ids = transfer_ids || transfer_ids"
    ),
    "an entry that counts too much": "UPDATE account_entry SET credits_minor = credits_minor + 1",
    "a lost row of the queue": "DELETE FROM entry_queue",
}


@pytest.mark.parametrize("what", BREAKAGE)
async def test_the_invariant_finds_what_it_is_for(desk: Desk, owner: asyncpg.Connection, what: str) -> None:
    receivable, seller, *_ = desk.accounts
    await desk.post(START, move(receivable, seller, 5))
    await desk.fill()
    await desk.post(NOW, move(receivable, seller, 6))
    assert await desk.violations() == []
    await owner.execute(BREAKAGE[what])
    broken = {row["account_id"] for row in await desk.violations()}
    assert broken == {receivable.account_id, seller.account_id}


async def test_an_entry_that_lists_too_little_is_found(desk: Desk, owner: asyncpg.Connection) -> None:
    receivable, seller, *_ = desk.accounts
    await desk.post(START, move(receivable, seller, 5), move(receivable, seller, 6))
    await desk.post(START + timedelta(seconds=1), move(receivable, seller, 7))
    await desk.fill()
    assert await desk.violations() == []
    await owner.execute("UPDATE account_entry SET transfers = 1, transfer_ids = transfer_ids[1:1] WHERE transfers = 2")
    found = await desk.violations()
    assert {row["account_id"] for row in found} == {receivable.account_id, seller.account_id}


@pytest.mark.parametrize("table", TABLES[:3])
async def test_the_application_reads_entries_and_writes_none(store: Store, table: str) -> None:
    await store.pool.fetch(f"SELECT * FROM {table}")
    await store.pool.fetch("SELECT * FROM entry_tail")
    for statement in (
        f"DELETE FROM {table}",
        f"TRUNCATE {table}",
        f"INSERT INTO {table} SELECT * FROM {table} LIMIT 0",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await store.pool.execute(statement)
    for function in ("entry_note(NULL, NULL, NULL, NULL)", "entries_write(NULL)", "entries_rebuild()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await store.pool.execute(f"SELECT {function}")


async def test_the_loop_makes_entries_until_it_is_stopped_and_waits_trouble_out(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    receivable, seller, *_ = desk.accounts
    for second in range(3):
        await desk.post(START + timedelta(seconds=second), move(receivable, seller, 5))
    monkeypatch.setattr(module, "_AT_ONCE", 1)  # so it goes on at once as long as there is more
    stopping, failures = asyncio.Event(), [OSError("the database is away")]
    real = desk.statements.fill

    async def fill(*, commits: int) -> int:
        if failures:
            raise failures.pop()
        done = await real(commits=commits)
        if done == 0:
            stopping.set()
        return done

    monkeypatch.setattr(desk.statements, "fill", fill)
    await asyncio.wait_for(desk.statements.keep(stopping, timedelta(milliseconds=1)), 20)
    assert await desk.store.pool.fetchval("SELECT sum(transfers) FROM account_entry") == 6


async def test_G18_a_batch_that_is_rolled_back_leaves_no_gap_and_nothing_is_numbered(desk: Desk) -> None:
    receivable, seller, *_ = desk.accounts
    await desk.post(START, move(receivable, seller, 5))
    async with desk.store.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetch(desk.store.queries["ledger_post"], *_columns(move(receivable, seller, 900)), START)
        await transaction.rollback()
    await desk.post(START + timedelta(seconds=1), move(receivable, seller, 7))
    for _ in range(2):
        assert [line.balance_minor for line in (await desk.page(seller)).lines] == [5, 12]
        assert await desk.fill() in (2, 0)
    owned = (
        "SELECT count(*) FROM pg_depend JOIN pg_class ON pg_class.oid = objid WHERE relkind = 'S' AND refobjid = ANY "
    )
    assert await desk.store.pool.fetchval(owned + "($1::regclass[]::oid[])", list(TABLES[:3])) == 0


def test_G13_no_decision_reads_what_is_made_in_the_background() -> None:
    readers = {
        name
        for folder in ("functions", "queries", "invariants")
        for name, text in sql_files(folder).items()
        if re.search(r"\b(account_entry|account_day|entry_tail|entry_queue)\b", text)
    }
    assert {name for name in readers if not name.startswith(("statement_", "standing_", "export_", "report_"))} == {
        "130_reports",
        "entry_queue_waiting",
        "entries_equal_the_transfers",
        "entries_list_all_transfers",
    }


async def test_while_one_makes_entries_nobody_else_does(desk: Desk) -> None:
    """Else the second would not see the first one's entries, and count from a balance that is too old."""
    receivable, seller, *_ = desk.accounts
    await desk.post(START, move(receivable, seller, 5))
    async with desk.store.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        assert await connection.fetchval(desk.store.queries["entries_fill"], NOW, 100) == 1
        await desk.post(START + timedelta(seconds=1), move(receivable, seller, 7))
        assert await desk.fill() == 0
        await transaction.commit()
    assert await desk.fill() == 1
    assert [line.balance_minor for line in (await desk.page(seller)).lines] == [5, 12]
    assert await desk.violations() == []
