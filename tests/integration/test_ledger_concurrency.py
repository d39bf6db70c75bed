import asyncio
import random
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest
from tests.integration.locks import deadlocks, until_waiting

from coatcheck.ledger import Account, Ledger, Phase, PostOutcome, Transfer, psp_receivable, seller_available
from coatcheck.states import Mode
from coatcheck.store import Store

AT = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
SHOP = UUID(int=1)
RECEIVABLE = Account(SHOP, Mode.LIVE, psp_receivable("psp"), "EUR")
SELLERS = [Account(SHOP, Mode.LIVE, seller_available(f"s{n}"), "EUR") for n in range(400)]


def move(debit: Account, credit: Account, amount_minor: int, **more: object) -> Transfer:
    row = {
        "transfer_id": uuid4(),
        "kind": "charge",
        "debit_account_id": debit.account_id,
        "credit_account_id": credit.account_id,
        "amount_minor": amount_minor,
        "currency": "EUR",
        "subject_id": SHOP,
    }
    return Transfer(**(row | more))  # type: ignore[arg-type]


@pytest.fixture
async def ledger(store: Store) -> Ledger:
    opened = Ledger(store)
    await opened.open_accounts([RECEIVABLE, *SELLERS], AT)
    return opened


async def assert_books_hold(store: Store) -> None:
    for name, query in store.invariants.items():
        if name.startswith("ledger_"):
            assert await store.pool.fetch(query) == [], name


@pytest.mark.parametrize("size", [3, 40, 600])
async def test_G4_batches_over_the_same_accounts_in_any_order_never_deadlock(
    store: Store, ledger: Ledger, size: int
) -> None:
    dice = random.Random(size)

    async def post_shuffled(rounds: int) -> None:
        for _ in range(rounds):
            sellers = dice.choices(SELLERS[: size // 2 + 2], k=size)
            outcomes = await ledger.post([move(RECEIVABLE, credit, 1) for credit in sellers], AT)
            assert set(outcomes) == {PostOutcome.POSTED}

    await asyncio.gather(*[post_shuffled(12) for _ in range(4)])
    assert await store.pool.fetchval("SELECT sum(amount_minor)::bigint FROM transfer") == 4 * 12 * size
    assert await deadlocks(store) == 0
    await assert_books_hold(store)


async def test_G4_accounts_are_locked_in_id_order_whatever_the_order_of_the_rows(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    """Hold the highest account: a batch waiting for it must by then hold the lowest, though its rows name it last."""
    low, *_, high = sorted([SELLERS[0], SELLERS[1], SELLERS[2]], key=lambda account: account.account_id.bytes)
    await ledger.post([move(RECEIVABLE, high, 10)], AT)
    async with owner.transaction():
        await owner.execute("SELECT FROM account WHERE account_id = $1 FOR NO KEY UPDATE", high.account_id)
        waiting = asyncio.create_task(ledger.post([move(high, low, 1)], AT))
        await until_waiting(owner)
        assert await skips_locked(owner, low)
    assert await waiting == [PostOutcome.POSTED]


async def skips_locked(owner: asyncpg.Connection, account: Account) -> bool:
    row = await owner.fetchrow(
        "SELECT 1 FROM account WHERE account_id = $1 FOR NO KEY UPDATE SKIP LOCKED", account.account_id
    )
    return row is None


async def test_G2_a_batch_that_waited_judges_by_what_it_waited_for(
    store: Store, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    """A balance of 100 is emptied while another batch waits for the account: that one must see it empty."""
    seller, other = SELLERS[0], SELLERS[1]
    await ledger.post([move(RECEIVABLE, seller, 100)], AT)
    async with owner.transaction():
        drained = await owner.fetchval(
            "SELECT outcome FROM ledger_post($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            [uuid4()],
            ["charge"],
            ["posted"],
            [None],
            [seller.account_id],
            [other.account_id],
            [100],
            ["EUR"],
            [SHOP],
            AT,
        )
        assert drained == "posted"
        waiting = asyncio.create_task(ledger.post([move(seller, other, 100)], AT))
        await until_waiting(owner)
    assert await waiting == [PostOutcome.OVERDRAWN]
    await assert_books_hold(store)


async def test_G2_many_draws_at_once_take_exactly_what_is_there(store: Store, ledger: Ledger) -> None:
    seller, other = SELLERS[0], SELLERS[1]
    await ledger.post([move(RECEIVABLE, seller, 100)], AT)
    answers = await asyncio.gather(*[ledger.post([move(seller, other, 7)], AT) for _ in range(40)])
    assert [answer[0] for answer in answers].count(PostOutcome.POSTED) == 14
    assert {answer[0] for answer in answers} == {PostOutcome.POSTED, PostOutcome.OVERDRAWN}
    await assert_books_hold(store)


async def test_G2_captures_at_once_never_exceed_their_hold(store: Store, ledger: Ledger) -> None:
    hold = move(RECEIVABLE, SELLERS[0], 100, phase=Phase.HELD)
    await ledger.post([hold], AT)
    answers = await asyncio.gather(
        *[
            ledger.post(
                [move(RECEIVABLE, SELLERS[0], 30, phase=Phase.CAPTURED, hold_id=hold.transfer_id)],
                AT,
            )
            for _ in range(12)
        ]
    )
    assert [answer[0] for answer in answers].count(PostOutcome.POSTED) == 3
    await assert_books_hold(store)


async def test_G5_a_hot_account_costs_one_row_update_per_batch(store: Store, ledger: Ledger) -> None:
    assert await ledger.post([], AT) == []
    async with store.pool.acquire() as connection, connection.transaction():
        updates = "SELECT n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = 'account'"
        start = await connection.fetchval(updates)
        rows = await connection.fetch(
            store.queries["ledger_post"],
            [uuid4() for _ in range(500)],
            ["charge"] * 500,
            ["posted"] * 500,
            [None] * 500,
            [RECEIVABLE.account_id] * 500,
            [seller.account_id for seller in SELLERS[:5]] * 100,
            [1] * 500,
            ["EUR"] * 500,
            [SHOP] * 500,
            AT,
        )
        assert rows == []
        assert await connection.fetchval(updates) - start == 6


async def test_G5_everybody_posts_to_one_account_and_nothing_is_lost(store: Store, ledger: Ledger) -> None:
    async def post(seller: Account) -> None:
        for _ in range(10):
            assert await ledger.post([move(RECEIVABLE, seller, 1)], AT) == [PostOutcome.POSTED]

    await asyncio.gather(*[post(seller) for seller in SELLERS[:16]])
    debits = await store.pool.fetchval(
        "SELECT debits_posted_minor FROM account WHERE account_id = $1", RECEIVABLE.account_id
    )
    assert debits == 160
    await assert_books_hold(store)


async def test_one_id_sent_twice_at_once_with_other_accounts_is_booked_once(store: Store, ledger: Ledger) -> None:
    """No account lock keeps these two apart; the primary key does, and the loser's neighbour is still posted."""
    await ledger.post([move(RECEIVABLE, SELLERS[n], 1000) for n in (0, 1)], AT)
    for _ in range(25):
        transfer_id = uuid4()
        batches = [
            [move(SELLERS[n], SELLERS[n + 2], 5, transfer_id=transfer_id), move(SELLERS[n], SELLERS[n + 4], 1)]
            for n in (0, 1)
        ]
        first, second = await asyncio.gather(*[ledger.post(batch, AT) for batch in batches])
        assert {first[0], second[0]} == {PostOutcome.POSTED, PostOutcome.EXISTS_DIFFERENTLY}
        assert first[1] is second[1] is PostOutcome.POSTED
    await assert_books_hold(store)


async def test_the_loser_of_a_race_for_one_id_runs_again_and_learns_of_it(
    store: Store, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    transfer_id = uuid4()
    await ledger.post([move(RECEIVABLE, SELLERS[0], 10)], AT)
    async with owner.transaction():
        await owner.fetch(
            "SELECT * FROM ledger_post($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            [transfer_id],
            ["charge"],
            ["posted"],
            [None],
            [SELLERS[0].account_id],
            [SELLERS[1].account_id],
            [5],
            ["EUR"],
            [SHOP],
            AT,
        )
        loser = asyncio.create_task(
            ledger.post([move(RECEIVABLE, SELLERS[3], 5, transfer_id=transfer_id), move(RECEIVABLE, SELLERS[4], 1)], AT)
        )
        await until_waiting(owner)
    assert await loser == [PostOutcome.EXISTS_DIFFERENTLY, PostOutcome.POSTED]
    await assert_books_hold(store)
