"""Checkout.com's Settlement Breakdown Report: the financial movements of a payout.

The deduction is what the fees of a movement come to, negative where they are taken from us: net = gross + deduction.
Amounts are decimal text in major units with more decimals than a currency has (a fee of 0.33333 USD). They are added up
exactly; what a line comes to in minor units is its part of the sum so far, rounded, so that the lines of a payout
together are never more than half a unit off the file, and a whole amount is never changed.

A movement without gross is a fee, whatever its type: the authorization of a charge, a void, a payout's own fee. Our
reference is the Reference, which every movement of a payment carries.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from coatcheck.reconciliation.lines import ControlTotal, FileRefusedError, Item, LineKind, SettlementLine
from coatcheck.reconciliation.reading import code_of, columns_of, exponent_of, minor_units, moment, whole_table

_NEEDED: Final = (
    "Type",
    "Payment ID",
    "Reference",
    "Processed On",
    "Holding Currency",
    "Payout ID",
    "Gross In Holding Currency",
    "Deduction In Holding Currency",
    "Net In Holding Currency",
    "Processing Currency",
    "Gross In Processing Currency",
)
_OPTIONAL: Final = (
    "Action ID",
    "Processed On UTC",
    "Timezone",
)
_MARKS: Final = frozenset({"Payout ID", "Gross In Holding Currency", "Net In Holding Currency", "Type"})

# By the type in lower case, and whether the gross is for us. What is not here is an adjustment that says its type.
_KINDS: Final = {
    ("charge", True): LineKind.CHARGE,
    ("partial charge", True): LineKind.CHARGE,
    ("capture", True): LineKind.CHARGE,
    ("partial capture", True): LineKind.CHARGE,
    ("refund", False): LineKind.REFUND,
    ("refund", True): LineKind.REFUND_RETURNED,
    ("partial refund", False): LineKind.REFUND,
    ("partial refund", True): LineKind.REFUND_RETURNED,
    ("chargeback", False): LineKind.CHARGEBACK,
    ("chargeback", True): LineKind.CHARGEBACK_REVERSED,
    ("merchant payout", False): LineKind.PAYOUT,
    ("merchant payout", True): LineKind.PAYOUT,
}
_WITH_TYPE: Final = frozenset({LineKind.FEE, LineKind.ADJUSTMENT})

_DECIMALS: Final = 12
_AMOUNT: Final = re.compile(rf"(-?)([0-9]{{1,15}})(?:\.([0-9]{{1,{_DECIMALS}}}))?").fullmatch
_LARGEST_MINOR: Final = 2**53 - 1
_SHORTEST_TIME: Final = len("2026-01-31T23:59:59")
_CENTURY: Final = "20"
_UTC_NAMES: Final = frozenset({"", "UTC", "ETC/UTC", "GMT", "Z"})


class CheckoutSettlementBreakdown:
    """The report of one payout or of several. `batch` is the Payout ID.

    Control totals: the lines of a payout against its row, where the file has one. Most files have not: Checkout.com
    states the amount paid out in another report, so a file that was cut between two rows is not found out here.
    """

    name = "checkout_settlement_breakdown"
    provider = "checkout"

    def recognises(self, head: str) -> bool:
        """Say whether the header is that of a Settlement Breakdown Report."""
        return _MARKS.issubset(columns_of(head))

    def read(self, chunks: Iterable[str]) -> Iterator[Item]:
        """Read the rows in the file's order, then the payouts' control totals."""
        table = whole_table(chunks, _NEEDED, _OPTIONAL)
        payouts: dict[tuple[str, str], _Payout] = {}
        for row in table.rows():
            yield _line_of(row, table.line_no, payouts)
        if not payouts:
            raise FileRefusedError("there are no rows below the header: there is nothing to take, or the file was cut")
        for (batch, currency), payout in payouts.items():
            if payout.paid_minor is not None:
                yield ControlTotal(
                    what=f"net of payout {batch}",
                    batch=batch,
                    currency=currency,
                    stated=-payout.paid_minor,
                    counted=payout.net_minor_beside(-payout.paid_minor),
                )


class _Payout:
    """The running sums of a payout's lines, in units of 10^-12, and what was given out of them in minor units."""

    def __init__(self, exponent: int) -> None:
        self.unit = 10 ** (_DECIMALS - exponent)
        self.paid_minor: int | None = None
        self._net = 0
        self._gross_left = 0
        self._net_left = 0

    def share(self, gross: int, net: int) -> tuple[int, int]:
        """Give a line's gross and net in minor units, and keep what rounding leaves for the next line."""
        self._net += net
        gross_minor, self._gross_left = self._rounded(self._gross_left + gross)
        net_minor, self._net_left = self._rounded(self._net_left + net)
        return gross_minor, net_minor

    def net_minor_beside(self, stated_minor: int) -> int:
        """Say what the lines come to: as stated when less than a minor unit apart, for fractions are not paid out."""
        if abs(stated_minor * self.unit - self._net) < self.unit:
            return stated_minor
        return self._rounded(self._net)[0]

    def _rounded(self, amount: int) -> tuple[int, int]:
        # Half down: what is left stays above -1/2 and up to 1/2, and does not move the whole amount of a later line.
        minor = -((self.unit - 2 * amount) // (2 * self.unit))
        return minor, amount - minor * self.unit


def _line_of(fields: list[str], line_no: int, payouts: dict[tuple[str, str], _Payout]) -> SettlementLine:
    type_name, charge, reference, processed, currency, batch, gross, deduction, net, *rest = fields
    asked_currency, asked, action, processed_utc, zone = rest
    currency, asked_currency = code_of(currency), code_of(asked_currency)
    if not (type_name and batch):
        raise FileRefusedError("Type and Payout ID must not be blank", line_no)
    payout = payouts.get((batch, currency))
    if payout is None:
        payout = payouts[batch, currency] = _Payout(exponent_of(currency, line_no))
    exact_gross, exact_net = _exactly(gross, line_no), _exactly(net, line_no)
    if exact_net != exact_gross + _exactly(deduction, line_no):
        raise FileRefusedError(f"net {net} is not gross {gross} plus deduction {deduction}", line_no)
    kind = _KINDS.get((type_name.lower(), exact_gross > 0), LineKind.ADJUSTMENT) if exact_gross else LineKind.FEE
    if kind is LineKind.PAYOUT:
        gross_minor, net_minor = minor_units(gross, currency, line_no), minor_units(net, currency, line_no)
        payout.paid_minor = (payout.paid_minor or 0) + net_minor
    else:
        gross_minor, net_minor = payout.share(exact_gross, exact_net)
    if max(abs(gross_minor), abs(net_minor)) > _LARGEST_MINOR:
        raise FileRefusedError(f"{gross!r} is larger than any amount can be", line_no)
    is_converted = bool(exact_gross) and asked_currency not in ("", currency)
    return SettlementLine(
        line_no=line_no,
        kind=kind,
        batch=batch,
        reference=reference or None,
        provider_reference=(charge if kind is LineKind.CHARGE else action or charge) or None,
        charge_reference=charge or None,
        occurred_at=_moment_of(processed, processed_utc, zone, line_no),
        currency=currency,
        gross_minor=gross_minor,
        fee_minor=gross_minor - net_minor,
        net_minor=net_minor,
        asked_minor=_asked_minor(asked, asked_currency, gross, line_no) if is_converted else None,
        asked_currency=asked_currency if is_converted else None,
        description=type_name if kind in _WITH_TYPE else None,
    )


def _asked_minor(asked: str, currency: str, gross: str, line_no: int) -> int:
    """Give what the buyer was charged, on the side of the line's gross."""
    minor = abs(minor_units(asked, currency, line_no))
    return -minor if gross.startswith("-") else minor


def _exactly(text: str, line_no: int) -> int:
    found = _AMOUNT(text)
    if found is None:
        raise FileRefusedError(f"{text!r} is no amount: digits with a decimal point are expected", line_no)
    sign, whole, decimals = found.groups("")
    amount = int(whole + decimals.ljust(_DECIMALS, "0"))
    return -amount if sign else amount


def _moment_of(processed: str, processed_utc: str, zone: str, line_no: int) -> datetime:
    if not processed_utc and zone.upper() not in _UTC_NAMES:
        raise FileRefusedError(
            f"Processed On is in {zone}, and Processed On UTC is not there: add that column to the report", line_no
        )
    return moment(processed_utc or processed, line_no, (_read_time,))


def _read_time(text: str) -> datetime:
    if len(text) < _SHORTEST_TIME or not text.startswith(_CENTURY):
        raise ValueError(text)
    return datetime.fromisoformat(text)
