"""SWIFT MT940, a bank's statement as text: read field by field, each message on its own.

A message is :20: [:21:] :25: :28C: :60F: (:61: [:86:])* :62F: [:64:] [:65:]* [:86:], bare or in SWIFT's envelope. A
statement of several messages has :62M: and :60M: where they meet. Nothing in a file says how many statements it has.
"""

import re
from collections.abc import Iterator
from datetime import date
from typing import Final, NamedTuple, NoReturn

from coatcheck.reconciliation.lines import BankLine, ControlTotal, FileRefusedError
from coatcheck.reconciliation.reading import LONGEST_LINE, code_of, exponent_of, lines_of, minor_units

_TAGS_IN: Final = re.compile(r"(?:^|[\r\n]):([0-9]{2}[A-Z]?):").findall  # whatever the line ends
_TAG: Final = re.compile(r":([0-9]{2}[A-Z]?):(.*)").fullmatch
_BLOCK: Final = r"\{[35S]:(?:\{[^{}]*\})*\}"
_ENVELOPE: Final = re.compile(rf"\{{1:[^{{}}]*\}}\{{2:[IO]([0-9]{{3}})[^{{}}]*\}}(?:{_BLOCK})?\{{4:").fullmatch
_END_OF_ENVELOPE: Final = re.compile(rf"-\}}(?:{_BLOCK})*\$?(\{{1:.*)?").fullmatch
# What banks write over a message in place of an envelope: a BIC, the message's type.
_HEADING: Final = re.compile(r"(?:0000 01)?[A-Z]{6}[A-Z0-9]{2,6}[0-9]*|940(?: 00)?").fullmatch

_BALANCE: Final = re.compile(r"([CD])([0-9]{6})([A-Za-z]{3})([0-9]{1,15},[0-9]*)").fullmatch
_ENTRY: Final = re.compile(
    r"(?P<valued>[0-9]{6})(?P<booked>[0-9]{4})?(?P<mark>R?[CD])[A-Za-z]?(?P<amount>[0-9]{1,15},[0-9]*)"
    r"[SNF][A-Z0-9]{3}(?P<references>.*)"
).fullmatch
_SIGNS: Final = {"C": 1, "D": -1, "RC": -1, "RD": 1}  # RC takes a credit back, RD a debit
_PAGE: Final = re.compile(r"([0-9]{1,9})/([0-9]{1,9})").fullmatch  # the number of a statement and of its page
_FARTHEST_DAYS: Final = 183  # between an entry's two dates, one of which has no year

# The :86: of German banks: a code of three digits, then subfields of two, and the purpose goes on from one to the next.
_STRUCTURED: Final = re.compile(r"[0-9]{3}(?=\?[0-9]{2})").match
_SUBFIELD: Final = re.compile(r"\?([0-9]{2})")
_PURPOSE: Final = frozenset({*map(str, range(20, 30)), "60", "61", "62", "63"})
# What names a part of the purpose, in German statements and in Dutch ones.
_CODE_WORD: Final = re.compile(
    r"(?:EREF|KREF|MREF|CRED|DEBT|COAM|OAMT|SVWZ|ABWA|ABWE|IBAN|BIC)\+|/REMI/(?:USTD|STRD)/+|/[A-Z]{2,8}/"
)

_BETWEEN: Final = ""  # messages
# What may follow what. An :86: is of the entry before it, or, after the closing balance, of the statement.
_AFTER: Final = {
    place: frozenset(tags.split())
    for place, tags in {
        _BETWEEN: "{ 20",
        "{": "20",
        "20": "21 25",
        "21": "25",
        "25": "28",
        "28": "60",
        "60": "61 62",
        "61": "61 86 62",
        "86": "61 62",
        "62": "64 65 86-end 20 -",
        "64": "65 86-end 20 -",
        "65": "65 86-end 20 -",
        "86-end": "20 -",
    }.items()
}
_OPTIONS: Final = {"25P": "25", "28C": "28", "60F": "60", "60M": "60", "62F": "62", "62M": "62", "-}": "-"}
_PLACES: Final = {tag: tag for tag in ("{", "20", "21", "25", "28", "61", "64", "65", "86", "-")} | _OPTIONS
_OF_SEVERAL_LINES: Final = {"25P", "61", "86"}


class Mt940:
    """A bank's statements in SWIFT's text format. An entry and its :86: are one line."""

    name = "mt940"
    provider = None

    def recognises(self, head: str) -> bool:
        """Say whether a file begins like an MT940. An MT942, of a day that is not over, has no opening balance."""
        tags = set(_TAGS_IN(head))
        return "20" in tags and not tags.isdisjoint({"25", "25P"}) and not tags.isdisjoint({"60F", "60M"})

    def read(self, chunks: Iterator[str]) -> Iterator[BankLine | ControlTotal]:
        """Read the entries, and of each message its closing balance, and its opening one where another goes before."""
        messages = _Messages()
        for field in _fields(chunks):
            yield from messages.take(field)
        messages.end()


class _Field(NamedTuple):
    """A field of a message, with its lines; or its envelope's beginning `{`, or its end `-` or `-}`.

    `is_ended`: whether its first line has a line end. In a whole file only the last may be without.
    """

    line_no: int
    tag: str
    lines: list[str]
    is_ended: bool = True

    def refuse(self, problem: str) -> NoReturn:
        raise FileRefusedError(problem, self.line_no)


class _Balance(NamedTuple):
    """What a balance field says; `amount` is above zero when it is to our credit."""

    day: date
    currency: str
    amount: int


class _Closed(NamedTuple):
    """How a message of an account and currency ended: the number it had, and its closing balance."""

    number: str
    balance: _Balance


class _Entry(NamedTuple):
    """What a :61: says."""

    booked_on: date
    amount: int
    bank_reference: str | None
    references: list[str]


def _fields(chunks: Iterator[str]) -> Iterator[_Field]:
    """Put the lines of each field together. Empty lines are nothing."""
    field: _Field | None = None
    length = 0
    for line_no, ended in enumerate(lines_of(chunks), 1):
        line = ended.rstrip("\r\n")
        begun = _begun_by(line, line_no, is_inside=field is not None, is_ended=line != ended)
        if begun:
            if field is not None:
                yield field
            # Only a field goes on in the next line.
            field, length = (begun.pop(), 0) if begun[-1].tag[0].isdigit() else (None, 0)
            yield from begun
        elif field is not None and line.strip():
            field.lines.append(line)
            length += len(line)
            if length > LONGEST_LINE:
                field.refuse(f":{field.tag}: is longer than {LONGEST_LINE} characters: it was damaged, fetch it again")
    if field is not None:
        yield field


def _begun_by(line: str, line_no: int, *, is_inside: bool, is_ended: bool) -> list[_Field]:
    """Say what a line begins; nothing, if it goes on with the field before it or is a heading."""
    tag, bare = _TAG(line), line.rstrip()
    if tag is not None:
        return [_Field(line_no, tag[1], [tag[2]], is_ended)]
    if bare in {"-", "-XXX"}:
        return [_Field(line_no, "-", [])]
    ended = _END_OF_ENVELOPE(bare)
    if ended is not None:
        next_one = _begun_by(ended[1], line_no, is_inside=False, is_ended=is_ended) if ended[1] else []
        return [_Field(line_no, "-}", []), *next_one]
    envelope = _ENVELOPE(bare)
    if envelope is not None:
        if envelope[1] != "940":
            raise FileRefusedError(f"it is an MT{envelope[1]}: ask the bank for MT940", line_no)
        return [_Field(line_no, "{", [])]
    if line[:1] in {":", "{"} or (bare and not is_inside and not _HEADING(bare)):
        raise FileRefusedError(f"{bare[:40]!r} is no part of an MT940: it was damaged, fetch it again", line_no)
    return []


class _Messages:
    """The messages of a file, one after the other: where in one we are, and what it has said so far."""

    def __init__(self) -> None:
        self._last = _Field(1, "", [])
        self._place = _BETWEEN
        self._is_enveloped = False
        self._has_ends = False  # its messages end with a line of their own, so the last one must, too
        self._account = ""
        self._number = ""
        self._opening = _Balance(date.min, "", 0)
        self._moved = 0
        self._entry: tuple[_Field, _Entry] | None = None
        self._page: tuple[str, str] | None = None  # account and currency of one that goes on
        self._closed: dict[tuple[str, str], _Closed] = {}  # the last one of each account and currency

    def take(self, field: _Field) -> Iterator[BankLine | ControlTotal]:
        """Read a field in its place, and give what is complete now."""
        place = _PLACES.get(field.tag)
        if place == "86" and place not in _AFTER[self._place]:
            place = "86-end"
        if place is None or place not in _AFTER[self._place]:
            expected = " or ".join(sorted(tag.removesuffix("-end") for tag in _AFTER[self._place]))
            field.refuse(f"{field.tag} stands where {expected} is expected: it was damaged or cut, fetch it again")
        if len(field.lines) > 1 and field.tag not in _OF_SEVERAL_LINES:
            field.refuse(f":{field.tag}: has a second line, {field.lines[1][:40]!r}: it was damaged, fetch it again")
        if place == "20":
            self._begin_message(field)
        self._last, self._place = field, place if place != "-" else _BETWEEN
        if place in {"61", "62"}:
            yield from self._taken_entry()
        if place in {"{", "-"}:
            self._mark(field)
        elif place == "60":
            yield from self._open(field)
        elif place == "62":
            yield from self._close(field)
        else:
            self._read(place, field)

    def end(self) -> None:
        """Say that nothing more comes."""
        if self._last.tag == "":
            self._last.refuse("there is no statement in it: fetch it again")
        if self._place != _BETWEEN and ("-" not in _AFTER[self._place] or self._is_enveloped or self._has_ends):
            self._last.refuse("the statement ends in the middle: it was cut, fetch it again")
        if self._page is not None:
            self._last.refuse(
                "the statement goes on after this page (:62M:): put all its pages into one file, in order"
            )

    def _begin_message(self, field: _Field) -> None:
        if self._place not in {_BETWEEN, "{"} and (self._is_enveloped or self._has_ends):
            field.refuse("the message before has no end: it was damaged or cut, fetch it again")

    def _mark(self, field: _Field) -> None:
        if field.tag == "{":
            self._is_enveloped = True
            return
        if self._is_enveloped != (field.tag == "-}"):
            field.refuse(f"{field.tag!r} does not end this message: it was damaged or cut, fetch it again")
        self._is_enveloped, self._has_ends = False, True

    def _read(self, place: str, field: _Field) -> None:
        if place == "25":
            self._account = _word(field, "account")
        elif place == "28":
            self._number = _word(field, "number")
        elif place == "61":
            self._entry = field, _entry(field, self._opening.currency)
        elif place == "86" and self._entry is not None:
            self._entry[1].references.extend(_information(field.lines))
        elif place in {"64", "65"}:
            self._balance(field)

    def _open(self, field: _Field) -> Iterator[ControlTotal]:
        self._opening = opening = _balance(field)
        self._moved = 0
        here = self._account, opening.currency
        page, self._page = self._page, None
        before = self._closed.get(here)
        is_next_page = page == here
        if (
            (field.tag == "60M") != is_next_page
            or page not in {None, here}
            or (is_next_page and before is not None and _are_apart(before.number, self._number))
        ):
            field.refuse(
                f":{field.tag}: does not go on where the message before it ends: put all pages of a statement into one "
                "file, in order"
            )
        if before is None:
            return
        if is_next_page:
            yield self._total("opening balance of the page", opening.amount, before.balance.amount)
        elif opening.day >= before.balance.day:  # in their order
            yield self._total(f"opening balance after {before.number}", opening.amount, before.balance.amount)

    def _close(self, field: _Field) -> Iterator[ControlTotal]:
        closing = self._balance(field)
        here = self._account, closing.currency
        self._page = here if field.tag == "62M" else None
        self._closed[here] = _Closed(self._number, closing)
        total = self._total("closing balance", closing.amount, self._opening.amount + self._moved)
        decimals = field.lines[0].rstrip().partition(",")[2]
        if not (total.holds or field.is_ended) and len(decimals) < exponent_of(closing.currency, field.line_no):
            field.refuse(f":{field.tag}: ends within its amount: the file was cut, fetch it again")
        yield total

    def _balance(self, field: _Field) -> _Balance:
        balance = _balance(field)
        if balance.currency != self._opening.currency:
            opened_in = self._opening.currency
            field.refuse(f":{field.tag}: is in {balance.currency}, the opening balance in {opened_in}: fetch it again")
        return balance

    def _taken_entry(self) -> Iterator[BankLine]:
        """Give the entry that has waited for its :86:."""
        if self._entry is None:
            return
        (field, entry), self._entry = self._entry, None
        self._moved += entry.amount
        yield BankLine(
            line_no=field.line_no,
            statement=self._statement,
            account=self._account,
            booked_on=entry.booked_on,
            currency=self._opening.currency,
            amount_minor=entry.amount,
            bank_reference=entry.bank_reference,
            references=tuple(dict.fromkeys(text for each in entry.references if (text := each.strip()))),
            opening_minor=self._opening.amount,
        )

    @property
    def _statement(self) -> str:
        # The number alone begins again every year.
        return f"{self._number} of {self._opening.day}"

    def _total(self, what: str, stated: int, counted: int) -> ControlTotal:
        currency = self._opening.currency
        return ControlTotal(what=what, batch=self._statement, currency=currency, stated=stated, counted=counted)


def _are_apart(before: str, number: str) -> bool:
    """Say whether the numbers of two pages of a statement tell that there are others between them."""
    pages = [_PAGE(each) for each in (before, number)]
    (statement, page), (next_statement, next_page) = [found.groups() if found else ("", "0") for found in pages]
    return statement == next_statement and int(next_page) > int(page) + 1


def _word(field: _Field, what: str) -> str:
    word = field.lines[0].strip()
    if not word:
        field.refuse(f":{field.tag}: has no {what}: fetch it again")
    return word


def _balance(field: _Field) -> _Balance:
    found = _BALANCE(field.lines[0].rstrip())
    if found is None:
        field.refuse(
            f":{field.tag}: says {field.lines[0][:40]!r}, not C or D, a date, a currency and an amount with a comma: "
            "it was damaged or cut, fetch it again"
        )
    mark, day, currency, amount = found.groups()
    currency = code_of(currency)
    return _Balance(_day(day, field), currency, _SIGNS[mark] * _minor(amount, currency, field))


def _entry(field: _Field, currency: str) -> _Entry:
    found = _ENTRY(field.lines[0])
    if found is None:
        field.refuse(
            f":61: says {field.lines[0][:40]!r}, not a date, C, D, RC or RD, an amount with a comma and a code: it was "
            "damaged, fetch it again"
        )
    owners, _, banks = found["references"].partition("//")
    return _Entry(
        booked_on=_booking_day(_day(found["valued"], field), found["booked"], field),
        amount=_SIGNS[found["mark"]] * _minor(found["amount"], currency, field),
        bank_reference=banks.strip() or None,
        references=[owners, banks, *field.lines[1:]],
    )


def _minor(text: str, currency: str, field: _Field) -> int:
    return minor_units(text.replace(",", ".").removesuffix("."), currency, field.line_no)


def _day(text: str, field: _Field) -> date:
    try:
        return date.fromisoformat(f"20{text}")
    except ValueError:
        field.refuse(f":{field.tag}: has the date {text!r}, which does not exist: it was damaged, fetch it again")


def _booking_day(valued_on: date, text: str | None, field: _Field) -> date:
    """Find the year of the booking date, which has none: the one that brings it nearest to the value date."""
    if text is None:
        return valued_on
    found = []
    for year in (valued_on.year - 1, valued_on.year, valued_on.year + 1):
        try:
            found.append(date(year, int(text[:2]), int(text[2:])))
        except ValueError:
            continue
    nearest = min(found, key=lambda day: abs(day - valued_on), default=date.min)
    if abs((nearest - valued_on).days) > _FARTHEST_DAYS:
        field.refuse(f":61: has the booking date {text!r}, which does not exist: it was damaged, fetch it again")
    return nearest


def _information(lines: list[str]) -> list[str]:
    """Take an :86: apart: its lines or the subfields of its purpose, then all of it, then what its code words name.

    Banks break the text after so many characters, so that a reference may go on in the next line or subfield.
    """
    whole = "".join(lines)
    parts = lines
    structured = _STRUCTURED(whole)
    if structured is not None:
        _, *codes_and_texts = _SUBFIELD.split(whole[structured.end() :])
        pairs = zip(codes_and_texts[::2], codes_and_texts[1::2], strict=True)
        parts = [text for code, text in pairs if code in _PURPOSE]
        whole = "".join(parts)
    named = _CODE_WORD.split(whole)
    return [*parts, whole, *(text.strip(" /") for text in named[1:])]
