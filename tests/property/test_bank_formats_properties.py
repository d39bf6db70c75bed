"""What a bank writes is what is read, in every format, however it is cut into pieces; and a part of it never passes."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import date
from itertools import pairwise
from typing import NamedTuple
from xml.sax.saxutils import escape

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.fuzz.fuzz_formats import Formats, play

from coatcheck.money import format_amount
from coatcheck.reconciliation.formats.bai2 import Bai2
from coatcheck.reconciliation.formats.camt053 import Camt053
from coatcheck.reconciliation.formats.mt940 import Mt940
from coatcheck.reconciliation.lines import BankLine, ControlTotal, FileRefusedError, Format, Item
from coatcheck.reconciliation.reading import decoded


class Entry(NamedTuple):
    amount: int
    booked_on: date
    is_reversal: bool
    reference: str
    texts: list[str]


class Statement(NamedTuple):
    account: str
    currency: str
    opening: int
    entries: list[Entry]

    @property
    def closing(self) -> int:
        return self.opening + sum(entry.amount for entry in self.entries)


DAY = date(2026, 11, 20)
LARGEST = 10**12
letters = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=16)
# In the order in which banks write them, each text begins and ends with what no format strips or gives a meaning.
texts = st.text(st.characters(codec="cp1252", exclude_categories=["Cc"]), max_size=30).map(lambda text: f"x{text}y")
entries = st.builds(
    Entry,
    amount=st.integers(-LARGEST, LARGEST).filter(bool),
    booked_on=st.dates(date(2025, 6, 1), date(2026, 11, 20)),
    is_reversal=st.booleans(),
    reference=letters,
    texts=st.lists(texts, max_size=3),
)
statements = st.builds(
    Statement,
    account=letters,
    currency=st.sampled_from(["EUR", "JPY", "KWD", "USD", "CLF"]),
    opening=st.integers(-LARGEST, LARGEST),
    entries=st.lists(entries, max_size=4),
)
# Of one account the balances would have to go on from one statement to the next.
files = st.lists(statements, min_size=1, max_size=3, unique_by=lambda statement: statement.account)


def camt_amount(minor: int, currency: str, *, more: str = "") -> str:
    way = "DBIT" if minor < 0 else "CRDT"
    return f'<Amt Ccy="{currency}">{format_amount(abs(minor), currency)}</Amt><CdtDbtInd>{way}</CdtDbtInd>{more}'


def camt_entry(entry: Entry, currency: str) -> str:
    texts = "".join(f"<Ustrd>{escape(text)}</Ustrd>" for text in entry.texts)
    return (
        f"<Ntry>{camt_amount(entry.amount, currency, more=f'<RvslInd>{str(entry.is_reversal).lower()}</RvslInd>')}"
        f"<Sts><Cd>BOOK</Cd></Sts><BookgDt><Dt>{entry.booked_on}</Dt></BookgDt>"
        f"<AcctSvcrRef>{entry.reference}</AcctSvcrRef>"
        f"<NtryDtls><TxDtls><RmtInf>{texts}</RmtInf></TxDtls></NtryDtls></Ntry>"
    )


def camt_statement(number: int, statement: Statement) -> str:
    balances = "".join(
        f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp>{camt_amount(minor, statement.currency)}</Bal>"
        for code, minor in (("OPBD", statement.opening), ("CLBD", statement.closing))
    )
    booked = "".join(camt_entry(entry, statement.currency) for entry in statement.entries)
    count = f"<TxsSummry><TtlNtries><NbOfNtries>{len(statement.entries)}</NbOfNtries></TtlNtries></TxsSummry>"
    return (
        f"<Stmt><Id>{number}</Id><Acct><Id><Othr><Id>{statement.account}</Id></Othr></Id></Acct>\n"
        f"{balances}{count}{booked}</Stmt>"
    )


def as_camt053(written: list[Statement]) -> str:
    body = "".join(camt_statement(number, statement) for number, statement in enumerate(written))
    namespace = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"
    return f'<?xml version="1.0"?>\n<Document xmlns="{namespace}"><BkToCstmrStmt>{body}</BkToCstmrStmt></Document>\n'


def swift_amount(minor: int, currency: str) -> str:
    text = format_amount(abs(minor), currency).replace(".", ",")
    return text if "," in text else f"{text},"


def swift_balance(tag: str, day: date, minor: int, currency: str) -> str:
    return f":{tag}:{'D' if minor < 0 else 'C'}{day:%y%m%d}{currency}{swift_amount(minor, currency)}\n"


def swift_entry(entry: Entry, currency: str) -> str:
    marks = ("RC", "RD") if entry.is_reversal else ("D", "C")
    dates = f"{entry.booked_on:%y%m%d}{entry.booked_on:%m%d}"
    line = f":61:{dates}{marks[entry.amount > 0]}{swift_amount(entry.amount, currency)}NTRF//{entry.reference}\n"
    return line + (":86:" + "\n".join(entry.texts) + "\n" if entry.texts else "")


def as_mt940(written: list[Statement]) -> str:
    return "".join(
        f":20:STARTUMS\n:25:{statement.account}\n:28C:{number}\n"
        + swift_balance("60F", DAY, statement.opening, statement.currency)
        + "".join(swift_entry(entry, statement.currency) for entry in statement.entries)
        + swift_balance("62F", DAY, statement.closing, statement.currency)
        + "-\n"
        for number, statement in enumerate(written)
    )


def bai_account(statement: Statement) -> list[str]:
    records = [
        f"03,{statement.account},{statement.currency},010,{statement.opening},,/",
        f"88,015,{statement.closing},,/",
    ]
    for entry in statement.entries:
        text, *more = entry.texts or ["/"]
        records.append(f"16,{108 if entry.amount > 0 else 475},{abs(entry.amount)},,{entry.reference},,{text}")
        records += [f"88,{each}" for each in more]
    total = statement.opening + statement.closing + sum(abs(entry.amount) for entry in statement.entries)
    return [*records, f"49,{total},{len(records) + 1}/"]


def as_bai2(written: list[Statement]) -> str:
    """Each statement in a group of its own; a group has one day, and its entries have that."""
    records = ["01,B,U,261121,0200,1,,,2/"]
    control = 0
    for number, statement in enumerate(written):
        day = statement.entries[0].booked_on if statement.entries else DAY
        account = bai_account(statement)
        total = int(account[-1].split(",")[1])
        control += total
        records += [f"02,U,{number},1,{day:%y%m%d},,,2/", *account, f"98,{total},1,{len(account) + 2}/"]
    return "\n".join([*records, f"99,{control},{len(written)},{len(records) + 1}/"]) + "\n"


FORMATS: list[tuple[Format, Callable[[list[Statement]], str]]] = [
    (Camt053(), as_camt053),
    (Mt940(), as_mt940),
    (Bai2(), as_bai2),
]
each_format = pytest.mark.parametrize(("form", "write"), FORMATS, ids=[form.name for form, _ in FORMATS])


def read(form: Format, pieces: Iterator[str]) -> list[Item]:
    return list(form.read(pieces))


def pieces_of(text: str, cuts: list[int]) -> Iterator[str]:
    places = sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)})
    return (text[start:end] for start, end in pairwise(places))


@each_format
@given(written=files)
@settings(deadline=None)
def test_what_is_written_is_read(
    form: Format, write: Callable[[list[Statement]], str], written: list[Statement]
) -> None:
    text = write(written)
    assert [other.name for other, _ in FORMATS if other.recognises(text[:4000])] == [form.name]
    items = read(form, iter([text]))
    lines = [item for item in items if isinstance(item, BankLine)]
    for line, (statement, entry, day) in zip(lines, expected_of(written, form), strict=True):
        assert (line.account, line.currency, line.booked_on) == (statement.account, statement.currency, day)
        assert (line.amount_minor, line.bank_reference) == (entry.amount, entry.reference)
        named = {entry.reference, *entry.texts}
        # Where lines are of a fixed length, a reference may go on in the next one.
        named |= {"".join(entry.texts)} if entry.texts and form.name != "camt053" else set()
        assert named <= set(line.references)
    assert len({line.line_no for line in lines}) == len(lines)
    totals = [item for item in items if isinstance(item, ControlTotal)]
    assert all(total.holds for total in totals)
    closing = [(total.currency, total.stated) for total in totals if total.what == "closing balance"]
    assert closing == [(statement.currency, statement.closing) for statement in written]


def expected_of(written: list[Statement], form: Format) -> list[tuple[Statement, Entry, date]]:
    return [
        (statement, entry, statement.entries[0].booked_on if form.name == "bai2" else entry.booked_on)
        for statement in written
        for entry in statement.entries
    ]


@each_format
@given(written=files, cuts=st.lists(st.integers(0, 10_000), max_size=30), end=st.sampled_from(["\n", "\r\n", "\r"]))
@settings(deadline=None)
def test_H8_line_ends_and_where_the_pieces_end_make_no_difference(
    form: Format, write: Callable[[list[Statement]], str], written: list[Statement], cuts: list[int], end: str
) -> None:
    text = write(written)
    assert read(form, pieces_of(text.replace("\n", end), cuts)) == read(form, iter([text]))


@each_format
@given(
    written=files,
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    cut=st.integers(0, 10_000),
)
@settings(deadline=None)
def test_H8_encodings_make_no_difference(
    form: Format, write: Callable[[list[Statement]], str], written: list[Statement], encoding: str, cut: int
) -> None:
    text = write(written)
    raw = text.encode(encoding)
    # The encoding is found in the first piece, so with Windows-1252 that is the whole.
    first = len(raw) if encoding == "cp1252" else 4 + cut % len(raw)
    assume(encoding != "cp1252" or not reads_as_utf_8(raw) or raw.isascii())
    assert read(form, decoded(filter(None, [raw[:first], raw[first:]]))) == read(form, iter([text]))


def reads_as_utf_8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_if_it_is_taken(form: Format, raw: bytes) -> list[Item] | None:
    """Read bytes; None for a refusal, which must be the one kind of refusal there is."""
    try:
        return read(form, decoded([raw]))
    except FileRefusedError as refusal:
        if not refusal.problem:
            raise AssertionError("refused without a word") from refusal
        return None


@each_format
@given(written=files, data=st.data())
@settings(deadline=None)
def test_H2_a_file_cut_at_any_byte_is_refused_or_breaks_a_total(
    form: Format, write: Callable[[list[Statement]], str], written: list[Statement], data: st.DataObject
) -> None:
    raw = write(written).encode()
    items = read_if_it_is_taken(form, raw[: data.draw(st.integers(0, len(raw.rstrip()) - 1))])
    totals = [item for item in items or [] if isinstance(item, ControlTotal)]
    if items is not None and all(total.holds for total in totals):
        # An MT940 is whole in itself, and nothing in it says how many there are in the file.
        assert form.name == "mt940"
        assert items == read(form, iter([write(written[: len(totals)])]))


DAMAGES = [
    b"-",
    b"\n",
    b"\r",
    b",",
    b"/",
    b":61:",
    b":86:",
    b"<",
    b">",
    b"&",
    b"</Ntry>",
    b"88,",
    b"0",
    b"\xff",
    b"?20",
]


@pytest.mark.parametrize("write", [write for _, write in FORMATS], ids=[form.name for form, _ in FORMATS])
@given(written=files, data=st.data())
@settings(deadline=None)
def test_H2_a_damaged_file_is_read_or_refused_and_nothing_else(
    write: Callable[[list[Statement]], str], written: list[Statement], data: st.DataObject
) -> None:
    raw = write(written).encode()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 20)))
    damaged = raw[:start] + data.draw(st.binary(max_size=4) | st.sampled_from(DAMAGES)) + raw[end:]
    for form, _ in FORMATS:
        assert read_if_it_is_taken(form, damaged) != []


@each_format
@given(written=files, data=st.data())
@settings(deadline=None)
def test_H2_an_entry_that_is_left_out_or_changed_never_goes_unseen(
    form: Format, write: Callable[[list[Statement]], str], written: list[Statement], data: st.DataObject
) -> None:
    assume(any(statement.entries for statement in written))
    place = data.draw(st.sampled_from([n for n, statement in enumerate(written) if statement.entries]))
    statement = written[place]
    changed = statement._replace(entries=statement.entries[1:])
    whole, part = write([statement]), write([changed])
    # The head of the one, which states the closing balance in two of the formats, with the entries of the other.
    mixed = {
        "camt053": lambda: whole.replace(camt_entry(statement.entries[0], statement.currency), "", 1),
        "mt940": lambda: whole.replace(swift_entry(statement.entries[0], statement.currency), "", 1),
        "bai2": lambda: part.replace(f"88,015,{changed.closing},", f"88,015,{statement.closing},", 1),
    }[form.name]()
    totals = [item for item in read(form, iter([mixed])) if isinstance(item, ControlTotal)]
    assert not all(total.holds for total in totals)


def test_H8_the_first_files_of_the_fuzzer_find_nothing() -> None:
    assert play(runs=200, seed=1) > 200


class Raises(Bai2):
    def read(self, chunks: Iterator[str]) -> Iterator[BankLine | ControlTotal]:
        raise ValueError("".join(chunks))


class CountsPieces(Bai2):
    def read(self, chunks: Iterator[str]) -> Iterator[BankLine | ControlTotal]:
        number = sum(1 for _ in chunks)
        yield ControlTotal(what="pieces", batch=None, currency=None, stated=number, counted=number)


@pytest.mark.parametrize(("broken", "found"), [(Raises(), ValueError), (CountsPieces(), AssertionError)])
def test_H8_the_fuzzer_finds_another_exception_and_a_difference_in_pieces(
    broken: Format, found: type[Exception]
) -> None:
    formats = Formats(nullcontext())
    assert {"camt053", "mt940", "bai2"} <= {form.name for form in formats.all}
    formats.all = [broken]
    with pytest.raises(found):
        formats.try_all(b"x" * 10_000)
