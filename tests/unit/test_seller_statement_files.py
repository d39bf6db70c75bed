"""A statement as a file: sums that add up, cells that no spreadsheet runs, and a PDF that is the same every time."""

import csv
import io
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from coatcheck.reporting.seller_statements import Balances, CurrencyStatement, Movement, Statement, csv_of
from coatcheck.reporting.seller_statements.pdf_file import pdf_of
from coatcheck.reporting.seller_statements.text_file import neutral
from coatcheck.states import Mode

BEGINS = datetime(2026, 5, 1, tzinfo=UTC)


def statement(seller: str = "seller-42", movements: int = 3) -> Statement:
    opening = Balances(pending_minor=500, available_minor=-100)
    made: list[Movement] = []
    balance = opening
    for number in range(movements):
        change = Balances(pending_minor=-10 * number, available_minor=10 * number + 1)
        balance = balance.plus(change)
        made.append(Movement(BEGINS + timedelta(hours=number), "release", "pay_a", f"tr_{number}", change, balance))
    part = CurrencyStatement("EUR", opening, made, balance)
    return Statement(seller, UUID(int=1), Mode.TEST, BEGINS, BEGINS + timedelta(days=31), [part])


def test_opening_and_movements_are_the_closing_of_every_column() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_of(statement()))))
    opening, *movements, closing = rows
    for column in ("pending", "available", "in_payout", "reserved", "total"):
        cents = [int(row[column].replace(".", "")) for row in (opening, *movements, closing)]
        assert sum(cents[:-1]) == cents[-1], column
    assert closing["balance"] == "4.03"


@pytest.mark.parametrize("text", ["=1+1", "+49", "-2", "@SUM(A1)", "\tx", "\rx"])
def test_H8_a_cell_that_a_spreadsheet_would_run_is_text(text: str) -> None:
    assert neutral(text) == "'" + text
    (first, *_) = csv.DictReader(io.StringIO(csv_of(statement(text.strip() or "=x"))))
    assert not first["seller_account"].startswith(("=", "+", "-", "@"))


def test_amounts_stay_numbers() -> None:
    (first, *_) = csv.DictReader(io.StringIO(csv_of(statement())))
    assert (first["available"], neutral("seller-42")) == ("-1.00", "seller-42")


def test_the_pdf_of_one_statement_is_one_file() -> None:
    first = pdf_of(statement())
    assert first == pdf_of(statement())
    assert first.startswith(b"%PDF-")
    assert first != pdf_of(statement("seller-43"))
    assert len(pdf_of(statement(movements=200))) > len(first)
