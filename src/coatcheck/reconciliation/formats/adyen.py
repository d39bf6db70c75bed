"""Adyen's Settlement Detail Report: what a closed batch of a merchant account is made of, and its payout.

Read are the columns that the 30-column layout and that of 2025 have in common, by name, in whatever order, and two more
of the second. Debit and credit are columns of their own, without signs, and what is not there is left blank. Fees are
in the net currency: one commission, or markup, scheme fees and interchange; of a refund or chargeback they come on top.
Payment Fees is the sum of these four, so it counts only where they are blank. DCC Markup is a further fee, and below
zero it is for us; whether the net has it in, net and gross show.

Amounts are decimal text in major units, so what Adyen's API counts differently from ISO 4217 (CLP, CVE, IDR, ISK) needs
no table here: the decimals are read as written, and one that ISO has no unit for is refused.

Our reference: of a capture or refund the Modification Merchant Reference, of a charge the Merchant Reference. A
chargeback has none of its own and carries that of its charge; a refund without one carries none.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

from coatcheck.money import format_amount
from coatcheck.reconciliation.lines import ControlTotal, FileRefusedError, Item, LineKind, SettlementLine
from coatcheck.reconciliation.reading import code_of, columns_of, minor_units, moment, whole_table

_NEEDED: Final = (
    "Merchant Account",
    "Psp Reference",
    "Merchant Reference",
    "Creation Date",
    "TimeZone",
    "Type",
    "Modification Reference",
    "Gross Currency",
    "Gross Debit (GC)",
    "Gross Credit (GC)",
    "Net Currency",
    "Net Debit (NC)",
    "Net Credit (NC)",
    "Commission (NC)",
    "Markup (NC)",
    "Scheme Fees (NC)",
    "Interchange (NC)",
    "Batch Number",
)
_OPTIONAL: Final = ("Modification Merchant Reference", "DCC Markup (NC)", "Payment Fees (NC)")
_MARKS: Final = frozenset({"Psp Reference", "Modification Reference", "Net Debit (NC)", "Net Credit (NC)", "Type"})

# By the type in lower case. Adyen adds types over time; what is not here is an adjustment that says its type.
_KINDS: Final = {
    "settled": LineKind.CHARGE,
    "settledbulk": LineKind.CHARGE,
    "settledinstallment": LineKind.CHARGE,
    "refunded": LineKind.REFUND,
    "refundedbulk": LineKind.REFUND,
    "refundedreversed": LineKind.REFUND_RETURNED,
    "chargeback": LineKind.CHARGEBACK,
    "secondchargeback": LineKind.CHARGEBACK,
    "chargebackreversed": LineKind.CHARGEBACK_REVERSED,
    "fee": LineKind.FEE,
    "misccosts": LineKind.FEE,
    "paymentcost": LineKind.FEE,
    "invoicededuction": LineKind.FEE,
    "merchantpayout": LineKind.PAYOUT,
}
_OF_REFUNDS: Final = frozenset({LineKind.REFUND, LineKind.REFUND_RETURNED})
_WITH_TYPE: Final = frozenset({LineKind.FEE, LineKind.ADJUSTMENT})
# A batch is closed by its payout, or by moving what is left to the next one. A type that is not known may be such a
# move; these are not.
_LEAVE_OPEN: Final = frozenset({"depositcorrection", "manualcorrected"})

# Adyen gives the zone as an abbreviation that already tells summer from winter. Two are left out because they mean
# different offsets to different accounts: CST (Chicago, Shanghai) and IST (Dublin, Jerusalem, Kolkata).
_HOURS_FROM_UTC: Final = {
    "UTC": 0,
    "GMT": 0,
    "WET": 0,
    "WEST": 1,
    "BST": 1,
    "CET": 1,
    "CEST": 2,
    "EET": 2,
    "EEST": 3,
    "SAST": 2,
    "MSK": 3,
    "GST": 4,
    "SGT": 8,
    "HKT": 8,
    "AWST": 8,
    "JST": 9,
    "KST": 9,
    "AEST": 10,
    "AEDT": 11,
    "NZST": 12,
    "NZDT": 13,
    "BRT": -3,
    "ART": -3,
    "EDT": -4,
    "EST": -5,
    "CDT": -5,
    "MDT": -6,
    "MST": -7,
    "PDT": -7,
    "PST": -8,
}
_OFFSETS: Final = {zone: timedelta(hours=hours) for zone, hours in _HOURS_FROM_UTC.items()}
_PAYOUT_NUMBER: Final = re.compile(r"TX[0-9][0-9A-Z]*\b").match
_TIME_LENGTH: Final = len("2026-01-31 23:59:59")
_CENTURY: Final = "20"


class AdyenSettlementDetail:
    """The report of one or several merchant accounts. `batch` is the merchant account and its batch number.

    Control totals: the lines of a batch against its payout. A batch without one must come to nothing, as one does whose
    negative balance was moved to the next. Where nothing could have closed it, its end is missing.
    """

    name = "adyen_settlement_detail"
    provider = "adyen"

    def recognises(self, head: str) -> bool:
        """Say whether the header is that of a Settlement Detail Report."""
        return _MARKS.issubset(columns_of(head))

    def read(self, chunks: Iterable[str]) -> Iterator[Item]:
        """Read the rows in the file's order, then the batches' control totals."""
        table = whole_table(chunks, _NEEDED, _OPTIONAL)
        batches: dict[tuple[str, str], list[int]] = {}
        closed = set[str]()
        for row in table.rows():
            line = _line_of(row, table.line_no)
            sums = batches.setdefault((line.batch, line.currency), [0, 0])
            sums[line.kind is LineKind.PAYOUT] += line.net_minor
            if _may_close(line):
                closed.add(line.batch)
            yield line
        if not batches:
            raise FileRefusedError("there are no rows below the header: there is nothing to take, or the file was cut")
        for (batch, currency), (lines, payouts) in batches.items():
            if lines and batch not in closed:
                raise FileRefusedError(
                    f"batch {batch} comes to {format_amount(lines, currency)} {currency}, and its payout is missing: "
                    "the file was cut, or the batch is not closed yet; fetch it again",
                    table.line_no,
                )
            yield ControlTotal(
                what=f"payout of batch {batch}", batch=batch, currency=currency, stated=-payouts, counted=lines
            )


def _may_close(line: SettlementLine) -> bool:
    if line.kind is LineKind.ADJUSTMENT:
        return line.description is not None and line.description.lower() not in _LEAVE_OPEN
    return line.kind is LineKind.PAYOUT


def _line_of(fields: list[str], line_no: int) -> SettlementLine:
    account, charge, reference, created, zone, type_name, modification, *rest = fields
    *amounts, batch, modified_reference, dcc_markup, all_fees = rest
    if not (account and type_name and batch):
        raise FileRefusedError("Merchant Account, Type and Batch Number must not be blank", line_no)
    kind = _KINDS.get(type_name.lower(), LineKind.ADJUSTMENT)
    currency, net_minor, fee_minor, asked_minor, asked_currency = _amounts_of([*amounts, dcc_markup, all_fees], line_no)
    # Also what was captured by itself has a modification, but none that we asked for and know.
    is_plain_charge = kind is LineKind.CHARGE and not modified_reference
    return SettlementLine(
        line_no=line_no,
        kind=kind,
        batch=f"{account} {batch}",
        reference=(modified_reference if kind in _OF_REFUNDS else modified_reference or reference) or None,
        provider_reference=(charge if is_plain_charge else _name_of(modification, kind) or charge) or None,
        charge_reference=charge or None,
        occurred_at=_moment_of(created, zone, line_no),
        currency=currency,
        gross_minor=net_minor + fee_minor,
        fee_minor=fee_minor,
        net_minor=net_minor,
        asked_minor=asked_minor,
        asked_currency=asked_currency,
        description=type_name if kind in _WITH_TYPE else None,
    )


def _name_of(modification: str, kind: LineKind) -> str:
    """Name what was done. A payout's text begins with the word that a bank's statement has of it: TX and a number."""
    number = _PAYOUT_NUMBER(modification) if kind is LineKind.PAYOUT else None
    return modification if number is None else number[0]


def _amounts_of(amounts: list[str], line_no: int) -> tuple[str, int, int, int | None, str | None]:
    """Give currency, net and fee, and what was asked where that was another currency.

    The gross of the line is in the currency of the payment. Where that is also the net's, net = gross - fee is checked;
    where Adyen converted it, the gross in our currency is only known as net + fee.
    """
    asked_currency, debit, credit, currency, net_debit, net_credit, *fees = amounts
    asked_currency, currency = code_of(asked_currency), code_of(currency)
    if not (debit or credit or net_debit or net_credit):
        raise FileRefusedError("it has no amount at all", line_no)
    net_minor = _signed(net_debit, net_credit, currency, line_no)
    fee_minor, dcc_minor = _fees_of(fees, currency, line_no)
    if not (debit or credit):
        return currency, net_minor, fee_minor + dcc_minor, None, None
    asked_minor = _signed(debit, credit, asked_currency, line_no)
    if asked_currency == currency:
        if asked_minor - net_minor not in (fee_minor + dcc_minor, fee_minor):
            net, gross = format_amount(net_minor, currency), format_amount(asked_minor, currency)
            fees_text = format_amount(fee_minor + dcc_minor, currency)
            raise FileRefusedError(f"net {net} is not gross {gross} minus fees {fees_text}", line_no)
        return currency, net_minor, asked_minor - net_minor, None, None
    if asked_minor * (net_minor + fee_minor + dcc_minor) < 0:
        raise FileRefusedError(f"the gross in {asked_currency} and in {currency} are not on the same side", line_no)
    return currency, net_minor, fee_minor + dcc_minor, asked_minor, asked_currency


def _fees_of(fees: list[str], currency: str, line_no: int) -> tuple[int, int]:
    """Give the fees, and the markup of a conversion for the shopper."""
    *parts, dcc_markup, all_fees = fees
    named = parts if any(parts) else [all_fees]
    fee_minor = sum([minor_units(fee, currency, line_no) for fee in named if fee])
    return fee_minor, minor_units(dcc_markup, currency, line_no) if dcc_markup else 0


def _signed(debit: str, credit: str, currency: str, line_no: int) -> int:
    if debit.startswith("-") or credit.startswith("-"):
        raise FileRefusedError("debit and credit are written without a sign", line_no)
    debit_minor = minor_units(debit, currency, line_no) if debit else 0
    credit_minor = minor_units(credit, currency, line_no) if credit else 0
    if debit_minor and credit_minor:
        raise FileRefusedError(f"it has both a debit {debit} and a credit {credit}", line_no)
    return credit_minor - debit_minor


def _moment_of(created: str, zone: str, line_no: int) -> datetime:
    offset = _OFFSETS.get(zone)
    if offset is None:
        raise FileRefusedError(
            f"the TimeZone {zone!r} does not say which offset is meant: set the account's reports to UTC or to another "
            "zone that does",
            line_no,
        )
    return moment(created, line_no, (_read_time,)) - offset


def _read_time(text: str) -> datetime:
    if len(text) != _TIME_LENGTH or not text.startswith(_CENTURY):
        raise ValueError(text)
    return datetime.fromisoformat(f"{text}+00:00")
