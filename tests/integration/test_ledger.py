import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from coatcheck.clock import ManualClock
from coatcheck.ledger import (
    MAX_AMOUNT_MINOR,
    Account,
    AccountBook,
    AccountKind,
    AccountName,
    Ledger,
    Phase,
    PostOutcome,
    Transfer,
    bank,
    charge_accounts,
    psp_receivable,
    seller_available,
    seller_pending,
)
from coatcheck.states import Mode
from coatcheck.store import Store

AT = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
SHOP = UUID(int=1)
SUBJECT = UUID(int=99)
RECEIVABLE = Account(SHOP, Mode.LIVE, psp_receivable("psp"), "EUR")
PENDING = Account(SHOP, Mode.LIVE, seller_pending("s"), "EUR")
AVAILABLE = Account(SHOP, Mode.LIVE, seller_available("s"), "EUR")
OTHER = Account(SHOP, Mode.LIVE, seller_available("t"), "EUR")
DOLLARS = Account(SHOP, Mode.LIVE, seller_pending("s"), "USD")
OTHER_SHOP = Account(UUID(int=2), Mode.LIVE, seller_pending("s"), "EUR")
TEST_MODE = Account(SHOP, Mode.TEST, seller_pending("s"), "EUR")
EVERY = (RECEIVABLE, PENDING, AVAILABLE, OTHER, DOLLARS, OTHER_SHOP, TEST_MODE)
UNKNOWN = Account(SHOP, Mode.LIVE, seller_pending("nobody"), "EUR")

Refusals = tuple[tuple[PostOutcome, Transfer], ...]


def move(
    debit: Account,
    credit: Account,
    amount_minor: int,
    *,
    transfer_id: UUID | None = None,
    phase: Phase = Phase.POSTED,
    hold_id: UUID | None = None,
    currency: str = "EUR",
    kind: str = "charge",
) -> Transfer:
    return Transfer(
        transfer_id=transfer_id or uuid4(),
        kind=kind,
        phase=phase,
        hold_id=hold_id,
        debit_account_id=debit.account_id,
        credit_account_id=credit.account_id,
        amount_minor=amount_minor,
        currency=currency,
        subject_id=SUBJECT,
    )


@pytest.fixture
async def ledger(store: Store) -> Ledger:
    opened = Ledger(store)
    await opened.open_accounts(EVERY, AT)
    return opened


async def only_row(store: Store, query: str, *arguments: object) -> asyncpg.Record:
    (row,) = await store.pool.fetch(query, *arguments)
    return row


async def counters(store: Store, account: Account) -> tuple[int, ...]:
    row = await only_row(
        store,
        """SELECT debits_posted_minor, credits_posted_minor, debits_pending_minor, credits_pending_minor
           FROM account WHERE account_id = $1""",
        account.account_id,
    )
    return tuple(row)


async def assert_books_hold(store: Store) -> None:
    for name, query in store.invariants.items():
        if name.startswith("ledger_"):
            assert await store.pool.fetch(query) == [], name


@pytest.mark.parametrize("count", [1, 2, 700])
async def test_a_batch_of_any_size_posts_and_counts_each_account_once(store: Store, ledger: Ledger, count: int) -> None:
    outcomes = await ledger.post([move(RECEIVABLE, PENDING, 10 + n) for n in range(count)], AT)
    assert outcomes == [PostOutcome.POSTED] * count
    total = sum(10 + n for n in range(count))
    assert await counters(store, RECEIVABLE) == (total, 0, 0, 0)
    assert await counters(store, PENDING) == (0, total, 0, 0)
    assert await store.pool.fetchval("SELECT count(*) FROM transfer") == count
    await assert_books_hold(store)


async def test_an_empty_batch_posts_nothing(ledger: Ledger) -> None:
    assert await ledger.post([], AT) == []


async def test_what_is_stored_is_what_was_sent(store: Store, ledger: Ledger) -> None:
    sent = move(RECEIVABLE, PENDING, 1234, kind="settlement")
    await ledger.post([sent], AT)
    row = dict(await only_row(store, "SELECT * FROM transfer"))
    assert row == {
        "transfer_id": sent.transfer_id,
        "kind": "settlement",
        "phase": "posted",
        "hold_id": None,
        "debit_account_id": RECEIVABLE.account_id,
        "credit_account_id": PENDING.account_id,
        "amount_minor": 1234,
        "currency": "EUR",
        "subject_id": SUBJECT,
        "at": AT,
    }


def refusals() -> Refusals:
    return (
        (PostOutcome.INVALID_AMOUNT, move(RECEIVABLE, PENDING, 0)),
        (PostOutcome.INVALID_AMOUNT, move(RECEIVABLE, PENDING, -5)),
        (PostOutcome.INVALID_AMOUNT, move(RECEIVABLE, PENDING, MAX_AMOUNT_MINOR + 1)),
        (PostOutcome.INVALID_AMOUNT, move(RECEIVABLE, PENDING, 2**63)),
        (PostOutcome.INVALID_AMOUNT, move(RECEIVABLE, PENDING, -(2**70))),
        (PostOutcome.SAME_ACCOUNT, move(PENDING, PENDING, 5)),
        (PostOutcome.UNKNOWN_ACCOUNT, move(RECEIVABLE, UNKNOWN, 5)),
        (PostOutcome.UNKNOWN_ACCOUNT, move(UNKNOWN, PENDING, 5)),
        (PostOutcome.CURRENCY_MISMATCH, move(RECEIVABLE, PENDING, 5, currency="USD")),
        (PostOutcome.CURRENCY_MISMATCH, move(RECEIVABLE, DOLLARS, 5)),
        (PostOutcome.CURRENCY_MISMATCH, move(DOLLARS, RECEIVABLE, 5)),
        (PostOutcome.WORLD_MISMATCH, move(RECEIVABLE, OTHER_SHOP, 5)),
        (PostOutcome.WORLD_MISMATCH, move(TEST_MODE, RECEIVABLE, 5)),
        (PostOutcome.UNKNOWN_HOLD, move(RECEIVABLE, PENDING, 5, phase=Phase.CAPTURED, hold_id=uuid4())),
        (PostOutcome.UNKNOWN_HOLD, move(RECEIVABLE, PENDING, 5, phase=Phase.RELEASED)),
        (PostOutcome.MALFORMED, move(RECEIVABLE, PENDING, 5, hold_id=uuid4())),
        (PostOutcome.OVERDRAWN, move(AVAILABLE, PENDING, 1)),
    )


async def test_E7_E8_each_refusal_names_its_reason_and_leaves_its_neighbours_alone(
    store: Store, ledger: Ledger
) -> None:
    good = [move(RECEIVABLE, PENDING, 7) for _ in refusals()]
    bad = refusals()
    batch = [transfer for pair in zip(good, [refused for _, refused in bad], strict=True) for transfer in pair]
    outcomes = await ledger.post(batch, AT)
    assert outcomes[0::2] == [PostOutcome.POSTED] * len(good)
    assert outcomes[1::2] == [reason for reason, _ in bad]
    assert await store.pool.fetchval("SELECT count(*) FROM transfer") == len(good)
    await assert_books_hold(store)


async def test_each_refusal_is_the_same_alone(store: Store, ledger: Ledger) -> None:
    for reason, refused in refusals():
        assert await ledger.post([refused], AT) == [reason]
    assert await store.pool.fetchval("SELECT count(*) FROM transfer") == 0
    assert await counters(store, RECEIVABLE) == (0, 0, 0, 0)


async def raw_post(store: Store, **changed: object) -> list[str]:
    row = {
        "transfer_id": uuid4(),
        "kind": "charge",
        "phase": "posted",
        "hold_id": None,
        "debit": RECEIVABLE.account_id,
        "credit": PENDING.account_id,
        "amount": 5,
        "currency": "EUR",
        "subject": SUBJECT,
    } | changed
    rows = await store.pool.fetch(
        "SELECT position, outcome FROM ledger_post($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ORDER BY position",
        *[[value] for value in row.values()],
        AT,
    )
    return [outcome for _, outcome in rows]


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("transfer_id", "malformed"),
        ("kind", "malformed"),
        ("phase", "malformed"),
        ("subject", "malformed"),
        ("debit", "unknown_account"),
        ("credit", "unknown_account"),
        ("amount", "invalid_amount"),
        ("currency", "currency_mismatch"),
    ],
)
async def test_a_missing_value_is_refused_by_name(store: Store, ledger: Ledger, column: str, reason: str) -> None:
    assert await ledger.post([], AT) == []
    assert await raw_post(store, **{column: None}) == [reason]
    assert await raw_post(store) == ["posted"]


async def test_an_unknown_phase_is_malformed(store: Store, ledger: Ledger) -> None:
    assert await ledger.post([], AT) == []
    assert await raw_post(store, phase="perhaps") == ["malformed"]


async def test_arrays_of_different_lengths_are_a_mistake_of_the_caller(store: Store, ledger: Ledger) -> None:
    transfer = move(RECEIVABLE, PENDING, 5)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="one length"):
        await store.pool.fetch(
            "SELECT * FROM ledger_post($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            [transfer.transfer_id, uuid4()],
            ["charge"],
            ["posted"],
            [None],
            [transfer.debit_account_id],
            [transfer.credit_account_id],
            [5],
            ["EUR"],
            [SUBJECT],
            AT,
        )
    assert await ledger.post([], AT) == []


async def test_a_repeat_posts_nothing_and_says_exists(store: Store, ledger: Ledger) -> None:
    transfers = [move(RECEIVABLE, PENDING, 10), move(RECEIVABLE, PENDING, 20)]
    assert await ledger.post(transfers, AT) == [PostOutcome.POSTED] * 2
    again = await ledger.post([*transfers, move(RECEIVABLE, PENDING, 30)], AT.replace(hour=23))
    assert again == [PostOutcome.EXISTS, PostOutcome.EXISTS, PostOutcome.POSTED]
    assert await counters(store, PENDING) == (0, 60, 0, 0)
    await assert_books_hold(store)


CHANGES: dict[str, Callable[[Transfer], Transfer]] = {
    "amount": lambda t: move(RECEIVABLE, PENDING, 11, transfer_id=t.transfer_id),
    "kind": lambda t: move(RECEIVABLE, PENDING, 10, transfer_id=t.transfer_id, kind="commission"),
    "direction": lambda t: move(PENDING, RECEIVABLE, 10, transfer_id=t.transfer_id),
    "phase": lambda t: move(RECEIVABLE, PENDING, 10, transfer_id=t.transfer_id, phase=Phase.HELD),
    "currency": lambda t: move(RECEIVABLE, PENDING, 10, transfer_id=t.transfer_id, currency="USD"),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_a_repeat_with_other_content_is_refused(store: Store, ledger: Ledger, what: str) -> None:
    first = move(RECEIVABLE, PENDING, 10)
    await ledger.post([first], AT)
    assert await ledger.post([CHANGES[what](first)], AT) == [PostOutcome.EXISTS_DIFFERENTLY]
    assert await counters(store, PENDING) == (0, 10, 0, 0)


async def test_a_repeat_inside_a_batch_posts_once(store: Store, ledger: Ledger) -> None:
    first = move(RECEIVABLE, PENDING, 10)
    other = move(RECEIVABLE, PENDING, 99, transfer_id=first.transfer_id)
    outcomes = await ledger.post([first, other, first], AT)
    assert outcomes == [PostOutcome.POSTED, PostOutcome.EXISTS_DIFFERENTLY, PostOutcome.EXISTS]
    assert await counters(store, PENDING) == (0, 10, 0, 0)
    await assert_books_hold(store)


async def test_a_refused_row_does_not_keep_its_id(store: Store, ledger: Ledger) -> None:
    refused = move(RECEIVABLE, PENDING, 0)
    good = move(RECEIVABLE, PENDING, 5, transfer_id=refused.transfer_id)
    assert await ledger.post([refused, good], AT) == [PostOutcome.INVALID_AMOUNT, PostOutcome.POSTED]
    await assert_books_hold(store)


async def fund(ledger: Ledger, account: Account, amount_minor: int) -> None:
    assert await ledger.post([move(PENDING, account, amount_minor)], AT) == [PostOutcome.POSTED]


async def test_a_balance_never_falls_below_its_floor_and_the_last_word_is_exact(store: Store, ledger: Ledger) -> None:
    await fund(ledger, AVAILABLE, 100)
    # In one batch 60 + 60 + 40 would be cautiously refused from the second on; each on its own, 40 still fits.
    outcomes = await ledger.post([move(AVAILABLE, OTHER, amount) for amount in (60, 60, 40)], AT)
    assert outcomes == [PostOutcome.POSTED, PostOutcome.OVERDRAWN, PostOutcome.POSTED]
    assert await counters(store, AVAILABLE) == (100, 100, 0, 0)
    await assert_books_hold(store)


async def test_money_that_arrives_in_the_same_batch_can_be_spent(store: Store, ledger: Ledger) -> None:
    outcomes = await ledger.post([move(AVAILABLE, OTHER, 50), move(PENDING, AVAILABLE, 50)], AT)
    assert outcomes == [PostOutcome.POSTED, PostOutcome.POSTED]
    assert await counters(store, AVAILABLE) == (50, 50, 0, 0)
    await assert_books_hold(store)


async def test_the_statement_alone_is_cautious_in_array_order(store: Store, ledger: Ledger) -> None:
    await fund(ledger, AVAILABLE, 100)
    transfers = [move(AVAILABLE, OTHER, amount) for amount in (60, 60, 40)]
    rows = await store.pool.fetch(
        "SELECT outcome FROM ledger_post($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ORDER BY position",
        [transfer.transfer_id for transfer in transfers],
        ["charge"] * 3,
        ["posted"] * 3,
        [None] * 3,
        [AVAILABLE.account_id] * 3,
        [OTHER.account_id] * 3,
        [60, 60, 40],
        ["EUR"] * 3,
        [SUBJECT] * 3,
        AT,
    )
    assert [row["outcome"] for row in rows] == ["posted", "overdrawn", "overdrawn"]


async def test_an_account_whose_kind_may_be_overdrawn_may(store: Store, ledger: Ledger) -> None:
    assert await ledger.post([move(PENDING, RECEIVABLE, 500)], AT) == [PostOutcome.POSTED]
    assert await counters(store, PENDING) == (500, 0, 0, 0)


async def test_a_floor_on_the_other_side_holds_too(store: Store, ledger: Ledger, owner: asyncpg.Connection) -> None:
    await owner.execute("UPDATE account_kind SET may_overdraw = false WHERE kind = 'bank'")
    account = Account(SHOP, Mode.LIVE, bank("main"), "EUR")
    await ledger.open_accounts([account], AT)
    assert await ledger.post([move(PENDING, account, 1)], AT) == [PostOutcome.OVERDRAWN]
    assert await ledger.post([move(account, PENDING, 10), move(PENDING, account, 10)], AT) == [PostOutcome.POSTED] * 2
    assert await ledger.post([move(PENDING, account, 1)], AT) == [PostOutcome.OVERDRAWN]
    await assert_books_hold(store)


async def test_a_hold_is_captured_in_parts_and_its_rest_released(store: Store, ledger: Ledger) -> None:
    hold = move(RECEIVABLE, PENDING, 100, phase=Phase.HELD)
    assert await ledger.post([hold], AT) == [PostOutcome.POSTED]
    assert await counters(store, RECEIVABLE) == (0, 0, 100, 0)
    assert await counters(store, PENDING) == (0, 0, 0, 100)
    parts = [
        move(RECEIVABLE, PENDING, amount, phase=phase, hold_id=hold.transfer_id)
        for amount, phase in ((30, Phase.CAPTURED), (50, Phase.CAPTURED), (20, Phase.RELEASED))
    ]
    assert await ledger.post(parts, AT) == [PostOutcome.POSTED] * 3
    assert await counters(store, RECEIVABLE) == (80, 0, 0, 0)
    assert await counters(store, PENDING) == (0, 80, 0, 0)
    row = await only_row(store, "SELECT amount_minor, captured_minor, released_minor FROM hold")
    assert tuple(row) == (100, 80, 20)
    late = move(RECEIVABLE, PENDING, 1, phase=Phase.CAPTURED, hold_id=hold.transfer_id)
    assert await ledger.post([late], AT) == [PostOutcome.HOLD_EXCEEDED]
    assert await ledger.post(parts, AT) == [PostOutcome.EXISTS] * 3
    await assert_books_hold(store)


async def test_captures_of_one_batch_never_exceed_their_hold(store: Store, ledger: Ledger) -> None:
    hold = move(RECEIVABLE, PENDING, 100, phase=Phase.HELD)
    await ledger.post([hold], AT)
    parts = [
        move(RECEIVABLE, PENDING, amount, phase=Phase.CAPTURED, hold_id=hold.transfer_id) for amount in (60, 60, 40)
    ]
    assert await ledger.post(parts, AT) == [PostOutcome.POSTED, PostOutcome.HOLD_EXCEEDED, PostOutcome.POSTED]
    await assert_books_hold(store)


async def test_a_hold_can_be_made_and_captured_in_one_batch(store: Store, ledger: Ledger) -> None:
    hold = move(RECEIVABLE, PENDING, 100, phase=Phase.HELD)
    capture = move(RECEIVABLE, PENDING, 100, phase=Phase.CAPTURED, hold_id=hold.transfer_id)
    assert await ledger.post([hold, capture], AT) == [PostOutcome.POSTED, PostOutcome.POSTED]
    assert await counters(store, PENDING) == (0, 100, 0, 0)
    await assert_books_hold(store)


async def test_a_capture_moves_between_the_accounts_of_its_hold_and_no_others(store: Store, ledger: Ledger) -> None:
    hold = move(RECEIVABLE, PENDING, 100, phase=Phase.HELD)
    await ledger.post([hold], AT)
    for debit, credit in ((RECEIVABLE, OTHER), (OTHER, PENDING), (PENDING, RECEIVABLE)):
        wrong = move(debit, credit, 10, phase=Phase.CAPTURED, hold_id=hold.transfer_id)
        assert await ledger.post([wrong], AT) == [PostOutcome.HOLD_MISMATCH]
    await assert_books_hold(store)


async def test_a_hold_reserves_against_the_floor_until_it_is_released(store: Store, ledger: Ledger) -> None:
    await fund(ledger, AVAILABLE, 100)
    hold = move(AVAILABLE, OTHER, 70, phase=Phase.HELD)
    assert await ledger.post([hold], AT) == [PostOutcome.POSTED]
    assert await ledger.post([move(AVAILABLE, OTHER, 31)], AT) == [PostOutcome.OVERDRAWN]
    assert await ledger.post([move(AVAILABLE, OTHER, 30)], AT) == [PostOutcome.POSTED]
    # Nothing is left, and yet the hold can be captured: its money was set aside.
    capture = move(AVAILABLE, OTHER, 50, phase=Phase.CAPTURED, hold_id=hold.transfer_id)
    release = move(AVAILABLE, OTHER, 20, phase=Phase.RELEASED, hold_id=hold.transfer_id)
    assert await ledger.post([capture, release], AT) == [PostOutcome.POSTED] * 2
    assert await ledger.post([move(AVAILABLE, OTHER, 20)], AT) == [PostOutcome.POSTED]
    assert await counters(store, AVAILABLE) == (100, 100, 0, 0)
    await assert_books_hold(store)


async def rows_read(connection: Any) -> int:
    read: int = await connection.fetchval(
        "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::integer FROM pg_stat_xact_user_tables"
        " WHERE relname IN ('account', 'hold', 'transfer')"
    )
    return read


async def test_what_a_batch_reads_does_not_grow_with_the_books(store: Store, ledger: Ledger) -> None:
    made = [move(RECEIVABLE, PENDING, 10, phase=Phase.HELD) for _ in range(500)]
    assert await ledger.post(made, AT) == [PostOutcome.POSTED] * 500
    batch = [
        move(RECEIVABLE, PENDING, 4, phase=Phase.CAPTURED, hold_id=made[0].transfer_id),
        move(RECEIVABLE, PENDING, 6, phase=Phase.RELEASED, hold_id=made[0].transfer_id),
        move(RECEIVABLE, PENDING, 10, phase=Phase.HELD),
        move(RECEIVABLE, PENDING, 10),
    ]
    async with store.pool.acquire() as connection, connection.transaction():
        before = await rows_read(connection)
        await ledger.post_within(connection, batch, AT)
        assert await rows_read(connection) - before < 100


async def test_E7_a_counter_stops_at_the_end_of_bigint(store: Store, ledger: Ledger) -> None:
    largest = [move(RECEIVABLE, PENDING, MAX_AMOUNT_MINOR) for _ in range(1024)]
    assert set(await ledger.post(largest, AT)) == {PostOutcome.POSTED}
    assert await ledger.post([move(RECEIVABLE, PENDING, 1024)], AT) == [PostOutcome.OVERFLOW]
    # The rows before take nothing that was refused: after an overflow the exact rest still fits.
    outcomes = await ledger.post([move(RECEIVABLE, PENDING, 1024), move(RECEIVABLE, PENDING, 1023)], AT)
    assert outcomes == [PostOutcome.OVERFLOW, PostOutcome.POSTED]
    assert await counters(store, PENDING) == (0, 2**63 - 1, 0, 0)
    assert await ledger.post([move(RECEIVABLE, PENDING, 1, phase=Phase.HELD)], AT) == [PostOutcome.POSTED]
    await assert_books_hold(store)


async def test_E7_a_batch_whose_sum_leaves_bigint_is_judged_row_by_row(store: Store, ledger: Ledger) -> None:
    largest = [move(RECEIVABLE, PENDING, MAX_AMOUNT_MINOR) for _ in range(1030)]
    outcomes = await ledger.post(largest, AT)
    assert outcomes == [PostOutcome.POSTED] * 1024 + [PostOutcome.OVERFLOW] * 6
    await assert_books_hold(store)


async def test_opening_is_idempotent_starts_at_zero_and_writes_one_event_each(store: Store) -> None:
    ledger = Ledger(store)
    assert await ledger.open_accounts([PENDING, RECEIVABLE, PENDING], AT) == {
        PENDING.account_id,
        RECEIVABLE.account_id,
    }
    assert await ledger.open_accounts([PENDING, AVAILABLE], AT.replace(hour=20)) == {AVAILABLE.account_id}
    assert await counters(store, PENDING) == (0, 0, 0, 0)
    events = await store.pool.fetch("SELECT subject_id, kind, shop_id, mode, at, body FROM event ORDER BY event_id")
    assert {event["subject_id"] for event in events} == {
        account.account_id for account in (PENDING, RECEIVABLE, AVAILABLE)
    }
    assert len(events) == 3
    opened = next(event for event in events if event["subject_id"] == PENDING.account_id)
    assert tuple(opened)[1:5] == ("account.opened", SHOP, "live", AT)
    row = await only_row(
        store,
        "SELECT shop_id, mode, name, kind, currency, opened_at FROM account WHERE account_id = $1",
        PENDING.account_id,
    )
    assert tuple(row) == (SHOP, "live", "seller:s:pending", "seller_pending", "EUR", AT)


async def open_raw(store: Store, account_id: UUID, name: str, kind: str, currency: str, *, mode: str = "live") -> None:
    await store.pool.fetch(
        "SELECT * FROM ledger_open_accounts($1, $2, $3, $4, $5, $6, $7)",
        [account_id],
        [SHOP],
        [mode],
        [name],
        [kind],
        [currency],
        AT,
    )


async def test_an_account_needs_a_known_kind_a_currency_code_and_a_mode(store: Store) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await open_raw(store, uuid4(), "x", "piggy_bank", "EUR")
    for currency in ("eur", "EURO", "E1R", ""):
        with pytest.raises(asyncpg.CheckViolationError, match="currency_is_a_code"):
            await open_raw(store, uuid4(), "x", "bank", currency)
    with pytest.raises(asyncpg.CheckViolationError):
        await open_raw(store, uuid4(), "x", "bank", "EUR", mode="demo")
    assert await store.pool.fetchval("SELECT count(*) FROM account") == 0


@pytest.mark.parametrize(
    "other", [("seller:t:pending", "seller_pending", "EUR"), ("seller:s:pending", "seller_available", "EUR")]
)
async def test_an_id_that_stands_for_another_account_is_never_assumed_to_be_ours(
    store: Store, other: tuple[str, str, str]
) -> None:
    await Ledger(store).open_accounts([PENDING], AT)
    with pytest.raises(asyncpg.UniqueViolationError, match="stands for another account"):
        await open_raw(store, PENDING.account_id, *other)


async def test_the_book_opens_each_account_once_and_asks_no_more(store: Store) -> None:
    book = AccountBook(store, ManualClock(AT))
    wanted = [(name, "EUR") for name in charge_accounts("psp", "s")]
    await book.ensure(SHOP, Mode.LIVE, wanted)
    assert await store.pool.fetchval("SELECT count(*) FROM account") == 3
    await store.pool.close()  # a second question would fail
    await book.ensure(SHOP, Mode.LIVE, wanted)


async def test_accounts_that_many_miss_at_once_are_opened_by_one_commit(store: Store) -> None:
    book = AccountBook(store, ManualClock(AT))
    sellers = [f"s{number % 5}" for number in range(20)]
    await asyncio.gather(
        *[book.ensure(SHOP, Mode.LIVE, [(name, "EUR") for name in charge_accounts("psp", each)]) for each in sellers]
    )
    (row,) = await store.pool.fetch("SELECT count(*) AS accounts, count(DISTINCT xmin::text) AS commits FROM account")
    assert dict(row) == {"accounts": 7, "commits": 1}
    assert await store.pool.fetchval("SELECT count(*) FROM event WHERE kind = 'account.opened'") == 7


async def test_an_account_that_cannot_be_opened_is_the_trouble_of_whoever_asked_for_it(store: Store) -> None:
    await open_raw(store, PENDING.account_id, "seller:t:pending", "seller_pending", "EUR")
    book = AccountBook(store, ManualClock(AT))
    wishes = [[(account.name, account.currency)] for account in (RECEIVABLE, PENDING, AVAILABLE)]
    answers = await asyncio.gather(*[book.ensure(SHOP, Mode.LIVE, wanted) for wanted in wishes], return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None), asyncpg.UniqueViolationError, type(None)]
    with pytest.raises(asyncpg.UniqueViolationError, match="stands for another account"):
        await book.ensure(SHOP, Mode.LIVE, wishes[1])  # it is not taken for open


async def test_the_trial_balance_balances_per_currency(store: Store) -> None:
    ledger = Ledger(store)
    accounts = [
        Account(SHOP, Mode.LIVE, name, currency) for currency in ("EUR", "KWD") for name in charge_accounts("psp", "s")
    ]
    await ledger.open_accounts([*accounts, OTHER_SHOP, TEST_MODE], AT)
    for currency, gross in (("EUR", 1000), ("KWD", 5000)):
        receivable, pending, commission = (
            Account(SHOP, Mode.LIVE, name, currency).account_id for name in charge_accounts("psp", "s")
        )
        legs = [
            Transfer(
                transfer_id=uuid4(),
                kind=kind,
                debit_account_id=receivable,
                credit_account_id=credit,
                amount_minor=amount,
                currency=currency,
                subject_id=SUBJECT,
            )
            for kind, credit, amount in (
                ("charge", pending, gross - gross // 10),
                ("commission", commission, gross // 10),
            )
        ]
        assert await ledger.post(legs, AT) == [PostOutcome.POSTED] * 2
    euros, dinars = await ledger.trial_balance(SHOP, Mode.LIVE)
    assert (euros.currency, euros.total_debits_minor, euros.total_credits_minor) == ("EUR", 1000, 1000)
    assert (dinars.currency, dinars.total_debits_minor, dinars.difference_minor) == ("KWD", 5000, 0)
    assert {account.name: account.balance_minor for account in euros.accounts} == {
        "psp:psp:receivable": 1000,
        "seller:s:pending": 900,
        "platform:commission": 100,
    }
    assert {account.kind for account in euros.accounts} == {
        AccountKind.PSP_RECEIVABLE,
        AccountKind.SELLER_PENDING,
        AccountKind.PLATFORM_COMMISSION,
    }


async def test_every_kind_the_program_knows_is_in_the_table(store: Store) -> None:
    rows = await store.pool.fetch("SELECT kind FROM account_kind")
    assert {row["kind"] for row in rows} == {kind.value for kind in AccountKind}


async def test_names_with_colons_stay_apart() -> None:
    names = {seller_pending("a").name, seller_pending("a:pending").name, seller_available("a").name}
    assert len(names) == 3
    assert AccountName("x", AccountKind.BANK) != AccountName("x", AccountKind.SUSPENSE)
