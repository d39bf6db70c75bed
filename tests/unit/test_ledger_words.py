from uuid import uuid4

from coatcheck.ledger import (
    Account,
    AccountKind,
    AccountName,
    PostOutcome,
    bank,
    payouts_in_transit,
    platform_commission,
    platform_dispute_fees,
    platform_psp_fees,
    psp_receivable,
    seller_available,
    seller_pending,
    seller_reserve,
    suspense,
)
from coatcheck.states import Mode


def test_accounts_are_named_as_the_postings_speak_of_them() -> None:
    assert [
        (account.name, account.kind.value)
        for account in (
            psp_receivable("adyen"),
            bank("main"),
            seller_pending("s1"),
            seller_available("s1"),
            seller_reserve("s1"),
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
        ("seller:s1:reserve", "seller_reserve"),
        ("payouts:in_transit:s1", "payouts_in_transit"),
        ("platform:commission", "platform_commission"),
        ("platform:psp_fees", "platform_psp_fees"),
        ("platform:dispute_fees", "platform_dispute_fees"),
        ("suspense:adyen", "suspense"),
    ]


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
