"""Reports as CSV and HTML: complete, and harmless whatever a file says."""

import csv
import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from coatcheck.reconciliation.printing import STYLE_DIGEST, csv_head, csv_rows, html_page, in_a_sentence
from coatcheck.reconciliation.report import Break, CurrencyTotal, Report

AT = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
TOTAL = CurrencyTotal(
    currency="EUR", lines=3, matched=2, settled=0, gross_minor=-2_000, fee_minor=70, payout_minor=1_930
)
YEN = CurrencyTotal(currency="JPY", lines=1, matched=1, settled=0, gross_minor=1_500, fee_minor=0, payout_minor=0)
BROKEN = Break(
    break_id=UUID(int=7),
    kind="amount",
    file_id=UUID(int=1),
    line_no=2,
    batch="st_1",
    operation_id=None,
    currency="EUR",
    expected_minor=1_000,
    stated_minor=-1_100,
    suspense_minor=100,
    detail="charge ch_1",
    opened_at=AT,
    closed_at=None,
    closed_by=None,
    reason=None,
)


def report_of(*breaks: Break, **changed: Any) -> Report:
    report = Report(
        file_id=UUID(int=1),
        provider="simulator",
        format="simulator",
        name="st_1.csv",
        lines=4,
        received_at=AT,
        received_by="person ada",
        breaks=len(breaks),
        open_breaks=sum(each.closed_at is None for each in breaks),
        is_repeat=False,
        totals=[TOTAL, YEN],
        mismatches=breaks,
    )
    return msgspec.structs.replace(report, **changed)


def rows_of(text: str) -> Sequence[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_has_the_totals_of_each_currency_and_every_break() -> None:
    rows = rows_of(csv_head(report_of(BROKEN)) + csv_rows([BROKEN]))
    assert [(row["row"], row["currency"], row["gross"], row["fees"], row["paid_out"]) for row in rows[:2]] == [
        ("total", "EUR", "-20.00", "0.70", "19.30"),
        ("total", "JPY", "1500", "0", "0"),
    ]
    told = rows[2]
    assert (told["row"], told["kind"], told["line"], told["ours"], told["files"]) == (
        *("break", "amount", "2", "10.00", "-11.00"),
    )
    assert (told["in_suspense"], told["closed_at"]) == ("1.00", "")
    assert told["break_id"].startswith("brk_")


def test_a_total_without_a_currency_is_a_count() -> None:
    counted = msgspec.structs.replace(
        BROKEN, kind="control_total", line_no=None, currency=None, expected_minor=3, stated_minor=4, suspense_minor=0
    )
    (row,) = rows_of(csv_head(report_of(totals=[])) + csv_rows([counted]))
    assert (row["ours"], row["files"], row["line"]) == ("3", "4", "")


@pytest.mark.parametrize(
    "detail",
    ["=HYPERLINK(1)", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "-2+3.0", "=1", "-"],
)
def test_H8_no_cell_is_a_formula(detail: str) -> None:
    (row,) = rows_of(csv_head(report_of(totals=[])) + csv_rows([msgspec.structs.replace(BROKEN, detail=detail)]))
    assert row["about"].replace("\r\n", "\r") == f"'{detail}"
    assert row["files"] == "-11.00"  # a number is nothing but itself


def test_H8_what_a_file_says_is_text_on_the_page() -> None:
    tricky = msgspec.structs.replace(BROKEN, detail="<script>alert(1)</script>", batch='"><b>')
    page = html_page(report_of(tricky, name="<i>x</i>.csv", received_by="key <k>"))
    assert "<script" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert re.findall(r"""(?:src|href)=""", page) == []
    assert "http" not in page


def test_the_page_has_totals_breaks_and_how_it_ended() -> None:
    closed = msgspec.structs.replace(BROKEN, closed_at=AT, closed_by="coatcheck", reason="a later file has it")
    page = html_page(report_of(BROKEN, closed))
    assert "1 of 2 breaks are open." in page
    for text in ("-20.00", "0.70", "19.30", "1500", "10.00", "-11.00", "2026-11-20 coatcheck: a later file has it"):
        assert f">{text}<" in page
    assert "The file and the books agree." in html_page(report_of())
    assert "3 more are left out of this page" in html_page(report_of(BROKEN, breaks=4))
    assert len(STYLE_DIGEST) == 44


def test_a_report_says_whose_file_it_is() -> None:
    assert in_a_sentence(report_of()) == (
        "4 lines of simulator (simulator), brought by person ada on 2026-11-20 06:30 UTC as "
        "rec_aaaaaaaaaaaaaaaaaaaaaaaaae."
    )
    assert in_a_sentence(report_of(provider="bank", format="camt053")).startswith("4 entries of a bank (camt053)")
