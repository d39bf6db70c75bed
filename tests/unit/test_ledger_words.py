from uuid import UUID, uuid4

import pytest

from coatcheck.ids import account_id_of
from coatcheck.ledger import (
    Account,
    AccountKind,
    AccountName,
    Phase,
    PostOutcome,
    Transfer,
    bank,
    charge_accounts,
    charge_transfers,
    payouts_in_transit,
    platform_commission,
    platform_dispute_fees,
    platform_psp_fees,
    psp_receivable,
    seller_available,
    seller_pending,
    suspense,
)
from coatcheck.states import Mode

SHOP = UUID(int=7)
SUBJECT = UUID(int=9)


def charge(gross_minor: int, commission_minor: int, phase: Phase = Phase.POSTED) -> list[Transfer]:
    return charge_transfers(
        transfer_ids=[UUID(int=1), UUID(int=2)],
        shop_id=SHOP,
        mode=Mode.LIVE,
        provider="stripe",
        seller="acme",
        gross_minor=gross_minor,
        commission_minor=commission_minor,
        currency="EUR",
        subject_id=SUBJECT,
        phase=phase,
    )


def account_id(name: AccountName) -> UUID:
    return account_id_of(SHOP, Mode.LIVE, name.name, "EUR")


def test_a_charge_gives_the_seller_the_net_and_the_platform_its_commission() -> None:
    net, commission = charge(1000, 120)
    assert (net.debit_account_id, net.credit_account_id, net.amount_minor) == (
        account_id(psp_receivable("stripe")),
        account_id(seller_pending("acme")),
        880,
    )
    assert (commission.debit_account_id, commission.credit_account_id, commission.amount_minor) == (
        account_id(psp_receivable("stripe")),
        account_id(platform_commission()),
        120,
    )
    assert net.transfer_id != commission.transfer_id
    assert {net.kind, commission.kind} == {"charge", "commission"}
    assert {(leg.subject_id, leg.currency) for leg in (net, commission)} == {(SUBJECT, "EUR")}


@pytest.mark.parametrize(
    ("commission_minor", "kinds"), [(0, ["charge"]), (1000, ["commission"]), (1, ["charge", "commission"])]
)
def test_a_leg_of_zero_is_left_out(commission_minor: int, kinds: list[str]) -> None:
    assert [leg.kind for leg in charge(1000, commission_minor)] == kinds


def test_an_authorization_is_a_hold_of_the_same_transfers() -> None:
    held, posted = charge(1000, 120, Phase.HELD), charge(1000, 120)
    assert {leg.phase for leg in held} == {Phase.HELD}
    assert [(leg.debit_account_id, leg.credit_account_id, leg.amount_minor) for leg in held] == [
        (leg.debit_account_id, leg.credit_account_id, leg.amount_minor) for leg in posted
    ]


def test_accounts_are_named_as_the_postings_speak_of_them() -> None:
    assert [
        (account.name, account.kind.value)
        for account in (
            psp_receivable("adyen"),
            bank("main"),
            seller_pending("s1"),
            seller_available("s1"),
            payouts_in_transit("s1"),
            platform_commission(),
            platform_psp_fees(),
            platform_dispute_fees(),
            suspense("adyen"),
        )
    ] == [
        ("psp:adyen:receivable", "psp_receivable"),
        ("bank:main", "bank"),
        ("seller:s1:pending", "seller_pending"),
        ("seller:s1:available", "seller_available"),
        ("payouts:in_transit:s1", "payouts_in_transit"),
        ("platform:commission", "platform_commission"),
        ("platform:psp_fees", "platform_psp_fees"),
        ("platform:dispute_fees", "platform_dispute_fees"),
        ("suspense:adyen", "suspense"),
    ]


def test_the_accounts_of_a_charge_are_those_its_transfers_use() -> None:
    used = {leg.debit_account_id for leg in charge(10, 1)} | {leg.credit_account_id for leg in charge(10, 1)}
    assert {account_id(name) for name in charge_accounts("stripe", "acme")} == used


def test_an_account_is_one_shop_one_mode_one_currency() -> None:
    shop_id = uuid4()
    name = AccountName("seller:s:pending", AccountKind.SELLER_PENDING)
    ids = {
        Account(shop, mode, name, currency).account_id
        for shop in (shop_id, uuid4())
        for mode in Mode
        for currency in ("EUR", "USD")
    }
    assert len(ids) == 8


def test_only_posted_and_exists_mean_that_the_books_have_it() -> None:
    assert {outcome for outcome in PostOutcome if outcome.is_booked} == {PostOutcome.POSTED, PostOutcome.EXISTS}
