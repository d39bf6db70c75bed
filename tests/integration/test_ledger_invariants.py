"""An invariant that cannot fail proves nothing: each is shown books that break it."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from coatcheck.ledger import Account, Ledger, Phase, PostOutcome, Transfer, psp_receivable, seller_available
from coatcheck.states import Mode
from coatcheck.store import Store

AT = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
RECEIVABLE = Account(UUID(int=1), Mode.LIVE, psp_receivable("psp"), "EUR")
AVAILABLE = Account(UUID(int=1), Mode.LIVE, seller_available("s"), "EUR")
HOLD = UUID(int=77)

BREAKAGE = {
    "a counter without a transfer": (
        "UPDATE account SET credits_posted_minor = credits_posted_minor + 1 WHERE name LIKE 'seller%'",
        {"ledger_zero_sum_per_currency", "ledger_counters_equal_transfers"},
    ),
    "two counters without a transfer": (
        """UPDATE account SET credits_posted_minor = credits_posted_minor + 1,
           debits_posted_minor = debits_posted_minor + 1 WHERE name LIKE 'seller%'""",
        {"ledger_counters_equal_transfers"},
    ),
    "a pending counter": (
        "UPDATE account SET debits_pending_minor = debits_pending_minor + 1 WHERE name LIKE 'psp%'",
        {"ledger_zero_sum_per_currency", "ledger_counters_equal_transfers"},
    ),
    "a lost transfer": (
        "DELETE FROM transfer WHERE phase = 'posted'",
        {"ledger_counters_equal_transfers"},
    ),
    "a transfer of unknown accounts": (
        """INSERT INTO transfer VALUES (gen_random_uuid(), 'x', 'posted', NULL, gen_random_uuid(), gen_random_uuid(), 1,
           'EUR', gen_random_uuid(), now())""",
        {"ledger_counters_equal_transfers", "ledger_currencies_agree"},
    ),
    "an account that became another currency's": (
        "UPDATE account SET currency = 'USD' WHERE name LIKE 'seller%'",
        {"ledger_zero_sum_per_currency", "ledger_currencies_agree"},
    ),
    "an account that moved to the other mode": (
        "UPDATE account SET mode = 'test' WHERE name LIKE 'seller%'",
        {"ledger_zero_sum_per_currency", "ledger_currencies_agree"},
    ),
    "a floor that was broken": (
        "UPDATE account_kind SET may_overdraw = false, normal_side = 'credit' WHERE kind = 'psp_receivable'",
        {"ledger_no_account_below_its_floor"},
    ),
    "a hold whose rest is wrong": (
        "UPDATE hold SET captured_minor = captured_minor + 1",
        {"ledger_holds_equal_their_transfers"},
    ),
    "a hold that is gone": ("DELETE FROM hold", {"ledger_holds_equal_their_transfers"}),
    "a hold nobody made": (
        "INSERT INTO hold SELECT gen_random_uuid(), debit_account_id, credit_account_id, currency, 5 FROM hold",
        {"ledger_holds_equal_their_transfers"},
    ),
}


@pytest.fixture
async def books(store: Store) -> Store:
    ledger = Ledger(store)
    await ledger.open_accounts([RECEIVABLE, AVAILABLE], AT)
    row = {
        "kind": "charge",
        "debit_account_id": RECEIVABLE.account_id,
        "credit_account_id": AVAILABLE.account_id,
        "currency": "EUR",
        "subject_id": UUID(int=5),
    }
    for amount_minor, phase, transfer_id, hold_id in (
        (100, Phase.POSTED, uuid4(), None),
        (50, Phase.HELD, HOLD, None),
        (20, Phase.CAPTURED, uuid4(), HOLD),
        (10, Phase.RELEASED, uuid4(), HOLD),
    ):
        transfer = Transfer(
            amount_minor=amount_minor,
            phase=phase,
            transfer_id=transfer_id,
            hold_id=hold_id,
            **row,  # type: ignore[arg-type]
        )
        assert await ledger.post([transfer], AT) == [PostOutcome.POSTED]
    return store


async def broken(store: Store) -> set[str]:
    return {
        name for name, query in store.invariants.items() if name.startswith("ledger_") and await store.pool.fetch(query)
    }


@pytest.mark.parametrize("what", BREAKAGE)
async def test_each_invariant_finds_what_it_is_for(books: Store, owner: asyncpg.Connection, what: str) -> None:
    assert await broken(books) == set()
    statement, expected = BREAKAGE[what]
    await owner.execute(statement)
    assert await broken(books) == expected


async def test_every_invariant_is_shown_to_fail_and_says_what_it_proves(store: Store) -> None:
    ours = {name: query for name, query in store.invariants.items() if name.startswith("ledger_")}
    assert set(ours) == set().union(*[expected for _, expected in BREAKAGE.values()])
    assert all(query.startswith("-- ") and query.splitlines()[0].endswith(".") for query in ours.values())
