"""The simulator's file with its columns in another order: what it says is the same, and a cut is found out anywhere."""

import csv
import io
from collections.abc import Sequence

import pytest

from coatcheck.reconciliation.formats.simulator import SimulatorFormat
from coatcheck.reconciliation.lines import FileRefusedError, Item, SettlementLine

COLUMNS = ["batch", "line", "type", "id", "charge", "reference", "occurred_at", "currency", "gross", "fee", "net"]
CHARGE = {"type": "charge", "id": "ch_1", "charge": "ch_1", "reference": "op_1", "occurred_at": "2026-11-20T10:00:00Z"}
CHARGE |= {"gross": "2.00", "fee": "0.50", "net": "1.50"}
PAYOUT = {"type": "payout", "id": "po_1", "occurred_at": "2026-11-20T12:00:00Z"}
PAYOUT |= {"gross": "-16.50", "fee": "0.00", "net": "-16.50"}
END = {"type": "end", "gross": "22.00", "fee": "5.50", "net": "16.50"}


def file_of(columns: Sequence[str], currencies: Sequence[str] = ("EUR",)) -> str:
    """Write a file of eleven charges and their payout, its currency written in these ways by turns."""
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, lineterminator="\n", restval="", extrasaction="ignore")
    writer.writeheader()
    for number, row in enumerate([*[CHARGE] * 11, PAYOUT, END], 1):
        always = {"batch": "st_1", "currency": currencies[number % len(currencies)]}
        writer.writerow(row | always | {"line": "12" if row is END else f"{number}"})
    return written.getvalue()


def orders(columns: Sequence[str]) -> list[list[str]]:
    """Give an order that begins with each of the columns, and the same backwards."""
    turned = [[*columns[start:], *columns[:start]] for start in range(len(columns))]
    return [*turned, *[each[::-1] for each in turned]]


def read(text: str) -> list[Item]:
    return list(SimulatorFormat().read(iter([text])))


@pytest.mark.parametrize("columns", orders([*COLUMNS, "note"]))
def test_H8_the_columns_may_stand_in_any_order_and_others_among_them(columns: list[str]) -> None:
    text = file_of(columns)
    assert SimulatorFormat().recognises(text)
    assert read(text) == read(file_of(COLUMNS))


@pytest.mark.parametrize("columns", orders(COLUMNS))
def test_H2_in_whatever_order_a_file_that_was_cut_is_refused(columns: list[str]) -> None:
    text = file_of(columns)
    whole = read(text)
    for end in range(len(text) - 1):
        try:
            items = read(text[:end])
        except FileRefusedError:
            continue
        assert items == whole  # zeros of the last amount
        assert text[end:].strip("0\n.") == ""


def test_H8_small_and_capital_currencies_are_one_currency_and_two_are_refused() -> None:
    text = file_of(COLUMNS, ["eur", "EUR", "Eur"])
    assert read(text) == read(file_of(COLUMNS))
    assert {item.currency for item in read(text) if isinstance(item, SettlementLine)} == {"EUR"}
    with pytest.raises(FileRefusedError, match="line 3: it is of another batch or currency"):
        read(file_of(COLUMNS, ["eur", "usd"]))
    with pytest.raises(FileRefusedError, match="line 2: this is not an ISO 4217 currency code"):
        read(file_of(COLUMNS, ["eux"]))


@pytest.mark.parametrize("missing", COLUMNS)
def test_a_file_without_one_of_the_columns_is_refused_by_name(missing: str) -> None:
    text = file_of([name for name in COLUMNS if name != missing])
    assert not SimulatorFormat().recognises(text)
    with pytest.raises(FileRefusedError, match=f"the header lacks the column '{missing}'"):
        read(text)
