"""BAI2, the cash management report of North American banks: records of fields, inside one another, each with a trailer.

A file (01 to 99) holds groups (02 to 98) of one bank and day, a group holds accounts (03 to 49), an account its entries
(16). An 88 goes on with the record before it. Amounts are whole minor units.
"""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import Final, NamedTuple, NoReturn

from coatcheck.reconciliation.lines import BankLine, ControlTotal, FileRefusedError
from coatcheck.reconciliation.reading import LONGEST_LINE, code_of, exponent_of, lines_of

_RECOGNISED: Final = re.compile(r"\s*01,[^,\r\n]*,[^,\r\n]*,[0-9]{6},").match
_AMOUNT: Final = re.compile(r"[+-]?[0-9]{1,18}").fullmatch
_NUMBER: Final = re.compile(r"[0-9]{1,9}").fullmatch
_DAY: Final = re.compile(r"[0-9]{6}").fullmatch
_TIME: Final = re.compile(r"(?:[0-9]{4})?").fullmatch
_TYPE: Final = re.compile(r"[0-9]{3}").fullmatch
_LARGEST_MINOR: Final = 2**53 - 1

_VERSION: Final = "2"
_OPENING: Final = "010"  # ledger balances
_CLOSING: Final = "015"
_INFORMATION: Final = "890"  # text without money
# 100 to 399 and 400 to 699 are the standard's, from 920 on the bank's own.
_CREDITS: Final = (range(100, 400), range(920, 960))
_DEBITS: Final = (range(400, 700), range(960, 1000))
_TOTALS: Final = {"100": ("credit entries", 1), "400": ("debit entries", -1)}
_WITHOUT_DETAIL: Final = {"", "0", "1", "2", "Z"}  # of when the money can be used

# What may follow what.
_AFTER: Final = {
    "": {"01"},
    "01": {"02"},
    "02": {"03"},
    "03": {"16", "49"},
    "16": {"16", "49"},
    "49": {"03", "98"},
    "98": {"02", "99"},
    "99": set[str](),
}


class Bai2:
    """A bank's report in BAI2, final and not a correction. Each account of a day is a statement."""

    name = "bai2"
    provider = None

    def recognises(self, head: str) -> bool:
        """Say whether a file begins with BAI2's file header."""
        return _RECOGNISED(head) is not None

    def read(self, chunks: Iterator[str]) -> Iterator[BankLine | ControlTotal]:
        """Read the entries, and of each account its closing balance and totals, and all trailers' totals and counts."""
        report = _Report()
        for record in _records(chunks):
            yield from report.take(record)
        report.end()


class _Record(NamedTuple):
    """A record with the texts of its lines: its own, and those of the 88 that go on with it."""

    line_no: int
    code: str
    texts: list[str]

    def refuse(self, problem: str) -> NoReturn:
        raise FileRefusedError(problem, self.line_no)


def _records(chunks: Iterator[str]) -> Iterator[_Record]:
    """Put each record's lines together. Spaces that fill a line up, and lines of them, are nothing."""
    record: _Record | None = None
    length = 0
    for line_no, line in enumerate(lines_of(chunks), 1):
        code, _, text = line.rstrip().partition(",")
        if not code:
            continue
        if code == "88":
            length += len(line)
            if record is None or length > LONGEST_LINE:
                problem = "there is nothing before it" if record is None else "the record is too long"
                raise FileRefusedError(f"88 goes on, but {problem}: it was damaged, fetch it again", line_no)
            record.texts.append(text)
            continue
        if record is not None:
            yield record
        record, length = _Record(line_no, code, [text]), 0
    if record is not None:
        yield record


class _Fields:
    """The fields of a record, one after the other, over its lines; each line of fields ends with a slash."""

    def __init__(self, record: _Record) -> None:
        self.record = record
        self._later = iter(record.texts)
        self._rest: str | None = None

    def next(self) -> str | None:
        """Give the next field, empty where it is left out; None when there are no more."""
        if self._rest is None:
            self._rest = next(self._later, None)
            if self._rest is None:
                return None
        field, comma, rest = self._rest.partition(",")
        if comma:
            self._rest = rest
            return field.strip()
        self._rest = None
        if not field.endswith("/"):
            self.record.refuse(f"{self.record.code} has a line without a slash at its end: it was cut, fetch it again")
        return field[:-1].strip()

    def word(self) -> str:
        """Give the next field, empty where it is left out, at the end too."""
        return self.next() or ""

    def pass_words(self, number: int) -> None:
        """Pass over fields that change nothing here."""
        for _ in range(number):
            self.word()

    def lines(self) -> list[str]:
        """Give what is left as lines of text, which need no slash at their ends."""
        first = [] if self._rest is None else [self._rest]
        self._rest = None
        return [line.removesuffix("/").strip() for line in (*first, *self._later)]

    def end(self) -> None:
        """Say that there may be no more."""
        field = self.next()
        if field:
            self.record.refuse(
                f"{self.record.code} has a field too many, {field[:40]!r}: it was damaged, fetch it again"
            )

    def amount(self, text: str) -> int:
        """Read whole minor units, with or without a sign."""
        if not _AMOUNT(text) or abs(int(text)) > _LARGEST_MINOR:
            self.record.refuse(
                f"{text[:40]!r} is no amount: whole minor units without a point are expected, ask the bank"
            )
        return int(text)

    def number(self) -> int:
        """Read the next field as a number of things."""
        text = self.word()
        if not _NUMBER(text):
            self.record.refuse(f"{text[:40]!r} is no number: it was damaged or cut, fetch it again")
        return int(text)

    def day(self) -> date:
        """Read the next field as a date."""
        text = self.word()
        try:
            return date.fromisoformat(f"20{text}" if _DAY(text) else "")
        except ValueError:
            self.record.refuse(f"{text[:40]!r} is no date (YYMMDD): it was damaged, fetch it again")

    def pass_time(self) -> None:
        """Pass over a time, which changes nothing here; some banks write 9999 at the end of a day."""
        text = self.word()
        if not _TIME(text):
            self.record.refuse(f"{text[:40]!r} is no time (HHMM): it was damaged, fetch it again")

    def pass_funds(self) -> None:
        """Pass over a funds type and its fields: when the money can be used is not when it was booked."""
        kind = self.word()
        if kind == "S":
            self._pass_amounts(3)
        elif kind == "V":
            self.day()
            self.pass_time()
        elif kind == "D":
            for _ in range(self.number()):
                self.number()
                self._pass_amounts(1)
        elif kind not in _WITHOUT_DETAIL:
            self.record.refuse(f"{kind[:40]!r} is no funds type of BAI2: it was damaged, fetch it again")

    def _pass_amounts(self, number: int) -> None:
        for _ in range(number):
            self.amount(self.word() or "0")


class _Sum:
    """What a file, a group or an account adds up to: its amounts as they stand, its parts, its records."""

    def __init__(self) -> None:
        self.amount = 0
        self.parts = 0
        self.records = 0
        self.currencies = set[str]()

    def add(self, part: "_Sum") -> None:
        """Add a part that is complete."""
        self.amount += part.amount
        self.parts += 1
        self.records += part.records
        self.currencies |= part.currencies

    def totals(self, fields: _Fields, whole: str, parts: str | None, batch: str | None) -> Iterator[ControlTotal]:
        """Compare with a trailer: its control total, its number of parts if it has one, its number of records."""
        # An amount of several currencies is a number to check and no money.
        currency = min(self.currencies) if len(self.currencies) == 1 else None
        yield _total(f"control total of {whole}", batch, currency, fields.amount(fields.word()), self.amount)
        if parts is not None:
            yield _total(f"number of {parts} in {whole}", batch, None, fields.number(), self.parts)
        yield _total(f"number of records in {whole}", batch, None, fields.number(), self.records)
        fields.end()


class _Account:
    """One account of a group: what its header states, and what its entries add up to."""

    def __init__(self, fields: _Fields, group_currency: str) -> None:
        self._record = fields.record
        self.number = fields.word()
        if not self.number:
            self._record.refuse("03 has no account: it was damaged, fetch it again")
        self.currency = code_of(fields.word()) or group_currency
        exponent_of(self.currency, self._record.line_no)
        self.sum = _Sum()
        self.sum.currencies.add(self.currency)
        self._stated: dict[str, tuple[int, int | None]] = {}  # amount and items by type
        self._sums = Counter[int]()  # of the entries, by sign
        self._counts = Counter[int]()
        while (kind := fields.next()) is not None:
            self._state(kind, fields)

    def _state(self, kind: str, fields: _Fields) -> None:
        amount, items = fields.word(), fields.word()
        if amount and kind in self._stated:
            self._record.refuse(f"type {kind} is stated twice: it was damaged, fetch it again")
        if (amount or items or kind) and not _TYPE(kind):
            self._record.refuse(f"{kind[:40]!r} is no type of three digits: it was damaged, fetch it again")
        if items and not _NUMBER(items):
            self._record.refuse(f"{items[:40]!r} is no number of items: it was damaged, fetch it again")
        fields.pass_funds()
        if amount:
            self._stated[kind] = fields.amount(amount), int(items) if items else None
            self.sum.amount += self._stated[kind][0]

    @property
    def opening_minor(self) -> int | None:
        """The opening ledger balance, if it is stated."""
        return self._stated.get(_OPENING, (None, None))[0]

    def add(self, sign: int, amount: int) -> int:
        """Count an entry, and give its signed amount."""
        self._sums[sign] += amount
        self._counts[sign] += 1
        return sign * amount

    def totals(self, batch: str) -> Iterator[ControlTotal]:
        """Compare the closing balance, and the totals of credits and debits where they are stated."""
        for kind, words in ((_OPENING, "opening"), (_CLOSING, "closing")):
            if kind not in self._stated:
                self._record.refuse(f"03 has no {words} ledger balance ({kind}): ask the bank to report it")
        (opening, _), (closing, _) = self._stated[_OPENING], self._stated[_CLOSING]
        yield _total("closing balance", batch, self.currency, closing, opening + self._sums[1] - self._sums[-1])
        for kind, (words, sign) in _TOTALS.items():
            amount, items = self._stated.get(kind, (None, None))
            if amount is not None:
                yield _total(f"sum of {words}", batch, self.currency, amount, self._sums[sign])
            if items is not None:
                yield _total(f"number of {words}", batch, None, items, self._counts[sign])


class _Report:
    """A file being read: where in it we are, and what the parts around that place add up to."""

    def __init__(self) -> None:
        self._last: _Record | None = None
        self._file = _Sum()
        self._group = _Sum()
        self._statement = ""
        self._as_of = date.min
        self._currency = ""
        self._account: _Account | None = None

    def take(self, record: _Record) -> Iterator[BankLine | ControlTotal]:
        """Read a record in its place, and give what is complete now."""
        expected = _AFTER["" if self._last is None else self._last.code]
        if record.code not in expected:
            wanted = " or ".join(sorted(expected)) or "nothing"
            record.refuse(f"{record.code[:40]!r} stands where {wanted} is expected: it was damaged, fetch it again")
        self._last, fields, records = record, _Fields(record), len(record.texts)
        if record.code in {"01", "99"}:
            self._file.records += records
            yield from self._read_file(fields)
        elif record.code in {"02", "98"}:
            if record.code == "02":
                self._group = _Sum()
            self._group.records += records
            yield from self._read_group(fields)
        else:
            if record.code == "03":
                self._account = _Account(fields, self._currency)
            if self._account is not None:
                self._account.sum.records += records
                yield from self._read_account(fields, self._account)

    def end(self) -> None:
        """Say that nothing more comes."""
        if self._last is None:
            raise FileRefusedError("there is no record in it: fetch it again", 1)
        if self._last.code != "99":
            self._last.refuse("the file has no end (99) after this: it was cut, fetch it again")

    def _read_file(self, fields: _Fields) -> Iterator[ControlTotal]:
        if fields.record.code == "99":
            yield from self._file.totals(fields, "the file", "groups", None)
            return
        fields.pass_words(2)  # sender and receiver
        fields.day()
        fields.pass_time()
        fields.pass_words(3)  # its number, and how long its lines and blocks are
        version = fields.word()
        if version != _VERSION:
            fields.record.refuse(f"it is of version {version[:40]!r}: ask the bank for BAI version 2")
        fields.end()

    def _read_group(self, fields: _Fields) -> Iterator[ControlTotal]:
        if fields.record.code == "98":
            yield from self._group.totals(fields, "the group", "accounts", self._statement)
            self._file.add(self._group)
            return
        fields.pass_words(1)  # receiver
        originator, status = fields.word(), fields.word()
        if status != "1":
            fields.record.refuse(
                f"the group's status is {status[:40]!r}, no update (1): a person must see what it corrects or deletes"
            )
        self._as_of = fields.day()
        fields.pass_time()
        self._currency = code_of(fields.word()) or "USD"
        exponent_of(self._currency, fields.record.line_no)
        modifier = fields.word()
        if modifier not in {"", "2", "4"}:
            fields.record.refuse(
                f"the group's modifier is {modifier[:40]!r}, not final (2 or 4): fetch the final report"
            )
        fields.end()
        self._statement = f"{originator} {self._as_of}".strip()

    def _read_account(self, fields: _Fields, account: _Account) -> Iterator[BankLine | ControlTotal]:
        if fields.record.code == "49":
            yield from account.totals(self._statement)
            yield from account.sum.totals(fields, f"account {account.number}", None, self._statement)
            self._group.add(account.sum)
        elif fields.record.code == "16":
            yield from self._read_entry(fields, account)

    def _read_entry(self, fields: _Fields, account: _Account) -> Iterator[BankLine]:
        kind, amount = fields.word(), fields.word()
        sign = _sign_of(kind)
        if sign is None or amount.startswith("-"):
            fields.record.refuse(
                f"16 has the type {kind[:40]!r} and the amount {amount[:40]!r}, which is no credit and no debit: ask "
                "the bank what it means"
            )
        minor = fields.amount(amount if sign else amount or "0")
        account.sum.amount += minor
        fields.pass_funds()
        bank_reference, customer_reference = fields.word(), fields.word()
        texts = fields.lines()
        if sign:
            references = (bank_reference, customer_reference, *texts, "".join(texts))
            yield BankLine(
                line_no=fields.record.line_no,
                statement=self._statement,
                account=account.number,
                booked_on=self._as_of,
                currency=account.currency,
                amount_minor=account.add(sign, minor),
                bank_reference=bank_reference or None,
                references=tuple(dict.fromkeys(filter(None, references))),
                opening_minor=account.opening_minor,
            )


def _sign_of(kind: str) -> int | None:
    """Say which way an entry of a type goes: 0 for text without money, None for what is no entry."""
    if kind == _INFORMATION:
        return 0
    number = int(kind) if _TYPE(kind) else 0
    if any(number in credit for credit in _CREDITS):
        return 1
    return -1 if any(number in debit for debit in _DEBITS) else None


def _total(what: str, batch: str | None, currency: str | None, stated: int, counted: int) -> ControlTotal:
    return ControlTotal(what=what, batch=batch, currency=currency, stated=stated, counted=counted)
