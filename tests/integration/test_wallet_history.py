"""A wallet at any past moment: exact after every step, bounded in what it reads, right though a transfer came late."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from coatcheck import maturing
from coatcheck.clock import ManualClock
from coatcheck.ids import time_ordered_ids
from coatcheck.ledger import (
    Account,
    AccountName,
    Ledger,
    Phase,
    Transfer,
    payouts_in_transit,
    psp_receivable,
    seller_available,
    seller_pending,
    seller_reserve,
)
from coatcheck.maturing import Maturing
from coatcheck.metrics import Metrics
from coatcheck.seller_terms import Terms
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.wallets import Wallet, wallet, wallet_at

START = datetime(2026, 1, 1, tzinfo=UTC)
SHOP = UUID(int=1)
SELLERS = ("ada", "grace", "mary")
PURSES: list[Callable[[str], AccountName]] = [seller_pending, seller_available, payouts_in_transit, seller_reserve]
KINDS = ("charge", "refund", "release", "offset", "refund_return")


class Books:
    """A ledger on a manual clock, with the job that makes marks."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = ManualClock(START)
        self.ledger = Ledger(store)
        self.job = Maturing(store, self.clock, Terms(7, 0, 90), Metrics())

    async def open(self, *sellers: str, currencies: tuple[str, ...] = ("EUR",)) -> None:
        names = [psp_receivable("p"), *[purse(seller) for seller in sellers for purse in PURSES]]
        await self.ledger.open_accounts(
            [account(name, currency) for name in names for currency in currencies], self.clock.now()
        )

    async def post(self, *transfers: Transfer, at: datetime | None = None) -> None:
        await self.ledger.post(transfers, at or self.clock.now())

    async def now(self, seller: str) -> list[Wallet]:
        return await wallet(self.store, SHOP, Mode.LIVE, seller)

    async def then(self, seller: str, moment: datetime) -> list[Wallet]:
        return await wallet_at(self.store, SHOP, Mode.LIVE, seller, moment)

    async def marks(self) -> int:
        counted: int = await self.store.pool.fetchval("SELECT count(*) FROM balance_mark")
        return counted

    async def assert_snapshots_hold(self) -> None:
        for name, query in self.store.invariants.items():
            if name.startswith(("ledger_", "wallet_snapshots")):
                assert await self.store.pool.fetch(query) == [], name


def account(name: AccountName, currency: str = "EUR") -> Account:
    return Account(SHOP, Mode.LIVE, name, currency)


def move(
    debit: AccountName,
    credit: AccountName,
    amount_minor: int,
    kind: str = "charge",
    currency: str = "EUR",
    **more: object,
) -> Transfer:
    row = {
        "transfer_id": uuid4(),
        "kind": kind,
        "debit_account_id": account(debit, currency).account_id,
        "credit_account_id": account(credit, currency).account_id,
        "amount_minor": amount_minor,
        "currency": currency,
        "subject_id": SHOP,
    }
    return Transfer(**(row | more))  # type: ignore[arg-type]


@pytest.fixture
def books(store: Store) -> Books:
    return Books(store)


def a_step(dice: random.Random, holds: list[Transfer]) -> Transfer:
    """A movement of some wallet: in, out, between its accounts, a hold of what is available, or the end of one."""
    seller, currency = dice.choice(SELLERS), dice.choice(("EUR", "JPY"))
    names = [psp_receivable("p"), *[purse(seller) for purse in PURSES]]
    debit, credit = dice.sample(names, 2)
    if holds and dice.random() < 0.1:
        held = holds.pop(dice.randrange(len(holds)))
        phase = dice.choice((Phase.CAPTURED, Phase.RELEASED))
        return Transfer(
            transfer_id=uuid4(),
            kind=held.kind,
            phase=phase,
            hold_id=held.transfer_id,
            debit_account_id=held.debit_account_id,
            credit_account_id=held.credit_account_id,
            amount_minor=held.amount_minor,
            currency=held.currency,
            subject_id=SHOP,
        )
    made = move(debit, credit, dice.randint(1, 500), dice.choice(KINDS), currency)
    if dice.random() < 0.15:
        made = move(seller_available(seller), payouts_in_transit(seller), 5, "payout", currency, phase=Phase.HELD)
        holds.append(made)
    return made


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_past_moment_is_what_the_wallet_was_after_each_step(
    books: Books, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The running wallet, read after each step, against the wallet at that moment, while marks are made in between."""
    monkeypatch.setattr(maturing, "_TRANSFERS_IN_A_MARK", 7)
    dice, holds = random.Random(seed), list[Transfer]()
    await books.open(*SELLERS, currencies=("EUR", "JPY"))
    seen: dict[tuple[str, datetime], list[Wallet]] = {}
    for _ in range(150):
        books.clock.advance(timedelta(seconds=dice.choice((0, 0, 1, 20, 60, 4000))))
        await books.post(*[a_step(dice, holds) for _ in range(dice.choice((1, 1, 4)))])
        for seller in SELLERS:
            seen[seller, books.clock.now()] = await books.now(seller)
        if dice.random() < 0.3:
            await books.job.mature_once()
    for moment in {moment for _, moment in seen}:
        for seller in SELLERS:
            assert await books.then(seller, moment) == seen[seller, moment]
            between = moment + timedelta(microseconds=dice.randint(0, 999_999))
            assert await books.then(seller, between) == seen[seller, moment]
    assert await books.marks() > 10
    assert await unproven(books) == 0
    await books.assert_snapshots_hold()


async def test_a_moment_belongs_to_what_was_posted_at_it(books: Books) -> None:
    await books.open("ada")
    await books.post(move(psp_receivable("p"), seller_pending("ada"), 10))
    books.clock.advance(timedelta(hours=3))
    await books.post(move(psp_receivable("p"), seller_pending("ada"), 2), at=books.clock.now() - maturing._MARK_LAG)
    await books.job.mature_once()
    assert await books.marks() == 1
    assert await unproven(books) == 0
    assert await books.then("ada", START) == [Wallet("EUR", 10, 0, 0)]
    assert await books.then("ada", START - timedelta(microseconds=1)) == []  # it was not open then
    mark = await books.store.pool.fetchval("SELECT at FROM balance_mark")
    await books.post(move(psp_receivable("p"), seller_pending("ada"), 5), at=mark)
    for moment, pending in ((mark - timedelta(microseconds=1), 10), (mark, 17)):
        assert await books.then("ada", moment) == [Wallet("EUR", pending, 0, 0)]


async def test_a_late_transfer_is_seen_at_once_and_its_snapshots_are_made_again(books: Books) -> None:
    """A gateway stood still between taking the time and its commit: its transfer has a time that a mark has passed."""
    await books.open("ada", "grace")
    for seller in ("ada", "grace"):
        await books.post(move(psp_receivable("p"), seller_pending(seller), 100))
    late = books.clock.now() + timedelta(hours=1)
    books.clock.advance(timedelta(hours=3))
    await books.job.mature_once()
    await books.post(move(psp_receivable("p"), seller_pending("ada"), 7), at=late)
    for moment, pending in ((late - timedelta(seconds=1), 100), (late, 107), (books.clock.now(), 107)):
        assert await books.then("ada", moment) == [Wallet("EUR", pending, 0, 0)]
        assert await books.then("grace", moment) == [Wallet("EUR", 100, 0, 0)]
    await books.assert_snapshots_hold()  # the account is excused while its snapshots are behind
    assert await unproven(books) == 1
    books.clock.advance(timedelta(hours=3))
    await books.post(move(psp_receivable("p"), seller_pending("grace"), 1))
    books.clock.advance(timedelta(hours=3))
    await books.job.mature_once()
    assert await unproven(books) == 0
    assert await books.then("ada", late) == [Wallet("EUR", 107, 0, 0)]
    await books.assert_snapshots_hold()


async def unproven(books: Books) -> int:
    counted: int = await books.store.pool.fetchval(
        "SELECT count(*) FROM unproven_accounts(ARRAY(SELECT account_id FROM wallet_account))"
    )
    return counted


async def test_a_snapshot_that_is_wrong_is_found_by_its_invariant(books: Books, owner: asyncpg.Connection) -> None:
    await books.open("ada")
    for amount in (10, 20):
        await books.post(move(psp_receivable("p"), seller_pending("ada"), amount))
        books.clock.advance(timedelta(hours=3))
        await books.job.mature_once()
    await books.assert_snapshots_hold()
    await owner.execute(
        "UPDATE balance_snapshot SET credits_posted_minor = 11 WHERE at = (SELECT min(at) FROM balance_mark)"
    )
    assert await books.store.pool.fetch(books.store.invariants["wallet_snapshots_equal_transfers"]) != []


async def test_many_gateways_at_once_make_each_mark_once(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maturing, "_TRANSFERS_IN_A_MARK", 5)
    await books.open("ada")
    for _ in range(40):
        books.clock.advance(timedelta(seconds=1))
        await books.post(move(psp_receivable("p"), seller_pending("ada"), 1))
    books.clock.advance(timedelta(hours=1))
    jobs = [Maturing(books.store, books.clock, Terms(7, 0, 90), Metrics()) for _ in range(8)]
    await asyncio.gather(*[job.mature_once() for job in jobs])
    assert await books.store.pool.fetchval("SELECT sum(transfers) FROM balance_mark") == 40
    await books.assert_snapshots_hold()


@pytest.mark.slow
async def test_what_a_past_moment_reads_does_not_grow_with_the_books(
    books: Books, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100,000 transfers of 500 sellers over ten days: a moment reads a mark's worth of them and the last minutes'.

    Each of the two is found in at most two ranges of the index, of 8,000 transfers or so.
    """
    monkeypatch.setattr(maturing, "_TRANSFERS_IN_A_MARK", 5_000)
    sellers = [f"seller-{n}" for n in range(500)]
    await books.open(*sellers)
    dice = random.Random(5)
    for _ in range(50):
        books.clock.advance(timedelta(hours=4, minutes=48))
        at = books.clock.now()
        ids = time_ordered_ids(at, 2000)
        await books.post(
            *[move(psp_receivable("p"), seller_pending(dice.choice(sellers)), 3, transfer_id=each) for each in ids]
        )
    await owner.execute("SELECT brin_summarize_new_values('transfer_by_time')")  # autovacuum does it in its own time
    await books.job.mature_once()
    assert await books.marks() >= 15
    for _ in range(5):
        moment = START + timedelta(seconds=dice.randint(8 * 86_400, 9 * 86_400))  # 80,000 transfers are before it
        assert await tuples_read(books, dice.choice(sellers), moment) < 40_000
    await books.assert_snapshots_hold()


async def tuples_read(books: Books, seller: str, moment: datetime) -> int:
    read = (
        "SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables "
        "WHERE relname = 'transfer'"
    )
    async with books.store.pool.acquire() as connection, connection.transaction():
        ids = [account(purse(seller)).account_id for purse in PURSES]
        before: int = await connection.fetchval(read)
        rows = await connection.fetch(books.store.queries["wallet_balances_at"], ids, moment, True)
        assert all(row["is_proven"] for row in rows)
        after: int = await connection.fetchval(read)
    return after - before
