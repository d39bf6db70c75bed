"""A statement as PDF: one table for each currency. The same statement is the same file, byte for byte.

Imported by whoever writes one, when it does: the library takes a quarter of a second to load.
"""

from datetime import datetime

from fpdf import FPDF
from fpdf.fonts import FontFace

from coatcheck.money import format_amount
from coatcheck.reporting.seller_statements.reading import (
    PDF_MOVEMENTS_MOST,
    Balances,
    CurrencyStatement,
    Statement,
    TooLongError,
)

_WIDTHS = (34, 32, 62, 28, 28, 28, 28, 30)  # millimetres of a sheet of A4 that lies
_HEADINGS = ("at (UTC)", "what", "about", "pending", "available", "in payout", "reserved", "balance")
_LEFT, _RIGHT = "LEFT", "RIGHT"
_ALIGNED = (_LEFT, _LEFT, _LEFT, _RIGHT, _RIGHT, _RIGHT, _RIGHT, _RIGHT)


class _Page(FPDF):
    """Sheets with the seller above and the page's number below."""

    def __init__(self, title: str) -> None:
        super().__init__(orientation="landscape", format="A4")
        self._heading = title
        self.set_title(title)
        self.set_font("Helvetica", size=8)

    def header(self) -> None:
        """Write what every page is about."""
        self.set_font("Helvetica", style="B", size=10)
        self.cell(text=self._heading, new_x="LMARGIN", new_y="NEXT")
        self.ln(3)
        self.set_font("Helvetica", size=8)

    def footer(self) -> None:
        """Write the page's number."""
        self.set_y(-12)
        self.cell(0, text=f"{self.page_no()} / {{nb}}", align="R")


def pdf_of(statement: Statement) -> bytes:
    """Write a statement. Takes processor time. Raises TooLongError for more than PDF_MOVEMENTS_MOST movements."""
    if sum(len(part.movements) for part in statement.currencies) > PDF_MOVEMENTS_MOST:
        raise TooLongError(f"Ask for CSV: a PDF holds at most {PDF_MOVEMENTS_MOST} movements.")
    period = f"{_moment(statement.begins_at)} to {_moment(statement.ends_at)} UTC"
    mode = "" if statement.mode == "live" else f" - {statement.mode} mode"
    page = _Page(f"Statement of {statement.seller_account}, {period}{mode}")
    page.set_creation_date(statement.ends_at)
    if not statement.currencies:
        page.add_page()
    for part in statement.currencies:
        page.add_page()
        _write_part(page, statement, part)
    return bytes(page.output())


def _write_part(page: FPDF, statement: Statement, part: CurrencyStatement) -> None:
    page.cell(text=f"{part.currency}: opening balance, every movement, closing balance", new_x="LMARGIN", new_y="NEXT")
    page.ln(2)
    bold = FontFace(emphasis="BOLD")
    with page.table(
        col_widths=_WIDTHS, text_align=_ALIGNED, line_height=5, borders_layout="HORIZONTAL_LINES", headings_style=bold
    ) as table:
        table.row(_HEADINGS)
        table.row(
            (_moment(statement.begins_at), "opening", "", *_amounts(part.opening, part.opening, part.currency)),
            style=bold,
        )
        for each in part.movements:
            table.row((_moment(each.at), each.kind, each.about, *_amounts(each.change, each.balance, part.currency)))
        table.row(
            (_moment(statement.ends_at), "closing", "", *_amounts(part.closing, part.closing, part.currency)),
            style=bold,
        )


def _amounts(shown: Balances, balance: Balances, currency: str) -> tuple[str, ...]:
    shares = (shown.pending_minor, shown.available_minor, shown.in_payout_minor, shown.reserved_minor)
    return (*[format_amount(each, currency) for each in shares], format_amount(balance.total_minor, currency))


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
