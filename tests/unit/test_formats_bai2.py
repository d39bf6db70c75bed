import codecs
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest

from coatcheck.reconciliation.formats.bai2 import Bai2
from coatcheck.reconciliation.lines import BankLine, ControlTotal, FileRefusedError
from coatcheck.reconciliation.reading import LONGEST_LINE, decoded

SEED = Path(__file__).parents[1] / "fuzz/seeds/report.bai2.txt"
FILE = "01,122099999,123456789,261121,0200,1,,,2/\n"
GROUP = "02,123456789,122099999,1,261120,2359,USD,2/\n"
ACCOUNT = "03,0975312468,,010,1000,,,015,1500,,/\n"
ENTRY = "16,165,500,Z,BR-1,po_1,PAYOUT\n"


def report(
    entries: str = ENTRY,
    *,
    head: str = FILE,
    group: str = GROUP,
    account: str = ACCOUNT,
    account_end: str = "49,3000,3/\n",
    group_end: str = "98,3000,1,5/\n",
    end: str = "99,3000,1,7/\n",
) -> str:
    return head + group + account + entries + account_end + group_end + end


def read(text: str) -> list[BankLine | ControlTotal]:
    return list(Bai2().read(iter([text])))


def lines_of(text: str) -> list[BankLine]:
    return [item for item in read(text) if isinstance(item, BankLine)]


def totals_of(text: str) -> dict[str, tuple[str | None, int, int]]:
    totals = [item for item in read(text) if isinstance(item, ControlTotal)]
    return {total.what: (total.currency, total.stated, total.counted) for total in totals}


def refusal_of(text: str) -> FileRefusedError:
    with pytest.raises(FileRefusedError) as caught:
        read(text)
    assert caught.value.line_no is not None
    return caught.value


def test_an_entry_is_a_line_and_every_trailer_is_compared() -> None:
    line, *_ = read(report())
    assert line == BankLine(
        line_no=4,
        statement="122099999 2026-11-20",
        account="0975312468",
        booked_on=date(2026, 11, 20),
        currency="USD",
        amount_minor=500,
        bank_reference="BR-1",
        references=("BR-1", "po_1", "PAYOUT"),
        opening_minor=1000,
    )
    assert totals_of(report()) == {
        "closing balance": ("USD", 1500, 1500),
        "control total of account 0975312468": ("USD", 3000, 3000),
        "number of records in account 0975312468": (None, 3, 3),
        "control total of the group": ("USD", 3000, 3000),
        "number of accounts in the group": (None, 1, 1),
        "number of records in the group": (None, 5, 5),
        "control total of the file": ("USD", 3000, 3000),
        "number of groups in the file": (None, 1, 1),
        "number of records in the file": (None, 7, 7),
    }


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (report(), True),
        ("\r\n" + report().replace("\n", "\r\n"), True),
        ("", False),
        ("1,2,3,261121\n", False),
        ("01,02,03,04\n", False),
        ("id,01,122099999,123456789,261121,0200,1,,,2/", False),
        (":20:A\n:25:B\n:60F:C", False),
    ],
)
def test_a_file_is_recognised_by_its_header(head: str, *, expected: bool) -> None:
    assert Bai2().recognises(head) is expected


@pytest.mark.parametrize(
    ("kind", "sign"),
    [
        *[("100", 1), ("165", 1), ("399", 1), ("920", 1), ("959", 1)],
        *[("400", -1), ("475", -1), ("699", -1), ("960", -1), ("999", -1)],
    ],
)
def test_the_type_of_an_entry_says_which_way_it_goes(kind: str, sign: int) -> None:
    text = report(ENTRY.replace("165", kind), account=ACCOUNT.replace("1500", f"{1000 + sign * 500}"))
    assert [line.amount_minor for line in lines_of(text)] == [sign * 500]
    assert totals_of(text)["closing balance"] == ("USD", 1000 + sign * 500, 1000 + sign * 500)


@pytest.mark.parametrize("amount", ["", "0"])
def test_text_without_money_is_no_line_and_is_counted_as_a_record(amount: str) -> None:
    text = report(ENTRY + f"16,890,{amount},,,,GOOD MORNING\n", account_end="49,3000,4/\n")
    assert len(lines_of(text)) == 1
    assert totals_of(text)["number of records in account 0975312468"] == (None, 4, 4)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("16,165,500,Z,BR-1,po_1,PAYOUT\n", ("BR-1", "po_1", "PAYOUT")),
        ("16,165,500,Z,BR-1,po_1,PAYOUT/\n", ("BR-1", "po_1", "PAYOUT")),
        ("16,165,500,Z,BR-1,po_1,PAYOUT, A/B, C\n", ("BR-1", "po_1", "PAYOUT, A/B, C")),
        ("16,165,500,Z,,,/\n", ()),
        ("16,165,500,Z,,/\n", ()),
        ("16,165,500,Z/\n", ()),
        ("16,165,500/\n", ()),
        ("16,165,+500,,,po_1/\n", ("po_1",)),
        ("16,165,500,0,1,1,1\n", ("1",)),
        ("16,165,500,1,BR-1,,/      \n", ("BR-1",)),
        ("16,165,500,2,BR-1,,PAY\n88,OUT po\n88,_1   \n", ("BR-1", "PAY", "OUT po", "_1", "PAYOUT po_1")),
        ("16,165,500,Z,BR-1,po_1/\n88,PAYOUT, WEEK 47\n", ("BR-1", "po_1", "PAYOUT, WEEK 47")),
        ("16,165,500,Z,BR-1,po_1,/\n88,PAYOUT/\n", ("BR-1", "po_1", "PAYOUT")),
        ("16,165/\n88,500,Z/\n88,BR-1/\n88,po_1,PAYOUT\n", ("BR-1", "po_1", "PAYOUT")),
        ("16,165,500,S,100,200,200,BR-1,po_1,X\n", ("BR-1", "po_1", "X")),
        ("16,165,500,S,500/\n88,,,BR-1,po_1,X\n", ("BR-1", "po_1", "X")),
        ("16,165,500,V,261121,,BR-1,po_1,X\n", ("BR-1", "po_1", "X")),
        ("16,165,500,V,261121,9999,BR-1,po_1,X\n", ("BR-1", "po_1", "X")),
        ("16,165,500,D,0,BR-1,po_1,X\n", ("BR-1", "po_1", "X")),
        ("16,165,500,D,2,0,300,1,200,BR-1,po_1,X\n", ("BR-1", "po_1", "X")),
    ],
)
def test_references_and_text_are_found_behind_every_funds_type_and_over_continuations(
    entry: str, expected: tuple[str, ...]
) -> None:
    (line,) = lines_of(report(entry))
    assert line.amount_minor == 500
    assert line.references == expected
    assert line.bank_reference == ("BR-1" if "BR-1" in expected else "1" if expected == ("1",) else None)


def test_an_account_s_header_goes_on_in_continuations() -> None:
    account = "03,0975312468,,010,1000,,/\n88,015/\n88,1500,,V,261121,2400,100,500,1,S,1,2,3/\n88,400,0,0,D,1,0,5/\n"
    totals = totals_of(report(account=account + "88,040,,,/\n"))
    assert totals["closing balance"] == ("USD", 1500, 1500)
    assert totals["sum of credit entries"] == ("USD", 500, 500)
    assert totals["number of credit entries"] == (None, 1, 1)
    assert totals["sum of debit entries"] == ("USD", 0, 0)
    assert totals["number of debit entries"] == (None, 0, 0)
    assert totals["control total of account 0975312468"] == ("USD", 3000, 3500)
    assert totals["number of records in account 0975312468"] == (None, 3, 7)


@pytest.mark.parametrize(
    ("changes", "what", "stated", "counted"),
    [
        ({"account": ACCOUNT.replace("1500", "1400")}, "closing balance", 1400, 1500),
        ({"account": ACCOUNT.replace("1500,,", "1500,,,100,501,")}, "sum of credit entries", 501, 500),
        ({"account": ACCOUNT.replace("1500,,", "1500,,,100,500,2,")}, "number of credit entries", 2, 1),
        ({"account": ACCOUNT.replace("1500,,", "1500,,,400,1,1,")}, "sum of debit entries", 1, 0),
        ({"account": ACCOUNT.replace("1500,,", "1500,,,400,1,1,")}, "number of debit entries", 1, 0),
        ({"account_end": "49,-3000,3/\n"}, "control total of account 0975312468", -3000, 3000),
        ({"account_end": "49,3000,4/\n"}, "number of records in account 0975312468", 4, 3),
        ({"group_end": "98,3001,1,5/\n"}, "control total of the group", 3001, 3000),
        ({"group_end": "98,3000,2,5/\n"}, "number of accounts in the group", 2, 1),
        ({"group_end": "98,3000,1,6/\n"}, "number of records in the group", 6, 5),
        ({"end": "99,+3001,1,7/\n"}, "control total of the file", 3001, 3000),
        ({"end": "99,3000,2,7/\n"}, "number of groups in the file", 2, 1),
        ({"end": "99,3000,1,8/\n"}, "number of records in the file", 8, 7),
    ],
)
def test_H2_a_total_that_the_records_do_not_come_to_is_a_break_and_the_lines_are_there(
    changes: dict[str, str], what: str, stated: int, counted: int
) -> None:
    text = report(**changes)
    assert len(lines_of(text)) == 1
    assert totals_of(text)[what][1:] == (stated, counted)


def test_control_totals_are_over_all_amounts_as_they_stand_and_over_all_parts() -> None:
    totals = totals_of(SEED.read_text("utf-8"))
    assert all(stated == counted for _, stated, counted in totals.values())
    # Of dollars and euros together: a number, no money.
    assert totals["control total of the group"] == (None, 4784500, 4784500)
    assert totals["control total of account 0975312468"][0] == "USD"
    assert totals["control total of account 0975312469"][0] == "EUR"


def test_H8_a_group_s_currency_may_be_in_small_letters_and_holds_for_its_accounts() -> None:
    assert read(report(group=GROUP.replace("USD", "usd"))) == read(report())


def test_each_group_has_its_own_bank_day_and_currency() -> None:
    second = (
        "02,,021000021,1,261119,,JPY,/\n03,1,,010,-5,,,015,-10,,/\n16,475,5,,,/\n49,-10,3/\n98,-10,1,5/\n"
        "02,,021000021,1,261118,,,4/\n03,1,/\n88,010,0,,,015,5,,/\n16,165,5,,,/\n49,10,4/\n98,10,1,6/\n"
    )
    items = read(report(end=second + "99,3000,3,18/\n"))
    assert [(item.statement, item.booked_on, item.currency) for item in items if isinstance(item, BankLine)] == [
        ("122099999 2026-11-20", date(2026, 11, 20), "USD"),
        ("021000021 2026-11-19", date(2026, 11, 19), "JPY"),
        ("021000021 2026-11-18", date(2026, 11, 18), "USD"),
    ]
    totals = [item for item in items if isinstance(item, ControlTotal)]
    assert all(total.holds for total in totals)
    assert [total.batch for total in totals][-3:] == [None] * 3


@pytest.mark.parametrize(
    ("text", "line_no", "says"),
    [
        ("", 1, "no record in it"),
        ("\n \n", 1, "no record in it"),
        (FILE, 1, "no end (99) after this"),
        (report(end=""), 6, "no end (99) after this"),
        (report(end="", group_end=""), 5, "no end (99) after this"),
        (report(end="99,3000,1,7"), 7, "without a slash at its end"),
        (report(end="99,3000,1/\n"), 7, "'' is no number"),
        (report(end="99,3000/\n"), 7, "'' is no number"),
        (report(end="99/\n"), 7, "'99/' stands where"),
        (report(end="99,\n"), 7, "without a slash"),
        (report(end="99,3000,1,7,8/\n"), 7, "a field too many, '8'"),
        (report(end="99,30.00,1,7/\n"), 7, "'30.00' is no amount"),
        (report(end="99,3000,one,7/\n"), 7, "'one' is no number"),
        (report() + FILE, 8, "'01' stands where nothing is expected"),
        (report() + "88,x/\n", 7, "a field too many, 'x'"),
        ("88,x\n" + report(), 1, "there is nothing before it"),
        (report(head=""), 1, "'02' stands where 01 is expected"),
        (report(head=" " + FILE), 1, "' 01' stands where"),
        (report(group=""), 2, "'03' stands where 02 is expected"),
        (report(account=""), 3, "'16' stands where 03 is expected"),
        (report(account_end=""), 5, "'98' stands where 16 or 49 is expected"),
        (report(group_end=""), 6, "'99' stands where 03 or 98 is expected"),
        (report(group_end="98,3000,1,5/\n" * 2), 7, "'98' stands where 02 or 99 is expected"),
        (report("17,165,500,Z,BR-1,po_1,PAYOUT\n"), 4, "'17' stands where"),
        (report(head=FILE.replace(",2/", ",3/")), 1, "version '3': ask the bank for BAI version 2"),
        (report(head=FILE.replace(",2/", "/")), 1, "version ''"),
        (report(head=FILE.replace("261121", "20261121")), 1, "'20261121' is no date"),
        (report(head=FILE.replace("261121", "26-11-21")), 1, "'26-11-21' is no date"),
        (report(head=FILE.replace("0200", "02:00")), 1, "'02:00' is no time"),
        (report(group=GROUP.replace("261120", "260231")), 2, "'260231' is no date"),
        (report(group=GROUP.replace("261120", "")), 2, "'' is no date"),
        (report(group=GROUP.replace(",1,2", ",2,2")), 2, "status is '2'"),
        (report(group=GROUP.replace(",1,2", ",3,2")), 2, "status is '3'"),
        (report(group=GROUP.replace(",1,2", ",4,2")), 2, "status is '4'"),
        (report(group=GROUP.replace("USD,2", "USD,1")), 2, "modifier is '1', not final"),
        (report(group=GROUP.replace("USD,2", "USD,3")), 2, "fetch the final report"),
        (report(group=GROUP.replace("USD", "QQQ")), 2, "not an ISO 4217"),
        (report(account=ACCOUNT.replace(",,010", ",QQQ,010")), 3, "not an ISO 4217"),
        (report(account=ACCOUNT.replace("0975312468", "")), 3, "has no account"),
        (report(account=ACCOUNT.replace("010,1000,,,", "")), 3, "no opening ledger balance (010)"),
        (report(account=ACCOUNT.replace("015,1500", "045,1500")), 3, "no closing ledger balance (015)"),
        (report(account=ACCOUNT.replace("015,1500", "015,")), 3, "no closing ledger balance (015)"),
        (report(account=ACCOUNT.replace("015", "010")), 3, "type 010 is stated twice"),
        (report(account=ACCOUNT.replace("015", "15")), 3, "'15' is no type"),
        (report(account=ACCOUNT.replace("015", "")), 3, "'' is no type"),
        (report(account=ACCOUNT.replace("1500,", "1500,x")), 3, "'x' is no number of items"),
        (report(account=ACCOUNT.replace("1500", "15.00")), 3, "'15.00' is no amount"),
        (report(account=ACCOUNT.replace("1500,,", "1500,,Q")), 3, "'Q' is no funds type"),
        (report(account=ACCOUNT.replace("/", "")), 3, "without a slash"),
        (report("16,165,5.00,Z,BR-1,po_1,X\n"), 4, "'5.00' is no amount: whole minor units without a point"),
        (report("16,165,,Z,BR-1,po_1,X\n"), 4, "'' is no amount"),
        (report("16,165,-500,Z,BR-1,po_1,X\n"), 4, "no credit and no debit"),
        (report("16,165,\u0665,Z,BR-1,po_1,X\n"), 4, "is no amount"),
        (report("16,165,9007199254740992,Z,,,X\n"), 4, "is no amount"),
        (report("16,010,500,Z,BR-1,po_1,X\n"), 4, "no credit and no debit"),
        (report("16,721,500,Z,BR-1,po_1,X\n"), 4, "no credit and no debit"),
        (report("16,919,500,Z,BR-1,po_1,X\n"), 4, "no credit and no debit"),
        (report("16,1650,500,Z,BR-1,po_1,X\n"), 4, "no credit and no debit"),
        (report("16,,500,Z,BR-1,po_1,X\n"), 4, "no credit and no debit"),
        (report("16,165,500,Q,BR-1,po_1,X\n"), 4, "'Q' is no funds type"),
        (report("16,165,500,V,po_1,,X\n"), 4, "'po_1' is no date"),
        (report("16,165,500,V,261121,noon,X\n"), 4, "'noon' is no time"),
        (report("16,165,500,S,1,2,po_1,X\n"), 4, "'po_1' is no amount"),
        (report("16,165,500,D,999999999,0/\n"), 4, "'' is no number"),
        (report("16,165,500,D,1,0,po_1,X\n"), 4, "'po_1' is no amount"),
        (report("16,165,500,Z,BR-1,po_1\n"), 4, "without a slash at its end: it was cut"),
        (report("16,165,500,Z,BR-1\n88,po_1,X\n"), 4, "without a slash"),
    ],
)
def test_H2_what_is_not_as_the_format_says_is_refused_with_its_line(text: str, line_no: int, says: str) -> None:
    refusal = refusal_of(text)
    assert says in refusal.problem
    assert refusal.line_no == line_no


@pytest.mark.parametrize("line", ["88,0123456789abcdef\n", "88,\n"])
def test_a_record_without_end_is_refused_and_not_waited_for(line: str) -> None:
    def endless() -> Iterator[str]:
        yield FILE + GROUP + ACCOUNT + ENTRY
        for _ in range(LONGEST_LINE // len(line) // 1000 + 1):
            yield line * 1001
        raise AssertionError("it was read to its end")

    with pytest.raises(FileRefusedError, match="too long"):
        list(Bai2().read(endless()))


def test_the_length_of_a_file_is_not_limited() -> None:
    entries = [ENTRY + f"88,{'x' * 4000}\n"] * (LONGEST_LINE // 4000 + 1)
    assert len(lines_of(report("".join(entries)))) == len(entries)


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode("cp1252"),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: "".join(f"{line:<80}\n" for line in text.splitlines()).encode(),
    ],
    ids=["utf-8", "utf-8 with BOM", "utf-16", "crlf in windows-1252", "cr", "lines of 80"],
)
def test_H8_encodings_line_ends_and_fillers_make_no_difference(encode: Callable[[str], bytes]) -> None:
    text = SEED.read_text("utf-8").replace("PAYOUT", "Gr\u00f6\u00dfe")
    assert list(Bai2().read(decoded([encode(text)]))) == read(text)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 7])
def test_H8_where_the_pieces_end_makes_no_difference(end: str, size: int) -> None:
    text = SEED.read_text("utf-8")
    ended = text.replace("\n", end)
    assert list(Bai2().read(ended[at : at + size] for at in range(0, len(ended), size))) == read(text)


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_H8_only_line_ends_end_a_line(character: str, end: str) -> None:
    text = report(f"16,165,500,Z,,,a{character}b\n").replace("\n", end)
    whole = read(text)
    assert [line.references for line in whole if isinstance(line, BankLine)] == [(f"a{character}b",)]
    assert list(Bai2().read(iter(text))) == whole
