"""Stripe's itemized reports, `payout_reconciliation` and `balance_change_from_activity`: a row per balance transaction.

They differ in what a file is whole of. The first has whole payouts, and every row says which. The second has whole
days, and its payouts are cut off at both ends. So a file with the column automatic_payout_id is read as the first, and
each row must have it filled; one without is read as the second, in batches by the day that the report counted.

Amounts are decimal text in major units, so what Stripe's API counts differently from ISO 4217 (ISK, UGX, MGA) needs no
table here: the decimals are read as written, and one that ISO has no unit for is refused.

A partial capture is two rows: a `charge` of the whole authorization, and a `partial_capture_reversal` of what was not
captured, with a negative gross and a negative fee. Both are CHARGE lines of the same charge_reference, so that a sum
over the CHARGE lines of a charge_reference is what was captured and what it cost.

Our reference is in the metadata that the provider's module writes: on a PaymentIntent the charge's and, once captured,
the capture's; on a Refund its own, and on a Transfer, by which sellers are paid, the payout's. A chargeback has none of
its own and carries that of its charge, a reversal that of its Transfer. The PSP's id of a charge or capture is that of
its PaymentIntent, the one the gateway stores.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from coatcheck.providers.stripe_words import CAPTURE_KEY, REFERENCE_KEY
from coatcheck.reconciliation.lines import ControlTotal, FileRefusedError, Item, LineKind, SettlementLine
from coatcheck.reconciliation.reading import code_of, columns_of, minor_units, moment, whole_table

_PAYOUT_COLUMN: Final = "automatic_payout_id"
_NEEDED: Final = (
    "balance_transaction_id",
    "created_utc",
    "currency",
    "gross",
    "fee",
    "net",
    "reporting_category",
    "source_id",
)
_OPTIONAL: Final = (
    _PAYOUT_COLUMN,
    "created",
    "payment_intent_id",
    "charge_id",
    "description",
    "customer_facing_amount",
    "customer_facing_currency",
    f"payment_metadata[{REFERENCE_KEY}]",
    f"payment_metadata[{CAPTURE_KEY}]",
    f"refund_metadata[{REFERENCE_KEY}]",
    f"transfer_metadata[{REFERENCE_KEY}]",
)
_MARKS: Final = frozenset({"balance_transaction_id", "reporting_category", "gross", "fee", "net"})

# Stripe adds categories over time; what is not here is an adjustment that says its category.
_KINDS: Final = {
    "charge": LineKind.CHARGE,
    "partial_capture_reversal": LineKind.CHARGE,
    "refund": LineKind.REFUND,
    "refund_failure": LineKind.REFUND_RETURNED,
    "dispute": LineKind.CHARGEBACK,
    "dispute_reversal": LineKind.CHARGEBACK_REVERSED,
    "fee": LineKind.FEE,
    "network_cost": LineKind.FEE,
    "payout": LineKind.PAYOUT,
    "transfer": LineKind.SELLER_PAYOUT,  # to a connected account
    "transfer_reversal": LineKind.SELLER_PAYOUT_RETURNED,
}
_OF_REFUNDS: Final = frozenset({LineKind.REFUND, LineKind.REFUND_RETURNED})
_OF_PAYOUTS: Final = frozenset({LineKind.SELLER_PAYOUT, LineKind.SELLER_PAYOUT_RETURNED})
_TIME_LENGTH: Final = len("2026-01-31 23:59:59")
_CENTURY: Final = "20"


class StripeItemized:
    """Either itemized report, with whatever columns were chosen as long as the needed ones are among them.

    `batch` is the automatic payout, or a day of activity. Control totals: the net of each payout, where the file has
    rows of payouts.
    """

    name = "stripe_itemized"
    provider = "stripe"

    def recognises(self, head: str) -> bool:
        """Say whether the header is that of an itemized report."""
        return _MARKS.issubset(columns_of(head))

    def read(self, chunks: Iterable[str]) -> Iterator[Item]:
        """Read the rows in the file's order, then the payouts' control totals."""
        table = whole_table(chunks, _NEEDED, _OPTIONAL)
        has_payouts = table.has(_PAYOUT_COLUMN)
        batches = _Batches()
        for row in table.rows():
            line = _line_of(row, table.line_no, has_payouts=has_payouts)
            batches.add(line)
            yield line
        if batches.are_none:
            raise FileRefusedError("there are no rows below the header: there is nothing to take, or the file was cut")
        if has_payouts:
            yield from batches.totals()


def _line_of(fields: list[str], line_no: int, *, has_payouts: bool) -> SettlementLine:
    transaction, created_utc, currency, gross, fee, net, category, source, payout, created, *rest = fields
    intent, charge, description, asked, asked_currency, operation, capture, refund, transfer = rest
    if not category:
        raise FileRefusedError("it has no reporting_category", line_no)
    currency, kind = code_of(currency), _KINDS.get(category, LineKind.ADJUSTMENT)
    gross_minor = minor_units(gross, currency, line_no)
    fee_minor = minor_units(fee, currency, line_no)
    net_minor = minor_units(net, currency, line_no)
    if net_minor != gross_minor - fee_minor:
        raise FileRefusedError(f"net {net} is not gross {gross} minus fee {fee}", line_no)
    asked_currency = code_of(asked_currency) if asked else ""
    is_converted = asked_currency not in ("", currency)
    is_charge = kind is LineKind.CHARGE
    own = refund if kind in _OF_REFUNDS else transfer if kind in _OF_PAYOUTS else capture or operation
    return SettlementLine(
        line_no=line_no,
        kind=kind,
        batch=(_payout_of(payout, source, kind, line_no) if has_payouts else _day_of(created or created_utc, line_no)),
        reference=own or None,
        provider_reference=(intent if is_charge and intent else source or transaction) or None,
        charge_reference=intent or charge or None,
        occurred_at=moment(created_utc, line_no, (_read_time,)),
        currency=currency,
        gross_minor=gross_minor,
        fee_minor=fee_minor,
        net_minor=net_minor,
        asked_minor=minor_units(asked, asked_currency, line_no) if is_converted else None,
        asked_currency=asked_currency if is_converted else None,
        description=_description_of(kind, category, description),
    )


def _payout_of(payout: str, source: str, kind: LineKind, line_no: int) -> str:
    batch = payout or (source if kind is LineKind.PAYOUT else "")
    if not batch:
        raise FileRefusedError(
            f"it has no {_PAYOUT_COLUMN}, so this is no payout reconciliation; a report of activity is read by days, "
            "without that column: take it out of the report",
            line_no,
        )
    return batch


def _day_of(created: str, line_no: int) -> str:
    moment(created, line_no, (_read_time,))
    return f"activity {created[:10]}"


def _description_of(kind: LineKind, category: str, description: str) -> str | None:
    if kind is LineKind.ADJUSTMENT:
        return category
    return (description or category) if kind is LineKind.FEE else None


def _read_time(text: str) -> datetime:
    if len(text) != _TIME_LENGTH or not text.startswith(_CENTURY):
        raise ValueError(text)
    return datetime.fromisoformat(f"{text}+00:00")


class _Batches:
    """Running sums of each payout's lines, and what its own row says.

    A report either has the rows of payouts or has not. Where it has some, a payout without a row is one whose row was
    lost, so its total cannot hold.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], int] = {}
        self._paid: dict[tuple[str, str], int] = {}

    @property
    def are_none(self) -> bool:
        return not (self._lines or self._paid)

    def add(self, line: SettlementLine) -> None:
        sums = self._paid if line.kind is LineKind.PAYOUT else self._lines
        key = (line.batch, line.currency)
        sums[key] = sums.get(key, 0) + line.net_minor

    def totals(self) -> Iterator[ControlTotal]:
        if not self._paid:
            return
        for key in {**self._lines, **self._paid}:
            batch, currency = key
            row = "" if key in self._paid else ", of which there is no row"
            yield ControlTotal(
                what=f"net of payout {batch}{row}",
                batch=batch,
                currency=currency,
                stated=-self._paid.get(key, 0),
                counted=self._lines.get(key, 0),
            )
