from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from coatcheck.ledger import (
    Account,
    AccountName,
    Ledger,
    Phase,
    PostOutcome,
    Transfer,
    payouts_in_transit,
    psp_receivable,
    seller_available,
    seller_pending,
)
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.wallets import Wallet, wallet

AT = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
SHOP, OTHER_SHOP = UUID(int=1), UUID(int=2)


def account(name: AccountName, currency: str = "EUR", shop_id: UUID = SHOP, mode: Mode = Mode.LIVE) -> Account:
    return Account(shop_id, mode, name, currency)


async def post(store: Store, debit: Account, credit: Account, amount_minor: int, phase: Phase = Phase.POSTED) -> None:
    transfer = Transfer(
        transfer_id=uuid4(),
        kind="charge",
        phase=phase,
        debit_account_id=debit.account_id,
        credit_account_id=credit.account_id,
        amount_minor=amount_minor,
        currency=debit.currency,
        subject_id=UUID(int=9),
    )
    ledger = Ledger(store)
    await ledger.open_accounts([debit, credit], AT)
    assert await ledger.post([transfer], AT) == [PostOutcome.POSTED]


async def test_a_wallet_follows_the_money_from_charge_to_payout(store: Store) -> None:
    receivable, pending = account(psp_receivable("p")), account(seller_pending("s"))
    available, in_transit = account(seller_available("s")), account(payouts_in_transit("s"))
    await post(store, receivable, pending, 1000)
    assert await wallet(store, SHOP, Mode.LIVE, "s") == [Wallet("EUR", 1000, 0, 0)]
    await post(store, pending, available, 600)
    assert await wallet(store, SHOP, Mode.LIVE, "s") == [Wallet("EUR", 400, 600, 0)]
    await post(store, available, in_transit, 250)
    assert await wallet(store, SHOP, Mode.LIVE, "s") == [Wallet("EUR", 400, 350, 250)]
    await post(store, pending, receivable, 500)
    assert await wallet(store, SHOP, Mode.LIVE, "s") == [Wallet("EUR", -100, 350, 250)]


async def test_a_hold_reserves_what_is_available_and_an_authorization_is_not_money_yet(store: Store) -> None:
    receivable, pending = account(psp_receivable("p")), account(seller_pending("s"))
    available = account(seller_available("s"))
    await post(store, receivable, pending, 300, Phase.HELD)
    assert await wallet(store, SHOP, Mode.LIVE, "s") == [Wallet("EUR", 0, 0, 0)]
    await post(store, receivable, available, 100)
    await post(store, available, pending, 30, Phase.HELD)
    assert await wallet(store, SHOP, Mode.LIVE, "s") == [Wallet("EUR", 0, 70, 0)]


async def test_E8_currencies_are_never_added_up(store: Store) -> None:
    for currency, amount_minor in (("USD", 5), ("EUR", 7), ("JPY", 11)):
        await post(store, account(psp_receivable("p"), currency), account(seller_pending("s"), currency), amount_minor)
    assert await wallet(store, SHOP, Mode.LIVE, "s") == [
        Wallet("EUR", 7, 0, 0),
        Wallet("JPY", 11, 0, 0),
        Wallet("USD", 5, 0, 0),
    ]


@pytest.mark.parametrize(
    ("shop_id", "mode", "seller"),
    [(OTHER_SHOP, Mode.LIVE, "s"), (SHOP, Mode.TEST, "s"), (SHOP, Mode.LIVE, "t"), (SHOP, Mode.LIVE, "s:pending")],
)
async def test_nobody_sees_another_wallet(store: Store, shop_id: UUID, mode: Mode, seller: str) -> None:
    await post(store, account(psp_receivable("p")), account(seller_pending("s")), 10)
    assert await wallet(store, shop_id, mode, seller) == []
