"""The settlement file of the PSP simulator: one batch, one currency, and a last line with the totals.

The columns may stand in any order. Wherever the last line is cut, what it says does not fit the lines any more; only a
number of lines that lost its end would still be one, so where that column stands last the line must have its end.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Final

from coatcheck.reconciliation.lines import ControlTotal, FileRefusedError, Item, LineKind, SettlementLine
from coatcheck.reconciliation.reading import code_of, columns_of, minor_units, moment, whole_table

_COLUMNS: Final = (
    *("batch", "line", "type", "id", "charge", "reference", "occurred_at", "currency", "gross", "fee", "net"),
)
_KINDS: Final = {
    "charge": LineKind.CHARGE,
    "capture": LineKind.CHARGE,
    "refund": LineKind.REFUND,
    "refund_returned": LineKind.REFUND_RETURNED,
    "chargeback": LineKind.CHARGEBACK,
    "chargeback_reversed": LineKind.CHARGEBACK_REVERSED,
    "fee": LineKind.FEE,
    "payout": LineKind.PAYOUT,
}
_COUNT: Final = re.compile("[0-9]{1,15}").fullmatch
_CHECKED: Final = tuple(name for name in _COLUMNS if name != "line")
_TIMES: Final = (datetime.fromisoformat,)


class SimulatorFormat:
    """The simulator's file. What is paid out stands on a line of its own, below what it is paid for."""

    name = "simulator"
    provider = "simulator"

    def recognises(self, head: str) -> bool:
        """Say whether the header is that of the simulator's file."""
        return set(_COLUMNS).issubset(columns_of(head))

    def read(self, chunks: Iterator[str]) -> Iterator[Item]:
        """Yield the lines, the payout's total, and at the end the file's own totals."""
        table = whole_table(chunks, _COLUMNS, checked=_CHECKED)
        counted = _Counted()
        for row in table.rows():
            if counted.is_over:
                raise FileRefusedError("a line follows the last one, which is 'end'", table.line_no)
            if row[2] == "end":
                yield from counted.end(row, table.line_no)
                continue
            line = _line_of(row, table.line_no)
            total = counted.add(line)
            if total is not None:
                yield total
            yield line
        if not counted.is_over:
            raise FileRefusedError("the last line, 'end', is missing: the file was cut; fetch it again")


def _line_of(row: list[str], line_no: int) -> SettlementLine:
    batch, _, kind, thing, charge, reference, occurred_at, currency, gross, fee, net = row
    known, currency = _KINDS.get(kind), code_of(currency)
    if known is None:
        raise FileRefusedError(f"{kind!r} is no type of this format", line_no)
    line = SettlementLine(
        line_no=line_no,
        kind=known,
        batch=batch,
        reference=reference or None,
        provider_reference=thing or None,
        charge_reference=charge or None,
        occurred_at=_time_of(occurred_at, line_no),
        currency=currency,
        gross_minor=minor_units(gross, currency, line_no),
        fee_minor=minor_units(fee, currency, line_no),
        net_minor=minor_units(net, currency, line_no),
    )
    if line.gross_minor - line.fee_minor != line.net_minor:
        raise FileRefusedError(f"gross {gross} less fee {fee} is not net {net}", line_no)
    return line


def _time_of(text: str, line_no: int) -> datetime:
    try:
        return _known_time(text)
    except FileRefusedError:
        return moment(text, line_no, _TIMES)


@lru_cache(maxsize=4_096)  # many lines of a file are of the same second
def _known_time(text: str) -> datetime:
    return moment(text, 0, _TIMES)


class _Counted:
    """What the lines have come to so far."""

    def __init__(self) -> None:
        self.is_over = False
        self._lines = 0
        self._gross = self._fee = 0
        self._batch: str | None = None
        self._currency: str | None = None

    def add(self, line: SettlementLine) -> ControlTotal | None:
        """Count a line; a payout is compared with what came before it."""
        is_first = self._batch is None
        if not is_first and (self._batch != line.batch or self._currency != line.currency):
            raise FileRefusedError("it is of another batch or currency than the lines before it", line.line_no)
        self._batch, self._currency = line.batch, line.currency
        self._lines += 1
        if line.kind is LineKind.PAYOUT:
            return self._total(f"payout {line.provider_reference}", -line.net_minor, self._gross - self._fee)
        self._gross += line.gross_minor
        self._fee += line.fee_minor
        return None

    def end(self, row: list[str], line_no: int) -> Iterator[ControlTotal]:
        """Compare the file's own totals with what was counted."""
        self.is_over = True
        if _COUNT(row[1]) is None:
            raise FileRefusedError(f"{row[1]!r} is no number of lines", line_no)
        batch, currency = row[0], code_of(row[7])
        gross, fee, net = (minor_units(text, currency, line_no) for text in row[8:])
        if gross - fee != net:
            raise FileRefusedError("the totals do not agree with each other: the file was cut; fetch it again", line_no)
        self._batch, self._currency = self._batch or batch, self._currency or currency
        if (batch, currency) != (self._batch, self._currency):
            raise FileRefusedError("its batch or currency is not that of the lines before it", line_no)
        stated = int(row[1])
        if stated > self._lines:
            raise FileRefusedError(f"{stated} lines were written and {self._lines} are here: fetch it again", line_no)
        yield ControlTotal(what="number of lines", batch=self._batch, currency=None, stated=stated, counted=self._lines)
        yield self._total("gross of the file", gross, self._gross)
        yield self._total("fees of the file", fee, self._fee)

    def _total(self, what: str, stated: int, counted: int) -> ControlTotal:
        return ControlTotal(what=what, batch=self._batch, currency=self._currency, stated=stated, counted=counted)
