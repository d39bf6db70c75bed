"""Append-only by permission: what the application's role must not be able to say, not even in SQL of its own."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from coatcheck.ledger import Account, Ledger, PostOutcome, Transfer, psp_receivable, seller_pending
from coatcheck.states import Mode
from coatcheck.store import Store

AT = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
RECEIVABLE = Account(UUID(int=1), Mode.LIVE, psp_receivable("psp"), "EUR")
PENDING = Account(UUID(int=1), Mode.LIVE, seller_pending("s"), "EUR")
TABLES = ("account", "account_kind", "transfer", "hold")


@pytest.fixture
async def posted(store: Store) -> UUID:
    ledger = Ledger(store)
    await ledger.open_accounts([RECEIVABLE, PENDING], AT)
    transfer_id = uuid4()
    transfer = Transfer(
        transfer_id=transfer_id,
        kind="charge",
        debit_account_id=RECEIVABLE.account_id,
        credit_account_id=PENDING.account_id,
        amount_minor=100,
        currency="EUR",
        subject_id=UUID(int=5),
    )
    assert await ledger.post([transfer], AT) == [PostOutcome.POSTED]
    return transfer_id


async def test_the_pool_speaks_as_the_application_role(store: Store) -> None:
    assert await store.pool.fetchval("SELECT current_user") == "coatcheck_app"


@pytest.mark.parametrize("table", TABLES)
async def test_the_application_reads_the_books_and_writes_none_of_their_tables(
    store: Store, posted: UUID, table: str
) -> None:
    assert posted
    await store.pool.fetch(f"SELECT * FROM {table}")
    for statement in (
        f"INSERT INTO {table} SELECT * FROM {table} LIMIT 0",
        f"DELETE FROM {table}",
        f"TRUNCATE {table}",
        f"SELECT * FROM {table} FOR UPDATE",
        f"ALTER TABLE {table} ADD COLUMN note text",
        f"DROP TABLE {table}",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await store.pool.execute(statement)


@pytest.mark.parametrize(
    "assignment",
    [
        "account SET credits_posted_minor = credits_posted_minor + 1",
        "account SET debits_posted_minor = 0",
        "account SET debits_pending_minor = 0",
        "account SET credits_pending_minor = 0",
        "account SET kind = 'suspense'",
        "account_kind SET may_overdraw = true",
        "transfer SET amount_minor = 1",
        "hold SET released_minor = amount_minor",
    ],
)
async def test_counters_and_history_cannot_be_touched(store: Store, posted: UUID, assignment: str) -> None:
    assert posted
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await store.pool.execute(f"UPDATE {assignment}")


async def test_only_the_two_ways_in_may_be_called(store: Store) -> None:
    rows = await store.pool.fetch(
        """SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'ledger%'
           AND prokind = 'f' AND has_function_privilege(oid, 'EXECUTE')"""
    )
    assert {row["proname"] for row in rows} == {"ledger_post", "ledger_open_accounts"}


async def test_the_way_in_cannot_be_led_astray_by_tables_of_the_callers_own(store: Store, posted: UUID) -> None:
    async with store.pool.acquire() as connection:
        await connection.execute("CREATE TEMP TABLE account (LIKE public.account); SET search_path = pg_temp, public")
        outcome = await connection.fetchval(
            "SELECT outcome FROM public.ledger_post($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            [uuid4()],
            ["charge"],
            ["posted"],
            [None],
            [RECEIVABLE.account_id],
            [PENDING.account_id],
            [1],
            ["EUR"],
            [posted],
            AT,
        )
    assert outcome == "posted"
    balance = await store.pool.fetchval(
        "SELECT credits_posted_minor FROM public.account WHERE account_id = $1", PENDING.account_id
    )
    assert balance == 101


@pytest.mark.parametrize("amount", ["'NaN'::numeric", "'Infinity'::float8", "'NaN'::float8", "1.5", "1e30"])
async def test_E7_what_is_no_whole_number_cannot_even_be_said(store: Store, posted: UUID, amount: str) -> None:
    statement = f"""SELECT outcome FROM ledger_post(ARRAY[gen_random_uuid()], '{{charge}}', '{{posted}}', '{{NULL}}',
        ARRAY['{RECEIVABLE.account_id}'::uuid], ARRAY['{PENDING.account_id}'::uuid], %s, '{{EUR}}',
        ARRAY['{posted}'::uuid], now())"""
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await store.pool.fetch(statement % f"ARRAY[{amount}]")
    if amount != "1.5":  # a cast would round that one to a whole number, which is then what is posted
        with pytest.raises((asyncpg.NumericValueOutOfRangeError, asyncpg.FeatureNotSupportedError)):
            await store.pool.fetch(statement % f"ARRAY[({amount})::bigint]")
    assert await store.pool.fetchval("SELECT count(*) FROM transfer") == 1


@pytest.mark.parametrize("amount_minor", [0, -1, 2**53])
async def test_E7_the_table_itself_refuses_such_amounts_even_from_its_owner(
    owner: asyncpg.Connection, posted: UUID, amount_minor: int
) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="transfer_amount_is_positive_and_exact"):
        await owner.execute(
            """INSERT INTO transfer SELECT gen_random_uuid(), kind, phase, hold_id, debit_account_id,
               credit_account_id, $1, currency, subject_id, at FROM transfer WHERE transfer_id = $2""",
            amount_minor,
            posted,
        )


async def test_the_table_itself_refuses_a_transfer_to_the_same_account(owner: asyncpg.Connection, posted: UUID) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="transfer_moves_between_two_accounts"):
        await owner.execute(
            """INSERT INTO transfer SELECT gen_random_uuid(), kind, phase, hold_id, debit_account_id,
               debit_account_id, 1, currency, subject_id, at FROM transfer WHERE transfer_id = $1""",
            posted,
        )


async def test_a_counter_below_zero_is_refused_even_from_the_owner(owner: asyncpg.Connection, posted: UUID) -> None:
    assert posted
    with pytest.raises(asyncpg.CheckViolationError, match="account_counters_are_not_negative"):
        await owner.execute("UPDATE account SET debits_pending_minor = -1")
