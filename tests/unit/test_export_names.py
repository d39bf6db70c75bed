"""What others read of our exports: names without doubles, and cells that are no formulas."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.ledger import (
    AccountKind,
    AccountName,
    bank,
    fx,
    payouts_in_transit,
    platform_commission,
    platform_dispute_fees,
    platform_psp_fees,
    psp_payouts_in_transit,
    psp_receivable,
    seller_available,
    seller_pending,
    seller_reserve,
    suspense,
)
from coatcheck.reporting.exports.cells import csv_line
from coatcheck.reporting.exports.names import component, plain_name

DEBIT = {
    "psp_receivable",
    "psp_payouts_in_transit",
    "bank",
    "platform_psp_fees",
    "platform_dispute_fees",
    "suspense",
    "fx",
}
_PART = re.compile(r"[A-Z0-9][A-Za-z0-9-]*")
_ESCAPE = re.compile(rb"--([0-9A-F]{2})")
# What could be taken for one another: case, dashes, our own escapes, what is not ASCII.
tricky = st.text(st.sampled_from("aAxX-2D5f:_é/ "), max_size=8) | st.text(max_size=8)


def text_of(part: str) -> str:
    """Read a component back, by the words of its docstring."""
    body = part[2:] if part == "X-" or part.startswith("X---") else part
    text = _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), body.encode()).decode()
    return text if body is not part else text[:1].lower() + text[1:]


def named(account: AccountName) -> str:
    return plain_name(account.name, account.kind, "debit" if account.kind.value in DEBIT else "credit")


@given(tricky)
def test_any_name_is_a_part_that_both_programs_take_and_can_be_read_back(text: str) -> None:
    part = component(text)
    assert _PART.fullmatch(part)
    assert text_of(part) == text


@given(tricky, tricky)
def test_no_two_sellers_share_an_account_and_none_is_the_other_s_parent(one: str, other: str) -> None:
    names = [named(seller_pending(one)), named(seller_pending(other))]
    assert (names[0] == names[1]) == (one == other)
    assert not names[1].startswith(names[0] + ":")


@pytest.mark.parametrize(
    ("account", "expected"),
    [
        (psp_receivable("simulator"), "Assets:PSP:Receivable:Simulator"),
        (psp_payouts_in_transit("stripe"), "Assets:PSP:Payouts-in-transit:Stripe"),
        (bank("DE89"), "Assets:Bank:X---44E89"),
        (suspense("bank"), "Assets:Suspense:Bank"),
        (seller_pending("seller-42"), "Liabilities:Seller:Pending:Seller-42"),
        (seller_available("7/b"), "Liabilities:Seller:Available:7--2Fb"),
        (seller_reserve("s1"), "Liabilities:Seller:Reserve:S1"),
        (payouts_in_transit("a-"), "Liabilities:Seller:Payouts-in-transit:A--2D"),
        (platform_commission(), "Income:Platform:Commission"),
        (platform_psp_fees(), "Expenses:Platform:PSP-fees"),
        (platform_dispute_fees(), "Expenses:Platform:Dispute-fees"),
    ],
)
def test_accounts_have_names_that_people_read(account: AccountName, expected: str) -> None:
    assert named(account) == expected


def test_a_kind_that_is_not_known_here_has_a_name_all_the_same() -> None:
    assert plain_name("float:s1", "seller_float", "credit") == "Liabilities:Other:Seller--5Ffloat:Float--3As1"
    assert plain_name("oddly named", AccountKind.BANK.value, "debit") == "Assets:Other:Bank:Oddly--20named"


def test_every_kind_has_words_of_its_own() -> None:
    words = {named(AccountName(name, kind)) for kind, name in NAMES.items()}
    assert len(words) == len(AccountKind)
    assert not any(":Other:" in each for each in words)


NAMES = {
    each.kind: each.name
    for each in (
        *(psp_receivable("s"), psp_payouts_in_transit("s"), bank("s"), suspense("s"), seller_pending("s")),
        *(seller_available("s"), payouts_in_transit("s"), platform_commission(), platform_psp_fees()),
        *(platform_dispute_fees(), seller_reserve("s"), fx("s")),
    )
}


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1-2", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "-", "+", "=cmd|' /C'!A0"]
)
def test_H8_what_a_spreadsheet_would_work_out_gets_an_apostrophe(cell: str) -> None:
    assert read_back(csv_line([cell, "x"])) == ["'" + cell, "x"]


@pytest.mark.parametrize("cell", ["-12.30", "0", "12", "seller:a", "a=b", "", "-7"])
def test_H8_numbers_and_words_are_left_alone(cell: str) -> None:
    assert read_back(csv_line([cell, "x"])) == [cell, "x"]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00")), min_size=2, max_size=5))
def test_cells_are_read_back_as_they_were_but_for_the_apostrophe(cells: list[str]) -> None:
    assert [each.removeprefix("'") for each in read_back(csv_line(cells))] == [each.removeprefix("'") for each in cells]


def read_back(line: str) -> list[str]:
    (cells,) = csv.reader(io.StringIO(line, newline=""), strict=True)
    return cells
