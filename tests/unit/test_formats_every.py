"""What holds for every format: currencies in small letters, columns in any order, and which cut files are refused."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from coatcheck.reconciliation.formats import FORMATS, format_of
from coatcheck.reconciliation.lines import FileRefusedError, Format, Item

SEEDS = Path(__file__).parents[1] / "fuzz/seeds"
# A whole file of each format, and the currency of its amounts as it stands there.
WHOLE = {
    "simulator": ("simulator.csv", "EUR"),
    "stripe_itemized": ("stripe.csv", "usd"),
    "adyen_settlement_detail": ("adyen.csv", "EUR"),
    "paypal_stl": ("paypal.csv", "AUD"),
    "checkout_settlement_breakdown": ("checkout.csv", "USD"),
    "camt053": ("bank-v02.camt.xml", "EUR"),
    "mt940": ("german.mt940.sta", "EUR"),
    "bai2": ("report.bai2.txt", "EUR"),
}
each_format = pytest.mark.parametrize("name", WHOLE)
# These end with something of their own. A batch of Adyen's does, too, and the whole file here is one.
HIDE_NOTHING = ["simulator", "paypal_stl", "camt053", "bai2"]


def whole(name: str) -> tuple[Format, str, str]:
    seed, currency = WHOLE[name]
    text = (SEEDS / seed).read_text("utf-8")
    return format_of(text), text, currency


def read(form: Format, text: str) -> Sequence[Item]:
    return list(form.read(iter([text])))


def test_there_is_a_whole_file_of_every_format() -> None:
    assert [whole(name)[0].name for name in WHOLE] == [form.name for form in FORMATS]


@each_format
def test_H8_a_currency_in_small_letters_is_the_same_currency(name: str) -> None:
    form, text, currency = whole(name)
    plain = read(form, text.replace(currency, currency.upper()))
    for written in (currency.lower(), currency.title()):
        other = text.replace(currency, written)
        assert format_of(other) is form
        assert read(form, other) == plain


@each_format
@pytest.mark.parametrize("unknown", ["EUX", "eux", "eUr\u0131", "\u0131nr", "u\u017fd"])
def test_H8_a_currency_that_nobody_knows_is_refused_with_its_line(name: str, unknown: str) -> None:
    form, text, currency = whole(name)
    with pytest.raises(FileRefusedError) as refusal:
        read(form, text.replace(currency, unknown))
    assert refusal.value.line_no is not None


@pytest.mark.parametrize("name", [name for name, (seed, _) in WHOLE.items() if seed.endswith(".csv")])
def test_H8_columns_may_stand_in_any_order(name: str) -> None:
    form, text, _ = whole(name)
    first = 1 if name == "paypal_stl" else 0  # what kind of row it is always stands first
    rows = list(csv.reader(io.StringIO(text)))
    if name == "paypal_stl":
        turned = [[*row[:first], *row[:0:-1]] if row[0] in {"CH", "SB"} else row for row in rows]
    else:
        turned = [row[::-1] for row in rows]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(turned)
    assert format_of(written.getvalue()) is form
    assert read(form, written.getvalue()) == read(form, text)


@pytest.mark.parametrize("name", [*HIDE_NOTHING, "adyen_settlement_detail"])
def test_H2_a_file_that_was_cut_between_two_lines_is_refused(name: str) -> None:
    form, text, _ = whole(name)
    lines = text.splitlines(keepends=True)
    for number in range(1, len(lines)):
        with pytest.raises(FileRefusedError):
            read(form, "".join(lines[:number]))


def test_H2_the_page_says_of_every_format_how_a_cut_is_seen() -> None:
    page = (Path(__file__).parents[2] / "docs/settlement-formats.md").read_text("utf-8")
    section = page.partition("\n## A file that was cut\n")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", section, flags=re.MULTILINE))
    assert list(told) == list(WHOLE)
    assert [name for name, row in told.items() if row.endswith("| nothing ")] == HIDE_NOTHING
