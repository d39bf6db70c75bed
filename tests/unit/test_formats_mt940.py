import codecs
import re
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import msgspec
import pytest

from coatcheck.reconciliation.formats.mt940 import Mt940
from coatcheck.reconciliation.lines import BankLine, ControlTotal, FileRefusedError
from coatcheck.reconciliation.reading import LONGEST_LINE, decoded

SEEDS = Path(__file__).parents[1] / "fuzz/seeds"
HEAD = ":20:A\n:25:NL20INGB0001234567\n:28C:7/1\n"
ENTRY = ":61:2611201120C5,00NTRFpo_1//B-1\n"
OPENING, CLOSING = ":60F:C261119EUR10,00\n", ":62F:C261120EUR15,00\n"
ENVELOPE = "{1:F01INGBNL2ABXXX0000000000}{2:I940INGBNL2AXXXN}{4:\n"


def message(entries: str = ENTRY, *, opening: str = OPENING, closing: str = CLOSING, head: str = HEAD) -> str:
    return head + opening + entries + closing


def read(text: str) -> list[BankLine | ControlTotal]:
    return list(Mt940().read(iter([text])))


def lines_of(text: str) -> list[BankLine]:
    return [item for item in read(text) if isinstance(item, BankLine)]


def totals_of(text: str) -> list[tuple[str, str | None, int, int]]:
    totals = [item for item in read(text) if isinstance(item, ControlTotal)]
    return [(total.what, total.currency, total.stated, total.counted) for total in totals]


def refusal_of(text: str) -> FileRefusedError:
    with pytest.raises(FileRefusedError) as caught:
        read(text)
    assert caught.value.line_no is not None
    return caught.value


def numberless(item: BankLine | ControlTotal) -> BankLine | ControlTotal:
    return msgspec.structs.replace(item, line_no=0) if isinstance(item, BankLine) else item


def references_of(information: str) -> tuple[str, ...]:
    (line,) = lines_of(message(":61:261120C5,00NTRF\n" + information))
    return line.references


def test_an_entry_is_a_line_and_the_balances_are_a_total() -> None:
    line, total = read(message(ENTRY + ":86:PAYOUT\n"))
    assert line == BankLine(
        line_no=5,
        statement="7/1 of 2026-11-19",
        account="NL20INGB0001234567",
        booked_on=date(2026, 11, 20),
        currency="EUR",
        amount_minor=500,
        bank_reference="B-1",
        references=("po_1", "B-1", "PAYOUT"),
        opening_minor=1000,
    )
    assert total == ControlTotal(
        what="closing balance", batch="7/1 of 2026-11-19", currency="EUR", stated=1500, counted=1500
    )


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (message(), True),
        (message().replace("\n", "\r\n"), True),
        (message().replace("\n", "\r"), True),
        ("ABNANL2A\n940\nABNANL2A\n" + message(), True),
        (ENVELOPE + message(), True),
        (message(opening=":60M:C261119EUR10,00\n"), True),
        (message(head=HEAD.replace(":25:", ":25P:")), True),
        ("", False),
        (":20:A\n:25:B\n:28C:1\n:34F:EURD0,\n:13D:2611200000+0100\n:61:" + ENTRY, False),
        ("01,1,2,261121,0000,1,,,2/\n", False),
        ("<Document>:20: :25: :60F:</Document>", False),
    ],
)
def test_a_file_is_recognised_by_its_fields(head: str, *, expected: bool) -> None:
    assert Mt940().recognises(head) is expected


@pytest.mark.parametrize(
    ("mark", "sign"), [("C", 1), ("D", -1), ("RC", -1), ("RD", 1), ("CR", 1), ("DR", -1), ("Dr", -1)]
)
def test_a_reversal_turns_the_sign_around_and_a_funds_code_does_not(mark: str, sign: int) -> None:
    # CR and DR are C and D with R, the currency's third letter: EUR.
    closing = f":62F:C261120EUR{10 + sign * 5},00\n"
    text = message(f":61:2611201120{mark}5,00NTRFNONREF\n", closing=closing)
    assert [line.amount_minor for line in lines_of(text)] == [sign * 500]
    assert totals_of(text) == [("closing balance", "EUR", 1000 + sign * 500, 1000 + sign * 500)]


@pytest.mark.parametrize(
    ("dates", "booked_on"),
    [
        ("2611201120", date(2026, 11, 20)),
        ("2611211120", date(2026, 11, 20)),
        ("261120", date(2026, 11, 20)),
        ("2612311231", date(2026, 12, 31)),
        ("2701021231", date(2026, 12, 31)),
        ("2612310102", date(2027, 1, 2)),
        ("2802280229", date(2028, 2, 29)),
        ("2803010229", date(2028, 2, 29)),
    ],
)
def test_the_booking_date_is_in_the_year_that_brings_it_nearest_to_the_value_date(dates: str, booked_on: date) -> None:
    (line,) = lines_of(message(f":61:{dates}C5,00NTRFNONREF\n"))
    assert line.booked_on == booked_on


@pytest.mark.parametrize(
    ("references", "bank_reference", "expected"),
    [
        ("po_1//B-1", "B-1", ("po_1", "B-1")),
        ("NONREF", None, ("NONREF",)),
        ("po_1//", None, ("po_1",)),
        ("//B-1", "B-1", ("B-1",)),
        ("po_1//B//1", "B//1", ("po_1", "B//1")),
        ("po_1//B-1\n OF NOVEMBER", "B-1", ("po_1", "B-1", "OF NOVEMBER")),
        ("po_1//po_1\npo_1", "po_1", ("po_1",)),
    ],
)
def test_the_references_of_an_entry(references: str, bank_reference: str | None, expected: tuple[str, ...]) -> None:
    (line,) = lines_of(message(f":61:261120C5,00NTRF{references}\n"))
    assert line.bank_reference == bank_reference
    assert line.references == expected


@pytest.mark.parametrize(
    ("information", "expected"),
    [
        (":86:PAYOUT po_1\n", ("PAYOUT po_1",)),
        (":86:PAYOUT po\n_1 \n\nOF NOVEMBER\n", ("PAYOUT po", "_1", "OF NOVEMBER", "PAYOUT po_1 OF NOVEMBER")),
        (":86:-\n", ("-",)),
        (":86:a\n-b\n", ("a", "-b", "a-b")),
        (
            ":86:166?00CREDIT?109075?20EREF+po_1 SVWZ+PAY?21OUT 1?29X?30BIC?32PSP?60Y?61Z\n",
            ("EREF+po_1 SVWZ+PAY", "OUT 1", "X", "Y", "Z", "EREF+po_1 SVWZ+PAYOUT 1XYZ", "po_1", "PAYOUT 1XYZ"),
        ),
        (":86:166?00CREDIT?2\n0po\n_1?21 2\n", ("po_1", "2", "po_1 2")),
        (":86:166?00CREDIT\n", ()),
        (":86:166 is no code?20x\n", ("166 is no code?20x",)),
        (
            ":86:/TRTP/SEPA/EREF/po_1//REMI/USTD//PAYOUT A/B/\n",
            ("/TRTP/SEPA/EREF/po_1//REMI/USTD//PAYOUT A/B/", "SEPA", "po_1", "PAYOUT A/B"),
        ),
    ],
)
def test_every_text_of_an_information_field_is_a_reference_whole_and_in_parts(
    information: str, expected: tuple[str, ...]
) -> None:
    assert references_of(information) == expected


def test_information_after_the_closing_balance_is_of_no_entry() -> None:
    text = message() + ":64:C261120EUR15,00\n:65:C261121EUR15,00\n:65:C261122EUR15,00\n:86:SUM OF ALL\n"
    assert [line.references for line in lines_of(text)] == [("po_1", "B-1")]


def test_a_second_line_of_the_account_is_its_bank() -> None:
    (line,) = lines_of(message(head=":20:A\n:21:B\n:25P:123\nINGBNL2A\n:28:7\n"))
    assert (line.account, line.statement) == ("123", "7 of 2026-11-19")


def test_H2_a_closing_balance_that_the_entries_do_not_come_to_is_a_break_and_the_lines_are_there() -> None:
    text = message(ENTRY + ENTRY)
    assert len(lines_of(text)) == 2
    assert totals_of(text) == [("closing balance", "EUR", 1500, 2000)]


def test_balances_may_be_debit_and_of_any_decimals() -> None:
    entries = ":61:261120C1,5NTRFA\n:61:261120D,NTRFA\n".replace("D,", "D0,")
    text = message(entries, opening=":60F:D261119KWD1,\n", closing=":62F:C261119KWD0,500\n")
    assert totals_of(text) == [("closing balance", "KWD", 500, 500)]
    text = message(":61:261120C15,NTRFA\n", opening=":60F:C261119JPY0,\n", closing=":62F:C261119JPY15,\n")
    assert totals_of(text) == [("closing balance", "JPY", 15, 15)]


def test_the_messages_of_a_file_are_read_one_after_the_other() -> None:
    for between in ("", "-\n", "-\n\nABNANL2A\n940\nABNANL2A\n", "-XXX\n0000 01INGBNL2AXXXX00001\n940 00\n"):
        text = message() + between + message(head=HEAD.replace("7/1", "8/1"))
        text += "-\n" if between else ""
        assert [line.statement[:3] for line in lines_of(text)] == ["7/1", "8/1"]
        assert totals_of(text) == [("closing balance", "EUR", 1500, 1500)] * 2


@pytest.mark.parametrize("end", ["-}\n", "-}{5:{CHK:123456789ABC}}\n", "-}{5:{MAC:1}{CHK:2}}{S:{COP:S}}$"])
def test_envelopes_are_taken_off(end: str) -> None:
    text = ENVELOPE + message() + end
    assert read(text)[0] == read("\n" + message())[0]
    assert len(lines_of(text + ENVELOPE.replace("{4:", "{3:{108:X}{119:STP}}{4:") + message() + end)) == 2


@pytest.mark.parametrize(
    ("second", "totals"),
    [
        (":60M:C261120EUR15,00\n", [("opening balance of the page", "EUR", 1500, 1500)]),
        (":60M:C261120EUR14,00\n", [("opening balance of the page", "EUR", 1400, 1500)]),
    ],
)
def test_H2_a_page_begins_with_the_balance_that_the_page_before_ends_with(
    second: str, totals: list[tuple[str, str | None, int, int]]
) -> None:
    first = message(closing=":62M:C261120EUR15,00\n")
    text = first + message("", opening=second, closing=":62F:C261120EUR15,00\n")
    assert totals_of(text)[1:-1] == totals


@pytest.mark.parametrize(
    ("opening", "totals"),
    [
        (":60F:C261120EUR15,00\n", [("opening balance after 7/1", "EUR", 1500, 1500)]),
        (":60F:C261123EUR14,00\n", [("opening balance after 7/1", "EUR", 1400, 1500)]),
        (":60F:C261119EUR14,00\n", []),  # it is of an earlier day, so another one goes before it
        (":60F:C261120USD14,00\n", []),
    ],
)
def test_H2_a_statement_that_is_missing_between_two_others_shows_in_their_balances(
    opening: str, totals: list[tuple[str, str | None, int, int]]
) -> None:
    second = message("", opening=opening, closing=opening.replace("60F", "62F"))
    assert totals_of(message() + second)[1:-1] == totals
    elsewhere = second.replace("NL20", "NL21")
    assert len(totals_of(message() + elsewhere)) == 2
    assert totals_of(message() + elsewhere + second)[2:-1] == totals


@pytest.mark.parametrize(
    ("number", "is_refused"), [("7/2", False), ("7/3", True), ("8/3", False), ("7", False), ("7/x", False)]
)
def test_H2_a_page_that_is_missing_shows_in_the_numbers(number: str, *, is_refused: bool) -> None:
    first = message(closing=":62M:C261120EUR15,00\n")
    second = message("", opening=":60M:C261120EUR15,00\n", closing=":62F:C261120EUR15,00\n")
    text = first + second.replace(":28C:7/1", f":28C:{number}")
    if is_refused:
        assert "put all pages of a statement into one file" in refusal_of(text).problem
    else:
        assert all(stated == counted for _, _, stated, counted in totals_of(text))


@pytest.mark.parametrize(
    ("ending", "is_refused"),
    [
        *[("15,50\n", False), ("15,50", False), ("15,5", False), ("15,", True), ("1,", True)],
        *[("16,00", False), ("16,0\n", False), ("16,0", True)],
    ],
)
def test_H2_a_closing_balance_that_was_cut_within_its_decimals_is_refused(ending: str, *, is_refused: bool) -> None:
    text = message(ENTRY.replace("5,00", "5,50"), closing=f":62F:C261120EUR{ending}")
    if is_refused:
        refusal = refusal_of(text)
        assert "ends within its amount: the file was cut" in refusal.problem
        assert refusal.line_no == 6
    else:
        assert len(lines_of(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        message(closing=":62M:C261120EUR15,00\n"),
        message(opening=":60M:C261119EUR10,00\n"),
        message(closing=":62M:C261120EUR15,00\n") + message(),
        message(closing=":62M:C261120EUR15,00\n") + message().replace("NL20", "NL21"),
        message() + message(opening=":60M:C261119EUR10,00\n"),
        message(closing=":62M:C261120EUR15,00\n")
        + message(opening=":60M:C261119EUR15,00\n", closing=":62F:C261120EUR20,00\n").replace("NL20", "NL21"),
    ],
)
def test_H2_a_statement_without_all_of_its_pages_is_refused(text: str) -> None:
    assert "all" in refusal_of(text).problem
    assert "pages" in refusal_of(text).problem


@pytest.mark.parametrize(
    ("text", "line_no", "says"),
    [
        ("", 1, "no statement in it"),
        ("\n\n", 1, "no statement in it"),
        (message(closing=""), 5, "ends in the middle"),
        (message("", closing=""), 4, "ends in the middle"),
        (HEAD, 3, "ends in the middle"),
        (ENVELOPE + message(), 7, "ends in the middle"),
        (message() + "-\n" + message(), 13, "ends in the middle"),
        (message() + "-\n" + message() + message(), 14, "has no end"),
        (ENVELOPE + message() + message() + "-}\n", 8, "has no end"),
        (message() + "-}\n", 7, "does not end this message"),
        (ENVELOPE + message() + "-\n", 8, "does not end this message"),
        (ENVELOPE + ENVELOPE + message(), 2, "{ stands where 20 is expected"),
        (message() + ENVELOPE, 7, "{ stands where"),
        (message() + "-}" + ENVELOPE.replace("940", "942"), 7, "MT942: ask the bank for MT940"),
        (ENVELOPE.replace("940", "950"), 1, "MT950"),
        (message(opening=""), 4, "61 stands where 60 is expected"),
        (message(OPENING), 5, "60F stands where 61 or 62 is expected"),
        (message(":86:x\n"), 5, "86 stands where 61 or 62"),
        (message(ENTRY + ":86:x\n:86:y\n"), 7, "86 stands where 61 or 62"),
        (message() + ":86:x\n:86:y\n", 8, "86 stands where - or 20"),
        (message() + CLOSING, 7, "62F stands where"),
        (message() + ENTRY, 7, "61 stands where"),
        (message(":99:x\n"), 5, "99 stands where"),
        (message(opening=":60:C261119EUR10,00\n"), 4, "60 stands where 60 is expected"),
        (message(head=HEAD.replace(":25:", ":26:")), 2, "26 stands where 21 or 25"),
        (message(head=HEAD.replace(":28C:7/1\n", "")), 3, "60F stands where 28"),
        (message(head=":20:A\n:25:\n:28C:7\n"), 2, "has no account"),
        (message(head=":20:A\n:25:1\n:28C: \n"), 3, "has no number"),
        (message(head=":20:A\nB\n:25:1\n:28C:1\n"), 1, "has a second line, 'B'"),
        (message(opening=":60F:C261119EUR\n10,00\n"), 4, "has a second line"),
        (message(":6l:2611201120C5,00NTRFpo_1\n"), 5, "is no part of an MT940"),
        (message(ENTRY + ":86:a\n:b\n"), 7, "is no part of an MT940"),
        (message(ENTRY + ":86:a\n{b\n"), 7, "is no part of an MT940"),
        ("date;amount\n" + message(), 1, "is no part of an MT940"),
        (message() + "-\nsome text\n", 8, "is no part of an MT940"),
        (message(opening=":60F:C261119EUR10.00\n"), 4, "an amount with a comma"),
        (message(opening=":60F:C261119EUR10\n"), 4, "an amount with a comma"),
        (message(opening=":60F:E261119EUR10,00\n"), 4, "not C or D"),
        (message(opening=":60F:C260231EUR10,00\n"), 4, "'260231', which does not exist"),
        (message(opening=":60F:C261119QQQ10,00\n"), 4, "not an ISO 4217"),
        (message(opening=":60F:C261119EUR10,001\n"), 4, "more decimals than EUR"),
        (message(opening=":60F:C261119EUR999999999999999,99\n"), 4, "larger than any amount"),
        (message(closing=":62F:C261120USD15,00\n"), 6, "in USD, the opening balance in EUR"),
        (message() + ":64:C261120USD15,00\n", 7, "in USD, the opening balance in EUR"),
        (message() + ":65:C261120EUR15\n", 7, "an amount with a comma"),
        (message(":61:2611201120C5.00NTRFpo_1\n"), 5, "an amount with a comma"),
        (message(":61:2611201120C5,001NTRFpo_1\n"), 5, "more decimals than EUR"),
        (message(":61:2611201120EC5,00NTRFpo_1\n"), 5, "C, D, RC or RD"),
        (message(":61:2611201120C-5,00NTRFpo_1\n"), 5, "an amount with a comma"),
        (message(":61:2611201120C5,00XTRFpo_1\n"), 5, "and a code"),
        (message(":61:2611201120C5,00\n"), 5, "and a code"),
        (message(":61:2611311120C5,00NTRFpo_1\n"), 5, "'261131', which does not exist"),
        (message(":61:2611201131C5,00NTRFpo_1\n"), 5, "'1131', which does not exist"),
        (message(":61:2603010229C5,00NTRFpo_1\n"), 5, "'0229', which does not exist"),
        (message(":61:2611201120C\u0665,00NTRFpo_1\n"), 5, "an amount with a comma"),
    ],
)
def test_H2_what_is_not_as_the_format_says_is_refused_with_its_line(text: str, line_no: int, says: str) -> None:
    refusal = refusal_of(text)
    assert says in refusal.problem
    assert refusal.line_no == line_no


def test_a_field_without_end_is_refused_and_not_waited_for() -> None:
    def endless() -> Iterator[str]:
        yield message(ENTRY + ":86:x\n", closing="")
        for _ in range(LONGEST_LINE // 8):
            yield "0123456789abcdef\n"
        raise AssertionError("it was read to its end")

    with pytest.raises(FileRefusedError, match="longer than"):
        list(Mt940().read(endless()))


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode("cp1252"),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: re.sub("^", "\n", text, flags=re.MULTILINE).encode(),
    ],
    ids=["utf-8", "utf-8 with BOM", "utf-16", "crlf in windows-1252", "cr", "empty lines"],
)
@pytest.mark.parametrize("seed", ["german.mt940.sta", "dutch.mt940.sta"])
def test_H8_encodings_and_line_ends_make_no_difference(seed: str, encode: Callable[[str], bytes]) -> None:
    text = (SEEDS / seed).read_text("utf-8").replace("payout", "Gr\u00f6\u00dfe")
    assert [numberless(item) for item in Mt940().read(decoded([encode(text)]))] == [
        numberless(item) for item in read(text)
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("seed", ["german.mt940.sta", "dutch.mt940.sta"])
@pytest.mark.parametrize("size", [1, 7])
def test_H8_where_the_pieces_end_makes_no_difference(seed: str, end: str, size: int) -> None:
    text = (SEEDS / seed).read_text("utf-8")
    ended = text.replace("\n", end)
    assert list(Mt940().read(ended[at : at + size] for at in range(0, len(ended), size))) == read(text)


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_H8_only_line_ends_end_a_line(character: str, end: str) -> None:
    text = message(f"{ENTRY}:86:a{character}:61:b\n").replace("\n", end)
    whole = read(text)
    assert [line.references for line in whole if isinstance(line, BankLine)] == [("po_1", "B-1", f"a{character}:61:b")]
    assert list(Mt940().read(iter(text))) == whole
