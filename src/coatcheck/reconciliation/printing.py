"""Reports as finance people take them along: CSV for a spreadsheet, and one HTML page that needs nothing else.

A cell that a spreadsheet would take for a formula is made text (hazard H8): what a file says is the outside world's.
"""

import csv
import hashlib
import io
import re
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import Final

from coatcheck.ids import print_id
from coatcheck.money import format_amount
from coatcheck.reconciliation.report import BREAK, RECONCILIATION, Break, CurrencyTotal, Report, Summary

_COLUMNS: Final = (
    *(
        "row",
        "currency",
        "lines",
        "matched",
        "settled",
        "gross",
        "fees",
        "paid_out",
        "break_id",
        "kind",
        "line",
        "batch",
    ),
    *("ours", "files", "in_suspense", "about", "opened_at", "closed_at", "closed_by", "reason"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?").fullmatch

STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 2rem }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd }
td.amount, th.amount { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.clean { color: #0b5c46; font-weight: 700 } .open { color: #a3300b; font-weight: 700 } .closed { color: #777 }
@media print { body { max-width: none; margin: 0 } }
"""
STYLE_DIGEST: Final = b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


def amount_of(minor: int | None, currency: str | None) -> str | None:
    """Print an amount of a break, or the plain count of a total that has no currency."""
    if minor is None:
        return None
    return str(minor) if currency is None else format_amount(minor, currency)


def csv_head(report: Report) -> str:
    """Begin a report as CSV: the names of the columns, and a row for each currency's totals."""
    return _lines_of([_COLUMNS, *[_total_row(total) for total in report.totals]])


def csv_rows(breaks: Sequence[Break]) -> str:
    """Go on with a row for each of some breaks."""
    return _lines_of([_break_row(each) for each in breaks])


def _total_row(total: CurrencyTotal) -> Sequence[str]:
    counts = (total.lines, total.matched, total.settled)
    amounts = (total.gross_minor, total.fee_minor, total.payout_minor)
    told = ["total", total.currency, *map(str, counts), *[format_amount(each, total.currency) for each in amounts]]
    return told + [""] * (len(_COLUMNS) - len(told))


def _break_row(each: Break) -> Sequence[str]:
    amounts = [
        amount_of(minor, each.currency) for minor in (each.expected_minor, each.stated_minor, each.suspense_minor)
    ]
    line = None if each.line_no is None else str(each.line_no)
    closed_at = None if each.closed_at is None else each.closed_at.isoformat()
    cells = (
        *("break", each.currency, "", "", "", "", "", ""),
        *(print_id(BREAK, each.break_id), each.kind, line, each.batch, *amounts, each.detail),
        *(each.opened_at.isoformat(), closed_at, each.closed_by, each.reason),
    )
    return [cell or "" for cell in cells]


def _lines_of(rows: Sequence[Sequence[str]]) -> str:
    written = io.StringIO()
    csv.writer(written).writerows([[_harmless(cell) for cell in row] for row in rows])
    return written.getvalue()


def _harmless(cell: str) -> str:
    """Keep a spreadsheet from computing what a cell says; a number is nothing but itself."""
    return f"'{cell}" if cell.startswith(_FORMULA) and _NUMBER(cell) is None else cell


def html_page(report: Report) -> str:
    """Print a report as one page of its own, without scripts, and with its style in it."""
    name = escape(report.name)
    state = (
        '<p class="clean">The file and the books agree.</p>'
        if report.is_clean
        else f'<p class="open">{report.open_breaks} of {report.breaks} breaks are open.</p>'
    )
    left_out = report.breaks - len(report.mismatches)
    more = f"<p>{left_out} more are left out of this page; the CSV has all.</p>" if left_out else ""
    breaks = f"<h2>Breaks</h2>{_breaks_table(report.mismatches)}{more}" if report.mismatches else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{name}</title><style>{STYLE}</style></head><body><h1>{name}</h1>"
        f"<p>{escape(in_a_sentence(report))}</p>{state}"
        f"<h2>Totals</h2>{_totals_table(report.totals)}{breaks}</body></html>\n"
    )


def in_a_sentence(summary: Summary) -> str:
    """Say which file it is, how long, and who brought it when."""
    what = "entries of a bank" if summary.is_of_a_bank else f"lines of {summary.provider}"
    return (
        f"{summary.lines} {what} ({summary.format}), brought by {summary.received_by} on "
        f"{summary.received_at:%Y-%m-%d %H:%M} UTC as {print_id(RECONCILIATION, summary.file_id)}."
    )


def _totals_table(totals: Sequence[CurrencyTotal]) -> str:
    names = ("currency", "lines", "matched", "settled since", "gross", "fees", "paid out")
    rows = [
        (
            *(total.currency, str(total.lines), str(total.matched), str(total.settled)),
            *[
                format_amount(minor, total.currency)
                for minor in (total.gross_minor, total.fee_minor, total.payout_minor)
            ],
        )
        for total in totals
    ]
    return _table(names, [("", row) for row in rows], amounts=range(1, len(names)))


def _breaks_table(breaks: Sequence[Break]) -> str:
    names = ("kind", "line", "batch", "currency", "ours", "the file's", "in suspense", "about", "closed")
    rows = []
    for each in breaks:
        minors = (each.expected_minor, each.stated_minor, each.suspense_minor)
        amounts = [amount_of(minor, each.currency) or "-" for minor in minors]
        line = "-" if each.line_no is None else str(each.line_no)
        closed = "" if each.closed_at is None else f"{each.closed_at:%Y-%m-%d} {each.closed_by}: {each.reason}"
        cells = (each.kind, line, each.batch or "-", each.currency or "-", *amounts, each.detail, closed)
        rows.append(("closed" if closed else "", cells))
    return _table(names, rows, amounts=range(4, 7))


def _table(names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], *, amounts: range) -> str:
    """Write a table; the columns `amounts` are aligned as numbers, and each row comes with its class."""
    head = "".join(_cell("th", name, is_amount=place in amounts) for place, name in enumerate(names))
    body = "".join(
        f'<tr class="{name or "plain"}">'
        + "".join(_cell("td", text, is_amount=place in amounts) for place, text in enumerate(texts))
        + "</tr>"
        for name, texts in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(tag: str, text: str, *, is_amount: bool) -> str:
    style = ' class="amount"' if is_amount else ""
    return f"<{tag}{style}>{escape(text)}</{tag}>"
