"""PayPal's Settlement Report (STL): sections of an account and a day, each closed by totals and a count.

| row | what it is |
|---|---|
| RH, FH | header of the report and of the file, with the file's number in the report |
| SH, CH | header of a section (period, account), and the names of its columns |
| SB | one movement |
| SF, SC | footer of a section: totals of a currency, one row for each; the count of its movements |
| RF, RC, FF | the same over the report; the count of the file |

Every row must be where it belongs and no footer may be missing, so a file that was cut is always found out.

Amounts are in hundredths of the currency's unit, whatever decimals it has: 15000 JPY are 150 yen. There are no signs;
CR and DR tell what is for us. Our reference is the Invoice ID.

A conversion is two movements, T02nn, one in each currency: the one is taken and the other given. Both carry the id of
what was converted, so that is their charge.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from operator import itemgetter
from typing import Final

import msgspec

from coatcheck.reconciliation.lines import ControlTotal, FileRefusedError, Item, LineKind, SettlementLine
from coatcheck.reconciliation.reading import code_of, exponent_of, lines_of, moment

# Compared without blanks and in lower case: an older layout writes TransactionID, some write two blanks.
_READ: Final = (
    "Transaction ID",
    "Invoice ID",
    "PayPal Reference ID",
    "PayPal Reference ID Type",
    "Transaction Event Code",
    "Transaction Initiation Date",
    "Transaction Debit or Credit",
    "Gross Transaction Amount",
    "Gross Transaction Currency",
    "Fee Debit or Credit",
    "Fee Amount",
    "Fee Currency",
)
_PLACES_OF_TOTALS: Final = {"gross credits": 2, "gross debits": 3, "fee credits": 4, "fee debits": 5}

_NEXT: Final = {
    "": ("RH",),
    "RH": ("FH",),
    "FH": ("SH", "RF", "RC"),
    "SH": ("CH",),
    "CH": ("SB", "SF", "SC"),
    "SB": ("SB", "SF", "SC"),
    "SF": ("SF", "SC"),
    "SC": ("SH", "RF", "RC"),
    "RF": ("RF", "RC"),
    "RC": ("FF",),
    "FF": (),
}

# By the event code, or else its group, and the side. PayPal adds codes over time; what is neither here nor there is an
# adjustment that says its code.
_KINDS: Final = {
    ("T1106", "DR"): LineKind.CHARGEBACK,
    ("T1107", "DR"): LineKind.REFUND,
    ("T1108", "CR"): LineKind.FEE,
    ("T1108", "DR"): LineKind.FEE,
    ("T1109", "CR"): LineKind.FEE,
    ("T1109", "DR"): LineKind.FEE,
    ("T1201", "DR"): LineKind.CHARGEBACK,
    ("T1202", "CR"): LineKind.CHARGEBACK_REVERSED,
    ("T00", "CR"): LineKind.CHARGE,
    ("T01", "CR"): LineKind.FEE,
    ("T01", "DR"): LineKind.FEE,
    ("T02", "CR"): LineKind.CONVERSION,
    ("T02", "DR"): LineKind.CONVERSION,
    ("T04", "DR"): LineKind.PAYOUT,
}
_WITH_CODE: Final = frozenset({LineKind.FEE, LineKind.ADJUSTMENT})
_ABOUT_ANOTHER: Final = frozenset(
    {LineKind.REFUND, LineKind.CHARGEBACK, LineKind.CHARGEBACK_REVERSED, LineKind.CONVERSION}
)
_SIGNS: Final = {"CR": 1, "DR": -1}

_CODE: Final = re.compile(r"T[0-9]{4}").fullmatch
_AMOUNT: Final = re.compile(r"[0-9]{1,14}").fullmatch
_COUNT: Final = re.compile(r"[0-9]{1,9}").fullmatch
_DAY: Final = re.compile(r"([0-9]{4})/([0-9]{2})/([0-9]{2}) ").match
_LONGEST_HEADERS: Final = 1 << 16
_TIME_LENGTH: Final = len("2026/01/31 23:59:59 -0800")
_CENTURY: Final = "20"

_Row = list[str]


class PayPalSettlement:
    """The daily report of one account or several. `batch` is the account and the section's first day.

    PayPal pays out by withdrawals, which stand among the movements and have no lines of their own. Control totals: each
    footer's gross and fees, credits and debits, and each count. The balances in the footers are not read.
    """

    name = "paypal_stl"
    provider = "paypal"

    def recognises(self, head: str) -> bool:
        """Say whether the file begins like a Settlement Report: PayPal's other reports differ in the columns only."""
        rows = csv.reader(head[:_LONGEST_HEADERS].splitlines())
        if next(rows, [""])[:1] != ["RH"]:
            return False
        names = next(({_plain(name) for name in row} for row in rows if row[:1] == ["CH"]), set())
        return {_plain(name) for name in _READ} <= names and not any("status" in name for name in names)

    def read(self, chunks: Iterable[str]) -> Iterator[Item]:
        """Read the rows in the file's order, each footer's totals where the footer stands."""
        report = _Report()
        before = ""
        for row, line_no in _rows(chunks):
            kind = row[0]
            if kind not in _NEXT[before]:
                raise FileRefusedError(_misplaced(kind, before), line_no)
            before = kind
            if kind == "SB":
                yield report.section.line_of(row, line_no)
            else:
                yield from report.turn(row, line_no)
        if before != "FF":
            raise FileRefusedError(f"the file ends after {before or 'nothing'}: its footers are missing, so it was cut")


def _plain(name: str) -> str:
    return "".join(name.split()).lower()


def _rows(chunks: Iterable[str]) -> Iterator[tuple[_Row, int]]:
    rows = csv.reader(lines_of(chunks), strict=True)
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise FileRefusedError(f"it is not CSV ({error})", rows.line_num) from error
        if row is None:
            return
        if row:
            yield row, rows.line_num


def _misplaced(kind: str, before: str) -> str:
    if kind not in _NEXT or not kind:
        return f"{kind!r} is no kind of row that a Settlement Report has"
    if kind == "FF" and before == "SC":
        return "the report goes on in another file: only a report in one file can be read"
    return f"a row {kind} cannot follow {before or 'nothing'}: rows are missing, or not in their order"


class _Sums:
    """What some movements add up to, by currency: gross credits and debits, fee credits and debits; and their count."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.by_currency: dict[str, list[int]] = {}
        self._closed: set[str] = set()

    def totals(self, row: _Row, batch: str | None, line_no: int) -> Iterator[ControlTotal]:
        """Hold a footer against the sums of its currency."""
        if len(row) <= max(_PLACES_OF_TOTALS.values()):
            raise FileRefusedError(f"a footer has at least six fields, this one has {len(row)}", line_no)
        currency = code_of(row[1])
        if currency in self._closed:
            raise FileRefusedError(f"{self.name} already has a footer for {currency}", line_no)
        self._closed.add(currency)
        counted = self.by_currency.get(currency, [0, 0, 0, 0])
        for (what, place), sum_minor in zip(_PLACES_OF_TOTALS.items(), counted, strict=True):
            stated = _minor(row[place], currency, line_no)
            yield ControlTotal(
                what=f"{what} of {self.name}", batch=batch, currency=currency, stated=stated, counted=sum_minor
            )

    def rows(self, row: _Row, batch: str | None, line_no: int) -> ControlTotal:
        """Hold a count against the rows seen."""
        if len(row) < 2 or _COUNT(row[1]) is None:  # noqa: PLR2004 - the kind of the row and the count
            raise FileRefusedError(f"a row {row[0]} says a number of rows", line_no)
        return ControlTotal(
            what=f"rows of {self.name}", batch=batch, currency=None, stated=int(row[1]), counted=self.count
        )

    def require_footers(self, line_no: int) -> None:
        missing = sorted(self.by_currency.keys() - self._closed)
        if missing:
            raise FileRefusedError(f"{self.name} has movements in {missing[0]} and no footer for it", line_no)

    def take(self, other: "_Sums") -> None:
        self.count += other.count
        for currency, sums in other.by_currency.items():
            mine = self.by_currency.get(currency, [0, 0, 0, 0])
            self.by_currency[currency] = [each + more for each, more in zip(mine, sums, strict=True)]


class _Section(_Sums):
    """A section: whose it is, and how its rows are read."""

    def __init__(self, number: int, row: _Row, line_no: int) -> None:
        super().__init__(f"section {number}")
        day = _DAY(row[1]) if len(row) > 3 else None  # noqa: PLR2004 - kind, start, end, account
        if day is None or not row[3]:
            raise FileRefusedError("a row SH says the period (YYYY/MM/DD ...) and the account", line_no)
        self.batch = f"{row[3]} {'-'.join(day.groups())}"
        self._width = 0
        self._pick: Callable[[_Row], tuple[str, ...]] = tuple

    def columns(self, row: _Row, line_no: int) -> None:
        names = [_plain(name) for name in row]
        for name in _READ:
            if names.count(_plain(name)) != 1:
                said = "lacks the column" if _plain(name) not in names else "has more than once the column"
                raise FileRefusedError(f"the section's header {said} {name!r}", line_no)
        self._width = len(row)
        self._pick = itemgetter(*[names.index(_plain(name)) for name in _READ])

    def line_of(self, row: _Row, line_no: int) -> SettlementLine:
        if len(row) != self._width:
            raise FileRefusedError(
                f"it has {len(row)} fields where the header has {self._width}: the file was cut or damaged", line_no
            )
        own, invoice, other, other_type, code, begun, side, gross, currency, *fees = self._pick(row)
        currency = code_of(currency)
        gross_minor = _signed(gross, side, currency, line_no)
        fee_minor = _fee_of(fees, currency, line_no)
        self._count_in(currency, gross_minor, fee_minor)
        if _CODE(code) is None:
            raise FileRefusedError(f"{code!r} is no event code, such as T0006", line_no)
        kind = _KINDS.get((code, side)) or _KINDS.get((code[:3], side), LineKind.ADJUSTMENT)
        about = other if kind in _ABOUT_ANOTHER and other_type == "TXN" else None
        return SettlementLine(
            line_no=line_no,
            kind=kind,
            batch=self.batch,
            reference=invoice or None,
            provider_reference=own or None,
            charge_reference=(own if kind is LineKind.CHARGE else about) or None,
            occurred_at=moment(begun, line_no, (_read_time,)),
            currency=currency,
            gross_minor=gross_minor,
            fee_minor=fee_minor,
            net_minor=gross_minor - fee_minor,
            description=code if kind in _WITH_CODE else None,
        )

    def _count_in(self, currency: str, gross_minor: int, fee_minor: int) -> None:
        self.count += 1
        sums = self.by_currency.get(currency)
        if sums is None:
            sums = self.by_currency[currency] = [0, 0, 0, 0]
        sums[gross_minor < 0] += abs(gross_minor)
        sums[2 + (fee_minor > 0)] += abs(fee_minor)


class _Report(_Sums):
    """The sections of a report, and the footers over all of them."""

    def __init__(self) -> None:
        super().__init__("the report")
        self.section: _Section
        self._sections = 0

    def turn(self, row: _Row, line_no: int) -> Iterator[ControlTotal]:
        """Take a header, or give a footer's totals."""
        match row[0]:
            case "FH" if len(row) < 2 or _COUNT(row[1]) is None or int(row[1]) != 1:  # noqa: PLR2004 - kind, number
                raise FileRefusedError(
                    "it is a further file of its report: only a report in one file can be read", line_no
                )
            case "SH":
                self._sections += 1
                self.section = _Section(self._sections, row, line_no)
            case "CH":
                self.section.columns(row, line_no)
            case "SF":
                yield from self.section.totals(row, self.section.batch, line_no)
            case "SC":
                self.section.require_footers(line_no)
                self.take(self.section)
                yield self.section.rows(row, self.section.batch, line_no)
            case "RF":
                yield from self.totals(row, None, line_no)
            case "RC":
                self.require_footers(line_no)
                yield self.rows(row, None, line_no)
            case "FF":
                yield msgspec.structs.replace(self.rows(row, None, line_no), what="rows of the file")


def _fee_of(fees: list[str], currency: str, line_no: int) -> int:
    """Give what PayPal took, above zero; blank where there is no fee."""
    side, fee, fee_currency = fees
    if not fee:
        return 0
    fee_minor = -_signed(fee, side, currency, line_no)
    if fee_minor and code_of(fee_currency) != currency:
        raise FileRefusedError(f"its fee is in {fee_currency} and its gross in {currency}", line_no)
    return fee_minor


def _signed(text: str, side: str, currency: str, line_no: int) -> int:
    minor = _minor(text, currency, line_no)
    sign = _SIGNS.get(side)
    if sign is None and minor:
        raise FileRefusedError(f"{side!r} is neither CR nor DR", line_no)
    return minor * (sign or 1)


def _minor(text: str, currency: str, line_no: int) -> int:
    if _AMOUNT(text) is None:
        raise FileRefusedError(f"{text!r} is no amount: hundredths without sign or point are expected", line_no)
    minor, rest = divmod(int(text) * int(10 ** exponent_of(currency, line_no)), 100)
    if rest:
        raise FileRefusedError(f"{text} hundredths of {currency} are no whole amount: it has no decimals", line_no)
    return minor


def _read_time(text: str) -> datetime:
    # 2026/01/31 23:59:59 -0800
    if len(text) != _TIME_LENGTH or text[4] + text[7] + text[19] != "// " or not text.startswith(_CENTURY):
        raise ValueError(text)
    return datetime.fromisoformat(f"{text[:4]}-{text[5:7]}-{text[8:19]}{text[20:]}")
