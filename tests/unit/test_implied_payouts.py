"""Payouts without a line of their own: where a batch is a payout, its lines come to what was paid out."""

from datetime import UTC, datetime

from tests.unit.test_formats_stripe import CHARGE, COLUMNS, csv_of

from coatcheck.reconciliation.formats.stripe import StripeItemized
from coatcheck.reconciliation.implied import IMPLIED, with_implied_payouts
from coatcheck.reconciliation.lines import Item, LineKind, SettlementLine

SECOND = {"balance_transaction_id": "txn_2", "gross": "10.00", "fee": "0.50", "net": "9.50"}
PAYOUT = {"reporting_category": "payout", "gross": "-24.05", "fee": "0.00", "net": "-24.05", "source_id": "po_1"}


def read(text: str) -> list[Item]:
    return list(with_implied_payouts(StripeItemized(), StripeItemized().read(iter([text]))))


def payouts_of(text: str) -> list[SettlementLine]:
    return [item for item in read(text) if isinstance(item, SettlementLine) and item.kind is LineKind.PAYOUT]


def test_each_batch_and_currency_without_a_payout_was_paid_out_as_a_whole() -> None:
    euros = CHARGE | SECOND | {"automatic_payout_id": "po_0", "currency": "eur"}
    text = csv_of(CHARGE, CHARGE | SECOND | {"created_utc": "2026-01-30 23:59:59"}, euros)
    assert payouts_of(text) == [
        SettlementLine(
            line_no=line_no,
            kind=LineKind.PAYOUT,
            batch=batch,
            reference=None,
            provider_reference=batch,
            charge_reference=None,
            occurred_at=told_at,
            currency=currency,
            gross_minor=-minor,
            fee_minor=0,
            net_minor=-minor,
            description=IMPLIED,
        )
        for line_no, batch, currency, minor, told_at in (
            (5, "po_0", "EUR", 950, datetime(2026, 1, 30, 23, 11, 12, tzinfo=UTC)),
            (6, "po_1", "USD", 2405 + 950, datetime(2026, 1, 30, 23, 59, 59, tzinfo=UTC)),
        )
    ]


def test_a_file_with_rows_of_payouts_says_it_itself() -> None:
    other = CHARGE | SECOND | {"automatic_payout_id": "po_2"}
    (payout,) = payouts_of(csv_of(CHARGE, CHARGE | PAYOUT, other))
    assert (payout.batch, payout.description) == ("po_1", None)  # of po_2 its control total says that it is missing


def test_a_batch_that_comes_to_nothing_pays_nothing_out() -> None:
    back = CHARGE | SECOND | {"reporting_category": "refund", "gross": "-24.05", "fee": "0.00", "net": "-24.05"}
    assert payouts_of(csv_of(CHARGE, back)) == []


def test_a_day_of_activity_is_no_payout() -> None:
    columns = [name for name in COLUMNS if name != "automatic_payout_id"]
    assert payouts_of(csv_of(CHARGE, columns=columns)) == []
